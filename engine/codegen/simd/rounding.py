"""float32 -> bfloat16, nearest, ties to even, in rows and in pairs.

Where the CPU has an instruction for it numbers below 2^-126 become 0, as its products take them.
"""

from __future__ import annotations

import llvmlite.ir as ir
from numba.extending import intrinsic

from ..lower import instruction
from .vectors import I8, I16, I32, Vec, call, constant, cut, join, take, unpack

_REGISTER = 16  # floats, of 512 bits
_BOTH = "llvm.x86.avx512bf16.cvtne2ps2bf16.512"


def _high_halves(b, x):
    """Bits whose high half is the bfloat16 nearest to x; NaN stays NaN."""
    whole = ir.VectorType(I32, x.type.count)
    bits = b.bitcast(x, whole)
    odd = b.and_(b.lshr(bits, constant(whole, 16)), constant(whole, 1))
    rounded = b.add(bits, b.add(odd, constant(whole, 0x7FFF)))
    return b.select(b.fcmp_unordered("uno", x, x), constant(whole, 0x7FC00000), rounded)


def _rounded(b, isa, first, second):
    """The bfloat16 of two vectors, one after the other, all of the first before the second's."""
    count = first.type.count
    if isa.has("avx512bf16") and count % _REGISTER == 0:
        parts = [part for x in (first, second) for part in cut(b, x, count // _REGISTER)]
        words = ir.VectorType(I16, 2 * _REGISTER)
        pairs = zip(parts[::2], parts[1::2], strict=True)
        return join(b, [call(b, _BOTH, words, high, low) for low, high in pairs])
    high = [
        b.lshr(_high_halves(b, x), constant(ir.VectorType(I32, count), 16)) for x in (first, second)
    ]
    return join(b, [b.trunc(x, ir.VectorType(I16, count)) for x in high])


def _bf16_pairs(b, isa, p, q):
    n = p.type.count
    if not isa.has("avx512bf16"):
        low, high = (_high_halves(b, x) for x in (p, q))
        pairs = b.or_(b.lshr(low, constant(low.type, 16)), b.and_(high, constant(low.type, -65536)))
        return b.bitcast(pairs, ir.VectorType(I16, 2 * n))
    both = [
        take(
            b,
            _rounded(b, isa, *parts),
            [i // 2 + _REGISTER * (i % 2) for i in range(2 * _REGISTER)],
        )
        for parts in zip(cut(b, p, n // _REGISTER), cut(b, q, n // _REGISTER), strict=True)
    ]
    return join(b, both)


@instruction(_bf16_pairs)
def bf16_pairs(p, q):
    """Two rows of float32 -> lanes of two bfloat16 (p, q): the operand of dot2_bf16."""
    return Vec("bf16", 2 * p.lanes)


def _in_order(b, isa, x):
    n = x.type.count
    if n % (2 * _REGISTER):
        return take(b, _rounded(b, isa, x, x), range(n))
    return _rounded(b, isa, *cut(b, x, 2))


@instruction(_in_order)
def bf16_in_order(x):
    """float32 -> bfloat16, lane by lane."""
    return Vec("bf16", x.lanes)


def _bf16_rows(b, isa, x):
    half = x.type.count // 2
    fours = [half * side + 4 * lane for lane in range(half // 4) for side in (0, 1)]
    return take(b, _in_order(b, isa, x), [first + i for first in fours for i in range(4)])


@instruction(_bf16_rows)
def bf16_rows(x):
    """float32 -> bfloat16 in the order that interleave_words turns into token order."""
    return Vec("bf16", x.lanes)


@intrinsic
def interleave_words(typing, p, q):
    """Two rows of bf16_rows -> lanes of two bfloat16 (p, q) in token order."""

    def emit(ctx, b, sig, args):
        rows = [b.bitcast(v, ir.VectorType(I8, 2 * p.lanes)) for v in args]
        return b.bitcast(
            join(b, [unpack(b, *rows, 2, half) for half in (0, 1)]), ir.VectorType(I16, 2 * p.lanes)
        )

    return Vec("bf16", 2 * p.lanes)(p, q), emit
