"""Scores of queries and keys on bytes, and their exps: what bytes.py begins with.

Layouts, params and constants are those of bytes.py.
"""

import numba as nb

from ...codegen.lower import routine
from ...codegen.simd import (
    MAGIC,
    MAGIC_BITS,
    add,
    as_float,
    as_int,
    dot4,
    fma,
    interleave_in_order,
    load_f32,
    load_i32,
    load_i64,
    load_int,
    loads,
    loads_unaligned,
    maximum,
    minimum,
    mul,
    pick,
    shifts,
    splats,
    store,
    sub,
    to_float,
    xor,
)
from ..activations import exponential
from ..buffers import tile_of
from ..context import CONTEXT, TILE
from .records import CHANNELS, CONSTANTS, KEYS
from .sentences import bias_at
from .window import far_below, near

f32, i32, i64 = nb.float32, nb.int32, nb.int64
ONES = 0x01010101


def listed(depth, channels):
    """Routines: how many fours of a head's channels there are, and the first channel of one.
    Channels are "all", constants of the kernel, or "some": int32 count, first[count] at `fours`.
    """

    def count_of_all(fours):
        return depth // 4

    def first_of_all(fours, number):
        return 4 * number

    def count(fours):
        return load_int(fours + CHANNELS.count)

    def first(fours, number):
        return load_int(fours + CHANNELS.first + 4 * number)

    if channels == "all":
        return routine(count_of_all), routine(first_of_all)
    return routine(count), routine(first)


def interleave_keys(depth, channels):
    """keys and sums of every (tile, head).  params: 0 k, 1 bytes of a k tile, 2 keys, 3 key sums, 4
    heads, 5 flip, 6 factor, 7 address of int32 extra [heads], 8 address of fours of channels.

    sum[t] = factor * (sum over channels of the flipped byte's unsigned value) + extra[head].  Zeros
    follow the last four, up to a multiple of four."""
    load, whole, row = loads("u8", TILE), splats("i32", TILE), 4 * TILE
    count, first = listed(depth, channels)

    def kernel(params, context, begin, end):
        arena = load_i64(context + CONTEXT.arena)
        heads, extra = load_i64(params + KEYS.heads), load_i64(params + KEYS.extra)
        flip, factor = whole(load_i32(params + KEYS.flip)), whole(load_i32(params + KEYS.factor))
        for unit in range(begin, end):
            at = tile_of(arena, params + KEYS.k, unit // heads) + depth * TILE * (unit % heads)
            out, sums = arena + load_i64(params + KEYS.keys) + depth * TILE * unit, whole(i32(0))
            fours = load_i64(params + KEYS.fours) + (4 + depth) * (unit % heads)
            there = count(fours)
            for number in range(there):
                x = at + TILE * first(fours, number)
                v = interleave_in_order(
                    load(x), load(x + TILE), load(x + 2 * TILE), load(x + 3 * TILE)
                )
                store(out + row * number, xor(as_int(v), flip))
                sums = dot4(sums, v, i32(ONES))
            for number in range(there, (there + 3) & ~3):
                store(out + row * number, whole(i32(0)))
            more = whole(load_i32(extra + 4 * (unit % heads)))
            store(
                arena + load_i64(params + KEYS.key_sums) + 4 * TILE * unit,
                add(mul(sums, factor), more),
            )

    return kernel


def interleave_queries(depth, lanes, channels):
    """[depth][lanes] -> [fours][lanes][4] and the zero-point sums of each query."""
    load, whole = loads("u8", lanes), splats("i32", lanes)
    count, first = listed(depth, channels)

    def turn(at, out, sums, constants, fours):
        column = whole(i32(0))
        for number in range(count(fours)):
            x = at + lanes * first(fours, number)
            v = interleave_in_order(
                load(x), load(x + lanes), load(x + 2 * lanes), load(x + 3 * lanes)
            )
            store(out + 4 * lanes * number, v)
            column = dot4(column, v, i32(ONES))
        factor = whole(load_i32(constants + CONSTANTS.query_factor))
        extra = whole(load_i32(constants + CONSTANTS.query_extra))
        store(sums, add(mul(column, factor), extra))

    return routine(turn)


def softmax_of_bytes(lanes):
    """Scores quantised to a byte n, kept as MAGIC_BITS + n: exp of it is a product of two 16-entry
    tables, 1 for 255.  Three routines: constants in registers, where stores would have them loaded
    again; sums of products -> n; exp.
    """
    splat = splats("f32", lanes)
    whole = splats("i32", lanes)
    lanes16 = loads("f32", 16)
    high_half = shifts("right", 4)

    def ready(constants):
        scale = splat(load_f32(constants + CONSTANTS.score_scale))
        shift = splat(load_f32(constants + CONSTANTS.score_shift))
        return (
            scale,
            shift,
            lanes16(constants + CONSTANTS.coarse),
            lanes16(constants + CONSTANTS.fine),
        )

    def byte_of(sums, constants):
        scale, shift, coarse, fine = constants
        n = as_int(fma(to_float(sums), scale, shift))
        return minimum(maximum(n, whole(i32(MAGIC_BITS))), whole(i32(MAGIC_BITS + 255)))

    def exp(n, constants):
        scale, shift, coarse, fine = constants
        return mul(pick(high_half(n), coarse), pick(n, fine))

    return routine(ready), routine(byte_of), routine(exp)


def scores_rounded_again(lanes):
    """Two routines: constants in registers; sums of products -> the score, rounded to a byte three
    times.
    """
    splat = splats("f32", lanes)

    def ready(constants):
        return (
            splat(load_f32(constants + CONSTANTS.score_scale)),
            splat(load_f32(constants + CONSTANTS.score_shift)),
            splat(load_f32(constants + CONSTANTS.first_zero)),
            splat(load_f32(constants + CONSTANTS.second_factor)),
            splat(load_f32(constants + CONSTANTS.second_zero)),
            splat(load_f32(constants + CONSTANTS.third_factor)),
            splat(load_f32(constants + CONSTANTS.third_zero)),
            splat(load_f32(constants + CONSTANTS.third_scale)),
        )

    def clipped(v):
        return minimum(maximum(v, splat(f32(MAGIC))), splat(f32(MAGIC + 255)))

    clipped = routine(clipped)

    def score(sums, constants, bias, other):
        scale, shift, zero, second, second_zero, third, third_zero, last = constants
        v = sub(clipped(fma(to_float(sums), scale, shift)), zero)
        v = sub(clipped(fma(v, second, second_zero)), second_zero)
        return mul(sub(clipped(fma(v, third, third_zero)), third_zero), last)

    return routine(ready), routine(score)


def conversion(lanes, softmax):
    """Three routines: constants made ready; sums of products -> what is kept of a score, its exp
    (softmax "bytes") or the score itself, which "rounded" rounds again; what is kept, the greatest
    of it and the constants -> exp of how far the score is below the greatest, where that is not
    made at once.  Sums come with what a bias by distance goes by: address of the head's entries,
    reach, the first lane's place in the pack; and the place on the other side.
    """
    if softmax.endswith("biased"):
        return biased_conversion(lanes, softmax)
    splat, exp_of_float = splats("f32", lanes), exponential(lanes)
    ready, byte_of, exp = softmax_of_bytes(lanes)

    def scale_of(constants):
        return splat(load_f32(constants + CONSTANTS.score_scale))

    def at_once(sums, constants, bias, other):
        return exp(byte_of(sums, constants), constants)

    def byte(sums, constants, bias, other):
        return as_float(byte_of(sums, constants))

    def scaled(sums, scale, bias, other):
        return mul(to_float(sums), scale)

    def below(kept, top, constants):
        return exp(as_int(add(sub(kept, top), splat(f32(MAGIC + 255)))), constants)

    def below_float(kept, top, scale):
        return exp_of_float(sub(kept, top))

    if softmax == "floats":
        return routine(scale_of), routine(scaled), routine(below_float)
    if softmax == "rounded":
        return *scores_rounded_again(lanes), routine(below_float)
    return ready, routine(at_once if softmax == "bytes" else byte), routine(below)


def biased_conversion(lanes, softmax):
    """The same where a bias is added: in real numbers, whether scores were quantised or not."""
    splat, exp_of_float = splats("f32", lanes), exponential(lanes)
    (ready, byte_of, _), load_bias = softmax_of_bytes(lanes), loads_unaligned("f32", lanes)

    def scale_of(constants):
        return splat(load_f32(constants + CONSTANTS.score_scale))

    def step_of(constants):
        return ready(constants), splat(load_f32(constants + CONSTANTS.score_step))

    def scaled(sums, scale, bias, other):
        entries, reach, first = bias
        return fma(to_float(sums), scale, load_bias(bias_at((entries, reach), first - other)))

    def byte(sums, constants, bias, other):
        of_bytes, step = constants
        entries, reach, first = bias
        n = sub(as_float(byte_of(sums, of_bytes)), splat(f32(MAGIC)))
        return fma(n, step, load_bias(bias_at((entries, reach), first - other)))

    def below(kept, top, constants):
        return exp_of_float(sub(kept, top))

    if softmax == "floats_biased":
        return routine(scale_of), routine(scaled), routine(below)
    return routine(step_of), routine(byte), routine(below)


def conversion_of_columns(lanes, softmax):
    """Two routines: constants made ready; the sums of four keys and 16 of `lanes` queries converted
    where they wait, and their exps added to the totals, one after the other: so it does not matter
    with which of four a sentence begins.
    """
    ready, convert, _ = conversion(16, softmax)
    load, load_totals, whole = loads("i32", 16), loads("f32", 16), splats("i32", 16)
    row, summed = 4 * lanes, softmax == "bytes"

    def columns(at, query_sums, key_sums, totals, constants, bias, key):
        starting = load(query_sums)
        a = add(load(at), add(starting, whole(load_i32(key_sums))))
        b = add(load(at + row), add(starting, whole(load_i32(key_sums + 4))))
        c = add(load(at + 2 * row), add(starting, whole(load_i32(key_sums + 8))))
        d = add(load(at + 3 * row), add(starting, whole(load_i32(key_sums + 12))))
        e, f = convert(a, constants, bias, key), convert(b, constants, bias, key + 1)
        g, h = convert(c, constants, bias, key + 2), convert(d, constants, bias, key + 3)
        store(at, e)
        store(at + row, f)
        store(at + 2 * row, g)
        store(at + 3 * row, h)
        if summed:
            store(totals, add(add(add(add(load_totals(totals), e), f), g), h))

    return ready, routine(columns)


def own_keys(lanes):
    """A routine: of four keys only low .. high - 1 are the sentence's.  The exps of the others
    become 0, and the totals what they were before the four, and the sentence's own added.
    """
    load, splat, row = loads("f32", lanes), splats("f32", lanes), 4 * lanes

    def own(at, totals, before, low, high):
        for key in range(low):
            store(at + row * key, splat(f32(0)))
        for key in range(high, 4):
            store(at + row * key, splat(f32(0)))
        for key in range(low, high):
            before = add(before, load(at + row * key))
        store(totals, before)

    return routine(own)


def all_scores(depth, lanes, softmax, channels):
    """A routine that leaves what is kept of the scores of all groups of keys in `kept` and returns
    the totals of exps; of "bytes" the exps of neighbours' keys, in the first and the last four, are
    0.

    query: addresses of interleaved queries, their sums and the head's fours of channels; keys: of
    interleaved keys and their sums, and bytes of a tile of each.  Converting four keys takes a
    third of the time their products take, on other ports of the core: the sums wait in `kept` and
    are converted between the products of the next four.
    """
    (ready, columns), own = conversion_of_columns(lanes, softmax), own_keys(lanes)
    splat, whole, load_totals = splats("f32", lanes), splats("i32", lanes), loads("f32", lanes)
    load_queries, row = loads("u8", 4 * lanes), 4 * lanes  # bytes of a score's row
    (count, _), summed = listed(depth, channels), softmax == "bytes"

    def scores(query, keys, start, end, constants, kept, totals, bias):
        (queries, query_sums, fours), (first, sums, tile_bytes, sums_bytes) = query, keys
        at, waiting, held = kept, i64(0), ready(constants)
        entries, reach, first_query = bias
        turns = (count(fours) + 3) // 4 * (64 // lanes)  # of products, to 16 queries converted
        low, others = start & 3, i64(0)  # neighbours' keys: in the first four, in those that wait
        store(totals, splat(f32(0)))
        for group in range(start // 4, (end + 3) // 4):
            q, k = queries, first + (group >> 4) * tile_bytes + 16 * (group & 15)
            a, b, c, d = whole(i32(0)), whole(i32(0)), whole(i32(0)), whole(i32(0))
            for part in range(0, row, 64):
                for _ in range(turns):
                    x = load_queries(q)
                    a, b = dot4(a, x, load_i32(k)), dot4(b, x, load_i32(k + 4))
                    c, d = dot4(c, x, load_i32(k + 8)), dot4(d, x, load_i32(k + 12))
                    q, k = q + 4 * TILE, k + 4 * TILE
                if waiting:
                    own_bias, key = (entries, reach, first_query + part // 4), 4 * group - 4
                    to, totals_at = at - 4 * row + part, totals + part
                    columns(to, query_sums + part, waiting, totals_at, held, own_bias, key)
            store(at, a)
            store(at + row, b)
            store(at + 2 * row, c)
            store(at + 3 * row, d)
            if summed:
                if others:
                    own(kept, totals, splat(f32(0)), others, 4)
                others, low = low, i64(0)
            waiting, at = sums + (group >> 4) * sums_bytes + 16 * (group & 15), at + 4 * row
        before = load_totals(totals)
        for part in range(0, row, 64):
            own_bias, key = (entries, reach, first_query + part // 4), (end - 1) // 4 * 4
            to, totals_at = at - 4 * row + part, totals + part
            columns(to, query_sums + part, waiting, totals_at, held, own_bias, key)
        if summed and (others or end & 3):
            own(at - 4 * row, totals, before, others, ((end - 1) & 3) + 1)
        return load_totals(totals)

    return routine(scores)


def in_window(lanes):
    """Two routines on what `kept` has of the keys start .. end - 1: scores of keys outside the
    window far below; exps of these 0, and the totals of the others.  view, at: window.py.
    """
    load, splat, row = loads("f32", lanes), splats("f32", lanes), 4 * lanes
    (places_of, keep), lowered = near(lanes), far_below(lanes)

    def lower(kept, start, end, view, at):
        places, first = places_of(view, at), start & ~3
        for key in range(start, end):
            to = kept + row * (key - first)
            store(to, lowered(load(to), keep(view, places, key)))

    def sum_of_near(kept, start, end, view, at):
        places, first, totals = places_of(view, at), start & ~3, splat(f32(0))
        for key in range(start, end):
            to = kept + row * (key - first)
            store(to, mul(load(to), keep(view, places, key)))
            totals = add(totals, load(to))
        return totals

    return routine(lower), routine(sum_of_near)


def exps_of(depth, lanes, softmax, channels):
    """A routine that leaves exps in `kept`, 0 for neighbours' keys and those outside the window,
    and returns their totals; view, at: window.py.
    """
    scores = all_scores(depth, lanes, softmax, channels)
    splat = splats("f32", lanes)
    load = loads("f32", lanes)
    (ready, _, exp), row = conversion(lanes, softmax), 4 * lanes
    lower, sum_of_near = in_window(lanes)

    def known(query, keys, start, end, constants, kept, sums, bias, view, at):
        totals = scores(query, keys, start, end, constants, kept, sums, bias)
        if view[3] >= 0:
            totals = sum_of_near(kept, start, end, view, at)
        return totals

    def from_greatest(query, keys, start, end, constants, kept, sums, bias, view, at):
        totals = scores(query, keys, start, end, constants, kept, sums, bias)
        first, held = start & ~3, ready(constants)
        if view[3] >= 0:
            lower(kept, start, end, view, at)
        top = load(kept + row * (start - first))
        for key in range(start + 1, end):  # a neighbour's score may be far above all of ours
            top = maximum(top, load(kept + row * (key - first)))
        for key in range(first, (end + 3) & ~3):
            e = splat(f32(0))
            if key >= start and key < end:
                e = exp(load(kept + row * (key - first)), top, held)
            store(kept + row * (key - first), e)
            totals = add(totals, e)
        if view[3] >= 0:
            totals = sum_of_near(kept, start, end, view, at)
        return totals

    return routine(known if softmax == "bytes" else from_greatest)
