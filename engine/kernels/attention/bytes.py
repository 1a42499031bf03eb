"""Attention on bytes, one head and one tile of queries at a time: scores, mask, softmax and
context, tokens in lanes throughout.

    s[j, t] = sum over d of (k[d, j] - zero_k) (q[d, t] - zero_q);  p = softmax(s);  y[c, t] = sum
    over j of p[j, t] (v[c, j] - zero_v)

Queries and keys are interleaved four channels at a time ([depth / 4][token][4], once per head and
tile), so a score is depth / 4 dot4 of a row of queries with one broadcast word of a key; four keys
share each load.  Four keys' probabilities, interleaved, are the operand of the next dot4, whose
other operand, V of four consecutive tokens and one channel, is four adjacent bytes of V's row. Zero
points: what depends on the query alone cancels in softmax only where scores are not quantised, so
all terms are kept as sums. Sentences stand end to end: for every sentence of the tile its keys are
visited for the lanes it has in the tile, nothing else.

A unit is (tile, head).  `keys` is the interleaved copy that interleave_keys makes:
[tile][head][depth / 4][64][4] s8, then the sums [tile][head][64] int32 of zero-point terms.
params: 0 q, 1 bytes of a q tile, 2 keys, 3 key sums, 4 v, 5 bytes of a v tile, 6 y, 7 bytes of a y
tile, 8 heads, 9 address of constants, 10 and 11 addresses of int32 [heads][1 + depth / 4]: how many
fours of a head's channels of y are made, and of q and k count (plan/choose); the first of each.
Keys and queries are interleaved in the order of the latter.  constants (4 bytes each): 0
-zero_k', 1 0, 2 score scale, 3 score shift + MAGIC, 4 1 / probability scale, 5 -zero_v', 6 value
scale, 7 output zero + MAGIC; at 64 and 128: tables of exp.  Primes: less 128 where bytes were
turned into s8. softmax "bytes": scores are quantised, in a range whose exps are all float32;
"wide": in any range; "floats": they are not quantised; "wide_biased", "floats_biased": the same
with a bias by distance, added in real numbers.  Of all but "bytes" the greatest score of a
sentence's own keys is taken off before exp.  Scratch: queries and their sums, then 5 * 4 * lanes
bytes a key of the longest sentence: exps, and a quarter of it for probabilities (plan/scratch.py).
"""

from functools import partial

import numba as nb

from ...codegen.lower import routine
from ...codegen.simd import (
    MAGIC,
    as_int,
    div,
    dot4,
    fma,
    load_f32,
    load_i32,
    load_i64,
    load_int,
    loads,
    mul,
    pack_in_order,
    prefetch,
    quads_of_words,
    splats,
    store,
    store_lanes,
    to_float,
)
from ..buffers import tile_of
from ..context import CONTEXT, TILE
from .byte_scores import ONES, exps_of, interleave_queries, listed
from .records import ATTENTION_BYTES as BYTES
from .records import CHANNELS, CONSTANTS
from .sentences import bias_of, channels_of, for_each_sentence
from .window import seen, seen_from

f32, i32 = nb.float32, nb.int32


@routine
def fetch(keys, k_tile, fours, values, v_tile, made, start, end):
    """Starts to load the keys and values of a sentence: another core may have made those of other
    tiles, and each row of V begins with a wait otherwise.  A head ahead.
    """
    for tile in range(start // TILE, (end + TILE - 1) // TILE):
        key = keys + k_tile * tile
        for line in range(key, key + 4 * TILE * load_int(fours + CHANNELS.count), TILE):
            prefetch(line)
        for number in range(load_int(made + CHANNELS.count)):
            value = values + v_tile * tile + TILE * load_int(made + CHANNELS.first + 4 * number)
            for line in range(value, value + 4 * TILE, TILE):
                prefetch(line)


def block(depth, softmax, channels, lanes):
    """A routine: one sentence for `lanes` queries.  Exps go to scratch, then probabilities, then
    the context of each channel to the tile.
    """
    exponentiate = exps_of(depth, lanes, softmax, channels)
    splat, whole = splats("f32", lanes), splats("i32", lanes)
    load_queries, load_floats = loads("u8", 4 * lanes), loads("f32", lanes)
    row, (count, place) = 4 * lanes, listed(depth, channels)

    def attend(operands, start, end, at, first, last):
        (queries, sums, fours), keys, (values, v_tile, made), how = operands
        constants, scratch, out, (entries, reach, first_query), view = how
        query, out = (queries + 4 * at, sums + 4 * at, fours), out + at
        bias = (entries, reach, first_query + at)
        start, end = seen(view, start, end, at + first, at + last)
        groups = (end + 3) // 4
        exps, probabilities = scratch, scratch + 4 * row * (groups - start // 4)
        totals = exponentiate(
            query, keys, start, end, constants, exps, probabilities, bias, view, at
        )
        factor = div(splat(load_f32(constants + CONSTANTS.probability_factor)), totals)
        magic = splat(f32(MAGIC))
        weight = whole(i32(0))
        at, to = exps, probabilities
        for _ in range(start // 4, groups):
            p = quads_of_words(
                as_int(fma(load_floats(at), factor, magic)),
                as_int(fma(load_floats(at + row), factor, magic)),
                as_int(fma(load_floats(at + 2 * row), factor, magic)),
                as_int(fma(load_floats(at + 3 * row), factor, magic)),
            )
            store(to, p)
            weight = dot4(weight, p, i32(ONES))
            at, to = at + 4 * row, to + row
        starting = mul(weight, whole(load_i32(constants + CONSTANTS.value_zero)))
        scale = splat(load_f32(constants + CONSTANTS.value_scale))
        zero = splat(load_f32(constants + CONSTANTS.output_zero))
        for number in range(count(made)):
            channel = place(made, number)
            a, b, c, d = starting, starting, starting, starting
            group, from_ = start // 4, probabilities
            while group < groups:
                value = values + (group >> 4) * v_tile + TILE * channel + 4 * (group & 15)
                x = load_queries(from_)
                a, b = dot4(a, x, load_i32(value)), dot4(b, x, load_i32(value + TILE))
                c = dot4(c, x, load_i32(value + 2 * TILE))
                d = dot4(d, x, load_i32(value + 3 * TILE))
                group, from_ = group + 1, from_ + row
            to = out + TILE * channel
            store_lanes(to, pack_in_order(fma(to_float(a), scale, zero)), first, last)
            store_lanes(to + TILE, pack_in_order(fma(to_float(b), scale, zero)), first, last)
            store_lanes(to + 2 * TILE, pack_in_order(fma(to_float(c), scale, zero)), first, last)
            store_lanes(to + 3 * TILE, pack_in_order(fma(to_float(d), scale, zero)), first, last)

    return routine(attend)


def fetches(depth):
    """What `for_each_sentence` does ahead of a sentence that reaches beyond the tile: its keys and
    values are fetched, for the first head that a worker has and always for the next one.  ahead:
    whether other workers have the rest of the pack, whether this head is the worker's first,
    whether another follows.
    """

    def before(operands, ahead, tile, start, stop):
        (_, _, fours), (keys, _, k_tile, _), (values, v_tile, made), _ = operands
        shared, is_first, has_next = ahead
        if shared and (start < tile * TILE or stop > tile * TILE + TILE):
            if is_first:
                fetch(keys, k_tile, fours, values, v_tile, made, start, stop)
            if has_next:
                key, value, list_bytes = keys + depth * TILE, values + depth * TILE, 4 + depth
                after, later = fours + list_bytes, made + list_bytes
                fetch(key, k_tile, after, value, v_tile, later, start, stop)

    return before


def attention_u8(depth, width, softmax, channels):
    """Every token is a query; width: greatest register block (64 on 512 bits, 16 on fewer);
    channels "all" or "some" (byte_scores.py: listed).
    """
    turn = interleave_queries(depth, TILE, channels)
    visit = for_each_sentence(
        partial(block, depth, softmax, channels), width, before=fetches(depth)
    )

    def kernel(params, context, begin, end):
        arena, scratch = load_i64(context + CONTEXT.arena), load_i64(context + CONTEXT.scratch)
        heads, constants = load_i64(params + BYTES.heads), load_i64(params + BYTES.constants)
        shared = end - begin < heads * load_i64(context + CONTEXT.tiles)  # the rest is others'
        queries, sums = scratch, scratch + depth * TILE
        work, v_tile = sums + 4 * TILE, load_i64(params + BYTES.v_tile)
        window = load_i64(params + BYTES.window)
        for unit in range(begin, end):
            tile, head = unit // heads, unit % heads
            channel = depth * TILE * head
            fours = channels_of(params + BYTES.fours, depth, head)
            made = channels_of(params + BYTES.made, depth, head)
            turn(tile_of(arena, params + BYTES.q, tile) + channel, queries, sums, constants, fours)
            keys = arena + load_i64(params + BYTES.keys) + channel
            key_sums = arena + load_i64(params + BYTES.key_sums) + 4 * TILE * head
            values = arena + load_i64(params + BYTES.v) + channel
            out = tile_of(arena, params + BYTES.y, tile) + channel
            entries, reach = bias_of(params + BYTES.bias, params + BYTES.reach, head)
            view = seen_from(context, tile, window)
            operands = (
                (queries, sums, fours),
                (keys, key_sums, heads * depth * TILE, heads * 4 * TILE),
                (values, v_tile, made),
                (constants, work, out, (entries, reach, TILE * tile), view),
            )
            visit(context, tile, operands, (shared, unit == begin, head + 1 < heads))

    return kernel
