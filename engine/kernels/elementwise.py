"""Channel by channel, where no product is there to do it in its epilogue:

    elementwise   y = quantised(function(dequantised(x)))
    combine       y = x + other, or x * other, in float32
    affine        y = (x + other) gamma + beta, or x gamma + beta, in float32
    look_up       y = table[x], bytes: any function of one

A unit is a tile; params: ELEMENTWISE, COMBINE, AFFINE, LOOK_UP.
"""

import numba as nb

from ..codegen.lower import routine
from ..codegen.simd import (
    BYTES,
    MAGIC,
    add,
    as_int,
    bytes_to_float,
    fma,
    load_f32,
    load_i32,
    load_i64,
    loads,
    lookup,
    maximum,
    minimum,
    mul,
    pack_in_order,
    splats,
    store,
    xor,
)
from .activations import FUNCTIONS
from .buffers import tile_of
from .context import CONTEXT
from .params import AFFINE, COMBINE, ELEMENTWISE, LOOK_UP

f32 = nb.float32


def _load(lanes, kind):
    load_bytes, load_floats, splat = loads("u8", lanes), loads("f32", lanes), splats("f32", lanes)

    def of_bytes(at, params):
        return fma(
            bytes_to_float(load_bytes(at)),
            splat(load_f32(params + ELEMENTWISE.x_scale)),
            splat(load_f32(params + ELEMENTWISE.x_shift)),
        )

    def of_floats(at, params):
        return load_floats(at)

    return routine(of_bytes if kind == "u8" else of_floats)


def _store(lanes, kind):
    splat, words = splats("f32", lanes), splats("i32", lanes // 4)

    def to_bytes(at, v, params):
        v = fma(
            v,
            splat(load_f32(params + ELEMENTWISE.y_factor)),
            splat(load_f32(params + ELEMENTWISE.y_zero)),
        )
        v = maximum(v, splat(f32(MAGIC)))  # of NaN the least byte, as ops.numbers.quantize has it
        v = pack_in_order(minimum(v, splat(f32(MAGIC + 255))))
        store(at, xor(as_int(v), words(load_i32(params + ELEMENTWISE.flip))))

    def to_floats(at, v, params):
        store(at, v)

    return routine(to_bytes if kind == "u8" else to_floats)


def elementwise(lanes, x_type, function, y_type):
    """See the head of the file; types are "u8" or "f32"."""
    load, act, put = _load(lanes, x_type), FUNCTIONS[function](lanes), _store(lanes, y_type)
    x_row, y_row = lanes * BYTES[x_type], lanes * BYTES[y_type]

    def kernel(params, context, begin, end):
        arena, channels = load_i64(context + CONTEXT.arena), load_i64(params + ELEMENTWISE.channels)
        for tile in range(begin, end):
            x = tile_of(arena, params + ELEMENTWISE.x, tile)
            y = tile_of(arena, params + ELEMENTWISE.y, tile)
            for n in range(channels):
                put(y + y_row * n, act(load(x + x_row * n, params)), params)

    return kernel


def combine(lanes, operation):
    """operation: "add" or "mul"."""
    load, function, row = loads("f32", lanes), {"add": add, "mul": mul}[operation], 4 * lanes

    def kernel(params, context, begin, end):
        arena, channels = load_i64(context + CONTEXT.arena), load_i64(params + COMBINE.channels)
        for tile in range(begin, end):
            x = tile_of(arena, params + COMBINE.x, tile)
            other = tile_of(arena, params + COMBINE.other, tile)
            y = tile_of(arena, params + COMBINE.y, tile)
            for n in range(channels):
                store(y + row * n, function(load(x + row * n), load(other + row * n)))

    return kernel


def affine(lanes, adds):
    """adds: there is another activation."""
    load, splat, row = loads("f32", lanes), splats("f32", lanes), 4 * lanes

    def kernel(params, context, begin, end):
        arena, channels = load_i64(context + CONTEXT.arena), load_i64(params + AFFINE.channels)
        norm = load_i64(params + AFFINE.norm)
        for tile in range(begin, end):
            x = tile_of(arena, params + AFFINE.x, tile)
            other = tile_of(arena, params + AFFINE.other, tile)
            y = tile_of(arena, params + AFFINE.y, tile)
            for n in range(channels):
                v = load(x + row * n)
                if adds:
                    v = add(v, load(other + row * n))
                gamma, beta = load_f32(norm + 8 * n), load_f32(norm + 8 * n + 4)
                store(y + row * n, fma(v, splat(gamma), splat(beta)))

    return kernel


def look_up(lanes):
    """y = table[x], bytes."""
    load = loads("u8", lanes)

    def kernel(params, context, begin, end):
        arena, channels = load_i64(context + CONTEXT.arena), load_i64(params + LOOK_UP.channels)
        table = load_i64(params + LOOK_UP.table)
        for tile in range(begin, end):
            x = tile_of(arena, params + LOOK_UP.x, tile)
            y = tile_of(arena, params + LOOK_UP.y, tile)
            for n in range(channels):
                store(y + lanes * n, lookup(table, load(x + lanes * n)))

    return kernel
