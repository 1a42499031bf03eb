"""Sums of products: four of bytes, two of 16-bit words, two of bfloat16."""

from __future__ import annotations

import llvmlite.ir as ir

from ..lower import instruction
from .vectors import I8, I16, I32, call, constant, cut, held, join, registers, spread, take


def _dot4_register(b, isa, acc, x, w):
    """One register: acc[i] += sum of 4 products u8 x s8, exact in int32."""
    lanes = acc.type.count
    bytes_ = ir.VectorType(I8, 4 * lanes)
    if isa.has("avx512vnni") or (isa.has("avxvnni") and lanes <= 8):
        family = {16: "avx512.vpdpbusd.512", 8: "avx512.vpdpbusd.256", 4: "avx512.vpdpbusd.128"}[
            lanes
        ]
        return call(
            b, f"llvm.x86.{family}", acc.type, acc, b.bitcast(x, bytes_), b.bitcast(w, bytes_)
        )
    words = ir.VectorType(I16, 2 * lanes)
    x, w, eight = b.bitcast(x, words), b.bitcast(w, words), constant(words, 8)
    even = _pairs(b, isa, b.and_(x, constant(words, 255)), b.ashr(b.shl(w, eight), eight))
    odd = _pairs(b, isa, b.lshr(x, eight), b.ashr(w, eight))
    total = b.add(acc, b.add(even, odd))
    return total if isa.width < 256 else held(b, total)  # or LLVM adds up those of many steps first


def _pairs(b, isa, x, w):
    """Sums of two adjacent products s16 x s16 (vpmaddwd)."""
    lanes = x.type.count // 2
    wide = ir.VectorType(I32, lanes)
    name = {16: "avx512.pmaddw.d.512", 8: "avx2.pmadd.wd", 4: "sse2.pmadd.wd"}.get(lanes, "")
    if (
        (lanes == 16 and isa.has("avx512bw"))
        or (lanes == 8 and isa.has("avx2"))
        or (lanes == 4 and isa.has("avx"))
    ):
        return call(b, f"llvm.x86.{name}", wide, x, w)
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
            _dot4_register(b, isa, *part)
            for part in zip(cut(b, acc, n), cut(b, x, n), w, strict=True)
        ],
    )


@instruction(_dot4)
def dot4(acc, x, w):
    """acc[i] += sum of 4 products u8 x s8 (vpdpbusd): x holds 4 u8 a lane; w is an int32 with 4 s8
    for all lanes, or a vector.
    """
    return acc


def _dot2_words(b, isa, acc, x, w):
    def one(acc, x, w):
        words = ir.VectorType(I16, 2 * acc.type.count)
        return b.add(acc, _pairs(b, isa, b.bitcast(x, words), b.bitcast(w, words)))

    n = registers(isa, acc.type)
    lanes = acc.type.count // n
    if isa.has("avx512vnni") and lanes == 16:

        def one(acc, x, w):  # noqa: F811
            words = ir.VectorType(I16, 32)
            return call(
                b,
                "llvm.x86.avx512.vpdpwssd.512",
                acc.type,
                acc,
                b.bitcast(x, words),
                b.bitcast(w, words),
            )

    w = spread(b, w, lanes)
    return join(b, [one(a, p, w) for a, p in zip(cut(b, acc, n), cut(b, x, n), strict=True)])


@instruction(_dot2_words)
def dot2_words(acc, x, w):
    """acc[i] += x's 2 s16 of the lane times w's 2 s16 (vpdpwssd); w an int32 for all lanes."""
    return acc


def _dot2_bf16(b, isa, acc, x, w):
    n = registers(isa, acc.type)
    lanes = acc.type.count // n
    pairs = ir.VectorType(I32, lanes)

    def native(acc, x, w):
        name = {16: "512", 8: "256", 4: "128"}[lanes]
        return call(
            b,
            f"llvm.x86.avx512bf16.dpbf16ps.{name}",
            acc.type,
            acc,
            b.bitcast(x, pairs),
            b.bitcast(w, pairs),
        )

    def emulated(acc, x, w):  # a bf16 is the high half of a float32
        x, high, sixteen = b.bitcast(x, pairs), constant(pairs, -65536), constant(pairs, 16)
        for shift in (lambda v: b.and_(v, high), lambda v: b.shl(v, sixteen)):
            acc = call(
                b,
                f"llvm.fmuladd.v{lanes}f32",
                acc.type,
                b.bitcast(shift(x), acc.type),
                b.bitcast(shift(w), acc.type),
                acc,
            )
        return acc

    one = native if isa.has("avx512bf16") else emulated
    w = [spread(b, w, lanes)] * n if w.type == I32 else cut(b, w, n)
    return join(b, [one(*part) for part in zip(cut(b, acc, n), cut(b, x, n), w, strict=True)])


@instruction(_dot2_bf16)
def dot2_bf16(acc, x, w):
    """acc[i] += the lane's 2 bf16 of x times 2 bf16 of w, in float32 (vdpbf16ps); w is an int32 for
    all lanes, or a vector.
    """
    return acc
