"""What is made of all channels of a token, or of a sentence's row: lane by lane, down the channels.

    l2_norm     y = x / max(sqrt(sum of x^2), epsilon)
    softmax     y = exp(x - greatest x) / sum of these
    log_softmax y = x - greatest x - log(sum of these), the sum being 1 or more
    argmax      y = the number of the greatest channel, the first of equals, as float32

NaN in a channel makes all of y NaN, and is argmax's greatest, as in NumPy.
A unit is a tile; params: L2_NORM, ALONG_CHANNELS.
"""

import numba as nb

from ..codegen.simd import (
    add,
    div,
    fma,
    load_f32,
    load_i64,
    loads,
    maximum,
    mul,
    splats,
    square_root,
    store,
    sub,
    where_above,
)
from .activations import exponential, log1p
from .buffers import tile_of
from .context import CONTEXT
from .params import ALONG_CHANNELS, L2_NORM

f32 = nb.float32


def l2_norm(lanes):
    """See the head of the file; no length of float32s but 0 is so small that 1 / it is infinite."""
    load, splat, line = loads("f32", lanes), splats("f32", lanes), 4 * lanes

    def kernel(params, context, begin, end):
        arena, channels = load_i64(context + CONTEXT.arena), load_i64(params + L2_NORM.channels)
        epsilon = load_f32(params + L2_NORM.epsilon)
        for tile in range(begin, end):
            x = tile_of(arena, params + L2_NORM.x, tile)
            y = tile_of(arena, params + L2_NORM.y, tile)
            squares = splat(f32(0))
            for n in range(channels):
                v = load(x + line * n)
                squares = fma(v, v, squares)
            length = maximum(splat(epsilon), square_root(squares))
            factor = div(splat(f32(1)), length)
            for n in range(channels):
                store(y + line * n, mul(load(x + line * n), factor))

    return kernel


def softmax(lanes):
    """See the head of the file."""
    load, splat, exp, line = (
        loads("f32", lanes),
        splats("f32", lanes),
        exponential(lanes),
        4 * lanes,
    )

    def kernel(params, context, begin, end):
        arena = load_i64(context + CONTEXT.arena)
        channels = load_i64(params + ALONG_CHANNELS.channels)
        for tile in range(begin, end):
            x = tile_of(arena, params + ALONG_CHANNELS.x, tile)
            y = tile_of(arena, params + ALONG_CHANNELS.y, tile)
            most, sums = load(x), splat(f32(0))
            for n in range(1, channels):
                most = maximum(load(x + line * n), most)
            for n in range(channels):
                part = exp(sub(load(x + line * n), most))
                store(y + line * n, part)
                sums = add(sums, part)
            factor = div(splat(f32(1)), sums)
            for n in range(channels):
                store(y + line * n, mul(load(y + line * n), factor))

    return kernel


def log_softmax(lanes):
    """See the head of the file."""
    load, splat, line = loads("f32", lanes), splats("f32", lanes), 4 * lanes
    exp, log = exponential(lanes), log1p(lanes)

    def kernel(params, context, begin, end):
        arena = load_i64(context + CONTEXT.arena)
        channels = load_i64(params + ALONG_CHANNELS.channels)
        for tile in range(begin, end):
            x = tile_of(arena, params + ALONG_CHANNELS.x, tile)
            y = tile_of(arena, params + ALONG_CHANNELS.y, tile)
            most, sums = load(x), splat(f32(-1))
            for n in range(1, channels):
                most = maximum(load(x + line * n), most)
            for n in range(channels):
                sums = add(sums, exp(sub(load(x + line * n), most)))
            rest = log(sums)
            for n in range(channels):
                store(y + line * n, sub(sub(load(x + line * n), most), rest))

    return kernel


def argmax(lanes):
    """See the head of the file; float32 has every number of channels there may be."""
    load, splat, line = loads("f32", lanes), splats("f32", lanes), 4 * lanes

    def kernel(params, context, begin, end):
        arena = load_i64(context + CONTEXT.arena)
        channels = load_i64(params + ALONG_CHANNELS.channels)
        for tile in range(begin, end):
            x = tile_of(arena, params + ALONG_CHANNELS.x, tile)
            most, found = load(x), splat(f32(0))
            for n in range(1, channels):
                v = load(x + line * n)
                found = where_above(v, most, splat(f32(n)), found)
                most = where_above(v, most, v, most)
            store(tile_of(arena, params + ALONG_CHANNELS.y, tile), found)

    return kernel
