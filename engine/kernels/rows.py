"""The "rows" domain, one lane a sentence: choosing each sentence's first token, and dense float32
layers for a few rows.

select params: 0 x, 1 bytes of an x tile, 2 y, 3 bytes of a y tile, 4 channels, 5 index of the token
in its sentence. dense_rows params: 0 x, 1 bytes of an x tile, 2 y, 3 bytes of a y tile, 4 inputs, 5
outputs rounded up to 16, 6 address of weights [inputs][outputs up to 16] then bias, 7 float32
scale, 8 zero point of x (bytes only). dense_rows puts outputs in lanes: a sentence at a time, x
broadcast, as there may be one sentence only. output_rows params: 0 x, 1 bytes of an x tile, 2 which
output, 3 channels: float32 rows to the call's result [batch][channels].
"""

import numba as nb

from ..lower import routine
from ..simd import (
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
from .context import ARENA, FIRST, OUTPUTS, ROWS, SCRATCH, SENTENCES, STARTS, TILE

f32 = nb.float32


def select(kind):
    """The chosen token of each sentence, from tiles of tokens to tiles of sentences; kind: "u8" or
    "f32".  A unit is a tile of rows.
    """
    size = 1 if kind == "u8" else 4

    def kernel(params, context, begin, end):
        arena, starts, sentences = (
            load_i64(context + ARENA),
            load_i64(context + STARTS),
            load_i64(context + SENTENCES),
        )
        channels, index = load_i64(params + 32), load_i64(params + 40)
        for tile in range(begin, end):
            y = arena + load_i64(params + 16) + load_i64(params + 24) * tile
            for lane in range(min(sentences - ROWS * tile, ROWS)):
                token = load_int(starts + 4 * (ROWS * tile + lane)) + index
                x = (
                    arena
                    + load_i64(params)
                    + load_i64(params + 8) * (token // TILE)
                    + size * (token % TILE)
                )
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


def _products(kind, lanes):
    """A routine: outputs first .. last - 1, `lanes` at a time, of one sentence to scratch."""
    value, load, splat = _value(kind), loads("f32", lanes), splats("f32", lanes)

    def multiply(x, lane, weights, inputs, outputs, first, last, scale, zero, out):
        for n in range(first, last, lanes):
            acc, w = load(weights + 4 * (inputs * outputs + n)), weights + 4 * n
            for k in range(inputs):
                acc = fma(splat(value(x, k, lane, scale, zero)), load(w), acc)
                w += 4 * outputs
            store(out + 4 * n, acc)

    return routine(multiply)


def dense_rows(kind, activation):
    """y = activation(x W + bias) in float32; x of kind "f32" or "u8".  A unit is a tile of rows."""
    act, load = ACTIVATIONS[activation](16), loads("f32", 16)
    multiply_wide, multiply = _products(kind, 64), _products(kind, 16)

    def kernel(params, context, begin, end):
        arena, sentences = load_i64(context + ARENA), load_i64(context + SENTENCES)
        scratch, weights = load_i64(context + SCRATCH), load_i64(params + 48)
        inputs, outputs = load_i64(params + 32), load_i64(params + 40)
        scale, zero = load_f32(params + 56), load_i64(params + 64)
        most = outputs // 64 * 64
        for tile in range(begin, end):
            x = arena + load_i64(params) + load_i64(params + 8) * tile
            y = arena + load_i64(params + 16) + load_i64(params + 24) * tile
            for lane in range(min(sentences - ROWS * tile, ROWS)):
                multiply_wide(x, lane, weights, inputs, outputs, 0, most, scale, zero, scratch)
                multiply(x, lane, weights, inputs, outputs, most, outputs, scale, zero, scratch)
                for n in range(0, outputs, 16):
                    store(scratch + 4 * n, act(load(scratch + 4 * n)))
                for n in range(outputs):
                    store_unaligned(y + 4 * (ROWS * n + lane), load_f32(scratch + 4 * n))

    return kernel


def output_rows():
    """A unit is a tile of rows."""

    def kernel(params, context, begin, end):
        arena, sentences, channels = (
            load_i64(context + ARENA),
            load_i64(context + SENTENCES),
            load_i64(params + 24),
        )
        result = load_i64(load_i64(context + OUTPUTS) + 8 * load_i64(params + 16))
        for tile in range(begin, end):
            x = arena + load_i64(params) + load_i64(params + 8) * tile
            for lane in range(min(sentences - ROWS * tile, ROWS)):
                to = result + 4 * channels * (load_i64(context + FIRST) + ROWS * tile + lane)
                for n in range(channels):
                    store_unaligned(to + 4 * n, load_f32(x + 4 * (ROWS * n + lane)))

    return kernel
