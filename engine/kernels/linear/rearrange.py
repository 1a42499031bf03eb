"""x as products read it, made once a tile.

An activation is [input][token]; a block is `width` tokens, as many as a product's registers take
together: where an x of 64 tokens overflows the first-level cache one of 32 or 16 may fit, and a 1x4
product loads x as often as it multiplies.  A unit is a tile; parameters: REARRANGE.

    interleave_rows, u8 to u8
              [block][input / 4][token][4]: the operand of VNNI (k4); a last four that is not whole
              repeats an input
    round_rows, float32 to the layout named
    "rows"    bfloat16 [input][token], of which a product interleaves two for vdpbf16ps (k2)
    "pairs"   bfloat16 [block][input / 2][token][2]: k2 already
    "pieces"  float32 [block][input][token]
    "words"   bfloat16 [input][token] for attention, token after token

Where blocks are made y has 4 * ceil(inputs / 4) rows; missing floats are 0.
"""

import numba as nb

from ...codegen.lower import routine
from ...codegen.simd import (
    bf16_in_order,
    bf16_pairs,
    bf16_rows,
    interleave_in_order,
    load_i64,
    loads,
    splats,
    store,
)
from ..buffers import live_lanes, tile_of
from ..context import CONTEXT
from .records import REARRANGE

f32 = nb.float32


def interleave_rows(lanes, width):
    """See the head of the file."""
    load, live = loads("u8", width), live_lanes(lanes)

    def kernel(params, context, begin, end):
        arena, inputs = load_i64(context + CONTEXT.arena), load_i64(params + REARRANGE.inputs)
        whole, last = inputs // 4 * 4, lanes * (inputs - 1)
        for tile in range(begin, end):
            x = tile_of(arena, params + REARRANGE.x, tile)
            y = tile_of(arena, params + REARRANGE.y, tile)
            for token in range(x, x + live(context, tile), width):
                for k in range(0, whole, 4):
                    at = token + lanes * k
                    p, q = load(at), load(at + lanes)
                    r, s = load(at + 2 * lanes), load(at + 3 * lanes)
                    store(y, interleave_in_order(p, q, r, s))
                    y += 4 * width
                if whole < inputs:
                    at, top = token + lanes * whole, token + last
                    p, q = load(at), load(min(at + lanes, top))
                    r, s = load(min(at + 2 * lanes, top)), load(top)
                    store(y, interleave_in_order(p, q, r, s))
                    y += 4 * width

    return kernel


def round_rows(lanes, width, form):
    """See the head of the file."""
    if form in ("rows", "words"):
        return _rows(lanes, width, bf16_rows if form == "rows" else bf16_in_order)
    return _blocks(lanes, width, form)


def _rows(lanes, width, rounded):
    load = loads("f32", width)

    def kernel(params, context, begin, end):
        arena, inputs = load_i64(context + CONTEXT.arena), load_i64(params + REARRANGE.inputs)
        for tile in range(begin, end):
            x = tile_of(arena, params + REARRANGE.x, tile)
            y = tile_of(arena, params + REARRANGE.y, tile)
            for at in range(0, lanes * inputs, width):
                store(y + 2 * at, rounded(load(x + 4 * at)))

    return kernel


def _blocks(lanes, width, form):
    load, splat, live = loads("f32", width), splats("f32", width), live_lanes(lanes)

    def put_pairs(y, p, q):
        store(y, bf16_pairs(p, q))
        return y + 4 * width

    def put_floats(y, p, q):
        store(y, p)
        store(y + 4 * width, q)
        return y + 8 * width

    put = routine(put_pairs if form == "pairs" else put_floats)

    def kernel(params, context, begin, end):
        arena, inputs = load_i64(context + CONTEXT.arena), load_i64(params + REARRANGE.inputs)
        for tile in range(begin, end):
            x = tile_of(arena, params + REARRANGE.x, tile)
            y = tile_of(arena, params + REARRANGE.y, tile)
            for token in range(0, live(context, tile), width):
                for k in range(0, (inputs + 3) // 4 * 4, 2):
                    at, p, q = x + 4 * (lanes * k + token), splat(f32(0)), splat(f32(0))
                    if k < inputs:
                        p = load(at)
                    if k + 1 < inputs:
                        q = load(at + 4 * lanes)
                    y = put(y, p, q)

    return kernel
