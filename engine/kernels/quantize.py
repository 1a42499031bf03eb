"""Quantisation at run time, a scale for each token: DynamicQuantizeLinear of every token by itself.

    scale[t] = (max(0, greatest of x[:, t]) - min(0, least of x[:, t])) / 255, or 1 where that is 0
    zero[t] = round(-least / scale[t]);  y[k, t] = u8(round(x[k, t] / scale[t]) + zero[t])

Numbers of one sign are in the order of their bits, in which NaN is above infinity: the range of
bits, unlike that of floats, keeps a NaN.  Of it or of an infinity the scale becomes NaN, and with
that whatever is made of the token.

A unit is a tile; params: QUANTIZE_TOKENS, x in float32, y in u8.
"""

import numba as nb

from ..codegen.simd import (
    MAGIC,
    MAGIC_BITS,
    add,
    as_float,
    as_int,
    div,
    fma,
    load_i64,
    loads,
    maximum,
    mul,
    pack_in_order,
    splats,
    store,
    sub,
    unsigned_maximum,
    where_zero,
)
from .buffers import live_lanes, tile_of
from .context import CONTEXT
from .params import QUANTIZE_TOKENS

f32, i32 = nb.float32, nb.int32
LEAST = -(2**31)  # bits of -0.0


def quantize_tokens(lanes, width):
    """See the head of the file; `width` tokens at a time."""
    load, splat, whole = loads("f32", width), splats("f32", width), splats("i32", width)
    load_bits, live = loads("i32", width), live_lanes(lanes)

    def kernel(params, context, begin, end):
        arena = load_i64(context + CONTEXT.arena)
        channels = load_i64(params + QUANTIZE_TOKENS.channels)
        for tile in range(begin, end):
            for token in range(0, live(context, tile), width):
                x = tile_of(arena, params + QUANTIZE_TOKENS.x, tile) + 4 * token
                y = tile_of(arena, params + QUANTIZE_TOKENS.y, tile) + token
                scales = tile_of(arena, params + QUANTIZE_TOKENS.scales, tile) + 4 * token
                least, most = whole(i32(LEAST)), whole(i32(0))
                for k in range(channels):
                    v = load_bits(x + 4 * lanes * k)
                    least, most = unsigned_maximum(v, least), maximum(v, most)
                least, most = as_float(least), as_float(most)
                scale = div(sub(most, least), splat(f32(255)))
                scale = where_zero(scale, splat(f32(1)))
                scale = add(scale, sub(scale, scale))  # NaN where it is infinite
                zero = add(div(sub(splat(f32(0)), least), scale), splat(f32(MAGIC)))
                store(scales, scale)
                store(scales + 4 * lanes, sub(as_int(zero), whole(i32(MAGIC_BITS))))
                inverse, zero = div(splat(f32(1)), scale), sub(zero, splat(f32(MAGIC)))
                down = sub(splat(f32(0)), scale)
                for k in range(channels):
                    v = load(x + 4 * lanes * k)
                    n = mul(v, inverse)
                    n = fma(fma(down, n, v), inverse, n)  # v / scale to the last bit
                    n = add(add(n, splat(f32(MAGIC))), zero)
                    store(y + lanes * k, pack_in_order(n))

    return kernel
