"""Results of every token: tiles of float32 to rows of the call's [batch * length, channels].

A unit is a tile; params: OUTPUT.
"""

import numba as nb

from ..codegen.simd import load_f32, load_i64, load_int, loads, store_unaligned
from .buffers import tile_of
from .context import CONTEXT, TILE
from .embedding import transposition
from .params import OUTPUT

f32 = nb.float32
BLOCK = 16  # floats of a cache line


def output_tokens():
    """See the head of the file; masked tokens' rows stay as they are."""
    load = loads("f32", BLOCK)
    transpose = transposition(load, 4, BLOCK, 4)
    row = 4 * TILE

    def kernel(params, context, begin, end):
        arena, scratch = load_i64(context + CONTEXT.arena), load_i64(context + CONTEXT.scratch)
        places, tokens = load_i64(context + CONTEXT.places), load_i64(context + CONTEXT.tokens)
        channels, number = load_i64(params + OUTPUT.channels), load_i64(params + OUTPUT.number)
        results = load_i64(load_i64(context + CONTEXT.outputs) + 8 * number)
        whole = channels // BLOCK * BLOCK
        for tile in range(begin, end):
            x = tile_of(arena, params + OUTPUT.x, tile)
            here = min(tokens - TILE * tile, TILE)
            for t in range(0, here, BLOCK):
                for channel in range(0, whole, BLOCK):
                    transpose(
                        x + row * channel + 4 * t,
                        row,
                        scratch,
                        4 * BLOCK,
                        scratch + 4 * BLOCK * BLOCK,
                    )
                    for i in range(min(BLOCK, here - t)):
                        place = load_int(places + 4 * (TILE * tile + t + i))
                        store_unaligned(
                            results + 4 * (channels * place + channel),
                            load(scratch + 4 * BLOCK * i),
                        )
                for channel in range(whole, channels):
                    for i in range(min(BLOCK, here - t)):
                        place = load_int(places + 4 * (TILE * tile + t + i))
                        store_unaligned(
                            results + 4 * (channels * place + channel),
                            load_f32(x + row * channel + 4 * (t + i)),
                        )

    return kernel
