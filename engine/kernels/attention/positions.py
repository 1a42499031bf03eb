"""Attention in float32 whose scores go by places, too: DeBERTa's (He et al. 2021).

    s[j, t] = scale * sum over c of
              k[c, j] (q[c, t] + of_queries[c, t - j]) + q[c, t] of_keys[c, t - j]

What a channel has for each distance lies end to end, so that of queries side by side it is one
vector, which begins an entry earlier for the next key.  In the "rows" domain, where keys are in
lanes, it lies by j - t.

Everything else is as in floats.py and rows.py.  params: ATTENTION_POSITIONS.
"""

import numba as nb

from ...codegen.lower import routine
from ...codegen.simd import (
    add,
    load_f32,
    load_i64,
    load_int,
    loads,
    loads_unaligned,
    multiply_add,
    splats,
)
from ..context import ROWS, TILE
from . import floats, rows
from .floats import ROW
from .records import ATTENTION_POSITIONS as POSITIONS
from .records import CHANNELS
from .sentences import bias_at

f32 = nb.float32


def table_of(depth):
    """A routine (params, head): addresses of the entries of keys and of queries of a head, from one
    channel to the next, and how many there are either way.
    """

    def table(params, head):
        far = load_i64(params + POSITIONS.far)
        channel = 4 * (2 * far + 1)
        begin = depth * channel * head
        of_keys, of_queries = params + POSITIONS.of_keys, params + POSITIONS.of_queries
        return load_i64(of_keys) + begin, load_i64(of_queries) + begin, channel, far

    return routine(table)


@routine
def place_of(table, distance):
    """Bytes from a channel's first entry to the one of a distance."""
    return bias_at((0, table[3]), distance)


def four_scores(kind, lanes):
    """A routine like floats.four_products."""
    splat, load, load_entries = (
        splats(kind, lanes),
        loads(kind, lanes),
        loads_unaligned(kind, lanes),
    )

    def product(sums, x, key, of_key, of_query):
        sums = multiply_add(add(x, load_entries(of_query)), splat(load_f32(key)), sums)
        return multiply_add(x, load_entries(of_key), sums)

    product = routine(product)

    def scores(queries, key, fours, table, distance):
        a, b, c, d = splat(f32(0)), splat(f32(0)), splat(f32(0)), splat(f32(0))
        of_keys, of_queries, step, _ = table
        p, q = place_of(table, distance), place_of(table, distance - 1)
        r, s = place_of(table, distance - 2), place_of(table, distance - 3)
        for four in range(load_int(fours + CHANNELS.count)):
            first = load_int(fours + CHANNELS.first + 4 * four)
            for channel in range(first, first + 4):
                x, k = load(queries + ROW * channel), key + ROW * channel
                u, v = of_keys + step * channel, of_queries + step * channel
                a, b = product(a, x, k, u + p, v + p), product(b, x, k + 4, u + q, v + q)
                c, d = product(c, x, k + 8, u + r, v + r), product(d, x, k + 12, u + s, v + s)
        return a, b, c, d

    return routine(scores)


def scores_of_a_tile():
    """A routine like rows.products_of_a_tile."""
    load, load_entries, splat = (
        loads("f32", TILE),
        loads_unaligned("f32", TILE),
        splats("f32", TILE),
    )

    def scores(queries, key, fours, table, distance):
        of_keys, of_queries, step, _ = table
        a, place = splat(f32(0)), place_of(table, distance)
        for four in range(load_int(fours + CHANNELS.count)):
            first = load_int(fours + CHANNELS.first + 4 * four)
            for c in range(first, first + 4):
                q, k = splat(load_f32(queries + 4 * ROWS * c)), load(key + ROW * c)
                a = multiply_add(add(k, load_entries(of_keys + step * c + place)), q, a)
                a = multiply_add(k, load_entries(of_queries + step * c + place), a)
        return a

    return routine(scores)


def attention_positions(depth, width):
    """Every token is a query."""
    return floats.attention("f32", depth, width, four_scores, table_of(depth))


def attention_positions_rows(depth):
    """One query a sentence."""
    return rows.attention(depth, scores_of_a_tile, table_of(depth))
