"""Sums of products: four of bytes, two of 16-bit words, two of bfloat16."""

from __future__ import annotations

import llvmlite.ir as ir

from ..lower import instruction
from ..lowering import lowering
from .vectors import I8, I16, I32, call, constant, cut, join, registers, spread, take


@lowering
def dot4_register(b, isa, acc, x, w):
    """One register: acc[i] += sum of 4 products u8 x s8, exact in int32."""
    words = ir.VectorType(I16, 2 * acc.type.count)
    x, w, eight = b.bitcast(x, words), b.bitcast(w, words), constant(words, 8)
    even = sums_of_pairs(b, isa, b.and_(x, constant(words, 255)), b.ashr(b.shl(w, eight), eight))
    odd = sums_of_pairs(b, isa, b.lshr(x, eight), b.ashr(w, eight))
    return b.add(acc, b.add(even, odd))


@lowering
def sums_of_pairs(b, isa, x, w):
    """Sums of two adjacent products s16 x s16."""
    lanes = x.type.count // 2
    wide = ir.VectorType(I32, lanes)
    halves = [[b.sext(take(b, v, range(h, 2 * lanes, 2)), wide) for h in (0, 1)] for v in (x, w)]
    return b.add(b.mul(halves[0][0], halves[1][0]), b.mul(halves[0][1], halves[1][1]))


def _dot4(b, isa, acc, x, w):
    n = registers(isa, acc.type)
    lanes = acc.type.count // n
    w = (
        [b.bitcast(spread(b, w, lanes), ir.VectorType(I8, 4 * lanes))] * n
        if w.type == I32
        else cut(b, w, n)
    )
    return join(
        b,
        [
            dot4_register(b, isa, *part)
            for part in zip(cut(b, acc, n), cut(b, x, n), w, strict=True)
        ],
    )


@instruction(_dot4)
def dot4(acc, x, w):
    """acc[i] += sum of 4 products u8 x s8 (vpdpbusd): x holds 4 u8 a lane; w is an int32 with 4 s8
    for all lanes, or a vector.
    """
    return acc


@lowering
def dot2_words_register(b, isa, acc, x, w):
    """One register: acc[i] += sum of 2 products s16 x s16."""
    words = ir.VectorType(I16, 2 * acc.type.count)
    return b.add(acc, sums_of_pairs(b, isa, b.bitcast(x, words), b.bitcast(w, words)))


def _dot2_words(b, isa, acc, x, w):
    n = registers(isa, acc.type)
    w, parts = spread(b, w, acc.type.count // n), zip(cut(b, acc, n), cut(b, x, n), strict=True)
    return join(b, [dot2_words_register(b, isa, a, p, w) for a, p in parts])


@instruction(_dot2_words)
def dot2_words(acc, x, w):
    """acc[i] += x's 2 s16 of the lane times w's 2 s16 (vpdpwssd); w an int32 for all lanes."""
    return acc


@lowering
def dot2_bf16_register(b, isa, acc, x, w):
    """One register: acc[i] += sum of 2 products; a bf16 is the high half of a float32."""
    lanes = acc.type.count
    pairs, fmuladd = ir.VectorType(I32, lanes), f"llvm.fmuladd.v{lanes}f32"
    x, high, sixteen = b.bitcast(x, pairs), constant(pairs, -65536), constant(pairs, 16)
    for shift in (lambda v: b.and_(v, high), lambda v: b.shl(v, sixteen)):
        left, right = (b.bitcast(shift(v), acc.type) for v in (x, w))
        acc = call(b, fmuladd, acc.type, left, right, acc)
    return acc


def _dot2_bf16(b, isa, acc, x, w):
    n = registers(isa, acc.type)
    lanes = acc.type.count // n
    w = [spread(b, w, lanes)] * n if w.type == I32 else cut(b, w, n)
    parts = zip(cut(b, acc, n), cut(b, x, n), w, strict=True)
    return join(b, [dot2_bf16_register(b, isa, *part) for part in parts])


@instruction(_dot2_bf16)
def dot2_bf16(acc, x, w):
    """acc[i] += the lane's 2 bf16 of x times 2 bf16 of w, in float32 (vdpbf16ps); w is an int32 for
    all lanes, or a vector.
    """
    return acc
