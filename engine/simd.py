"""SIMD values and instructions for kernels: a Numba type whose data model is an LLVM vector, and
functions on it.

A Vec has any number of lanes; LLVM cuts it into registers.  Functions that are the same everywhere
emit plain LLVM; those with an instruction of their own are abstract (lower.instruction) and get a
body per instruction set: `_dot4` below is the example to read. Each has its NumPy meaning in
tests/test_simd.py.

Quad order: `interleave` of four rows of L bytes gives L lanes of 4 bytes in the order that in-lane
unpacking leaves them in: lane v * L/4 + 4 * l + i holds token 16 l + 4 v + i.  `pack` undoes it, so
that products never pay for a permutation.
"""

from __future__ import annotations

import llvmlite.ir as ir
import numba as nb
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

from .lower import instruction, routine

I1, I8, I16, I32, I64, F32 = (
    ir.IntType(1),
    ir.IntType(8),
    ir.IntType(16),
    ir.IntType(32),
    ir.IntType(64),
    ir.FloatType(),
)
ELEMENT = {"u8": I8, "s8": I8, "i16": I16, "bf16": I16, "i32": I32, "f32": F32}
BYTES = {"u8": 1, "s8": 1, "i16": 2, "bf16": 2, "i32": 4, "f32": 4}

# MAGIC + n, |n| < 2^22, is a float whose low bits are the integer n: the addition rounds to nearest
# even, no conversion is needed.
MAGIC, MAGIC_BITS = 12582912.0, 0x4B400000


class Vec(nb.types.Type):
    """A SIMD value of `lanes` elements; lives in registers, never in an array."""

    def __init__(self, dtype, lanes):
        self.dtype, self.lanes = dtype, lanes
        self.llvm = ir.VectorType(ELEMENT[dtype], lanes)
        super().__init__(f"{dtype}x{lanes}")


@register_model(Vec)
class _VecModel(models.PrimitiveModel):
    def __init__(self, manager, vec):
        super().__init__(manager, vec, vec.llvm)


# --- LLVM: take lanes, cut and join vectors, constants, calls
def take(b, v, indices, w=None):
    indices = list(indices)
    return b.shuffle_vector(
        v, v if w is None else w, ir.Constant(ir.VectorType(I32, len(indices)), indices)
    )


def cut(b, v, parts):
    n = v.type.count // parts
    return [take(b, v, range(n * i, n * i + n)) for i in range(parts)] if parts > 1 else [v]


def join(b, parts):
    parts = list(parts)
    while len(parts) > 1:
        n = parts[0].type.count
        parts = [take(b, x, range(2 * n), y) for x, y in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def spread(b, scalar, lanes):
    one = b.insert_element(
        ir.Constant(ir.VectorType(scalar.type, lanes), ir.Undefined), scalar, ir.Constant(I32, 0)
    )
    return take(b, one, [0] * lanes)


def call(b, name, result, *args):
    return b.call(
        cgutils.get_or_insert_function(
            b.module, ir.FunctionType(result, [a.type for a in args]), name
        ),
        args,
    )


def constant(type_, value):
    return ir.Constant(type_, [value] * type_.count)


def registers(isa, vector_type):
    """How many registers a vector takes."""
    bits = vector_type.count * (
        32 if isinstance(vector_type.element, ir.FloatType) else vector_type.element.width
    )
    return max(1, bits // isa.width)


def by_register(b, isa, operation, *vectors):
    """operation on each register's part, joined again."""
    n = max(1, min(registers(isa, v.type) for v in vectors))
    return join(
        b, [operation(*parts) for parts in zip(*(cut(b, v, n) for v in vectors), strict=True)]
    )


def _pointer(b, address, type_):
    return b.inttoptr(address, type_.as_pointer())


def unpack(b, p, q, width, high):
    """Interleave elements of `width` bytes from the low or high half of every 128-bit lane
    (vpunpck*).
    """
    n = p.type.count
    return take(
        b,
        p,
        [
            s * n + lane * 16 + 8 * high + i * width + k
            for lane in range(n // 16)
            for i in range(8 // width)
            for s in (0, 1)
            for k in range(width)
        ],
        q,
    )


# --- moving data
def loads(dtype, lanes):
    """A function address -> Vec; the address is aligned to the vector, to at most 64 bytes."""
    vec = Vec(dtype, lanes)

    @intrinsic
    def load(typing, address):
        def emit(ctx, b, sig, args):
            return b.load(_pointer(b, args[0], vec.llvm), align=min(64, lanes * BYTES[dtype]))

        return vec(nb.int64), emit

    return load


def loads_unaligned(dtype, lanes):
    """The same for any address."""
    vec = Vec(dtype, lanes)

    @intrinsic
    def load(typing, address):
        return vec(nb.int64), lambda ctx, b, sig, args: b.load(
            _pointer(b, args[0], vec.llvm), align=1
        )

    return load


def _scalar_load(result, type_, extend="zext"):
    @intrinsic
    def load(typing, address):
        def emit(ctx, b, sig, args):
            value = b.load(_pointer(b, args[0], type_), align=1)
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
            _pointer(b, args[0], value.llvm),
            align=min(64, value.lanes * BYTES[value.dtype]),
        )
        return ctx.get_dummy_value()

    return nb.void(nb.int64, value), emit


@intrinsic
def store_unaligned(typing, address, value):
    """Store a vector, an int32, an int64 or a float32 anywhere."""

    def emit(ctx, b, sig, args):
        b.store(args[1], _pointer(b, args[0], args[1].type), align=1)
        return ctx.get_dummy_value()

    return nb.void(nb.int64, value), emit


@intrinsic
def store_u8(typing, address, value):
    """Store the low byte of an int64."""

    def emit(ctx, b, sig, args):
        b.store(b.trunc(args[1], I8), _pointer(b, args[0], I8), align=1)
        return ctx.get_dummy_value()

    return nb.void(nb.int64, nb.int64), emit


@intrinsic
def prefetch(typing, address):
    """Start to load a cache line."""

    def emit(ctx, b, sig, args):
        pointer = _pointer(b, args[0], I8)
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


def _load_four(b, isa, address):
    four = take(
        b, b.load(_pointer(b, address, ir.VectorType(I32, 4)), align=1), [i % 4 for i in range(16)]
    )
    if isa.width < 512:
        return four
    keep = ir.InlineAsm(
        ir.FunctionType(four.type, [four.type]), "", "=v,0"
    )  # or LLVM makes it four broadcasts again
    return b.call(keep, [four])


@instruction(_load_four)
def load_four(address):
    """16 bytes, as 4 i32, to every 128 bits of 512: one load instead of four broadcasts."""
    return Vec("i32", 16)


def spreads(which, lanes):
    """A function of load_four's value: its number `which` in every lane (vpshufd)."""
    vec = Vec("i32", lanes)

    @intrinsic
    def pick_one(typing, four):
        return vec(four), lambda ctx, b, sig, args: take(
            b, args[0], [i % 16 // 4 * 4 + which for i in range(lanes)]
        )

    return pick_one


# --- arithmetic, lane by lane
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
        def emit(ctx, b, sig, args):
            if x.dtype == "f32":
                return b.select(b.fcmp_ordered(floating, *args), *args)
            return call(b, f"llvm.{integer}.v{x.lanes}i{8 * BYTES[x.dtype]}", x.llvm, *args)

        return x(x, y), emit

    return choose


minimum, maximum = _extremum("<", "smin"), _extremum(">", "smax")


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


# --- products
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
    return b.add(acc, b.add(even, odd))


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


# --- bfloat16
def _high_halves(b, x):
    """Bits whose high half is the bfloat16 nearest to x (ties to even; NaN stays NaN)."""
    whole = ir.VectorType(I32, x.type.count)
    bits = b.bitcast(x, whole)
    odd = b.and_(b.lshr(bits, constant(whole, 16)), constant(whole, 1))
    rounded = b.add(bits, b.add(odd, constant(whole, 0x7FFF)))
    return b.select(b.fcmp_unordered("uno", x, x), constant(whole, 0x7FC00000), rounded)


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
        high = b.trunc(
            b.lshr(_high_halves(b, args[0]), constant(ir.VectorType(I32, n), 16)),
            ir.VectorType(I16, n),
        )
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
def interleave_words(typing, p, q):
    """Two rows of bf16_rows -> lanes of two bfloat16 (p, q) in token order."""

    def emit(ctx, b, sig, args):
        rows = [b.bitcast(v, ir.VectorType(I8, 2 * p.lanes)) for v in args]
        return b.bitcast(
            join(b, [unpack(b, *rows, 2, half) for half in (0, 1)]), ir.VectorType(I16, 2 * p.lanes)
        )

    return Vec("bf16", 2 * p.lanes)(p, q), emit


# --- bytes
@intrinsic
def interleave(typing, p, q, r, s):
    """4 rows of L bytes -> L lanes of 4 bytes in quad order."""

    def emit(ctx, b, sig, args):
        low, high = (
            [unpack(b, args[0], args[1], 1, h), unpack(b, args[2], args[3], 1, h)] for h in (0, 1)
        )
        return join(b, [unpack(b, *pair, 2, h) for pair in (low, high) for h in (0, 1)])

    return Vec("u8", 4 * p.lanes)(p, q, r, s), emit


@intrinsic
def interleave_in_order(typing, p, q, r, s):
    """4 rows of L bytes -> L lanes of 4 bytes, lane t is token t."""

    def emit(ctx, b, sig, args):
        n = p.lanes
        pairs = [
            take(b, args[i], [k // 2 + n * (k % 2) for k in range(2 * n)], args[i + 1])
            for i in (0, 2)
        ]
        words = [b.bitcast(v, ir.VectorType(I16, n)) for v in pairs]
        return b.bitcast(
            take(b, words[0], [k // 2 + n * (k % 2) for k in range(2 * n)], words[1]),
            ir.VectorType(I8, 4 * n),
        )

    return Vec("u8", 4 * p.lanes)(p, q, r, s), emit


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
            b.load(_pointer(b, b.add(table, ir.Constant(I64, 64 * i)), bytes_), align=64)
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
        at = _pointer(b, b.add(table, ir.Constant(I64, 16 * first)), ir.VectorType(I8, 16))
        entries = take(b, b.load(at, align=16), [lane % 16 for lane in range(n)])
        return call(b, f"llvm.x86.{name}", x.type, entries, low)

    return found(0, 16)


def _lookup_by_lane(b, table, x):
    out = ir.Constant(x.type, ir.Undefined)
    for lane in range(x.type.count):
        index = b.zext(b.extract_element(x, ir.Constant(I32, lane)), I64)
        out = b.insert_element(
            out, b.load(_pointer(b, b.add(table, index), I8), align=1), ir.Constant(I32, lane)
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


@intrinsic
def quads(typing, p, q, r, s):
    """u8 vectors of 4 keys -> lanes of their 4 bytes, order kept."""

    def emit(ctx, b, sig, args):
        n = p.lanes
        pairs = [
            take(b, args[i], [k // 2 + n * (k % 2) for k in range(2 * n)], args[i + 1])
            for i in (0, 2)
        ]
        words = [b.bitcast(v, ir.VectorType(I16, n)) for v in pairs]
        return b.bitcast(
            take(b, words[0], [k // 2 + n * (k % 2) for k in range(2 * n)], words[1]),
            ir.VectorType(I8, 4 * n),
        )

    return Vec("u8", 4 * p.lanes)(p, q, r, s), emit


def _quads_of_words(b, isa, p, q, r, s):
    n = p.type.count
    if not isa.has("avx512vbmi") or n % 16:
        rows = [_saturate(b, isa, v) for v in (p, q, r, s)]
        pairs = [
            take(b, rows[i], [k // 2 + n * (k % 2) for k in range(2 * n)], rows[i + 1])
            for i in (0, 2)
        ]
        words = [b.bitcast(v, ir.VectorType(I16, n)) for v in pairs]
        return b.bitcast(
            take(b, words[0], [k // 2 + n * (k % 2) for k in range(2 * n)], words[1]),
            ir.VectorType(I8, 4 * n),
        )
    words = ir.VectorType(I16, 32)
    cuts = [[b.bitcast(v, words) for v in cut(b, x, n // 16)] for x in (p, q, r, s)]
    pairs = ir.Constant(words, [2 * i + s for i in range(16) for s in (0, 32)])
    turn = [
        lane * 16 + 8 * half + 2 * i + s
        for lane in range(4)
        for i in range(4)
        for half in (0, 1)
        for s in (0, 1)
    ]
    out = []
    for v in range(n // 16):
        low, high = (
            call(b, "llvm.x86.avx512.vpermi2var.hi.512", words, cuts[k][v], pairs, cuts[k + 1][v])
            for k in (0, 2)
        )
        out.append(
            take(b, call(b, "llvm.x86.avx512.packuswb.512", ir.VectorType(I8, 64), low, high), turn)
        )
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


# --- indirect calls: the run itself
@intrinsic
def call_kernel(typing, address, params, context, begin, end):
    """void address(params, context, begin, end)."""

    def emit(ctx, b, sig, args):
        kernel = ir.FunctionType(ir.VoidType(), [I64] * 4)
        b.call(b.inttoptr(args[0], kernel.as_pointer()), args[1:])
        return ctx.get_dummy_value()

    return nb.void(*[nb.int64] * 5), emit


def _atomic(operation):
    @intrinsic
    def change(typing, address, value):
        def emit(ctx, b, sig, args):
            return b.atomic_rmw(operation, _pointer(b, args[0], I64), args[1], "seq_cst")

        return nb.int64(nb.int64, nb.int64), emit

    return change


fetch_add, exchange = _atomic("add"), _atomic("xchg")


@intrinsic
def load_shared(typing, address):
    """An int64 that another thread may change."""
    return nb.int64(nb.int64), lambda ctx, b, sig, args: b.load_atomic(
        _pointer(b, args[0], I64), "acquire", 8
    )


def _pause(b, isa):
    if isa.features:
        b.call(
            cgutils.get_or_insert_function(
                b.module, ir.FunctionType(ir.VoidType(), []), "llvm.x86.sse2.pause"
            ),
            [],
        )


@instruction(_pause)
def pause():
    """Tell the core that this is a spin loop."""
    return nb.void


@intrinsic
def store_lanes(typing, address, value, first, last):
    """Store lanes first .. last - 1, leave the others as they are in memory."""

    def emit(ctx, b, sig, args):
        at, v, low, high = args
        pointer, n = _pointer(b, at, value.llvm), value.lanes
        index = ir.Constant(ir.VectorType(I8, n), list(range(n)))
        low, high = (spread(b, b.trunc(bound, I8), n) for bound in (low, high))
        inside = b.and_(b.icmp_unsigned(">=", index, low), b.icmp_unsigned("<", index, high))
        align = min(64, n * BYTES[value.dtype])
        b.store(b.select(inside, v, b.load(pointer, align=align)), pointer, align=align)
        return ctx.get_dummy_value()

    return nb.void(nb.int64, value, nb.int64, nb.int64), emit


@intrinsic
def cycles(typing):
    """The time stamp counter."""

    def emit(ctx, b, sig, args):
        function = cgutils.get_or_insert_function(
            b.module, ir.FunctionType(I64, []), "llvm.readcyclecounter"
        )
        return b.call(function, [])

    return nb.int64(), emit


@intrinsic
def yield_core(typing):
    """Let another thread have the core (sched_yield of the C library)."""

    def emit(ctx, b, sig, args):
        b.call(
            cgutils.get_or_insert_function(b.module, ir.FunctionType(I32, []), "sched_yield"), []
        )
        return ctx.get_dummy_value()

    return nb.void(), emit
