"""What is made of all channels of a token, or of a sentence's row: lane by lane, down the channels.

    l2_norm     y = x / max(sqrt(sum of x^2), epsilon)

A unit is a tile; params: L2_NORM.
"""

import numba as nb

from ..codegen.simd import (
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
)
from .buffers import tile_of
from .context import CONTEXT
from .params import L2_NORM

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
