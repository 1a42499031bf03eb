"""Products of float32 and bfloat16: y[n, t] = activation(sum over k of w[n, k] x[k, t] + bias[n]).

Sums are float32 and stay in registers: 4 outputs x `width` tokens.  `width` divides `lanes`, the
tokens of a row, so that registers suffice: 64 on 512 bits, 16 on fewer.  A unit is (tile, part).
params and the parts' rows are those of bytes_4x1.py, headers, offsets and weights those of
pack/vectors.py.
record (64 bytes): unused[4]; float32 bias[4]; unused[4]; float32 a, b; int32 flip; unused.  With
output "u8" the result is u8(round(y * a + b)), b with MAGIC, its bits changed by flip; with a form
of bfloat16, below, what the one who reads it wants: a tile is one piece then.

x of the float32 kernels for 4x1 and dense is [input][token], as everywhere.  The others read what
round_rows makes of it once a tile:
    "rows"    bfloat16 [input][token] for 4x1: two rows are unpacked into pairs for four outputs
    "pairs"   bfloat16 [piece][input / 2][token][2] for 1x4 and dense: nothing is shuffled
    "pieces"  float32 [piece][input][token] for 1x4
    "words"   bfloat16 [input][token] for attention, token after token
A piece is `width` tokens: where an x of 64 tokens overflows the first-level cache one of 32 or 16
may fit, and a 1x4 product loads x as often as it multiplies.  round_rows: a unit is a tile; params:
0 x, 1 bytes of an x tile, 2 y, 3 bytes of a y tile, 4 inputs.  Pairs and pieces have
4 * ceil(inputs / 4) rows; what is missing is 0.
"""

import numba as nb

from ...codegen.lower import routine
from ...codegen.simd import (
    as_float,
    as_int,
    bf16_in_order,
    bf16_pairs,
    bf16_rows,
    dot2_bf16,
    fma,
    interleave_words,
    load_f32,
    load_four,
    load_i32,
    load_i64,
    load_u16,
    loads,
    multiply_add,
    pack_in_order,
    splats,
    spreads,
    store,
    xor,
)
from ..activations import ACTIVATIONS, ROUGH_ACTIVATIONS
from ..context import ARENA
from .panels import in_panels, one_by_one

f32 = nb.float32
SIZE = {"f32": 4, "u8": 1, "rows": 2, "words": 2, "pairs": 2}


def round_rows(lanes, width, form):
    """What the kernels read, from float32; see the head of the file."""
    if form in ("rows", "words"):
        return _rows(lanes, width, bf16_rows if form == "rows" else bf16_in_order)
    return _pieces(lanes, width, form)


def _rows(lanes, width, rounded):
    load = loads("f32", width)

    def kernel(params, context, begin, end):
        arena, inputs = load_i64(context + ARENA), load_i64(params + 32)
        for tile in range(begin, end):
            x = arena + load_i64(params) + load_i64(params + 8) * tile
            y = arena + load_i64(params + 16) + load_i64(params + 24) * tile
            for at in range(0, lanes * inputs, width):
                store(y + 2 * at, rounded(load(x + 4 * at)))

    return kernel


def _pieces(lanes, width, form):
    load, splat = loads("f32", width), splats("f32", width)

    def put_pairs(y, p, q):
        store(y, bf16_pairs(p, q))
        return y + 4 * width

    def put_floats(y, p, q):
        store(y, p)
        store(y + 4 * width, q)
        return y + 8 * width

    put = routine(put_pairs if form == "pairs" else put_floats)

    def kernel(params, context, begin, end):
        arena, inputs = load_i64(context + ARENA), load_i64(params + 32)
        for tile in range(begin, end):
            x = arena + load_i64(params) + load_i64(params + 8) * tile
            y = arena + load_i64(params + 16) + load_i64(params + 24) * tile
            for token in range(0, lanes, width):
                for k in range(0, (inputs + 3) // 4 * 4, 2):
                    at, p, q = x + 4 * (lanes * k + token), splat(f32(0)), splat(f32(0))
                    if k < inputs:
                        p = load(at)
                    if k + 1 < inputs:
                        q = load(at + 4 * lanes)
                    y = put(y, p, q)

    return kernel


def float_epilogue(lanes, width, output, activation):
    """A routine (address of output 0's tokens, sums in token order, record, n)."""
    splat, flip = splats("f32", width), splats("i32", width // 4)
    act = (ACTIVATIONS if output == "f32" else ROUGH_ACTIVATIONS)[activation](width)

    def floats(out, sums, record, n):
        store(out + 4 * lanes * n, act(sums))

    def rows(out, sums, record, n):
        store(out + 2 * lanes * n, bf16_rows(act(sums)))

    def words(out, sums, record, n):
        store(out + 2 * lanes * n, bf16_in_order(act(sums)))

    def bytes_(out, sums, record, n):
        v = fma(act(sums), splat(load_f32(record + 48)), splat(load_f32(record + 52)))
        store(out + lanes * n, xor(as_int(pack_in_order(v)), flip(load_i32(record + 56))))

    return routine({"f32": floats, "rows": rows, "words": words, "u8": bytes_}[output])


def epilogue_of_four(lanes, width, output, activation):
    """A routine (address of output 0's tokens, sums of four outputs, record)."""
    if output == "pairs":
        act = ROUGH_ACTIVATIONS[activation](width)

        def pairs(out, a, b, c, d, record):
            store(out, bf16_pairs(act(a), act(b)))
            store(out + 4 * lanes, bf16_pairs(act(c), act(d)))

        return routine(pairs)

    finish = float_epilogue(lanes, width, output, activation)

    def one_by_one(out, a, b, c, d, record):
        finish(out, a, record, 0)
        finish(out, b, record, 1)
        finish(out, c, record, 2)
        finish(out, d, record, 3)

    return routine(one_by_one)


def product(accumulate, x_bytes, step, lanes, width, output, activation):
    """The loops around accumulate(x, steps, offsets, weights, a, b, c, d) -> four sums.

    x_bytes: from token to token of x, or 0: x is in pieces; step: bytes of offsets and of weights.
    """
    finish, size, start = (
        epilogue_of_four(lanes, width, output, activation),
        SIZE[output],
        splats("f32", width),
    )
    offset_bytes, weight_bytes = step

    def kernel(params, context, begin, end):
        arena = load_i64(context + ARENA)
        x, y = arena + load_i64(params), arena + load_i64(params + 16)
        x_tile, y_tile = load_i64(params + 8), load_i64(params + 24)
        parts, rows = load_i64(params + 32), load_i64(params + 40)
        for unit in range(begin, end):
            tile, part = unit // parts, rows + 48 * (unit % parts)
            for token in range(0, lanes, width):
                source = (
                    x + tile * x_tile + (x_bytes * token if x_bytes else x_tile * token // lanes)
                )
                target = y + tile * y_tile + size * token
                headers, offsets = load_i64(part + 8), load_i64(part + 16)
                weights, record = load_i64(part + 24), load_i64(part + 32)
                for _ in range(load_i64(part)):
                    steps = load_i32(headers)
                    a, b = start(load_f32(record + 16)), start(load_f32(record + 20))
                    c, d = start(load_f32(record + 24)), start(load_f32(record + 28))
                    a, b, c, d = accumulate(source, steps, offsets, weights, a, b, c, d)
                    out = target + load_i32(headers + 4)
                    finish(out, a, b, c, d, record)
                    offsets, weights = (
                        offsets + offset_bytes * steps,
                        weights + weight_bytes * steps,
                    )
                    headers, record = headers + 8, record + 64

    return kernel


def blocks_of_four(step, quad_bytes, weight_bytes, lanes, width, output, activation):
    """The loops around a 1x4 product."""
    finish, splat = float_epilogue(lanes, width, output, activation), splats("f32", width)

    def start(first):
        return splat(load_f32(first))

    def place(out, sums, record, n, table, params):
        finish(out, sums, record, n)

    return in_panels(
        one_by_one(routine(step), weight_bytes), routine(start), routine(place),
        "f32", SIZE[output], quad_bytes, False, lanes, width,
    )  # fmt: skip


def sparse_dot_f32_4x1(lanes, width, output, activation):
    """Four outputs share a row of x."""
    splat, load = splats("f32", width), loads("f32", width)
    stretch = lanes // 2  # 8 * input -> bytes

    def accumulate(x, steps, offsets, weights, a, b, c, d):
        for _ in range(steps):
            v = load(x + stretch * load_u16(offsets))
            a, b = (
                multiply_add(v, splat(load_f32(weights)), a),
                multiply_add(v, splat(load_f32(weights + 4)), b),
            )
            c, d = (
                multiply_add(v, splat(load_f32(weights + 8)), c),
                multiply_add(v, splat(load_f32(weights + 12)), d),
            )
            offsets, weights = offsets + 2, weights + 16
        return a, b, c, d

    return product(routine(accumulate), 4, (2, 16), lanes, width, output, activation)


def dense_dot_f32(lanes, width, output, activation):
    """The same with all rows in their order."""
    splat, load = splats("f32", width), loads("f32", width)

    def accumulate(x, steps, offsets, weights, a, b, c, d):
        for _ in range(steps):
            v = load(x)
            a, b = (
                multiply_add(v, splat(load_f32(weights)), a),
                multiply_add(v, splat(load_f32(weights + 4)), b),
            )
            c, d = (
                multiply_add(v, splat(load_f32(weights + 8)), c),
                multiply_add(v, splat(load_f32(weights + 12)), d),
            )
            x, weights = x + 4 * lanes, weights + 16
        return a, b, c, d

    return product(routine(accumulate), 4, (0, 16), lanes, width, output, activation)


def sparse_dot_f32_1x4(lanes, width, output, activation):
    """A step takes four rows of x for each of four outputs."""
    load, row = loads("f32", width), 4 * width
    one, two, three, four = (spreads(n, width) for n in range(4))
    quad = 16 * width  # bytes

    def dot(sums, x, weights):
        w = load_four(weights)
        sums = multiply_add(load(x), as_float(one(w)), sums)
        sums = multiply_add(load(x + row), as_float(two(w)), sums)
        sums = multiply_add(load(x + 2 * row), as_float(three(w)), sums)
        return multiply_add(load(x + 3 * row), as_float(four(w)), sums)

    dot = routine(dot)

    def step(x, at, weights, a, b, c, d):
        p, q, r, s = at
        a = dot(a, x + quad * p, weights)
        b = dot(b, x + quad * q, weights + 16)
        c = dot(c, x + quad * r, weights + 32)
        d = dot(d, x + quad * s, weights + 48)
        return a, b, c, d

    return blocks_of_four(step, quad, 64, lanes, width, output, activation)


def sparse_dot_bf16_4x1(lanes, width, output, activation):
    """Two rows of x, unpacked into pairs, serve four outputs."""
    load = loads("bf16", width)
    stretch = lanes // 4  # 8 * input -> bytes

    def accumulate(x, steps, offsets, weights, a, b, c, d):
        for _ in range(steps):
            p, q = x + stretch * load_u16(offsets), x + stretch * load_u16(offsets + 2)
            v = interleave_words(load(p), load(q))
            a, b = dot2_bf16(a, v, load_i32(weights)), dot2_bf16(b, v, load_i32(weights + 4))
            c, d = dot2_bf16(c, v, load_i32(weights + 8)), dot2_bf16(d, v, load_i32(weights + 12))
            offsets, weights = offsets + 4, weights + 16
        return a, b, c, d

    return product(routine(accumulate), 2, (4, 16), lanes, width, output, activation)


def dense_dot_bf16(lanes, width, output, activation):
    """All pairs in their order."""
    load = loads("bf16", 2 * width)

    def accumulate(x, steps, offsets, weights, a, b, c, d):
        for _ in range(steps):
            v = load(x)
            a, b = dot2_bf16(a, v, load_i32(weights)), dot2_bf16(b, v, load_i32(weights + 4))
            c, d = dot2_bf16(c, v, load_i32(weights + 8)), dot2_bf16(d, v, load_i32(weights + 12))
            x, weights = x + 4 * width, weights + 16
        return a, b, c, d

    return product(routine(accumulate), 0, (0, 16), lanes, width, output, activation)


def sparse_dot_bf16_1x4(lanes, width, output, activation):
    """A step takes two pairs of x for each of four outputs."""
    load, row = loads("bf16", 2 * width), 4 * width
    one, two, three, four = (spreads(n, width) for n in range(4))
    quad = 8 * width  # bytes

    def step(x, at, weights, a, b, c, d):
        p, q, r, s = at
        p, q, r, s = x + quad * p, x + quad * q, x + quad * r, x + quad * s
        v, w = load_four(weights), load_four(weights + 16)
        a, b = dot2_bf16(a, load(p), one(v)), dot2_bf16(b, load(q), three(v))
        c, d = dot2_bf16(c, load(r), one(w)), dot2_bf16(d, load(s), three(w))
        a, b = dot2_bf16(a, load(p + row), two(v)), dot2_bf16(b, load(q + row), four(v))
        c, d = dot2_bf16(c, load(r + row), two(w)), dot2_bf16(d, load(s + row), four(w))
        return a, b, c, d

    return blocks_of_four(step, quad, 32, lanes, width, output, activation)
