"""Attention of one query a sentence, which is all that the last layer needs: keys in lanes.

Queries and results are in tiles of 16 sentences, keys and values in tiles of 64 tokens.  A unit is
(tile of sentences, head); params, constants and the interleaved keys are those of bytes.py and
floats.py.
"""

import numba as nb

from ...codegen.lower import routine
from ...codegen.simd import (
    MAGIC,
    add,
    as_float,
    as_int,
    both,
    dot4,
    fma,
    greatest,
    load_f32,
    load_i32,
    load_i64,
    load_int,
    load_u8,
    loads,
    loads_unaligned,
    maximum,
    mul,
    multiply_add,
    pack_in_order,
    splats,
    store,
    store_lanes,
    store_u8,
    store_unaligned,
    sub,
    to_float,
    total,
)
from ..activations import exponential
from ..buffers import rows_of_tile, tile_of, tokens_of_row
from ..context import CONTEXT, ROWS, TILE
from .byte_scores import ONES, conversion, interleave_queries
from .floats import LEAST, ROW, bias_table
from .records import ATTENTION_BYTES as BYTES
from .records import ATTENTION_FLOATS as FLOATS
from .records import CHANNELS, CONSTANTS
from .sentences import bias_at, bias_of, channels_of

f32, i32 = nb.float32, nb.int32


def scores_of_bytes(softmax):
    """A routine that leaves what is kept of the scores of a sentence's keys in `kept`, tile by
    tile, and in its neighbours' lanes what comes to nothing.
    """
    splat, whole = splats("f32", TILE), splats("i32", TILE)
    load_sums, load_keys = loads("i32", TILE), loads("u8", 4 * TILE)
    ready, convert, _ = conversion(TILE, softmax)
    rest = 0.0 if softmax == "bytes" else LEAST

    def scores(query, key, start, stop, constants, kept, bias):
        (words, query_sum, fours), (k, k_sums, k_tile, s_tile) = query, key
        for tile in range(start // TILE, (stop + TILE - 1) // TILE):
            a, at, word = whole(query_sum), k + k_tile * tile, words
            a = add(a, load_sums(k_sums + s_tile * tile))
            for _ in range(fours):
                a = dot4(a, whole(load_i32(word)), load_keys(at))
                at, word = at + 4 * TILE, word + 4 * ROWS
            begins, ends = max(start - TILE * tile, 0), min(stop - TILE * tile, TILE)
            store(kept, splat(f32(rest)))
            lanes = (*bias, TILE * tile)  # the query is the sentence's first token
            store_lanes(kept, convert(a, ready(constants), lanes, start), begins, ends)
            kept += ROW

    return routine(scores)


def exps_of_scores(softmax):
    """A routine that turns what `scores` has kept into exps, of neighbours 0, and returns their
    sum; begins, ends: the sentence's lanes, counted from its first tile.

    A sentence that begins in another lane has the same sums, turned by as many lanes: what `total`
    adds up is the same, as each of its steps adds the lanes that are half a turn apart.
    """
    load, splat = loads("f32", TILE), splats("f32", TILE)
    ready, _, exp = conversion(TILE, softmax)

    def known(kept, begins, ends, constants):
        sums = splat(f32(0))
        for n in range((ends + TILE - 1) // TILE):
            sums = add(sums, load(kept + ROW * n))
        return total(sums)

    def from_greatest(kept, begins, ends, constants):
        tiles, held = (ends + TILE - 1) // TILE, ready(constants)
        most, sums = splat(f32(LEAST)), splat(f32(0))
        for n in range(tiles):
            most = maximum(most, load(kept + ROW * n))
        most = splat(greatest(most))
        for n in range(tiles):
            at = kept + ROW * n
            e = exp(load(at), most, held)
            store(at, splat(f32(0)))
            store_lanes(at, e, max(begins - TILE * n, 0), min(ends - TILE * n, TILE))
            sums = add(sums, load(at))
        return total(sums)

    return routine(known if softmax == "bytes" else from_greatest)


def context_of_bytes(depth):
    """A routine: exps and their factor -> the query's context, `depth` bytes in `out`."""
    splat = splats("f32", TILE)
    whole = splats("i32", 16)
    load = loads("f32", TILE)
    load_probabilities = loads("u8", TILE)
    load_totals, splat16 = loads("i32", 16), splats("f32", 16)

    def context(kept, factor, values, constants, scratch, out):
        v, v_tile, tiles = values
        weight, probabilities, totals = whole(i32(0)), scratch, scratch + TILE * tiles
        for n in range(tiles):
            p = pack_in_order(fma(load(kept + ROW * n), splat(factor), splat(f32(MAGIC))))
            store(probabilities + TILE * n, p)
            weight = dot4(weight, p, i32(ONES))
        starting = total(weight) * load_i32(constants + CONSTANTS.value_zero)
        for channel in range(depth):
            a, value = whole(i32(0)), v + TILE * channel
            for n in range(tiles):
                p = load_probabilities(probabilities + TILE * n)
                a, value = dot4(a, p, as_int(load_probabilities(value))), value + v_tile
            store_unaligned(totals + 4 * channel, i32(total(a) + starting))
        scale = splat16(load_f32(constants + CONSTANTS.value_scale))
        zero = splat16(load_f32(constants + CONSTANTS.output_zero))
        for channel in range(0, depth, 16):
            y = pack_in_order(fma(to_float(load_totals(totals + 4 * channel)), scale, zero))
            store(out + channel, y)

    return routine(context)


def attention_u8_rows(depth, softmax):
    """On bytes."""
    turn, scores = interleave_queries(depth, ROWS, "some"), scores_of_bytes(softmax)
    exps, context_of = exps_of_scores(softmax), context_of_bytes(depth)

    def kernel(params, context, begin, end):
        arena, queries = load_i64(context + CONTEXT.arena), load_i64(context + CONTEXT.scratch)
        heads, constants = load_i64(params + BYTES.heads), load_i64(params + BYTES.constants)
        v_tile = load_i64(params + BYTES.v_tile)
        sums, made = queries + 4 * depth * ROWS, queries + 4 * depth * ROWS + 4 * ROWS
        kept = made + 4 * depth  # on a cache line, as depth is a multiple of 16
        for unit in range(begin, end):
            tile, head = unit // heads, unit % heads
            channels, fours = depth * ROWS * head, channels_of(params + BYTES.fours, depth, head)
            x = tile_of(arena, params + BYTES.q, tile) + channels
            turn(x, queries, sums, constants, fours)
            keys = arena + load_i64(params + BYTES.keys) + depth * TILE * head
            key_sums = arena + load_i64(params + BYTES.key_sums) + 4 * TILE * head
            values = arena + load_i64(params + BYTES.v) + depth * TILE * head
            y = tile_of(arena, params + BYTES.y, tile) + channels
            key = (keys, key_sums, heads * depth * TILE, heads * 4 * TILE)
            bias = bias_of(params + BYTES.bias, params + BYTES.reach, head)
            low, high = rows_of_tile(context, tile)
            for row in range(low, high):
                lane, (start, stop) = row - ROWS * tile, tokens_of_row(context, row)
                tiles = (stop + TILE - 1) // TILE - start // TILE
                query = (queries + 4 * lane, load_i32(sums + 4 * lane), load_int(fours))
                scores(query, key, start, stop, constants, kept, bias)
                begins = start % TILE
                sum_of_exps = exps(kept, begins, begins + stop - start, constants)
                factor = load_f32(constants + CONSTANTS.probability_factor) / sum_of_exps
                value = (values + v_tile * (start // TILE), v_tile, tiles)
                context_of(kept, factor, value, constants, kept + ROW * tiles, made)
                for channel in range(depth):
                    store_u8(y + ROWS * channel + lane, load_u8(made + channel))

    return kernel


def products_of_a_tile():
    """A routine: the products of a query with a tile of keys, and what is added by distance; table:
    address of the head's entries and reach, distance: of the first key from the query.
    """
    load, load_bias, splat = loads("f32", TILE), loads_unaligned("f32", TILE), splats("f32", TILE)

    def products(queries, key, fours, table, distance):
        a = splat(f32(0))
        for four in range(load_int(fours + CHANNELS.count)):
            channel = load_int(fours + CHANNELS.first + 4 * four)
            for c in range(channel, channel + 4):
                q = splat(load_f32(queries + 4 * ROWS * c))
                a = multiply_add(load(key + ROW * c), q, a)
        if table[0]:
            a = add(a, load_bias(bias_at(table, distance)))
        return a

    return routine(products)


def scores_of_floats(scores_of_a_tile):
    """A routine that leaves the scores of a sentence's keys in `kept`, tile by tile, and behind
    them masks of its lanes; returns the greatest.  scores_of_a_tile: as products_of_a_tile makes.
    """
    load, splat, whole = loads("f32", TILE), splats("f32", TILE), splats("i32", TILE)

    def scores(query, key, start, stop, kept, table):
        (queries, fours), (keys, k_tile) = query, key
        first_tile, behind = start // TILE, (stop + TILE - 1) // TILE
        masks, most = kept + ROW * (behind - first_tile), splat(f32(LEAST))
        for tile in range(first_tile, behind):
            distance = TILE * tile - start  # the query is the sentence's first token
            a = scores_of_a_tile(queries, keys + k_tile * tile, fours, table, distance)
            begins, ends = max(start - TILE * tile, 0), min(stop - TILE * tile, TILE)
            store(kept, splat(f32(LEAST)))
            store_lanes(kept, a, begins, ends)
            store(masks, whole(i32(0)))
            store_lanes(masks, whole(i32(-1)), begins, ends)
            most = maximum(most, load(kept))
            kept, masks = kept + ROW, masks + ROW
        return greatest(most)

    return routine(scores)


def exps_of_floats():
    """A routine that turns the scores into exps, of other sentences' keys 0; returns their sum."""
    load, splat, exp = loads("f32", TILE), splats("f32", TILE), exponential(TILE)
    load_mask = loads("i32", TILE)

    def exps(kept, tiles, most, scale):
        sums, masks = splat(f32(0)), kept + ROW * tiles
        for n in range(tiles):
            p = exp(mul(sub(load(kept + ROW * n), splat(most)), splat(scale)))
            p = as_float(both(as_int(p), load_mask(masks + ROW * n)))
            store(kept + ROW * n, p)
            sums = add(sums, p)
        return total(sums)

    return routine(exps)


def weighted_sum():
    """A routine: one channel of the values times exps, over the tiles of a sentence."""
    load, load_mask, splat = loads("f32", TILE), loads("i32", TILE), splats("f32", TILE)

    def sum_(value, v_tile, tiles, exps, masks):
        a = splat(f32(0))
        for n in range(tiles):  # lanes of no sentence may hold anything, NaN too
            v = as_float(both(as_int(load(value)), load_mask(masks + ROW * n)))
            a, value = multiply_add(load(exps + ROW * n), v, a), value + v_tile
        return total(a)

    return routine(sum_)


def exact_shares():
    """A routine: tiles of exps and their sum -> what is multiplied with values, in place of the
    exps, and the factor of that.
    """

    def shares(exps, tiles, sum_of_exps, table):
        return f32(1) / sum_of_exps

    return routine(shares)


def attention(depth, scores_of_a_tile, table_of, shares_of=exact_shares):
    """In float32; table_of: a routine (params, head), what scores_of_a_tile adds."""
    scores, shares = scores_of_floats(scores_of_a_tile()), shares_of()
    exps, sum_of = exps_of_floats(), weighted_sum()

    def kernel(params, context, begin, end):
        arena, scratch = load_i64(context + CONTEXT.arena), load_i64(context + CONTEXT.scratch)
        heads, scale = load_i64(params + FLOATS.heads), load_f32(params + FLOATS.scale)
        k_tile, v_tile = load_i64(params + FLOATS.k_tile), load_i64(params + FLOATS.v_tile)
        for unit in range(begin, end):
            tile, head = unit // heads, unit % heads
            channels, rows = ROW * depth * head, 4 * ROWS * depth * head
            queries = tile_of(arena, params + FLOATS.q, tile) + rows
            keys = arena + load_i64(params + FLOATS.k) + channels
            values = arena + load_i64(params + FLOATS.v) + channels
            out = tile_of(arena, params + FLOATS.y, tile) + rows
            made = channels_of(params + FLOATS.made, depth, head)
            fours = channels_of(params + FLOATS.fours, depth, head)
            table = table_of(params, head)
            low, high = rows_of_tile(context, tile)
            for row in range(low, high):
                lane, (start, stop) = row - ROWS * tile, tokens_of_row(context, row)
                first_tile, tiles = start // TILE, (stop + TILE - 1) // TILE - start // TILE
                query = (queries + 4 * lane, fours)
                most = scores(query, (keys, k_tile), start, stop, scratch, table)
                factor = shares(scratch, tiles, exps(scratch, tiles, most, scale), table)
                for n in range(4 * load_int(made + CHANNELS.count)):
                    channel = load_int(made + CHANNELS.first + 4 * (n // 4)) + n % 4
                    value = values + v_tile * first_tile + ROW * channel
                    weighted = sum_of(value, v_tile, tiles, scratch, scratch + ROW * tiles)
                    store_unaligned(out + 4 * (ROWS * channel + lane), weighted * factor)

    return kernel


def attention_f32_rows(depth):
    """In float32."""
    return attention(depth, products_of_a_tile, bias_table)
