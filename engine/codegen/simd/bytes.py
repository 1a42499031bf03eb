"""Bytes: interleaved for products, packed and looked up after them, transposed."""

from __future__ import annotations

import llvmlite.ir as ir
from numba.extending import intrinsic

from ..lower import instruction, routine
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
    held,
    join,
    pointer_to,
    take,
    unpack,
)


def _interleave(b, p, q, r, s):
    low, high = ([unpack(b, p, q, 1, h), unpack(b, r, s, 1, h)] for h in (0, 1))
    return join(b, [unpack(b, *pair, 2, h) for pair in (low, high) for h in (0, 1)])


@intrinsic
def interleave(typing, p, q, r, s):
    """4 rows of L bytes -> L lanes of 4 bytes in quad order."""

    return Vec("u8", 4 * p.lanes)(p, q, r, s), lambda ctx, b, sig, args: _interleave(b, *args)


def _interleave_in_order(b, isa, *rows):
    n = rows[0].type.count
    if isa.width == 512 and n == 64:
        quarters = [4 * (i % 4) + i // 4 for i in range(16)]  # unpacking puts them back
        wide = ir.VectorType(I32, 16)
        turned = [
            b.bitcast(held(b, take(b, b.bitcast(row, wide), quarters)), row.type) for row in rows
        ]
        return _interleave(b, *turned)
    pairs = [
        take(b, rows[i], [k // 2 + n * (k % 2) for k in range(2 * n)], rows[i + 1]) for i in (0, 2)
    ]
    words = [b.bitcast(v, ir.VectorType(I16, n)) for v in pairs]
    return b.bitcast(
        take(b, words[0], [k // 2 + n * (k % 2) for k in range(2 * n)], words[1]),
        ir.VectorType(I8, 4 * n),
    )


@instruction(_interleave_in_order)
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


def _pack(b, isa, x):
    """16-bit integers in 32-bit lanes (|n| < 2^15; higher bits ignored), quad order -> u8,
    saturated, token order.
    """
    lanes = x.type.count
    z = [take(b, x, range(lanes // 4 * v, lanes // 4 * (v + 1))) for v in range(4)]
    if isa.has("avx512vbmi") and lanes == 64:
        words = ir.VectorType(I16, 32)
        low = ir.Constant(
            words,
            [32 * s + 2 * (4 * lane + i) for lane in range(4) for s in (0, 1) for i in range(4)],
        )
        half = [
            call(
                b,
                "llvm.x86.avx512.vpermi2var.hi.512",
                words,
                b.bitcast(z[i], words),
                low,
                b.bitcast(z[i + 1], words),
            )
            for i in (0, 2)
        ]
        return call(b, "llvm.x86.avx512.packuswb.512", ir.VectorType(I8, 64), *half)
    order = [
        lanes // 4 * v + 4 * lane + i
        for lane in range(lanes // 16)
        for v in range(4)
        for i in range(4)
    ]
    return _saturate(b, isa, take(b, x, order))


def _saturate(b, isa, x):
    """The low 16 bits of each 32-bit lane, signed -> u8, saturated, order kept."""
    lanes = x.type.count
    if isa.has("avx512bw") and lanes == 64:
        words = ir.VectorType(I16, 32)
        z, low = [b.bitcast(v, words) for v in cut(b, x, 4)], ir.Constant(words, [*range(0, 64, 2)])
        halves = [
            call(b, "llvm.x86.avx512.vpermi2var.hi.512", words, z[i], low, z[i + 1]) for i in (0, 2)
        ]
        mixed = call(b, "llvm.x86.avx512.packuswb.512", ir.VectorType(I8, 64), *halves)
        eights = b.bitcast(mixed, ir.VectorType(I64, 8))  # of the halves by turns
        return b.bitcast(take(b, eights, [0, 2, 4, 6, 1, 3, 5, 7]), mixed.type)
    words = b.trunc(x, ir.VectorType(I16, lanes))
    words = call(b, f"llvm.smax.v{lanes}i16", words.type, words, ir.Constant(words.type, None))
    return b.trunc(
        call(b, f"llvm.smin.v{lanes}i16", words.type, words, constant(words.type, 255)),
        ir.VectorType(I8, lanes),
    )


@instruction(_pack)
def pack_words(x):
    """Integers (the low 16 bits of i32 lanes, signed) in quad order -> u8, saturated, in token
    order.
    """
    return Vec("u8", x.lanes)


@instruction(_saturate)
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


def _lookup(b, isa, table, x):
    bytes_, n = ir.VectorType(I8, 64), x.type.count
    if isa.has("avx512vbmi") and n <= 64:
        t = [
            b.load(pointer_to(b, b.add(table, ir.Constant(I64, 64 * i)), bytes_), align=64)
            for i in range(4)
        ]
        wide = take(b, x, [min(i, n - 1) for i in range(64)]) if n < 64 else x
        low, high = (
            call(b, "llvm.x86.avx512.vpermi2var.qi.512", bytes_, t[i], wide, t[i + 1])
            for i in (0, 2)
        )
        found = b.select(b.icmp_signed("<", wide, ir.Constant(bytes_, None)), high, low)
        return take(b, found, range(n)) if n < 64 else found
    if isa.has("avx2"):
        parts = cut(b, x, max(1, n // 32))
        return join(b, [_lookup_by_nibbles(b, table, part) for part in parts])
    return _lookup_by_lane(b, table, x)


def _lookup_by_nibbles(b, table, x):
    """16 tables of 16 bytes by the low nibble (pshufb), then a tree of choices by the high bits."""
    n = x.type.count
    name = {32: "avx2.pshuf.b", 16: "ssse3.pshuf.b.128"}[n]
    low = b.and_(x, constant(x.type, 15))
    words = b.bitcast(x, ir.VectorType(I16, n // 2))
    zero = ir.Constant(x.type, None)

    def is_set(bit):  # blending looks at the highest bit of a byte
        moved = b.bitcast(b.shl(words, constant(words.type, 7 - bit)), x.type)
        return b.icmp_signed("<", moved, zero)

    bits = {2 ** (bit - 3): is_set(bit) for bit in (4, 5, 6, 7)}

    def found(first, count):
        if count > 1:
            half = count // 2
            return b.select(bits[count], found(first + half, half), found(first, half))
        at = pointer_to(b, b.add(table, ir.Constant(I64, 16 * first)), ir.VectorType(I8, 16))
        entries = take(b, b.load(at, align=16), [lane % 16 for lane in range(n)])
        return call(b, f"llvm.x86.{name}", x.type, entries, low)

    return found(0, 16)


def _lookup_by_lane(b, table, x):
    out = ir.Constant(x.type, ir.Undefined)
    for lane in range(x.type.count):
        index = b.zext(b.extract_element(x, ir.Constant(I32, lane)), I64)
        out = b.insert_element(
            out, b.load(pointer_to(b, b.add(table, index), I8), align=1), ir.Constant(I32, lane)
        )
    return out


@instruction(_lookup)
def lookup(table, x):
    """table[x] for each byte; table: address of 256 bytes on a cache line (vpermi2b twice)."""
    return x


def _pick_of_halves(b, table, x):
    """Eight lanes of table[x & 15]: vpermps in either half of the table, chosen by bit 3."""
    halves = [call(b, "llvm.x86.avx2.permps", half.type, half, x) for half in cut(b, table, 2)]
    upper = b.icmp_signed("<", b.shl(x, constant(x.type, 28)), ir.Constant(x.type, None))
    return b.select(upper, halves[1], halves[0])


def _gather_floats(b, isa, x, table):
    def one(x):
        if isa.has("avx512f"):
            return call(b, "llvm.x86.avx512.permvar.sf.512", table.type, table, x)
        if isa.has("avx2"):
            return join(b, [_pick_of_halves(b, table, part) for part in cut(b, x, 2)])
        out = ir.Constant(ir.VectorType(F32, x.type.count), ir.Undefined)
        for lane in range(x.type.count):
            index = b.and_(b.extract_element(x, ir.Constant(I32, lane)), ir.Constant(I32, 15))
            out = b.insert_element(out, b.extract_element(table, index), ir.Constant(I32, lane))
        return out

    return join(b, [one(part) for part in cut(b, x, x.type.count // 16)])


@instruction(_gather_floats)
def pick(x, table):
    """table[x & 15] for i32 lanes; table: f32x16 (vpermps)."""
    return Vec("f32", x.lanes)


def _quads_of_words(b, isa, p, q, r, s):
    n = p.type.count
    if not isa.has("avx512bw") or n % 16:
        return _interleave_in_order(b, isa, *(_saturate(b, isa, v) for v in (p, q, r, s)))
    keys = [cut(b, x, n // 16) for x in (p, q, r, s)]
    words, wide = ir.VectorType(I16, 32), keys[0][0].type
    low, sixteen = constant(wide, 0xFFFF), constant(wide, 16)

    def pair(even, odd):  # not a permutation: that would take the products' ports
        return b.bitcast(b.or_(b.and_(even, low), b.shl(odd, sixteen)), words)

    turn = [
        lane * 16 + 8 * half + 2 * i + s
        for lane in range(4)
        for i in range(4)
        for half in (0, 1)
        for s in (0, 1)
    ]
    out = []
    for v in range(n // 16):
        pairs = [pair(keys[k][v], keys[k + 1][v]) for k in (0, 2)]
        packed = call(b, "llvm.x86.avx512.packuswb.512", ir.VectorType(I8, 64), *pairs)
        out.append(take(b, packed, turn))
    return join(b, out)


@instruction(_quads_of_words)
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
