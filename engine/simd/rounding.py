"""float32 -> bfloat16, in rows and in pairs."""

from __future__ import annotations

import llvmlite.ir as ir
from numba.extending import intrinsic

from .vectors import I8, I16, I32, Vec, constant, join, take, unpack


def _high_halves(b, x):
    """Bits whose high half is the bfloat16 nearest to x (ties to even; NaN stays NaN)."""
    whole = ir.VectorType(I32, x.type.count)
    bits = b.bitcast(x, whole)
    odd = b.and_(b.lshr(bits, constant(whole, 16)), constant(whole, 1))
    rounded = b.add(bits, b.add(odd, constant(whole, 0x7FFF)))
    return b.select(b.fcmp_unordered("uno", x, x), constant(whole, 0x7FC00000), rounded)


def _truncated(b, x):
    sixteen = constant(ir.VectorType(I32, x.type.count), 16)
    return b.trunc(b.lshr(_high_halves(b, x), sixteen), ir.VectorType(I16, x.type.count))


@intrinsic
def bf16_pairs(typing, p, q):
    """Two rows of float32 -> lanes of two bfloat16 (p, q): the operand of dot2_bf16."""

    def emit(ctx, b, sig, args):
        low, high = (_high_halves(b, x) for x in args)
        pairs = b.or_(b.lshr(low, constant(low.type, 16)), b.and_(high, constant(low.type, -65536)))
        return b.bitcast(pairs, ir.VectorType(I16, 2 * p.lanes))

    return Vec("bf16", 2 * p.lanes)(p, q), emit


@intrinsic
def bf16_rows(typing, x):
    """float32 -> bfloat16 in the order that interleave_words turns into token order."""

    def emit(ctx, b, sig, args):
        n = x.lanes
        high = _truncated(b, args[0])
        return take(
            b,
            high,
            [
                n // 2 * half + 4 * lane + i
                for lane in range(n // 8)
                for half in (0, 1)
                for i in range(4)
            ],
        )

    return Vec("bf16", x.lanes)(x), emit


@intrinsic
def bf16_in_order(typing, x):
    """float32 -> bfloat16, lane by lane."""

    def emit(ctx, b, sig, args):
        return _truncated(b, args[0])

    return Vec("bf16", x.lanes)(x), emit


@intrinsic
def interleave_words(typing, p, q):
    """Two rows of bf16_rows -> lanes of two bfloat16 (p, q) in token order."""

    def emit(ctx, b, sig, args):
        rows = [b.bitcast(v, ir.VectorType(I8, 2 * p.lanes)) for v in args]
        return b.bitcast(
            join(b, [unpack(b, *rows, 2, half) for half in (0, 1)]), ir.VectorType(I16, 2 * p.lanes)
        )

    return Vec("bf16", 2 * p.lanes)(p, q), emit
