"""What x86 CPUs have instructions for, by LLVM's names of features (`lowering`).

Sources: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, for each
instruction; LLVM's IntrinsicsX86.td for the names.
"""

from __future__ import annotations

import llvmlite.ir as ir

from . import bytes as byte_vectors
from . import moving, products, rounding, running
from .bytes import interleaved
from .vectors import (
    I8,
    I16,
    I32,
    I64,
    call,
    constant,
    cut,
    held,
    join,
    pointer_to,
    take,
)

REGISTER = 16  # 32-bit lanes of 512 bits
WHOLE_REGISTERS = range(REGISTER, 8 * REGISTER + 1, REGISTER)


# --- products
@products.dot4_register.on("avx512vnni")
@products.dot4_register.on("avxvnni", elements=(4, 8))
def vpdpbusd(b, isa, acc, x, w):
    lanes = acc.type.count
    x, w = (b.bitcast(v, ir.VectorType(I8, 4 * lanes)) for v in (x, w))
    return call(b, f"llvm.x86.avx512.vpdpbusd.{32 * lanes}", acc.type, acc, x, w)


@products.dot4_register.on("avx2")
def held_sums(b, isa, acc, x, w):
    """LLVM adds up the sums of many steps first, else, and spills them."""
    return held(b, products.dot4_register.plain(b, isa, acc, x, w))


@products.sums_of_pairs.on("avx512bw", elements=(32,))
@products.sums_of_pairs.on("avx2", elements=(16,))
@products.sums_of_pairs.on("avx", elements=(8,))
def vpmaddwd(b, isa, x, w):
    name = {32: "avx512.pmaddw.d.512", 16: "avx2.pmadd.wd", 8: "sse2.pmadd.wd"}[x.type.count]
    return call(b, f"llvm.x86.{name}", ir.VectorType(I32, x.type.count // 2), x, w)


@products.dot2_words_register.on("avx512vnni", elements=(REGISTER,))
def vpdpwssd(b, isa, acc, x, w):
    x, w = (b.bitcast(v, ir.VectorType(I16, 2 * REGISTER)) for v in (x, w))
    return call(b, "llvm.x86.avx512.vpdpwssd.512", acc.type, acc, x, w)


@products.dot2_bf16_register.on("avx512bf16")
def vdpbf16ps(b, isa, acc, x, w):
    lanes = acc.type.count
    x, w = (b.bitcast(v, ir.VectorType(I32, lanes)) for v in (x, w))
    return call(b, f"llvm.x86.avx512bf16.dpbf16ps.{32 * lanes}", acc.type, acc, x, w)


# --- bfloat16
@rounding.rounded.on("avx512bf16", elements=WHOLE_REGISTERS)
def vcvtne2ps2bf16(b, isa, first, second):
    parts = [part for x in (first, second) for part in cut(b, x, x.type.count // REGISTER)]
    words, pairs = ir.VectorType(I16, 2 * REGISTER), zip(parts[::2], parts[1::2], strict=True)
    name = "llvm.x86.avx512bf16.cvtne2ps2bf16.512"
    return join(b, [call(b, name, words, high, low) for low, high in pairs])


@rounding.rounded_pairs.on("avx512bf16")
def pairs_of_rounded(b, isa, p, q):
    registers = p.type.count // REGISTER
    parts = zip(cut(b, p, registers), cut(b, q, registers), strict=True)
    turned = [i // 2 + REGISTER * (i % 2) for i in range(2 * REGISTER)]
    return join(b, [take(b, rounding.rounded(b, isa, *part), turned) for part in parts])


# --- loads of which LLVM must not see what is taken from them: it would load each part again
@moving.words_loaded.on("avx512f")
def held_words(b, isa, address):
    return held(b, moving.words_loaded.plain(b, isa, address), here=True)


@moving.four_loaded.on("avx512f")
def held_four(b, isa, address):
    return held(b, moving.four_loaded.plain(b, isa, address))


@moving.four_fours_loaded.on("avx512f")
def held_fours(b, isa, address):
    return held(b, moving.four_fours_loaded.plain(b, isa, address))


@moving.four_taken.on("avx512f")
def held_taken(b, isa, fours, n):
    return held(b, moving.four_taken.plain(b, isa, fours, n))


# --- bytes
@byte_vectors.interleaved_in_order.on("avx512f", elements=(64,))
def interleaved_after_turning(b, isa, *rows):
    quarters = [4 * (i % 4) + i // 4 for i in range(16)]  # unpacking puts them back
    wide = ir.VectorType(I32, 16)
    turned = (held(b, take(b, b.bitcast(row, wide), quarters)) for row in rows)
    return interleaved(b, *[b.bitcast(v, row.type) for v, row in zip(turned, rows, strict=True)])


def _vpermt2w(b, first, order, second):
    name, words = "llvm.x86.avx512.vpermi2var.hi.512", order.type
    return call(b, name, words, b.bitcast(first, words), order, b.bitcast(second, words))


def _vpackuswb(b, low, high):
    return call(b, "llvm.x86.avx512.packuswb.512", ir.VectorType(I8, 64), low, high)


@byte_vectors.packed.on("avx512vbmi", elements=(64,))
def packed_by_words(b, isa, x):
    order = [32 * s + 2 * (4 * lane + i) for lane in range(4) for s in (0, 1) for i in range(4)]
    low, z = ir.Constant(ir.VectorType(I16, 32), order), cut(b, x, 4)
    return _vpackuswb(b, *[_vpermt2w(b, z[i], low, z[i + 1]) for i in (0, 2)])


@byte_vectors.saturated.on("avx512bw", elements=(64,))
def saturated_by_words(b, isa, x):
    low, z = ir.Constant(ir.VectorType(I16, 32), [*range(0, 64, 2)]), cut(b, x, 4)
    mixed = _vpackuswb(b, *[_vpermt2w(b, z[i], low, z[i + 1]) for i in (0, 2)])
    eights = b.bitcast(mixed, ir.VectorType(I64, 8))  # of the halves by turns
    return b.bitcast(take(b, eights, [0, 2, 4, 6, 1, 3, 5, 7]), mixed.type)


@byte_vectors.quads.on("avx512bw", elements=WHOLE_REGISTERS)
def quads_by_packing(b, isa, p, q, r, s):
    n = p.type.count
    keys = [cut(b, x, n // 16) for x in (p, q, r, s)]
    wide = keys[0][0].type
    low, sixteen = constant(wide, 0xFFFF), constant(wide, 16)

    def pair(even, odd):  # not a permutation: that would take the products' ports
        both = b.or_(b.and_(even, low), b.shl(odd, sixteen))
        return b.bitcast(both, ir.VectorType(I16, 32))

    turn = [
        lane * 16 + 8 * half + 2 * i + s
        for lane in range(4)
        for i in range(4)
        for half in (0, 1)
        for s in (0, 1)
    ]
    pairs = [[pair(keys[k][v], keys[k + 1][v]) for k in (0, 2)] for v in range(n // 16)]
    return join(b, [take(b, _vpackuswb(b, *each), turn) for each in pairs])


# --- tables
@byte_vectors.looked_up.on("avx512vbmi")
def vpermi2b(b, isa, table, x):
    """Two tables of 128 bytes, one of which the highest bit chooses."""
    bytes_, n = ir.VectorType(I8, 64), x.type.count
    places = [pointer_to(b, b.add(table, ir.Constant(I64, 64 * i)), bytes_) for i in range(4)]
    t = [b.load(place, align=64) for place in places]
    wide = take(b, x, [min(i, n - 1) for i in range(64)]) if n < 64 else x
    name = "llvm.x86.avx512.vpermi2var.qi.512"
    low, high = (call(b, name, bytes_, t[i], wide, t[i + 1]) for i in (0, 2))
    found = b.select(b.icmp_signed("<", wide, ir.Constant(bytes_, None)), high, low)
    return take(b, found, range(n)) if n < 64 else found


@byte_vectors.looked_up.on("avx2")
def looked_up_by_nibbles(b, isa, table, x):
    parts = cut(b, x, max(1, x.type.count // 32))
    return join(b, [_vpshufb(b, table, part) for part in parts])


def _vpshufb(b, table, x):
    """16 tables of 16 bytes by the low nibble, then a tree of choices by the high bits."""
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


@byte_vectors.picked.on("avx512f")
def vpermps_512(b, isa, x, table):
    return call(b, "llvm.x86.avx512.permvar.sf.512", table.type, table, x)


@byte_vectors.picked.on("avx2")
def vpermps_256(b, isa, x, table):
    return join(b, [_pick_of_halves(b, table, part) for part in cut(b, x, 2)])


def _pick_of_halves(b, table, x):
    """Eight lanes of table[x & 15]: vpermps in either half of the table, chosen by bit 3."""
    name, (low, high) = "llvm.x86.avx2.permps", cut(b, table, 2)
    halves = [call(b, name, half.type, half, x) for half in (low, high)]
    upper = b.icmp_signed("<", b.shl(x, constant(x.type, 28)), ir.Constant(x.type, None))
    return b.select(upper, halves[1], halves[0])


# --- waiting
@running.spin_hint.on("sse4.2")
def spin_pause(b, isa):
    call(b, "llvm.x86.sse2.pause", ir.VoidType())
