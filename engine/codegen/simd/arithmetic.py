"""Arithmetic lane by lane, on integers and float32."""

from __future__ import annotations

import llvmlite.ir as ir
import numba as nb
from numba.extending import intrinsic

from ..elements import BYTES
from .vectors import I8, I32, Vec, call, constant, cut, take, unpack


def _binary(integer, floating):
    @intrinsic
    def operate(typing, x, y):
        return x(x, y), lambda ctx, b, sig, args: getattr(
            b, floating if x.dtype == "f32" else integer
        )(*args)

    return operate


add, sub, mul = _binary("add", "fadd"), _binary("sub", "fsub"), _binary("mul", "fmul")
div, xor, both = _binary("sdiv", "fdiv"), _binary("xor", "xor"), _binary("and_", "and_")


@intrinsic
def where_zero(typing, x, other):
    """x, but other in lanes where x is 0."""

    def emit(ctx, b, sig, args):
        return b.select(b.fcmp_ordered("==", args[0], ir.Constant(x.llvm, None)), args[1], args[0])

    return x(x, other), emit


@intrinsic
def where_above(typing, x, y, a, b):
    """a in lanes where x > y, or where x is NaN and y is not; else b: as argmax orders numbers."""

    def emit(ctx, builder, sig, args):
        v, w, chosen, other = args
        nan = builder.fcmp_unordered("uno", v, v), builder.fcmp_ordered("ord", w, w)
        above = builder.or_(builder.fcmp_ordered(">", v, w), builder.and_(*nan))
        return builder.select(above, chosen, other)

    return a(x, y, a, b), emit


@intrinsic
def multiply_add(typing, x, y, z):
    """x * y + z, rounded once where the CPU can (fma does everywhere, slowly without FMA)."""
    return x(x, y, z), lambda ctx, b, sig, args: call(
        b, f"llvm.fmuladd.v{x.lanes}f32", x.llvm, *args
    )


@intrinsic
def fma(typing, x, y, z):
    return x(x, y, z), lambda ctx, b, sig, args: call(b, f"llvm.fma.v{x.lanes}f32", x.llvm, *args)


def _extremum(floating, integer):
    @intrinsic
    def choose(typing, x, y):
        """y where x or y is NaN, as minps and maxps have it: f(limit, x) keeps a NaN of x."""

        def emit(ctx, b, sig, args):
            if x.dtype == "f32":
                return b.select(b.fcmp_ordered(floating, *args), *args)
            return call(b, f"llvm.{integer}.v{x.lanes}i{8 * BYTES[x.dtype]}", x.llvm, *args)

        return x(x, y), emit

    return choose


minimum, maximum = _extremum("<", "smin"), _extremum(">", "smax")


@intrinsic
def unsigned_maximum(typing, x, y):
    """Of i32 whose bits are taken as unsigned."""
    return x(x, y), lambda ctx, b, sig, args: call(b, f"llvm.umax.v{x.lanes}i32", x.llvm, *args)


@intrinsic
def square_root(typing, x):
    """Of a Vec or a float32."""
    name = f"llvm.sqrt.v{x.lanes}f32" if isinstance(x, Vec) else "llvm.sqrt.f32"
    return x(x), lambda ctx, b, sig, args: call(b, name, args[0].type, *args)


@intrinsic
def absolute(typing, x):
    return x(x), lambda ctx, b, sig, args: call(b, f"llvm.fabs.v{x.lanes}f32", x.llvm, *args)


@intrinsic
def with_sign_of(typing, x, sign):
    return x(x, sign), lambda ctx, b, sig, args: call(
        b, f"llvm.copysign.v{x.lanes}f32", x.llvm, *args
    )


@intrinsic
def to_float(typing, x):
    vec = Vec("f32", x.lanes)
    return vec(x), lambda ctx, b, sig, args: b.sitofp(args[0], vec.llvm)


@intrinsic
def bytes_to_float(typing, x):
    """u8 -> f32, lane by lane."""
    vec = Vec("f32", x.lanes)
    return vec(x), lambda ctx, b, sig, args: b.uitofp(args[0], vec.llvm)


def _reinterpret(dtype):
    @intrinsic
    def reinterpret(typing, x):
        vec = Vec(dtype, x.lanes * BYTES[x.dtype] // BYTES[dtype])
        return vec(x), lambda ctx, b, sig, args: b.bitcast(args[0], vec.llvm)

    return reinterpret


as_float, as_int, as_bytes = _reinterpret("f32"), _reinterpret("i32"), _reinterpret("u8")


def shifts(direction, bits):
    """A function Vec -> Vec of i32 shifted by a constant; direction: "left", "right" (zeros come
    in).
    """

    @intrinsic
    def shift(typing, x):
        def emit(ctx, b, sig, args):
            return (b.shl if direction == "left" else b.lshr)(args[0], constant(x.llvm, bits))

        return x(x), emit

    return shift


@intrinsic
def total(typing, x):
    """Sum of all lanes."""

    def emit(ctx, b, sig, args):
        v, plus = args[0], b.fadd if x.dtype == "f32" else b.add
        while v.type.count > 2:
            v = plus(*cut(b, v, 2))
        return plus(*[b.extract_element(v, ir.Constant(I32, i)) for i in (0, 1)])

    return (nb.float32 if x.dtype == "f32" else nb.int32)(x), emit


@intrinsic
def sums_of_quads(typing, p, q, r, s):
    """Lane 4 l + g: the sum of lanes 4 l .. 4 l + 3 of the g-th of four vectors of i32."""

    def emit(ctx, b, sig, args):
        wide, narrow = p.llvm, ir.VectorType(I8, 4 * p.lanes)
        x = [b.bitcast(v, narrow) for v in args]

        def halves(v, w, width):
            low, high = (b.bitcast(unpack(b, v, w, width, h), wide) for h in (0, 1))
            return b.bitcast(b.add(low, high), narrow)

        return b.bitcast(halves(halves(x[0], x[1], 4), halves(x[2], x[3], 4), 8), wide)

    return p(p, q, r, s), emit


@intrinsic
def greatest(typing, x):
    """The greatest of all lanes of float32."""

    def emit(ctx, b, sig, args):
        v = args[0]
        while v.type.count > 2:
            v = b.select(b.fcmp_ordered(">", *(halves := cut(b, v, 2))), *halves)
        p, q = (b.extract_element(v, ir.Constant(I32, i)) for i in (0, 1))
        return b.select(b.fcmp_ordered(">", p, q), p, q)

    return nb.float32(x), emit


def parts(count, which):
    """A function Vec -> the which-th of `count` equal parts of its lanes."""

    @intrinsic
    def part(typing, x):
        n = x.lanes // count
        return Vec(x.dtype, n)(x), lambda ctx, b, sig, args: take(
            b, args[0], range(n * which, n * which + n)
        )

    return part


@intrinsic
def scalar_to_int(typing, x):
    """float32 -> int32, the same bits."""
    return nb.int32(nb.float32), lambda ctx, b, sig, args: b.bitcast(args[0], I32)
