"""Loads and stores; one scalar to all lanes."""

from __future__ import annotations

import llvmlite.ir as ir
import numba as nb
import numpy as np
from numba.core import cgutils
from numba.extending import intrinsic

from ..elements import BYTES
from ..lower import instruction, routine
from ..lowering import lowering
from .vectors import F32, I8, I32, I64, Vec, pointer_to, spread, take


def loads(dtype, lanes):
    """A function address -> Vec; the address is aligned to the vector, to at most 64 bytes."""
    vec = Vec(dtype, lanes)

    @intrinsic
    def load(typing, address):
        def emit(ctx, b, sig, args):
            return b.load(pointer_to(b, args[0], vec.llvm), align=min(64, lanes * BYTES[dtype]))

        return vec(nb.int64), emit

    return load


def loads_unaligned(dtype, lanes):
    """The same for any address."""
    vec = Vec(dtype, lanes)

    @intrinsic
    def load(typing, address):
        return vec(nb.int64), lambda ctx, b, sig, args: b.load(
            pointer_to(b, args[0], vec.llvm), align=1
        )

    return load


def _scalar_load(result, type_, extend="zext"):
    @intrinsic
    def load(typing, address):
        def emit(ctx, b, sig, args):
            value = b.load(pointer_to(b, args[0], type_), align=1)
            return (
                getattr(b, extend)(value, I64) if result is nb.int64 and type_.width < 64 else value
            )

        return result(nb.int64), emit

    return load


load_i32, load_f32 = _scalar_load(nb.int32, I32), _scalar_load(nb.float32, F32)
load_u8, load_u16, load_i64 = (_scalar_load(nb.int64, ir.IntType(n)) for n in (8, 16, 64))
load_int = _scalar_load(nb.int64, I32, "sext")


@intrinsic
def store(typing, address, value):
    """Store a vector, aligned to it (at most 64 bytes)."""

    def emit(ctx, b, sig, args):
        b.store(
            args[1],
            pointer_to(b, args[0], value.llvm),
            align=min(64, value.lanes * BYTES[value.dtype]),
        )
        return ctx.get_dummy_value()

    return nb.void(nb.int64, value), emit


@intrinsic
def store_unaligned(typing, address, value):
    """Store a vector, an int32, an int64 or a float32 anywhere."""

    def emit(ctx, b, sig, args):
        b.store(args[1], pointer_to(b, args[0], args[1].type), align=1)
        return ctx.get_dummy_value()

    return nb.void(nb.int64, value), emit


@intrinsic
def store_u8(typing, address, value):
    """Store the low byte of an int64."""

    def emit(ctx, b, sig, args):
        b.store(b.trunc(args[1], I8), pointer_to(b, args[0], I8), align=1)
        return ctx.get_dummy_value()

    return nb.void(nb.int64, nb.int64), emit


@intrinsic
def prefetch(typing, address):
    """Start to load a cache line."""

    def emit(ctx, b, sig, args):
        pointer = pointer_to(b, args[0], I8)
        function = cgutils.get_or_insert_function(
            b.module,
            ir.FunctionType(ir.VoidType(), [pointer.type, I32, I32, I32]),
            "llvm.prefetch.p0",
        )
        b.call(function, [pointer, ir.Constant(I32, 0), ir.Constant(I32, 3), ir.Constant(I32, 1)])
        return ctx.get_dummy_value()

    return nb.void(nb.int64), emit


def splats(dtype, lanes):
    """A function scalar -> Vec with it in every lane."""
    vec = Vec(dtype, lanes)
    scalar_type = {"f32": nb.float32, "i32": nb.int32}[dtype]

    @intrinsic
    def splat(typing, scalar):
        return vec(scalar_type), lambda ctx, b, sig, args: spread(b, args[0], lanes)

    return splat


def literal(numbers):
    """A function of nothing -> Vec of these float32."""
    vec = Vec("f32", len(numbers))

    @intrinsic
    def made(typing):
        def emit(ctx, b, sig, args):
            return ir.Constant(
                ir.VectorType(F32, len(numbers)), [float(np.float32(x)) for x in numbers]
            )

        return vec(), emit

    return made


@routine
def four_places(word):
    """The four u8 in the low half of an int64."""
    return word & 0xFF, word >> 8 & 0xFF, word >> 16 & 0xFF, word >> 24 & 0xFF


@routine
def load_offsets(address):
    """Four u16 in a row, by one load: where vectors are loaded too, loads are what runs out."""
    word = load_i64(address)
    return word & 0xFFFF, word >> 16 & 0xFFFF, word >> 32 & 0xFFFF, word >> 48 & 0xFFFF


@intrinsic
def load_early(typing, address):
    """An int64, loaded here: LLVM would load it where it is used, behind loads that can wait."""

    def emit(ctx, b, sig, args):
        value = b.load(pointer_to(b, args[0], I64), align=1)
        stay = ir.InlineAsm(ir.FunctionType(I64, [I64]), "", "=r,0", side_effect=True)
        return b.call(stay, [value])

    return nb.int64(nb.int64), emit


@lowering
def words_loaded(b, isa, address):
    return b.load(pointer_to(b, address, ir.VectorType(I32, 4)), align=16)


@instruction(words_loaded)
def load_words(address):
    """Two int64 (`word`) on 16 bytes, by the kind of load that vectors take: a scalar one keeps two
    of these from starting together.  It is made here, well before they are needed.
    """
    return Vec("i32", 4)


def word(n):
    """A function of load_words' value: its int64 number n."""

    @intrinsic
    def take_one(typing, words):
        def emit(ctx, b, sig, args):
            two = b.bitcast(args[0], ir.VectorType(I64, 2))
            return b.extract_element(two, ir.Constant(I32, n))

        return nb.int64(words), emit

    return take_one


def bytes_at(first, scale):
    """A function of an int64: its bytes first .. first + 3 times scale, a power of two.

    Loads stay before or behind it.  It goes before work that does not need it, or loads would wait
    for their addresses.
    """
    shift = scale.bit_length() - 1

    @intrinsic
    def four(typing, word):
        def emit(ctx, b, sig, args):
            found = []
            for bit in range(8 * first, 8 * first + 32, 8):
                move = b.lshr if bit >= shift else b.shl
                moved = move(args[0], ir.Constant(I64, abs(bit - shift)))
                found.append(b.and_(moved, ir.Constant(I64, 255 * scale)))
            same = ir.FunctionType(ir.LiteralStructType([I64] * 4), [I64] * 4)
            stay = ir.InlineAsm(same, "", "=r,=r,=r,=r,0,1,2,3,~{memory}", side_effect=True)
            there = b.call(stay, found)
            return ctx.make_tuple(b, sig.return_type, [b.extract_value(there, n) for n in range(4)])

        return nb.types.UniTuple(nb.int64, 4)(nb.int64), emit

    return four


@lowering
def four_loaded(b, isa, address):
    four = b.load(pointer_to(b, address, ir.VectorType(I32, 4)), align=1)
    return take(b, four, [i % 4 for i in range(16)])


@instruction(four_loaded)
def load_four(address):
    """16 bytes, as 4 i32, to every 128 bits of 512: one load instead of four broadcasts."""
    return Vec("i32", 16)


@lowering
def four_fours_loaded(b, isa, address):
    return b.load(pointer_to(b, address, ir.VectorType(I32, 16)), align=64)


@instruction(four_fours_loaded)
def load_four_fours(address):
    """64 bytes on a cache line: the weights of four load_four, by one load (`four_of`)."""
    return Vec("i32", 16)


@lowering
def four_taken(b, isa, fours, n):
    return take(b, fours, [4 * n + i % 4 for i in range(16)])


def four_of(n):
    """A function of load_four_fours' value: what load_four makes of its 16 bytes number n."""

    @instruction(four_taken, static=(n,))
    def pick_four(fours):
        return Vec("i32", 16)

    return pick_four


def spreads(which, lanes):
    """A function of load_four's value: its number `which` in every lane (vpshufd)."""
    vec = Vec("i32", lanes)

    @intrinsic
    def pick_one(typing, four):
        return vec(four), lambda ctx, b, sig, args: take(
            b, args[0], [i % 16 // 4 * 4 + which for i in range(lanes)]
        )

    return pick_one


@intrinsic
def store_lanes(typing, address, value, first, last):
    """Store lanes first .. last - 1, leave the others as they are in memory."""

    def emit(ctx, b, sig, args):
        at, v, low, high = args
        pointer, n = pointer_to(b, at, value.llvm), value.lanes
        index = ir.Constant(ir.VectorType(I8, n), list(range(n)))
        low, high = (spread(b, b.trunc(bound, I8), n) for bound in (low, high))
        inside = b.and_(b.icmp_unsigned(">=", index, low), b.icmp_unsigned("<", index, high))
        align = min(64, n * BYTES[value.dtype])
        b.store(b.select(inside, v, b.load(pointer, align=align)), pointer, align=align)
        return ctx.get_dummy_value()

    return nb.void(nb.int64, value, nb.int64, nb.int64), emit
