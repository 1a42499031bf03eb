"""Block-sparse products on bytes: y[n, t] = f_n(sum over k of w[n, k] x[k, t]), x u8, w s8 in
blocks of 4 outputs x 1 input.

The four rows of x that a step's four blocks read are interleaved in registers and serve four
outputs: 8 unpackings for 16 dot4 (512 bit). A unit is (tile, part): parts are runs of output groups
of about equal work, so that workers can share one tile.

params: 0 x, 1 bytes of an x tile, 2 y, 3 bytes of a y tile, 4 parts, 5 address of the parts' rows,
6.. the epilogue's own. A part's row: groups, addresses of headers, offsets, weights, records,
tables of bytes.
header (8 bytes): int32 steps, at least 1, int32 offset of the first output in a y tile.  offsets: 4
x u16 a step, 8 * k.  weights: 4 outputs x 4 blocks. record (64 bytes): float32 scale[4]; int32
start[4] (bias and zero points of x); float32 shift[4]; float32 a, b; int32 flip; unused.  Epilogue
"table" has int32 table[4] in the place of the last: where each output's 256 bytes begin.
"""

import numba as nb

from ...codegen.lower import routine
from ...codegen.simd import (
    MAGIC,
    add,
    as_int,
    dot4,
    fma,
    in_token_order,
    interleave,
    load_f32,
    load_i32,
    load_i64,
    load_int,
    load_offsets,
    loads,
    lookup,
    maximum,
    minimum,
    pack,
    splats,
    store,
    sub,
    to_float,
    xor,
)
from ..activations import ACTIVATIONS, ROUGH_ACTIVATIONS
from ..context import ARENA

f32 = nb.float32


def table_epilogue(lanes, activation):
    """y = table_n[u8(round(sum * scale) + zero)]: whatever follows a quantised product is a
    function of one byte, the same for outputs whose biases are alike.
    """
    splat = splats("f32", lanes)

    def finish(out, sums, record, n, table, params):
        product = pack(
            fma(
                to_float(sums),
                splat(load_f32(record + 4 * n)),
                splat(load_f32(record + 32 + 4 * n)),
            )
        )
        store(out + lanes * n, lookup(table + load_int(record + 48 + 4 * n), product))

    return routine(finish)


def plain_epilogue(lanes, activation):
    """y = u8(round(sum * scale) + shift): shift is whole and holds MAGIC, so that the addition
    rounds.
    """
    splat, flip = splats("f32", lanes), splats("i32", lanes // 4)

    def finish(out, sums, record, n, table, params):
        v = fma(
            to_float(sums), splat(load_f32(record + 4 * n)), splat(load_f32(record + 32 + 4 * n))
        )
        store(out + lanes * n, xor(as_int(pack(v)), flip(load_i32(record + 56))))

    return routine(finish)


def bytes_epilogue(lanes, activation):
    """y = u8(round(activation(sum * scale + shift) * a + b)), b with MAGIC; without an activation
    round(sum * scale + shift).
    """
    splat, flip = splats("f32", lanes), splats("i32", lanes // 4)
    act = ROUGH_ACTIVATIONS[activation](lanes)

    def activated(out, sums, record, n, table, params):
        v = act(
            fma(
                to_float(sums),
                splat(load_f32(record + 4 * n)),
                splat(load_f32(record + 32 + 4 * n)),
            )
        )
        v = fma(v, splat(load_f32(record + 48)), splat(load_f32(record + 52)))
        store(out + lanes * n, xor(as_int(pack(v)), flip(load_i32(record + 56))))

    def linear(out, sums, record, n, table, params):
        v = fma(
            to_float(sums), splat(load_f32(record + 4 * n)), splat(load_f32(record + 32 + 4 * n))
        )
        store(
            out + lanes * n,
            xor(as_int(pack(add(v, splat(f32(MAGIC))))), flip(load_i32(record + 56))),
        )

    return routine(linear if activation == "none" else activated)


def floats_epilogue(lanes, activation):
    """y = activation(sum * scale + shift), float32."""
    splat, act = splats("f32", lanes), ACTIVATIONS[activation](lanes)

    def finish(out, sums, record, n, table, params):
        v = act(
            fma(
                to_float(sums),
                splat(load_f32(record + 4 * n)),
                splat(load_f32(record + 32 + 4 * n)),
            )
        )
        store(out + 4 * lanes * n, in_token_order(v))

    return routine(finish)


def rounded_epilogue(lanes, activation):
    """The product is quantised and dequantised, then y = activation(product * a + shift), float32;
    b: the product's zero point + MAGIC.
    """
    splat, act = splats("f32", lanes), ACTIVATIONS[activation](lanes)

    def finish(out, sums, record, n, table, params):
        v = sub(
            fma(to_float(sums), splat(load_f32(record + 4 * n)), splat(load_f32(record + 52))),
            splat(f32(MAGIC)),
        )
        v = minimum(maximum(v, splat(f32(0))), splat(f32(255)))
        v = act(fma(v, splat(load_f32(record + 48)), splat(load_f32(record + 32 + 4 * n))))
        store(out + 4 * lanes * n, in_token_order(v))

    return routine(finish)


EPILOGUES = {
    "table": table_epilogue,
    "plain": plain_epilogue,
    "bytes": bytes_epilogue,
    "floats": floats_epilogue,
    "rounded": rounded_epilogue,
}


def sparse_dot_u8s8_4x1(lanes, epilogue, activation):
    """A group begins while the one before it ends, whose epilogue waits for its sums: the core has
    other products to do.  See the head of the file.
    """
    finish = EPILOGUES[epilogue](lanes, activation)
    splat, load = splats("i32", lanes), loads("u8", lanes)
    stretch = lanes // 8  # offsets count in units of 8 bytes of a 64-token row

    def four_rows(x, offsets):
        p, q, r, s = load_offsets(offsets)
        return interleave(
            load(x + stretch * p),
            load(x + stretch * q),
            load(x + stretch * r),
            load(x + stretch * s),
        )

    def begun(start, v, weights):
        return dot4(splat(load_i32(start)), v, load_i32(weights))

    four_rows, begun = routine(four_rows), routine(begun)

    def kernel(params, context, begin, end):
        arena = load_i64(context + ARENA)
        x, y = arena + load_i64(params), arena + load_i64(params + 16)
        x_tile, y_tile, parts, rows = (
            load_i64(params + 8),
            load_i64(params + 24),
            load_i64(params + 32),
            load_i64(params + 40),
        )
        for unit in range(begin, end):
            tile, part = unit // parts, rows + 48 * (unit % parts)
            source, target = x + tile * x_tile, y + tile * y_tile
            headers, offsets, weights = load_i64(part + 8), load_i64(part + 16), load_i64(part + 24)
            record, table = load_i64(part + 32), load_i64(part + 40)
            v = four_rows(source, offsets)
            a, b = begun(record + 16, v, weights), begun(record + 20, v, weights + 4)
            c, d = begun(record + 24, v, weights + 8), begun(record + 28, v, weights + 12)
            offsets, weights = offsets + 8, weights + 16
            for _ in range(load_i64(part)):
                for _ in range(load_i32(headers) - 1):
                    v = four_rows(source, offsets)
                    a, b = dot4(a, v, load_i32(weights)), dot4(b, v, load_i32(weights + 4))
                    c, d = dot4(c, v, load_i32(weights + 8)), dot4(d, v, load_i32(weights + 12))
                    offsets, weights = offsets + 8, weights + 16
                v = four_rows(source, offsets)  # of the next group
                out = target + load_i32(headers + 4)
                finish(out, a, record, 0, table, params)
                a = begun(record + 80, v, weights)
                finish(out, b, record, 1, table, params)
                b = begun(record + 84, v, weights + 4)
                finish(out, c, record, 2, table, params)
                c = begun(record + 88, v, weights + 8)
                finish(out, d, record, 3, table, params)
                d = begun(record + 92, v, weights + 12)
                offsets, weights = offsets + 8, weights + 16
                headers, record = headers + 8, record + 64

    return kernel
