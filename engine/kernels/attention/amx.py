"""Attention on bytes with AMX: arithmetic and parameters of bytes.py, both products in tiles.

    scores    16 keys x 16 queries   a: keys s8 [key][depth], b: queries u8 [depth / 4][token][4]
    context   16 channels x 16 q.    a: values s8 [channel][key] as they lie, b: probabilities
                                     u8 [keys / 4][token][4], 0 for keys of other sentences

Only the keys have to be turned: transpose_keys writes [tile][head][64 keys][depth].  Results lie
[key][token] and [channel][token], so softmax and epilogue run as they do without tiles: exps are
summed in the same order, so the bytes are the same.

A unit is (tile, head).  Depth is a power of two from 16 to 128; softmax as in bytes.py.
params of both kernels: those of interleave_keys and attention_u8; all channels count.
"""

from functools import partial

import numba as nb

from ...codegen.lower import routine
from ...codegen.simd import (
    MAGIC,
    add,
    as_int,
    div,
    dot4,
    fma,
    interleave_in_order,
    load_f32,
    load_i32,
    load_i64,
    loads,
    maximum,
    mul,
    pack_in_order,
    quads_of_words,
    splats,
    store,
    store_lanes,
    to_float,
    xor,
    zip_high,
    zip_low,
)  # fmt: skip
from ..buffers import tile_of
from ..context import CONTEXT, TILE
from ..tiles import configures, every, products, release, tile_loads, tile_stores, zeros
from .byte_scores import ONES, conversion, interleave_queries
from .records import ATTENTION_BYTES as BYTES
from .records import CONSTANTS, KEYS
from .sentences import for_each_sentence

f32, i32 = nb.float32, nb.int32


def _transposition(depth):
    """A routine (x [depth][64] bytes, out [64][depth], scratch, flip).

    Interleaving row i with row i + depth / 2 turns the bits of an address (channel, token) left by
    one; after log2(depth) rounds they are (token, channel).
    """
    load, rounds = loads("u8", TILE), depth.bit_length() - 1
    splat = splats("i32", TILE // 4)

    def transpose(x, out, scratch, flip):
        turned = splat(flip)
        for row in range(depth):
            store(scratch + TILE * row, xor(as_int(load(x + TILE * row)), turned))
        source, target = scratch, scratch + TILE * depth
        for step in range(rounds):
            if step == rounds - 1:
                target = out
            for row in range(depth // 2):
                p, q = load(source + TILE * row), load(source + TILE * (row + depth // 2))
                store(target + 2 * TILE * row, zip_low(p, q))
                store(target + 2 * TILE * row + TILE, zip_high(p, q))
            source, target = target, source

    return routine(transpose)


def amx_transpose_keys(depth):
    """keys and sums of every (tile, head); params as interleave_keys has them."""
    load, splat, transpose = loads("u8", TILE), splats("i32", TILE), _transposition(depth)

    def kernel(params, context, begin, end):
        arena, scratch = load_i64(context + CONTEXT.arena), load_i64(context + CONTEXT.scratch)
        heads, flip = load_i64(params + KEYS.heads), load_i32(params + KEYS.flip)
        factor = splat(load_i32(params + KEYS.factor))
        for unit in range(begin, end):
            tile = tile_of(arena, params + KEYS.k, unit // heads)
            at = tile + depth * TILE * (unit % heads)
            transpose(at, arena + load_i64(params + KEYS.keys) + depth * TILE * unit, scratch, flip)
            sums = splat(i32(0))
            for _ in range(depth // 4):
                a, b, c, d = load(at), load(at + TILE), load(at + 2 * TILE), load(at + 3 * TILE)
                sums, at = dot4(sums, interleave_in_order(a, b, c, d), i32(ONES)), at + 4 * TILE
            extra = splat(load_i32(load_i64(params + KEYS.extra) + 4 * (unit % heads)))
            store(
                arena + load_i64(params + KEYS.key_sums) + 4 * TILE * unit,
                add(mul(sums, factor), extra),
            )

    return kernel


# --- tiles: 0-3 sums, 4 and 5 keys and queries, 6 and 7 values and probabilities
def _shapes(depth):
    step = min(depth, 64)
    return ((16, 64),) * 4 + ((16, step), (step // 4, 64), (16, 64), (16, 64))


def _strip(lanes, left, right):
    """Routines clear(), multiply(a, a_row, b, b_row), save(sums): 16 rows x `lanes` columns."""
    columns, row = lanes // 16, 4 * lanes
    load_left, load_right = tile_loads(left), tile_loads(right)
    a, b, c, d = (products("tdpbsud", tile, left, right) for tile in range(4))
    store_a, store_b, store_c, store_d = (tile_stores(tile) for tile in range(4))

    def one(at, at_row, by, by_row):
        load_left(at, at_row)
        load_right(by, by_row)
        a()

    def two(at, at_row, by, by_row):
        load_left(at, at_row)
        load_right(by, by_row)
        a()
        load_right(by + 64, by_row)
        b()

    def four(at, at_row, by, by_row):
        load_left(at, at_row)
        load_right(by, by_row)
        a()
        load_right(by + 64, by_row)
        b()
        load_right(by + 128, by_row)
        c()
        load_right(by + 192, by_row)
        d()

    def save_one(sums):
        store_a(sums, row)

    def save_two(sums):
        store_a(sums, row)
        store_b(sums + 64, row)

    def save_four(sums):
        store_a(sums, row)
        store_b(sums + 64, row)
        store_c(sums + 128, row)
        store_d(sums + 192, row)

    multiply, save = {1: (one, save_one), 2: (two, save_two), 4: (four, save_four)}[columns]
    return every([zeros(tile) for tile in range(columns)]), routine(multiply), routine(save)


def _exps_from_greatest(lanes, softmax):
    """A routine: what is kept of a sentence's scores -> exps, once the greatest is known; returns
    their sums."""
    load, row, splat = loads("f32", lanes), 4 * lanes, splats("f32", lanes)
    ready, _, exp = conversion(lanes, softmax)

    def from_greatest(first, keys, constants):
        held, top, totals = ready(constants), load(first), splat(f32(0))
        for key in range(1, keys):
            top = maximum(top, load(first + row * key))
        for key in range(keys):
            e = exp(load(first + row * key), top, held)
            store(first + row * key, e)
            totals = add(totals, e)
        return totals

    return routine(from_greatest)


def _scores(depth, lanes, softmax):
    """A routine: exp of every score of a sentence, to exps[key - base]; returns their sums."""
    ready, convert, _ = conversion(lanes, softmax)
    from_greatest, at_once = _exps_from_greatest(lanes, softmax), softmax == "bytes"
    load_sums, splat, whole = loads("i32", lanes), splats("f32", lanes), splats("i32", lanes)
    row, step = 4 * lanes, min(depth, 64)
    clear, multiply, save = _strip(lanes, 4, 5)

    def scores(query, key, start, end, constants, exps):
        (queries, sums), (keys, k_tile, key_sums, s_tile) = query, key
        starting, totals, base = load_sums(sums), splat(f32(0)), start & ~63
        held = ready(constants)
        for block in range(start & ~15, end, 16):
            clear()
            left = keys + (block >> 6) * k_tile + depth * (block & 63)
            for part in range(depth // step):
                multiply(left + step * part, depth, queries + step * TILE * part, 4 * TILE)
            save(exps + row * (block - base))
            extra = key_sums + (block >> 6) * s_tile
            for n in range(max(block, start), min(block + 16, end)):
                at, more = exps + row * (n - base), whole(load_i32(extra + 4 * (n & 63)))
                p = convert(add(load_sums(at), add(starting, more)), held, (0, 0, 0), 0)
                store(at, p)
                if at_once:
                    totals = add(totals, p)
        if not at_once:
            totals = from_greatest(exps + row * (start - base), end - start, constants)
        return totals

    return routine(scores)


def _quantise(lanes):
    """A routine: u8(exps * factor), four keys together; returns the sum of every token's bytes."""
    load, splat, whole = loads("f32", lanes), splats("f32", lanes), splats("i32", lanes)
    row = 4 * lanes

    def byte(at, factor):
        return as_int(fma(load(at), factor, splat(f32(MAGIC))))

    byte = routine(byte)

    def quantise(exps, keys, factor, probabilities):
        weight = whole(i32(0))
        for _ in range(keys >> 2):
            p = quads_of_words(
                byte(exps, factor),
                byte(exps + row, factor),
                byte(exps + 2 * row, factor),
                byte(exps + 3 * row, factor),
            )
            store(probabilities, p)
            weight = dot4(weight, p, i32(ONES))
            exps, probabilities = exps + 4 * row, probabilities + row
        return weight

    return routine(quantise)


def _context(depth, lanes):
    """A routine: every channel of `keys` whole tiles of values, to the lanes first .. last - 1."""
    splat, load, row = splats("f32", lanes), loads("i32", lanes), 4 * lanes
    clear, multiply, save = _strip(lanes, 6, 7)

    def finish(value, probabilities, keys, starting, constants, sums, to):
        (values, v_tile), (out, first, last) = value, to
        scale = splat(load_f32(constants + CONSTANTS.value_scale))
        zero = splat(load_f32(constants + CONSTANTS.output_zero))
        for channel in range(0, depth, 16):
            clear()
            at, by = values + TILE * channel, probabilities
            for _ in range(keys >> 6):
                multiply(at, TILE, by, row)
                at, by = at + v_tile, by + 16 * row
            save(sums)
            for n in range(16):
                v = fma(to_float(add(load(sums + row * n), starting)), scale, zero)
                store_lanes(out + TILE * (channel + n), pack_in_order(v), first, last)

    return routine(finish)


def _block(depth, softmax, lanes):
    """A routine: one sentence for `lanes` queries."""
    scores, quantise = _scores(depth, lanes, softmax), _quantise(lanes)
    context = _context(depth, lanes)
    splat, whole, row = splats("f32", lanes), splats("i32", lanes), 4 * lanes

    def attend(operands, start, end, at, first, last):
        (queries, sums), key, (values, v_tile), (constants, exps, out) = operands
        query, to = (queries + 4 * at, sums + 4 * at), (out + at, first, last)
        base = start & ~63
        held = ((end + 63) & ~63) - base  # keys, with neighbours' in the first and last tile
        probabilities = exps + held * row
        totals = scores(query, key, start, end, constants, exps)
        for n in range(start - base):
            store(exps + row * n, splat(f32(0)))
        for n in range(end - base, held):
            store(exps + row * n, splat(f32(0)))
        factor = div(splat(load_f32(constants + CONSTANTS.probability_factor)), totals)
        weight = quantise(exps, held, factor, probabilities)
        starting = mul(weight, whole(load_i32(constants + CONSTANTS.value_zero)))
        value, work = values + (base >> 6) * v_tile, probabilities + held // 4 * row
        context((value, v_tile), probabilities, held, starting, constants, work, to)

    return routine(attend)


def amx_attention_u8(depth, softmax):
    """Every token is a query."""
    turn, configure = interleave_queries(depth, TILE, "all"), configures(_shapes(depth))
    visit = for_each_sentence(partial(_block, depth, softmax), TILE)

    def kernel(params, context, begin, end):
        arena, scratch = load_i64(context + CONTEXT.arena), load_i64(context + CONTEXT.scratch)
        heads, constants = load_i64(params + BYTES.heads), load_i64(params + BYTES.constants)
        queries, sums = scratch + 64, scratch + 64 + depth * TILE
        exps, v_tile = sums + 4 * TILE, load_i64(params + BYTES.v_tile)
        configure(scratch)
        for unit in range(begin, end):
            tile, head = unit // heads, unit % heads
            channel = depth * TILE * head
            turn(tile_of(arena, params + BYTES.q, tile) + channel, queries, sums, constants, 0)
            keys = arena + load_i64(params + BYTES.keys) + channel
            key_sums = arena + load_i64(params + BYTES.key_sums) + 4 * TILE * head
            values = arena + load_i64(params + BYTES.v) + channel
            out = tile_of(arena, params + BYTES.y, tile) + channel
            operands = (
                (queries, sums),
                (keys, heads * depth * TILE, key_sums, heads * 4 * TILE),
                (values, v_tile),
                (constants, exps, out),
            )
            visit(context, tile, operands, 0)
        release()

    return kernel
