"""The type of a SIMD value, and pieces of LLVM that instructions are made of."""

from __future__ import annotations

import llvmlite.ir as ir
import numba as nb
from numba.core import cgutils
from numba.extending import models, register_model

I1, I8, I16, I32, I64, F32 = (
    ir.IntType(1),
    ir.IntType(8),
    ir.IntType(16),
    ir.IntType(32),
    ir.IntType(64),
    ir.FloatType(),
)
ELEMENT = {"u8": I8, "s8": I8, "i16": I16, "bf16": I16, "i32": I32, "f32": F32}


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


def held(b, value, *, here=False):
    """A value of one register, of which LLVM does not see where it comes from: it would fold the
    instruction into others that take longer.  here: it is made at this place, not where it is used.
    """
    same = ir.FunctionType(value.type, [value.type])
    return b.call(ir.InlineAsm(same, "", "=v,0", side_effect=here), [value])


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


def pointer_to(b, address, type_):
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
