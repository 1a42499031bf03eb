"""The "rows" domain, one lane a sentence: choosing each sentence's first token, and dense float32
layers for a few rows.

dense_rows puts outputs in lanes, x broadcast, as there may be one sentence only; four share what is
read of the weights.  output_rows copies float32 rows to the call's result [batch][channels].
params: SELECT, DENSE_ROWS, OUTPUT.
"""

import numba as nb

from ..codegen.lower import routine
from ..codegen.simd import (
    fma,
    load_f32,
    load_i64,
    load_int,
    load_u8,
    loads,
    splats,
    store,
    store_u8,
    store_unaligned,
)
from .activations import ACTIVATIONS
from .buffers import tile_of
from .context import CONTEXT, OUTPUTS_OF_ROWS, ROWS, TILE
from .params import DENSE_ROWS, OUTPUT, SELECT

f32 = nb.float32


def select(kind):
    """The chosen token of each sentence, from tiles of tokens to tiles of sentences; kind: "u8" or
    "f32".  A unit is a tile of rows.
    """
    size = 1 if kind == "u8" else 4

    def kernel(params, context, begin, end):
        arena, starts = load_i64(context + CONTEXT.arena), load_i64(context + CONTEXT.starts)
        sentences = load_i64(context + CONTEXT.sentences)
        first = load_i64(context + CONTEXT.first_row)
        channels, index = load_i64(params + SELECT.channels), load_i64(params + SELECT.index)
        starts += 4 * load_i64(params + SELECT.behind)
        for tile in range(begin, end):
            y = tile_of(arena, params + SELECT.y, tile)
            low = max(first, ROWS * tile)
            for row in range(low, min(first + sentences, ROWS * tile + ROWS)):
                lane, token = row - ROWS * tile, load_int(starts + 4 * (row - first)) + index
                x = tile_of(arena, params + SELECT.x, token // TILE) + size * (token % TILE)
                for n in range(channels):
                    if size == 1:
                        store_u8(y + ROWS * n + lane, load_u8(x + TILE * n))
                    else:
                        store_unaligned(y + 4 * (ROWS * n + lane), load_f32(x + 4 * TILE * n))

    return kernel


def _value(kind):
    """A routine: x of one channel and sentence as float32."""

    def of_float(x, n, lane, scale, zero):
        return load_f32(x + 4 * (ROWS * n + lane))

    def of_byte(x, n, lane, scale, zero):
        return f32(load_u8(x + ROWS * n + lane) - zero) * scale

    return routine(of_float if kind == "f32" else of_byte)


def _products(kind, lanes, sentences):
    """A routine: outputs first .. last - 1, `lanes` at a time, of 1 or 4 sentences to scratch, a
    row of OUTPUTS_OF_ROWS each; behind sentence `most` that one takes part again.
    """
    value, load, splat = _value(kind), loads("f32", lanes), splats("f32", lanes)
    row = 4 * OUTPUTS_OF_ROWS

    def one(x, lane, most, weights, inputs, outputs, first, last, scale, zero, out):
        for n in range(first, last, lanes):
            acc, w = load(weights + 4 * (inputs * outputs + n)), weights + 4 * n
            for k in range(inputs):
                acc = fma(splat(value(x, k, lane, scale, zero)), load(w), acc)
                w += 4 * outputs
            store(out, acc)
            out += 4 * lanes

    def four(x, lane, most, weights, inputs, outputs, first, last, scale, zero, out):
        p, q, r = min(lane + 1, most), min(lane + 2, most), min(lane + 3, most)
        for n in range(first, last, lanes):
            a, w = load(weights + 4 * (inputs * outputs + n)), weights + 4 * n
            b, c, d = a, a, a
            for k in range(inputs):
                shared = load(w)
                a = fma(splat(value(x, k, lane, scale, zero)), shared, a)
                b = fma(splat(value(x, k, p, scale, zero)), shared, b)
                c = fma(splat(value(x, k, q, scale, zero)), shared, c)
                d = fma(splat(value(x, k, r, scale, zero)), shared, d)
                w += 4 * outputs
            store(out, a)
            store(out + row, b)
            store(out + 2 * row, c)
            store(out + 3 * row, d)
            out += 4 * lanes

    return routine(one if sentences == 1 else four)


def dense_rows(kind, activation):
    """y = activation(x W + bias) in float32; x of kind "f32" or "u8".  A unit is (tile of rows,
    block of 64 outputs).
    """
    act, load = ACTIVATIONS[activation](16), loads("f32", 16)
    four_wide, four = _products(kind, OUTPUTS_OF_ROWS, 4), _products(kind, 16, 4)
    one_wide, one = _products(kind, OUTPUTS_OF_ROWS, 1), _products(kind, 16, 1)

    def kernel(params, context, begin, end):
        arena, sentences = load_i64(context + CONTEXT.arena), load_i64(context + CONTEXT.sentences)
        start, made = load_i64(context + CONTEXT.first_row), load_i64(context + CONTEXT.scratch)
        inputs = load_i64(params + DENSE_ROWS.inputs)
        outputs = load_i64(params + DENSE_ROWS.outputs)
        scale, zero = load_f32(params + DENSE_ROWS.x_scale), load_i64(params + DENSE_ROWS.x_zero)
        w = load_i64(params + DENSE_ROWS.weights)
        blocks = (outputs + OUTPUTS_OF_ROWS - 1) // OUTPUTS_OF_ROWS
        for unit in range(begin, end):
            tile, first = unit // blocks, OUTPUTS_OF_ROWS * (unit % blocks)
            last = min(first + OUTPUTS_OF_ROWS, outputs)
            x = tile_of(arena, params + DENSE_ROWS.x, tile)
            y = tile_of(arena, params + DENSE_ROWS.y, tile) + 4 * ROWS * first
            most = min(start + sentences - ROWS * tile, ROWS) - 1
            for lane in range(max(start - ROWS * tile, 0), most + 1, 4):
                if lane == most and last - first == OUTPUTS_OF_ROWS:
                    one_wide(x, lane, most, w, inputs, outputs, first, last, scale, zero, made)
                elif lane == most:
                    one(x, lane, most, w, inputs, outputs, first, last, scale, zero, made)
                elif last - first == OUTPUTS_OF_ROWS:
                    four_wide(x, lane, most, w, inputs, outputs, first, last, scale, zero, made)
                else:
                    four(x, lane, most, w, inputs, outputs, first, last, scale, zero, made)
                for sentence in range(min(4, most + 1 - lane)):
                    row, to = made + 4 * OUTPUTS_OF_ROWS * sentence, y + 4 * (lane + sentence)
                    for n in range(0, last - first, 16):
                        store(row + 4 * n, act(load(row + 4 * n)))
                    for n in range(last - first):
                        store_unaligned(to + 4 * ROWS * n, load_f32(row + 4 * n))

    return kernel


def output_rows():
    """A unit is a tile of rows."""

    def kernel(params, context, begin, end):
        arena, sentences = load_i64(context + CONTEXT.arena), load_i64(context + CONTEXT.sentences)
        channels, number = load_i64(params + OUTPUT.channels), load_i64(params + OUTPUT.number)
        result = load_i64(load_i64(context + CONTEXT.outputs) + 8 * number)
        places = load_i64(context + CONTEXT.row_sentences)
        start = load_i64(context + CONTEXT.first_row)
        for tile in range(begin, end):
            x = tile_of(arena, params + OUTPUT.x, tile)
            low = max(start, ROWS * tile)
            for row in range(low, min(start + sentences, ROWS * tile + ROWS)):
                to = result + 4 * channels * load_int(places + 4 * row)
                for n in range(channels):
                    store_unaligned(to + 4 * n, load_f32(x + 4 * (ROWS * n + row % ROWS)))

    return kernel
