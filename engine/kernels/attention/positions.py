"""Attention in float32 whose scores go by places, too: DeBERTa's (He et al. 2021).

    s[j, t] = scale * sum over c of
              k[c, j] (q[c, t] + of_queries[c, t - j]) + q[c, t] of_keys[c, t - j]

What a channel has for each distance lies end to end, so that of queries side by side it is one
vector, which begins an entry earlier for the next key.  In the "rows" domain, where keys are in
lanes, it lies by j - t.

Where the graph quantises, everything is whole numbers, of which float32 holds the sums: the three
products are rounded each by itself, and the probabilities, by ROUNDINGs in this order.

Everything else is as in floats.py and rows.py.  params: ATTENTION_POSITIONS.
"""

import numba as nb

from ...codegen.lower import routine
from ...codegen.simd import (
    MAGIC,
    add,
    div,
    load_f32,
    load_i64,
    load_int,
    loads,
    loads_unaligned,
    mul,
    multiply_add,
    splats,
    store,
    sub,
)
from ..context import ROWS, TILE
from ..params import ROUNDING
from ..rounding import ROUNDING_BYTES, rounding
from . import floats, rows
from .floats import ROW
from .records import ATTENTION_POSITIONS as POSITIONS
from .records import CHANNELS
from .sentences import bias_at

f32 = nb.float32


def table_of(depth):
    """A routine (params, head): addresses of the entries of keys and of queries of a head, from one
    channel to the next, how many there are either way, and where the ROUNDINGs lie.
    """

    def table(params, head):
        far = load_i64(params + POSITIONS.far)
        channel = 4 * (2 * far + 1)
        begin = depth * channel * head
        of_keys, of_queries = params + POSITIONS.of_keys, params + POSITIONS.of_queries
        roundings = load_i64(params + POSITIONS.roundings)
        return load_i64(of_keys) + begin, load_i64(of_queries) + begin, channel, far, roundings

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
        of_keys, of_queries, step, _, _ = table
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
        of_keys, of_queries, step, _, _ = table
        a, place = splat(f32(0)), place_of(table, distance)
        for four in range(load_int(fours + CHANNELS.count)):
            first = load_int(fours + CHANNELS.first + 4 * four)
            for c in range(first, first + 4):
                q, k = splat(load_f32(queries + 4 * ROWS * c)), load(key + ROW * c)
                a = multiply_add(add(k, load_entries(of_keys + step * c + place)), q, a)
                a = multiply_add(k, load_entries(of_queries + step * c + place), a)
        return a

    return routine(scores)


# --- rounded ---
def four_sums(lanes, product):
    """A routine: the sums over channels of what `product`, a routine (sums, address in x, address
    in the other), adds, for four keys; x moves on by a row a channel, the other by `step`; places:
    what is added to either address for each of the keys.
    """
    splat = splats("f32", lanes)

    def sums(x, other, step, places, fours):
        a, b, c, d = splat(f32(0)), splat(f32(0)), splat(f32(0)), splat(f32(0))
        (p, t), (q, u), (r, v), (s, w) = places
        for four in range(load_int(fours + CHANNELS.count)):
            first = load_int(fours + CHANNELS.first + 4 * four)
            for channel in range(first, first + 4):
                m, n = x + ROW * channel, other + step * channel
                a, b = product(a, m + p, n + t), product(b, m + q, n + u)
                c, d = product(c, m + r, n + v), product(d, m + s, n + w)
        return a, b, c, d

    return routine(sums)


def of_queries_and_keys(lanes):
    load, splat = loads("f32", lanes), splats("f32", lanes)

    def product(sums, query, key):
        return multiply_add(load(query), splat(load_f32(key)), sums)

    return routine(product)


def of_queries_and_entries(lanes):
    load, load_entries = loads("f32", lanes), loads_unaligned("f32", lanes)

    def product(sums, query, entry):
        return multiply_add(load(query), load_entries(entry), sums)

    return routine(product)


def of_keys_and_entries(lanes):
    splat, load_entries = splats("f32", lanes), loads_unaligned("f32", lanes)

    def product(sums, key, entry):
        return multiply_add(load_entries(entry), splat(load_f32(key)), sums)

    return routine(product)


def four_rounded_scores(kind, lanes):
    """The same of products that are rounded, one after the other."""
    (_, rounded), products = rounding(lanes), (of_queries_and_entries, of_keys_and_entries)
    with_keys = four_sums(lanes, of_queries_and_keys(lanes))
    of_queries, of_keys = (four_sums(lanes, product(lanes)) for product in products)

    def scores(queries, key, fours, table, distance):
        entries, keys_entries, step, _, roundings = table
        p, q = place_of(table, distance), place_of(table, distance - 1)
        r, s = place_of(table, distance - 2), place_of(table, distance - 3)
        a, b, c, d = with_keys(queries, key, ROW, ((0, 0), (0, 4), (0, 8), (0, 12)), fours)
        a, b = rounded(a, roundings), rounded(b, roundings)
        c, d = rounded(c, roundings), rounded(d, roundings)
        how, places = roundings + ROUNDING_BYTES, ((0, p), (0, q), (0, r), (0, s))
        e, f, g, h = of_queries(queries, entries, step, places, fours)
        a, b = add(a, rounded(e, how)), add(b, rounded(f, how))
        c, d = add(c, rounded(g, how)), add(d, rounded(h, how))
        how, places = how + ROUNDING_BYTES, ((0, p), (4, q), (8, r), (12, s))
        e, f, g, h = of_keys(key, keys_entries, step, places, fours)
        a, b = add(a, rounded(e, how)), add(b, rounded(f, how))
        return a, b, add(c, rounded(g, how)), add(d, rounded(h, how))

    return routine(scores)


def rounded_scores_of_a_tile():
    """The same of products that are rounded."""
    load, load_entries, splat = (
        loads("f32", TILE),
        loads_unaligned("f32", TILE),
        splats("f32", TILE),
    )
    _, rounded = rounding(TILE)

    def scores(queries, key, fours, table, distance):
        of_keys, of_queries, step, _, roundings = table
        place = place_of(table, distance)
        a, b, d = splat(f32(0)), splat(f32(0)), splat(f32(0))
        for four in range(load_int(fours + CHANNELS.count)):
            first = load_int(fours + CHANNELS.first + 4 * four)
            for c in range(first, first + 4):
                q, k = splat(load_f32(queries + 4 * ROWS * c)), load(key + ROW * c)
                a = multiply_add(k, q, a)
                b = multiply_add(load_entries(of_keys + step * c + place), q, b)
                d = multiply_add(load_entries(of_queries + step * c + place), k, d)
        a = add(rounded(a, roundings), rounded(b, roundings + ROUNDING_BYTES))
        return add(a, rounded(d, roundings + 2 * ROUNDING_BYTES))

    return routine(scores)


def rounded_shares(lanes):
    """A routine like floats.exact_shares: probabilities in whole steps."""
    splat, load, (to_steps, _) = splats("f32", lanes), loads("f32", lanes), rounding(lanes)

    def shares(exps, count, sums, table):
        how, inverse = table[4] + 3 * ROUNDING_BYTES, div(splat(f32(1)), sums)
        magic = splat(f32(MAGIC))
        for n in range(count):
            at = exps + 4 * lanes * n
            store(at, sub(to_steps(mul(load(at), inverse), how), magic))
        return splat(load_f32(how + ROUNDING.scale))

    return routine(shares)


def rounded_shares_of_a_row():
    """A routine like rows.exact_shares."""
    shares, splat = rounded_shares(TILE), splats("f32", TILE)

    def shares_of_a_row(exps, tiles, sum_of_exps, table):
        shares(exps, tiles, splat(sum_of_exps), table)
        return load_f32(table[4] + 3 * ROUNDING_BYTES + ROUNDING.scale)

    return routine(shares_of_a_row)


def attention_positions(depth, width, rounds):
    """Every token is a query."""
    make, shares = four_scores, floats.exact_shares
    if rounds:
        make, shares = four_rounded_scores, rounded_shares
    return floats.attention("f32", depth, width, make, table_of(depth), shares)


def attention_positions_rows(depth, rounds):
    """One query a sentence."""
    make, shares = scores_of_a_tile, rows.exact_shares
    if rounds:
        make, shares = rounded_scores_of_a_tile, rounded_shares_of_a_row
    return rows.attention(depth, make, table_of(depth), shares)
