"""Attention in float32, one head and one tile of queries at a time: no transposition, no mask.

    s[j, t] = scale * sum over d of k[d, j] q[d, t];  p = softmax(s)
    y[c, t] = sum over j of p[j, t] v[c, j]

Tokens are in lanes: keys are broadcast out of their rows, four at a time as they lie side by side,
and share the loads of a row of queries; so do four channels of v the loads of a row of
probabilities.  The greatest score is found while scores are made, exps are divided by their sum at
the very end.  Sentences stand end to end: each is visited for the lanes it has in the tile.

The "rows" domain has one query a sentence, so there keys are in lanes: a query's channel is
broadcast, and a channel of the result is a sum across lanes.

A unit is (tile, head).  params: 0 q, 1 bytes of a q tile, 2 k, 3 bytes of a k tile, 4 v, 5 bytes of
a v tile, 6 y, 7 bytes of a y tile, 8 heads, 9 float32 scale.  Scratch: 256 bytes a key of the
longest sentence.
"""

import numba as nb

from ..lower import routine
from ..simd import (
    add,
    div,
    load_f32,
    load_i64,
    load_int,
    loads,
    maximum,
    mul,
    multiply_add,
    splats,
    store,
    store_lanes,
    sub,
)
from .activations import exponential
from .context import ARENA, SCRATCH, SENTENCES, STARTS, TILE

f32, i32 = nb.float32, nb.int32
LEAST = -3.0e38
ROW = 4 * TILE  # bytes of a channel of a tile of tokens


def score(lanes, depth):
    """Scores of the keys start .. end - 1, a row each; returns the greatest of each query."""
    splat, load = splats("f32", lanes), loads("f32", lanes)
    row = 4 * lanes

    def make(queries, keys, k_tile, start, end, scores):
        greatest_yet, at = splat(f32(LEAST)), scores
        for group in range(start // 4, (end + 3) // 4):
            key = keys + (group >> 4) * k_tile + 16 * (group & 15)
            a, b, c, d = splat(f32(0)), splat(f32(0)), splat(f32(0)), splat(f32(0))
            query = queries
            for _ in range(depth):
                x = load(query)
                a, b = (
                    multiply_add(x, splat(load_f32(key)), a),
                    multiply_add(x, splat(load_f32(key + 4)), b),
                )
                c, d = (
                    multiply_add(x, splat(load_f32(key + 8)), c),
                    multiply_add(x, splat(load_f32(key + 12)), d),
                )
                query, key = query + ROW, key + ROW
            store(at, a)
            store(at + row, b)
            store(at + 2 * row, c)
            store(at + 3 * row, d)
            if 4 * group >= start and 4 * group + 4 <= end:
                greatest_yet = maximum(greatest_yet, maximum(maximum(a, b), maximum(c, d)))
            at += 4 * row
        origin = scores - row * (start & ~3)
        for key in range(start, min((start + 3) & ~3, end)):  # groups shared with neighbours
            greatest_yet = maximum(greatest_yet, load(origin + row * key))
        for key in range(max(end & ~3, start), end):
            greatest_yet = maximum(greatest_yet, load(origin + row * key))
        return greatest_yet

    return routine(make)


def attend(depth, lanes):
    """One sentence's keys for `lanes` queries; only lanes first .. last - 1 are stored."""
    make_scores, exp = score(lanes, depth), exponential(lanes)
    splat, load = splats("f32", lanes), loads("f32", lanes)
    row = 4 * lanes

    def sentence(
        queries, keys, k_tile, values, v_tile, start, end, scale, scratch, out, first, last
    ):
        greatest_yet, factor = make_scores(queries, keys, k_tile, start, end, scratch), splat(scale)
        sums, exps = splat(f32(0)), scratch + row * (start & 3)
        at = exps
        for _ in range(start, end):
            p = exp(mul(sub(load(at), greatest_yet), factor))
            store(at, p)
            sums, at = add(sums, p), at + row
        factor = div(splat(f32(1)), sums)
        for channel in range(0, depth, 4):
            a, b, c, d = splat(f32(0)), splat(f32(0)), splat(f32(0)), splat(f32(0))
            at = exps
            for tile in range(start // TILE, (end + TILE - 1) // TILE):
                begin, stop = max(start - TILE * tile, 0), min(end - TILE * tile, TILE)
                value = values + v_tile * tile + ROW * channel + 4 * begin
                for _ in range(begin, stop):
                    p = load(at)
                    a, b = (
                        multiply_add(p, splat(load_f32(value)), a),
                        multiply_add(p, splat(load_f32(value + ROW)), b),
                    )
                    c, d = (
                        multiply_add(p, splat(load_f32(value + 2 * ROW)), c),
                        multiply_add(p, splat(load_f32(value + 3 * ROW)), d),
                    )
                    at, value = at + row, value + 4
            to = out + ROW * channel
            store_lanes(to, mul(a, factor), first, last)
            store_lanes(to + ROW, mul(b, factor), first, last)
            store_lanes(to + 2 * ROW, mul(c, factor), first, last)
            store_lanes(to + 3 * ROW, mul(d, factor), first, last)

    return routine(sentence)


def lanes_of_tile(depth, lanes):
    """A routine: one sentence for blocks of `lanes` queries, as many as have first .. last - 1 of a
    tile among them.
    """
    attend_block = attend(depth, lanes)

    def some(sentence):
        (queries, keys, k_tile, values, v_tile, start, stop), rest = sentence
        scale, scratch, out, first, last = rest
        for at in range(first // lanes * lanes, last, lanes):
            attend_block(
                queries + 4 * at,
                keys,
                k_tile,
                values,
                v_tile,
                start,
                stop,
                scale,
                scratch,
                out + 4 * at,
                max(first - at, 0),
                min(last - at, lanes),
            )

    return routine(some)


def attention_f32(depth, width):
    """Every token is a query; width: greatest register block (64 on 512 bits, 16 on fewer)."""
    quarter, half, all_lanes = (lanes_of_tile(depth, min(width, lanes)) for lanes in (16, 32, 64))

    def kernel(params, context, begin, end):
        arena, scratch, starts = (
            load_i64(context + ARENA),
            load_i64(context + SCRATCH),
            load_i64(context + STARTS),
        )
        heads, scale, sentences = (
            load_i64(params + 64),
            load_f32(params + 72),
            load_i64(context + SENTENCES),
        )
        k_tile, v_tile = load_i64(params + 24), load_i64(params + 40)
        for unit in range(begin, end):
            tile, channel = unit // heads, depth * ROW * (unit % heads)
            queries = arena + load_i64(params) + load_i64(params + 8) * tile + channel
            keys, values = (
                arena + load_i64(params + 16) + channel,
                arena + load_i64(params + 32) + channel,
            )
            out = arena + load_i64(params + 48) + load_i64(params + 56) * tile + channel
            low, high = tile * TILE, tile * TILE + TILE
            for number in range(sentences):
                start, stop = load_int(starts + 4 * number), load_int(starts + 4 * number + 4)
                if stop <= low or start >= high or stop <= start:
                    continue
                first, last = max(start, low) - low, min(stop, high) - low
                sentence = (
                    (queries, keys, k_tile, values, v_tile, start, stop),
                    (scale, scratch, out, first, last),
                )
                if first // 16 == (last - 1) // 16:
                    quarter(sentence)
                elif first // 32 == (last - 1) // 32:
                    half(sentence)
                else:
                    all_lanes(sentence)

    return kernel
