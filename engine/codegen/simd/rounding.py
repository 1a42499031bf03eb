"""float32 -> bfloat16, nearest, ties to even, in rows and in pairs.

Where the CPU has an instruction for it numbers below 2^-126 become 0, as its products take them.
"""

from __future__ import annotations

import llvmlite.ir as ir
from numba.extending import intrinsic

from ..lower import instruction
from ..lowering import lowering
from .vectors import I8, I16, I32, Vec, constant, cut, join, take, unpack

PAIR = 32  # floats that an instruction may round together: two registers of 512 bits


def _high_halves(b, x):
    """Bits whose high half is the bfloat16 nearest to x; NaN stays NaN."""
    whole = ir.VectorType(I32, x.type.count)
    bits = b.bitcast(x, whole)
    odd = b.and_(b.lshr(bits, constant(whole, 16)), constant(whole, 1))
    rounded = b.add(bits, b.add(odd, constant(whole, 0x7FFF)))
    return b.select(b.fcmp_unordered("uno", x, x), constant(whole, 0x7FC00000), rounded)


@lowering
def rounded(b, isa, first, second):
    """The bfloat16 of two vectors, one after the other, all of the first before the second's."""
    count = first.type.count
    high = [
        b.lshr(_high_halves(b, x), constant(ir.VectorType(I32, count), 16)) for x in (first, second)
    ]
    return join(b, [b.trunc(x, ir.VectorType(I16, count)) for x in high])


@lowering
def rounded_pairs(b, isa, p, q):
    """Lanes of two bfloat16."""
    low, high = (_high_halves(b, x) for x in (p, q))
    pairs = b.or_(b.lshr(low, constant(low.type, 16)), b.and_(high, constant(low.type, -65536)))
    return b.bitcast(pairs, ir.VectorType(I16, 2 * p.type.count))


@instruction(rounded_pairs)
def bf16_pairs(p, q):
    """Two rows of float32 -> lanes of two bfloat16 (p, q): the operand of dot2_bf16."""
    return Vec("bf16", 2 * p.lanes)


def _in_order(b, isa, x):
    n = x.type.count
    if n % PAIR:
        return take(b, rounded(b, isa, x, x), range(n))
    return rounded(b, isa, *cut(b, x, 2))


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
def twice(typing, x):
    """A vector and itself behind it."""
    return Vec(x.dtype, 2 * x.lanes)(x), lambda ctx, b, sig, args: join(b, [args[0], args[0]])


@intrinsic
def low_half(typing, x):
    """The first half of a vector's lanes."""
    half = x.lanes // 2
    return Vec(x.dtype, half)(x), lambda ctx, b, sig, args: take(b, args[0], range(half))


@intrinsic
def interleave_words(typing, p, q):
    """Two rows of bf16_rows -> lanes of two bfloat16 (p, q) in token order."""

    def emit(ctx, b, sig, args):
        rows = [b.bitcast(v, ir.VectorType(I8, 2 * p.lanes)) for v in args]
        return b.bitcast(
            join(b, [unpack(b, *rows, 2, half) for half in (0, 1)]), ir.VectorType(I16, 2 * p.lanes)
        )

    return Vec("bf16", 2 * p.lanes)(p, q), emit
