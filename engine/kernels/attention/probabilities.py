"""Probabilities that a model gives out: each query's of all keys of its sentence, into the call's
result [batch, heads, length, length].

    p[t, j] = softmax over j of scale * (bias[t - j] + sum over d of k[d, j] q[d, t])

Scores and exps are made as in floats.py, queries in lanes; a row of the result is a query's, so 16
keys and 16 queries at a time are turned.  Between masked tokens other places of the result stay as
they are: 0.

Where the graph rounds, products are rounded before `scale`, behind it, and with the mask, and so
are the probabilities.

A unit is (tile, head).  params: PROBABILITIES.  Scratch: two blocks of 16 x 16 for turning, and the
one that is turned, then scores as in floats.py and 16 rows more.
"""

import numba as nb

from ...codegen.lower import routine
from ...codegen.simd import (
    div,
    load_f32,
    load_i64,
    load_int,
    loads,
    maximum,
    mul,
    splats,
    store,
    store_unaligned,
)
from ..buffers import tile_of
from ..context import CONTEXT, TILE
from ..embedding import transposition
from ..params import ROUNDING
from ..rounding import ROUNDING_BYTES, rounding
from .floats import LEAST, ROW, exps_of, four_products, score
from .records import NO_WINDOW
from .records import PROBABILITIES as RECORD
from .sentences import bias_of, channels_of, for_each_sentence
from .window import seen_from

f32, i64 = nb.float32, nb.int64
BLOCK = 16  # floats of a cache line
SQUARE = 4 * BLOCK * BLOCK  # bytes


def rounded_once(lanes):
    """A routine: v as the ROUNDING at an address says, or as it is where there is none."""
    _, there_and_back = rounding(lanes)

    def rounded(v, how):
        if load_f32(how + ROUNDING.factor) != f32(0):
            v = there_and_back(v, how)
        return v

    return routine(rounded)


def rounded_scores(lanes):
    """A routine: the products of the keys start .. end - 1 as the graph rounds and scales them;
    returns the greatest of each query.  hows: address of ROUNDING [3].
    """
    splat, load, row = splats("f32", lanes), loads("f32", lanes), 4 * lanes
    rounded = rounded_once(lanes)

    def scores(at, start, end, hows, scale):
        greatest, factor = splat(f32(LEAST)), splat(scale)
        at += row * (start & 3)
        for _ in range(start, end):
            v = mul(rounded(load(at), hows), factor)
            v = rounded(rounded(v, hows + ROUNDING_BYTES), hows + 2 * ROUNDING_BYTES)
            store(at, v)
            greatest, at = maximum(greatest, v), at + row
        return greatest

    return routine(scores)


def handed_over(lanes):
    """A routine: rows of exps, one a key, times a factor for each query, into the result's rows of
    queries first .. last - 1; how: address of a ROUNDING of them, or 0.
    """
    load, load_line, row = loads("f32", lanes), loads("f32", BLOCK), 4 * lanes
    rounded = rounded_once(lanes)
    turned = transposition(load_line, 4, BLOCK, 4)

    def rows(exps, count, factor, how, square, first, last, queries, keys, place):
        result, length, before = place
        for n in range(count):
            p = mul(load(exps + row * n), factor)
            if how:
                p = rounded(p, how)
            store(exps + row * n, p)
        for lane in range(first // BLOCK * BLOCK, last, BLOCK):
            low, high = max(first, lane), min(last, lane + BLOCK)
            for key in range(0, count, BLOCK):
                turned(exps + row * key + 4 * lane, row, square, 4 * BLOCK, square + SQUARE)
                here = min(count - key, BLOCK)
                begin = load_int(keys + 4 * key) - before
                whole = here == BLOCK
                whole = (
                    whole and load_int(keys + 4 * (key + BLOCK - 1)) - before == begin + BLOCK - 1
                )
                for query in range(low, high):
                    line = square + 4 * BLOCK * (query - lane)
                    to = result + 4 * length * (load_int(queries + 4 * query) - before)
                    if whole:
                        store_unaligned(to + 4 * begin, load_line(line))
                    else:
                        for n in range(here):
                            at = to + 4 * (load_int(keys + 4 * (key + n)) - before)
                            store_unaligned(at, load_f32(line + 4 * n))

    return routine(rows)


def block(lanes):
    """A routine: one sentence for `lanes` queries."""
    make_scores, make_exps = score(four_products("f32", lanes), lanes), exps_of("f32", lanes)
    make_rounded, hand_over = rounded_scores(lanes), handed_over(lanes)
    splat = splats("f32", lanes)

    def attend(operands, start, end, at, first, last):
        (queries, fours), (keys, k_tile), (result, places, length), (head, heads), how = operands
        scale, square, table, view, query, hows = how
        scratch, last_how = square + 3 * SQUARE, i64(0)
        greatest = make_scores(
            queries + 4 * at,
            keys,
            k_tile,
            start,
            end,
            scratch,
            fours,
            table,
            view,
            (query + at, at),
        )
        if hows:
            greatest = make_rounded(scratch, start, end, hows, scale)
            scale, last_how = f32(1), hows + 3 * ROUNDING_BYTES
        factor = div(splat(f32(1)), make_exps(scratch, start, end, greatest, splat(scale)))
        sentence = load_int(places + 4 * start) // length
        exps = scratch + 4 * lanes * (start & 3)
        place = result + 4 * length * length * (heads * sentence + head), length, length * sentence
        own = places + 4 * (query + at)
        count, keys_at = end - start, places + 4 * start
        hand_over(exps, count, factor, last_how, square, first, last, own, keys_at, place)

    return routine(attend)


def output_probabilities(depth, width):
    """See the head of the file; width: greatest register block."""
    visit = for_each_sentence(block, width)

    def kernel(params, context, begin, end):
        arena, scratch = load_i64(context + CONTEXT.arena), load_i64(context + CONTEXT.scratch)
        heads, scale = load_i64(params + RECORD.heads), load_f32(params + RECORD.scale)
        k_tile, hows = load_i64(params + RECORD.k_tile), load_i64(params + RECORD.roundings)
        number = load_i64(params + RECORD.number)
        result = load_i64(load_i64(context + CONTEXT.outputs) + 8 * number)
        places, length = load_i64(context + CONTEXT.places), load_i64(context + CONTEXT.length)
        for unit in range(begin, end):
            tile, head = unit // heads, unit % heads
            queries = tile_of(arena, params + RECORD.q, tile) + ROW * depth * head
            keys = arena + load_i64(params + RECORD.k) + ROW * depth * head
            fours = channels_of(params + RECORD.fours, depth, head)
            table = bias_of(params + RECORD.bias, params + RECORD.reach, head)
            view = seen_from(context, tile, NO_WINDOW)
            how = scale, scratch, table, view, TILE * tile, hows
            given = (queries, fours), (keys, k_tile), (result, places, length), (head, heads), how
            visit(context, tile, given, 0)

    return kernel
