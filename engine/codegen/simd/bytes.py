"""Bytes: interleaved for products, packed and looked up after them, transposed."""

from __future__ import annotations

import llvmlite.ir as ir
from numba.extending import intrinsic

from ..lower import instruction, routine
from ..lowering import lowering
from .arithmetic import as_int
from .vectors import (
    F32,
    I8,
    I16,
    I32,
    I64,
    Vec,
    call,
    constant,
    cut,
    join,
    pointer_to,
    take,
    unpack,
)


def interleaved(b, p, q, r, s):
    """4 rows of L bytes -> L lanes of 4 bytes in quad order."""
    low, high = ([unpack(b, p, q, 1, h), unpack(b, r, s, 1, h)] for h in (0, 1))
    return join(b, [unpack(b, *pair, 2, h) for pair in (low, high) for h in (0, 1)])


@intrinsic
def interleave(typing, p, q, r, s):
    """4 rows of L bytes -> L lanes of 4 bytes in quad order."""

    return Vec("u8", 4 * p.lanes)(p, q, r, s), lambda ctx, b, sig, args: interleaved(b, *args)


@lowering
def interleaved_in_order(b, isa, *rows):
    """4 rows of L bytes -> L lanes of 4 bytes, order kept."""
    n = rows[0].type.count
    pairs = [
        take(b, rows[i], [k // 2 + n * (k % 2) for k in range(2 * n)], rows[i + 1]) for i in (0, 2)
    ]
    words = [b.bitcast(v, ir.VectorType(I16, n)) for v in pairs]
    return b.bitcast(
        take(b, words[0], [k // 2 + n * (k % 2) for k in range(2 * n)], words[1]),
        ir.VectorType(I8, 4 * n),
    )


@instruction(interleaved_in_order)
def interleave_in_order(p, q, r, s):
    """4 rows of L bytes -> L lanes of 4 bytes, lane t is token t."""
    return Vec("u8", 4 * p.lanes)


@intrinsic
def weigh(typing, p, q):
    """Two rows of L bytes -> L lanes of two u16 (p, q) in quad order: the operand of dot2_words."""

    def emit(ctx, b, sig, args):
        zero = ir.Constant(p.llvm, None)
        halves = (unpack(b, args[0], args[1], 1, h) for h in (0, 1))
        return join(b, [unpack(b, half, zero, 1, h) for half in halves for h in (0, 1)])

    return Vec("u8", 4 * p.lanes)(p, q), emit


@lowering
def packed(b, isa, x):
    """16-bit integers in 32-bit lanes (|n| < 2^15; higher bits ignored), quad order -> u8,
    saturated, token order.
    """
    lanes = x.type.count
    order = [
        lanes // 4 * v + 4 * lane + i
        for lane in range(lanes // 16)
        for v in range(4)
        for i in range(4)
    ]
    return saturated(b, isa, take(b, x, order))


@lowering
def saturated(b, isa, x):
    """The low 16 bits of each 32-bit lane, signed -> u8, saturated, order kept."""
    lanes = x.type.count
    words = b.trunc(x, ir.VectorType(I16, lanes))
    words = call(b, f"llvm.smax.v{lanes}i16", words.type, words, ir.Constant(words.type, None))
    return b.trunc(
        call(b, f"llvm.smin.v{lanes}i16", words.type, words, constant(words.type, 255)),
        ir.VectorType(I8, lanes),
    )


@instruction(packed)
def pack_words(x):
    """Integers (the low 16 bits of i32 lanes, signed) in quad order -> u8, saturated, in token
    order.
    """
    return Vec("u8", x.lanes)


@instruction(saturated)
def saturate_words(x):
    """Integers (the low 16 bits of i32 lanes, signed) -> u8, saturated, order kept."""
    return Vec("u8", x.lanes)


@routine
def pack(x):
    """Floats MAGIC + n, |n| < 2^15, in quad order -> u8, saturated, in token order."""
    return pack_words(as_int(x))


@routine
def pack_in_order(x):
    """Floats MAGIC + n, |n| < 2^15 -> u8, saturated, order kept."""
    return saturate_words(as_int(x))


@lowering
def looked_up(b, isa, table, x):
    """Lane by lane."""
    out = ir.Constant(x.type, ir.Undefined)
    for lane in range(x.type.count):
        index = b.zext(b.extract_element(x, ir.Constant(I32, lane)), I64)
        out = b.insert_element(
            out, b.load(pointer_to(b, b.add(table, index), I8), align=1), ir.Constant(I32, lane)
        )
    return out


@instruction(looked_up)
def lookup(table, x):
    """table[x] for each byte; table: address of 256 bytes on a cache line (vpermi2b twice)."""
    return x


@lowering
def picked(b, isa, x, table):
    """Sixteen lanes of table[x & 15], lane by lane."""
    out = ir.Constant(ir.VectorType(F32, x.type.count), ir.Undefined)
    for lane in range(x.type.count):
        index = b.and_(b.extract_element(x, ir.Constant(I32, lane)), ir.Constant(I32, 15))
        out = b.insert_element(out, b.extract_element(table, index), ir.Constant(I32, lane))
    return out


def _pick(b, isa, x, table):
    return join(b, [picked(b, isa, part, table) for part in cut(b, x, x.type.count // 16)])


@instruction(_pick)
def pick(x, table):
    """table[x & 15] for i32 lanes; table: f32x16 (vpermps)."""
    return Vec("f32", x.lanes)


@lowering
def quads(b, isa, p, q, r, s):
    """The low 16 bits of i32 lanes of 4 keys -> lanes of 4 saturated u8, order kept."""
    return interleaved_in_order(b, isa, *(saturated(b, isa, v) for v in (p, q, r, s)))


@instruction(quads)
def quads_of_words(p, q, r, s):
    """Integers (low 16 bits of i32 lanes) of 4 keys -> lanes of 4 saturated u8, order kept: the
    operand of the next dot4.
    """
    return Vec("u8", 4 * p.lanes)


def zips(high):
    """Interleave the bytes of the low (or high) halves of two rows of 64: six rounds of it
    transpose a 64 x 64 block.
    """

    @intrinsic
    def zip_(typing, x, y):
        n = x.lanes
        return x(x, y), lambda ctx, b, sig, args: take(
            b, args[0], [n // 2 * high + i // 2 + n * (i % 2) for i in range(n)], args[1]
        )

    return zip_


zip_low, zip_high = zips(0), zips(1)


@intrinsic
def in_token_order(typing, x):
    """64 lanes of 32 bits from quad order to token order."""

    def emit(ctx, b, sig, args):
        n = x.lanes
        return take(
            b,
            args[0],
            [
                n // 4 * v + 4 * lane + i
                for lane in range(n // 16)
                for v in range(4)
                for i in range(4)
            ],
        )

    return x(x), emit
