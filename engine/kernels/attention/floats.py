"""Attention in float32 or bfloat16, one head and one tile of queries at a time: no transposition,
no mask.

    s[j, t] = scale * (bias[t - j] + sum over d of k[d, j] q[d, t]);  p = softmax(s)
    y[c, t] = sum over j of p[j, t] v[c, j]

Tokens are in lanes: keys are broadcast out of their rows, four at a time as they lie side by side,
and share the loads of a row of queries; so do four channels of v the loads of a row of
probabilities.  The greatest score is found while scores are made, exps are divided by their sum at
the very end.  Sentences stand end to end: each is visited for the lanes it has in the tile.

In bfloat16 q and k are "pairs" of channels as round_rows (linear/floats.py) makes them of a whole
tile, v its "words": a dot2_bf16 takes two channels of a key, or two keys of a channel, which are
paired from the sentence's first one on, wherever that is.  exps are rounded, their sum is that of
float32.

The "rows" domain has one query a sentence, so there keys are in lanes: a query's channel is
broadcast, and a channel of the result is a sum across lanes.

A unit is (tile, head).  params: ATTENTION_FLOATS; a bias by distance is divided by the scale, and
lies by t - j, in the "rows" domain by j - t.  Scratch: 256 bytes a key of the longest sentence.
"""

from functools import partial

import numba as nb

from ...codegen.lower import routine
from ...codegen.simd import (
    add,
    bf16_pairs,
    div,
    dot2_bf16,
    load_f32,
    load_i32,
    load_i64,
    load_int,
    load_u16,
    loads,
    loads_unaligned,
    maximum,
    mul,
    multiply_add,
    splats,
    store,
    store_lanes,
    sub,
)
from ..activations import exponential
from ..buffers import tile_of
from ..context import CONTEXT, TILE
from .records import ATTENTION_FLOATS as FLOATS
from .records import CHANNELS
from .sentences import bias_at, bias_of, channels_of, for_each_sentence
from .window import four_far_below, near, seen, seen_from

f32, i32, i64 = nb.float32, nb.int32, nb.int64
LEAST = -3.0e38
ROW = 4 * TILE  # bytes of a channel of a tile of tokens, or of a pair of channels
PER_WORD = {"f32": 1, "bf16": 2}  # numbers that are multiplied together
V_ROW = {kind: ROW // n for kind, n in PER_WORD.items()}  # bytes of a channel of v


def products_of(kind, lanes):
    """Routines: 32 bits a lane from an address, and sums + those times the 32 bits at another."""
    splat = splats("f32", lanes)

    def of_floats(sums, x, at):
        return multiply_add(x, splat(load_f32(at)), sums)

    def of_pairs(sums, x, at):
        return dot2_bf16(sums, x, load_i32(at))

    if kind == "bf16":
        return loads("bf16", 2 * lanes), routine(of_pairs)
    return loads("f32", lanes), routine(of_floats)


def four_products(kind, lanes):
    """A routine: the products of queries with four adjacent keys, and what is added by distance;
    table: address of the head's entries and reach, distance: of the first query from the first key.
    """
    splat, (load_query, product) = splats("f32", lanes), products_of(kind, lanes)
    load = loads_unaligned("f32", lanes)
    rows, per_channel = 4 // PER_WORD[kind], ROW // PER_WORD[kind]

    def products(queries, key, fours, table, distance):
        a, b, c, d = splat(f32(0)), splat(f32(0)), splat(f32(0)), splat(f32(0))
        for four in range(load_int(fours + CHANNELS.count)):
            at_four = per_channel * load_int(fours + CHANNELS.first + 4 * four)
            for n in range(rows):
                x, k = load_query(queries + at_four + ROW * n), key + at_four + ROW * n
                a, b = product(a, x, k), product(b, x, k + 4)
                c, d = product(c, x, k + 8), product(d, x, k + 12)
        if table[0]:
            a = add(a, load(bias_at(table, distance)))
            b = add(b, load(bias_at(table, distance - 1)))
            c = add(c, load(bias_at(table, distance - 2)))
            d = add(d, load(bias_at(table, distance - 3)))
        return a, b, c, d

    return routine(products)


def score(four_scores, lanes):
    """Scores of the keys start .. end - 1, a row each; returns the greatest of each query.  Where
    there is a window, those of keys outside it are far below.  four_scores: a routine as
    four_products makes; places: of the first query in the pack, and in its tile.
    """
    splat, load, row = splats("f32", lanes), loads("f32", lanes), 4 * lanes
    places_of, lowered = near(lanes)[0], four_far_below(lanes)

    def make(queries, keys, k_tile, start, end, scores, fours, table, view, places):
        query, lane = places
        greatest_yet, at, seen_at = splat(f32(LEAST)), scores, places_of(view, lane)
        for group in range(start // 4, (end + 3) // 4):
            key = keys + (group >> 4) * k_tile + 16 * (group & 15)
            a, b, c, d = four_scores(queries, key, fours, table, query - 4 * group)
            if view[3] >= 0:
                a, b, c, d = lowered(a, b, c, d, view, seen_at, 4 * group)
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


def exps_of(kind, lanes):
    """exp((score - greatest) * factor) of the keys start .. end - 1 instead of their scores, in
    bfloat16 two keys a row and from the first row on; returns the sums.
    """
    splat, load, exp = splats("f32", lanes), loads("f32", lanes), exponential(lanes)
    row = 4 * lanes

    def floats(scores, start, end, greatest, factor):
        sums, at = splat(f32(0)), scores + row * (start & 3)
        for _ in range(start, end):
            p = exp(mul(sub(load(at), greatest), factor))
            store(at, p)
            sums, at = add(sums, p), at + row
        return sums

    def pairs(scores, start, end, greatest, factor):
        sums, at, to = splat(f32(0)), scores + row * (start & 3), scores
        for _ in range((end - start) // 2):
            p = exp(mul(sub(load(at), greatest), factor))
            q = exp(mul(sub(load(at + row), greatest), factor))
            store(to, bf16_pairs(p, q))
            sums, at, to = add(sums, add(p, q)), at + 2 * row, to + row
        if (end - start) & 1:
            p = exp(mul(sub(load(at), greatest), factor))
            store(to, bf16_pairs(p, splat(f32(0))))
            sums = add(sums, p)
        return sums

    return routine(pairs if kind == "bf16" else floats)


def words_sum(kind, lanes):
    """A routine: adds `count` rows of exps times the words of four channels from `value` on."""
    (load, product), row, v_row = products_of(kind, lanes), 4 * lanes, V_ROW[kind]

    def add_words(a, b, c, d, value, count, exps):
        for _ in range(count):
            p = load(exps)
            a, b = product(a, p, value), product(b, p, value + v_row)
            c, d = product(c, p, value + 2 * v_row), product(d, p, value + 3 * v_row)
            exps, value = exps + row, value + 4
        return a, b, c, d

    return routine(add_words)


def four_sums_of_floats(lanes):
    """A routine: sums of exps times the values of four channels, from the address of the first
    tile's.
    """
    add_words, splat, row = words_sum("f32", lanes), splats("f32", lanes), 4 * lanes

    def sums(tiles, v_tile, start, end, scratch):
        a, b, c, d = splat(f32(0)), splat(f32(0)), splat(f32(0)), splat(f32(0))
        exps = scratch + row * (start & 3)
        for tile in range(start // TILE, (end + TILE - 1) // TILE):
            first, last = max(start - TILE * tile, 0), min(end - TILE * tile, TILE)
            value = tiles + v_tile * tile + 4 * first
            a, b, c, d = add_words(a, b, c, d, value, last - first, exps)
            exps += row * (last - first)
        return a, b, c, d

    return routine(sums)


def four_sums_of_pairs(lanes):
    """The same in bfloat16.  A pair may lie in two tiles, and the last key may have no second: then
    what stands beside it counts nothing, whatever it is.
    """
    add_words, splat, row = words_sum("bf16", lanes), splats("f32", lanes), 4 * lanes
    load, v_row, last_key = loads("bf16", 2 * lanes), V_ROW["bf16"], V_ROW["bf16"] - 2

    def word(low, gap, channel, is_pair):
        high = i64(0)
        if is_pair:
            high = load_u16(low + v_row * channel + gap)
        return i32(load_u16(low + v_row * channel) | high << 16)

    word = routine(word)

    def add_apart(a, b, c, d, low, gap, exps, is_pair):
        p = load(exps)
        a = dot2_bf16(a, p, word(low, gap, 0, is_pair))
        b = dot2_bf16(b, p, word(low, gap, 1, is_pair))
        c = dot2_bf16(c, p, word(low, gap, 2, is_pair))
        d = dot2_bf16(d, p, word(low, gap, 3, is_pair))
        return a, b, c, d

    add_apart = routine(add_apart)

    def sums(tiles, v_tile, start, end, exps):
        a, b, c, d = splat(f32(0)), splat(f32(0)), splat(f32(0)), splat(f32(0))
        key = start
        while key < end:
            lane = key % TILE
            value, together = tiles + v_tile * (key // TILE), (min(end - key, TILE - lane)) // 2
            a, b, c, d = add_words(a, b, c, d, value + 2 * lane, together, exps)
            exps, key, lane = exps + row * together, key + 2 * together, lane + 2 * together
            if key < end and lane < TILE:
                low, is_pair = value + 2 * lane, key + 1 < end
                a, b, c, d = add_apart(a, b, c, d, low, v_tile - last_key, exps, is_pair)
                exps, key = exps + row, key + 2
        return a, b, c, d

    return routine(sums)


def exact_shares(lanes):
    """A routine: `count` rows of exps and their sums -> what is multiplied with values, in place of
    the exps, and the factor of that.
    """
    splat = splats("f32", lanes)

    def shares(exps, count, sums, table):
        return div(splat(f32(1)), sums)

    return routine(shares)


def block(kind, four_scores, shares_of, lanes):
    """A routine: one sentence for `lanes` queries, of which only its own are stored."""
    make_scores = score(four_scores(kind, lanes), lanes)
    make_exps = exps_of(kind, lanes)
    sums_of = four_sums_of_pairs(lanes) if kind == "bf16" else four_sums_of_floats(lanes)
    splat, v_row, row = splats("f32", lanes), V_ROW[kind], 4 * lanes
    shares = shares_of(lanes)

    def attend(operands, start, end, at, first, last):
        (queries, fours), (keys, k_tile), (values, v_tile), (out, made), how = operands
        scale, scratch, table, view, query = how
        start, end = seen(view, start, end, at + first, at + last)
        places = (query + at, at)
        greatest = make_scores(
            queries + 4 * at, keys, k_tile, start, end, scratch, fours, table, view, places
        )
        sums = make_exps(scratch, start, end, greatest, splat(scale))
        factor = shares(scratch + row * (start & 3), end - start, sums, table)
        for four in range(load_int(made + CHANNELS.count)):
            channel = load_int(made + CHANNELS.first + 4 * four)
            a, b, c, d = sums_of(values + v_row * channel, v_tile, start, end, scratch)
            to = out + 4 * at + ROW * channel
            store_lanes(to, mul(a, factor), first, last)
            store_lanes(to + ROW, mul(b, factor), first, last)
            store_lanes(to + 2 * ROW, mul(c, factor), first, last)
            store_lanes(to + 3 * ROW, mul(d, factor), first, last)

    return routine(attend)


@routine
def bias_table(params, head):
    """What four_products adds."""
    return bias_of(params + FLOATS.bias, params + FLOATS.reach, head)


def attention(
    kind, depth, width, four_scores=four_products, table_of=bias_table, shares=exact_shares
):
    """Every token is a query; width: greatest register block (64 on 512 bits, 16 on fewer);
    table_of: a routine (params, head), what four_scores adds.
    """
    visit = for_each_sentence(partial(block, kind, four_scores, shares), width)
    key_bytes = ROW * depth // PER_WORD[kind]  # of a head in a tile
    value_bytes, result_bytes = V_ROW[kind] * depth, ROW * depth

    def kernel(params, context, begin, end):
        arena, scratch = load_i64(context + CONTEXT.arena), load_i64(context + CONTEXT.scratch)
        heads, scale = load_i64(params + FLOATS.heads), load_f32(params + FLOATS.scale)
        k_tile, v_tile = load_i64(params + FLOATS.k_tile), load_i64(params + FLOATS.v_tile)
        window = load_i64(params + FLOATS.window)
        for unit in range(begin, end):
            tile, head = unit // heads, unit % heads
            queries = tile_of(arena, params + FLOATS.q, tile) + key_bytes * head
            keys = arena + load_i64(params + FLOATS.k) + key_bytes * head
            values = arena + load_i64(params + FLOATS.v) + value_bytes * head
            out = tile_of(arena, params + FLOATS.y, tile) + result_bytes * head
            fours = channels_of(params + FLOATS.fours, depth, head)
            made = channels_of(params + FLOATS.made, depth, head)
            view = seen_from(context, tile, window)
            how = (scale, scratch, table_of(params, head), view, TILE * tile)
            operands = (queries, fours), (keys, k_tile), (values, v_tile), (out, made), how
            visit(context, tile, operands, 0)

    return kernel


def attention_f32(depth, width):
    """In float32."""
    return attention("f32", depth, width)


def attention_bf16(depth, width):
    """In bfloat16, sums in float32; depth is even."""
    return attention("bf16", depth, width)
