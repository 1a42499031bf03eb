"""Results of every token: tiles of float32 to rows of the call's [batch * length, channels].

A unit is a tile.  params: 0 x, 1 bytes of an x tile, 2 which output, 3 channels.
"""

import numba as nb

from ..codegen.simd import load_f32, load_i64, load_int, loads, store_unaligned
from .context import ARENA, OUTPUTS, PLACES, SCRATCH, TILE, TOKENS
from .embedding import transposition

f32 = nb.float32
BLOCK = 16  # floats of a cache line


def output_tokens():
    """See the head of the file; masked tokens' rows stay as they are."""
    load = loads("f32", BLOCK)
    transpose = transposition(load, 4, BLOCK, 4)
    row = 4 * TILE

    def kernel(params, context, begin, end):
        arena, scratch, places = (
            load_i64(context + ARENA),
            load_i64(context + SCRATCH),
            load_i64(context + PLACES),
        )
        channels, tokens = load_i64(params + 24), load_i64(context + TOKENS)
        results = load_i64(load_i64(context + OUTPUTS) + 8 * load_i64(params + 16))
        whole = channels // BLOCK * BLOCK
        for tile in range(begin, end):
            x = arena + load_i64(params) + load_i64(params + 8) * tile
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
