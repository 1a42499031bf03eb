"""Products on bytes in pieces of `width` tokens, and those whose x is interleaved beforehand.

    narrow_dot_u8s8_4x1   4 outputs x 1 input, as bytes_4x1.py, for few registers (width 16 or 32)
    sparse_dot_u8s16_4x1  the same for CPUs without VNNI
    dense_dot_u8s8        all inputs, interleaved
    sparse_dot_u8s8_1x4   blocks of 1 output x 4 inputs: a quad of interleaved x is what one reads

interleave_rows makes [piece][input / 4][token][4] once a tile, so that nothing is shuffled in the
loop.  A piece is `width` tokens in quad order: 64 on 512 bits, 32 where only half a tile of x fits
the first-level cache, 16 (where quad order is token order) on fewer bits.  A unit is (tile, part);
params, parts' rows, records and epilogues are those of bytes_4x1.py; headers, offsets and weights
those of pack/vectors.py.  Epilogue "dynamic", for an x that quantize_tokens made, gives float32:
    y[n, t] = activation((sum - zero[t] * total[n]) * (scale[n] * scale[t]) + shift[n])
Its record holds start 0 and from byte 48 int32 total[4], sums of each output's weights; params: 6
scales and zeros of tokens as quantize_tokens leaves them, 7 bytes of a tile of them.

interleave_rows: a unit is a tile; params: 0 x, 1 bytes of an x tile, 2 y, 3 bytes of a y tile,
4 inputs.  Its y has 4 * ceil(inputs / 4) rows; a last quad that is not whole repeats an input.
"""

import numba as nb

from ...codegen.lower import routine
from ...codegen.simd import (
    as_int,
    dot2_words,
    dot4,
    fma,
    in_token_order,
    interleave,
    load_f32,
    load_i32,
    load_i64,
    load_offsets,
    load_u16,
    loads,
    mul,
    splats,
    spreads,
    store,
    sub,
    to_float,
    weigh,
)
from ..activations import ACTIVATIONS
from ..context import ARENA
from .bytes_4x1 import EPILOGUES
from .panels import four_by_four, in_panels

f32 = nb.float32
SIZE = {"floats": 4, "rounded": 4, "dynamic": 4}  # bytes of a result where it is not a byte


def interleave_rows(lanes, width):
    """See the head of the file."""
    load = loads("u8", width)

    def kernel(params, context, begin, end):
        arena, inputs = load_i64(context + ARENA), load_i64(params + 32)
        whole, last = inputs // 4 * 4, lanes * (inputs - 1)
        for tile in range(begin, end):
            x = arena + load_i64(params) + load_i64(params + 8) * tile
            y = arena + load_i64(params + 16) + load_i64(params + 24) * tile
            for token in range(x, x + lanes, width):
                for k in range(0, whole, 4):
                    at = token + lanes * k
                    p, q = load(at), load(at + lanes)
                    r, s = load(at + 2 * lanes), load(at + 3 * lanes)
                    store(y, interleave(p, q, r, s))
                    y += 4 * width
                if whole < inputs:
                    at, top = token + lanes * whole, token + last
                    p, q = load(at), load(min(at + lanes, top))
                    r, s = load(min(at + 2 * lanes, top)), load(top)
                    store(y, interleave(p, q, r, s))
                    y += 4 * width

    return kernel


def dynamic_epilogue(lanes, width, activation):
    """table: scales of the piece's tokens; their zeros stand `lanes` floats behind."""
    splat, whole, act = splats("f32", width), splats("i32", width), ACTIVATIONS[activation](width)
    load_scales, load_zeros = loads("f32", width), loads("i32", width)

    def finish(out, sums, record, n, table, params):
        zeros = mul(load_zeros(table + 4 * lanes), whole(load_i32(record + 48 + 4 * n)))
        factor = mul(load_scales(table), splat(load_f32(record + 4 * n)))
        v = to_float(sub(in_token_order(sums), zeros))
        v = fma(v, factor, splat(load_f32(record + 32 + 4 * n)))
        store(out + 4 * lanes * n, act(v))

    return routine(finish)


def finish_at(lanes, width, epilogue, activation):
    """An epilogue on `width` of the `lanes` tokens of a row."""
    if epilogue == "dynamic":
        return dynamic_epilogue(lanes, width, activation)
    finish, gap = EPILOGUES[epilogue](width, activation), SIZE.get(epilogue, 1) * (lanes - width)

    def place(out, sums, record, n, table, params):
        finish(out + gap * n, sums, record, n, table, params)

    return routine(place)


def product(accumulate, pieces, step, lanes, width, epilogue, activation):
    """The loops around accumulate(x, steps, offsets, weights, a, b, c, d) -> four sums.

    pieces: x is interleaved; step: bytes of offsets and of weights.
    """
    finish, size = finish_at(lanes, width, epilogue, activation), SIZE.get(epilogue, 1)
    splat, dynamic = splats("i32", width), epilogue == "dynamic"
    offset_bytes, weight_bytes = step

    def kernel(params, context, begin, end):
        arena = load_i64(context + ARENA)
        x, y = arena + load_i64(params), arena + load_i64(params + 16)
        x_tile, y_tile = load_i64(params + 8), load_i64(params + 24)
        parts, rows = load_i64(params + 32), load_i64(params + 40)
        for unit in range(begin, end):
            tile, part = unit // parts, rows + 48 * (unit % parts)
            for token in range(0, lanes, width):
                source = x + tile * x_tile + (x_tile * token // lanes if pieces else token)
                target = y + tile * y_tile + size * token
                headers, offsets = load_i64(part + 8), load_i64(part + 16)
                weights, record = load_i64(part + 24), load_i64(part + 32)
                table = load_i64(part + 40)
                if dynamic:
                    table = arena + load_i64(params + 48) + load_i64(params + 56) * tile + 4 * token
                for _ in range(load_i64(part)):
                    steps = load_i32(headers)
                    a, b = splat(load_i32(record + 16)), splat(load_i32(record + 20))
                    c, d = splat(load_i32(record + 24)), splat(load_i32(record + 28))
                    a, b, c, d = accumulate(source, steps, offsets, weights, a, b, c, d)
                    out = target + load_i32(headers + 4)
                    finish(out, a, record, 0, table, params)
                    finish(out, b, record, 1, table, params)
                    finish(out, c, record, 2, table, params)
                    finish(out, d, record, 3, table, params)
                    offsets, weights = (
                        offsets + offset_bytes * steps,
                        weights + weight_bytes * steps,
                    )
                    headers, record = headers + 8, record + 64

    return kernel


def dense_dot_u8s8(lanes, width, epilogue, activation):
    """4 outputs share each load of x."""
    load = loads("u8", 4 * width)

    def accumulate(x, steps, offsets, weights, a, b, c, d):
        for _ in range(steps):
            v = load(x)
            a, b = dot4(a, v, load_i32(weights)), dot4(b, v, load_i32(weights + 4))
            c, d = dot4(c, v, load_i32(weights + 8)), dot4(d, v, load_i32(weights + 12))
            x, weights = x + 4 * width, weights + 16
        return a, b, c, d

    return product(routine(accumulate), True, (0, 16), lanes, width, epilogue, activation)


def narrow_dot_u8s8_4x1(lanes, width, epilogue, activation):
    """Pieces of four rows are interleaved in registers."""
    load = loads("u8", width)
    stretch = lanes // 8  # 8 * input -> bytes

    def accumulate(x, steps, offsets, weights, a, b, c, d):
        for _ in range(steps):
            p, q, r, s = load_offsets(offsets)
            v = interleave(
                load(x + stretch * p),
                load(x + stretch * q),
                load(x + stretch * r),
                load(x + stretch * s),
            )
            a, b = dot4(a, v, load_i32(weights)), dot4(b, v, load_i32(weights + 4))
            c, d = dot4(c, v, load_i32(weights + 8)), dot4(d, v, load_i32(weights + 12))
            offsets, weights = offsets + 8, weights + 16
        return a, b, c, d

    return product(routine(accumulate), False, (8, 16), lanes, width, epilogue, activation)


def sparse_dot_u8s16_4x1(lanes, width, epilogue, activation):
    """Weights as 16-bit numbers, two inputs at a time: without VNNI nothing has to be split."""
    load = loads("u8", width)
    stretch = lanes // 8  # 8 * input -> bytes

    def accumulate(x, steps, offsets, weights, a, b, c, d):
        for _ in range(steps):
            p, q = x + stretch * load_u16(offsets), x + stretch * load_u16(offsets + 2)
            v = as_int(weigh(load(p), load(q)))
            a, b = dot2_words(a, v, load_i32(weights)), dot2_words(b, v, load_i32(weights + 4))
            c, d = dot2_words(c, v, load_i32(weights + 8)), dot2_words(d, v, load_i32(weights + 12))
            offsets, weights = offsets + 4, weights + 16
        return a, b, c, d

    return product(routine(accumulate), False, (4, 16), lanes, width, epilogue, activation)


def sparse_dot_u8s8_1x4(lanes, width, epilogue, activation):
    """A step takes a block of each of 4 outputs, whose sums do not wait for one another."""
    load = loads("u8", 4 * width)
    first, second, third, fourth = (spreads(n, width) for n in range(4))
    quad = 4 * width  # bytes

    def step(x, at, four, a, b, c, d):
        p, q, r, s = at
        a = dot4(a, load(x + p), first(four))
        b = dot4(b, load(x + q), second(four))
        c = dot4(c, load(x + r), third(four))
        d = dot4(d, load(x + s), fourth(four))
        return a, b, c, d

    finish, size = finish_at(lanes, width, epilogue, activation), SIZE.get(epilogue, 1)
    splat = splats("i32", width)

    def start(first):
        return splat(load_i32(first))

    loop, dynamic = four_by_four(routine(step), quad), epilogue == "dynamic"
    return in_panels(loop, routine(start), finish, "i32", size, quad, dynamic, lanes, width)
