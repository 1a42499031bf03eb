"""Rotary positions (Su et al. 2021): pairs of a head's channels turned by the token's position.

    y[a, t] = x[a, t] cos - x[b, t] sin;  y[b, t] = x[b, t] cos + x[a, t] sin

A token's row of the table has cos and sin of every pair: rows are gathered and transposed once a
tile, so tokens are in lanes, and serve all heads.  In the "rows" domain all lanes are one token of
their sentences, that of the table's only row.

A unit is a tile; params: ROTARY.  Scratch: rows of a tile, the same with tokens in lanes, two
blocks of 64 x 16 bytes.
"""

import numba as nb

from ..codegen.lower import routine
from ..codegen.simd import (
    add,
    load_f32,
    load_i64,
    load_int,
    loads,
    mul,
    splats,
    store,
    sub,
)
from .buffers import tile_of
from .context import CONTEXT, TILE
from .embedding import transposition
from .params import ROTARY

f32 = nb.float32
LINE = 16  # floats


def turns_of_tokens(lanes):
    """A routine (params, context, tile, scratch): cos and sin of a tile's tokens, [2 pairs][lanes];
    returns where they are.
    """
    load = loads("f32", LINE)
    transpose = transposition(load, 4, LINE, 4)

    def gathered(params, context, tile, scratch):
        table, row_bytes = load_i64(params + ROTARY.table), load_i64(params + ROTARY.row_bytes)
        places = load_i64(context + CONTEXT.positions) + 4 * lanes * tile
        count = min(load_i64(context + CONTEXT.tokens) - lanes * tile, lanes)
        turns = scratch + lanes * row_bytes
        for t in range(count):
            row, to = table + row_bytes * load_int(places + 4 * t), scratch + row_bytes * t
            for n in range(0, row_bytes, 4 * LINE):
                store(to + n, load(row + n))
        for n in range(0, row_bytes // 4, LINE):
            for t in range(0, lanes, LINE):
                transpose(
                    scratch + row_bytes * t + 4 * n,
                    row_bytes,
                    turns + 4 * (lanes * n + t),
                    4 * lanes,
                    turns + lanes * row_bytes,
                )
        return turns

    return routine(gathered)


def turns_of_one(lanes):
    """The same from the table's only row."""
    splat, row = splats("f32", lanes), 4 * lanes

    def spread(params, context, tile, scratch):
        table, pairs = load_i64(params + ROTARY.table), load_i64(params + ROTARY.pairs)
        for n in range(2 * pairs):
            store(scratch + row * n, splat(load_f32(table + 4 * n)))
        return scratch

    return routine(spread)


def rotary(lanes):
    """x and y in float32."""
    load, row = loads("f32", lanes), 4 * lanes
    turns_of = turns_of_tokens(lanes) if lanes == TILE else turns_of_one(lanes)

    def turn(x, y, pairs, turns, step, gap):
        for n in range(pairs):
            first = row * step * n
            second = first + row * gap
            cos, sin = load(turns + row * n), load(turns + row * (pairs + n))
            a, b = load(x + first), load(x + second)
            store(y + first, sub(mul(a, cos), mul(b, sin)))
            store(y + second, add(mul(b, cos), mul(a, sin)))

    turn = routine(turn)

    def kernel(params, context, begin, end):
        arena, scratch = load_i64(context + CONTEXT.arena), load_i64(context + CONTEXT.scratch)
        heads, depth = load_i64(params + ROTARY.heads), load_i64(params + ROTARY.depth)
        pairs, step = load_i64(params + ROTARY.pairs), load_i64(params + ROTARY.step)
        gap = load_i64(params + ROTARY.gap)
        for tile in range(begin, end):
            turns = turns_of(params, context, tile, scratch)
            x = tile_of(arena, params + ROTARY.x, tile)
            y = tile_of(arena, params + ROTARY.y, tile)
            for _ in range(heads):
                turn(x, y, pairs, turns, step, gap)
                for n in range(2 * pairs, depth):
                    store(y + row * n, load(x + row * n))
                x, y = x + row * depth, y + row * depth

    return kernel
