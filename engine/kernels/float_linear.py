"""Products of float32: y[n, t] = activation(sum over k of w[n, k] x[k, t] + bias[n]).

Sums stay in registers: 4 outputs x `width` tokens; a weight is broadcast, a row of x serves four
outputs (4x1, dense) or one (1x4).  `width` divides `lanes`, the tokens of a row, so that registers
suffice on every instruction set.  A unit is (tile, part).

params and the parts' rows are those of linear.py, headers, offsets and weights those of pack.py.
record (64 bytes): unused[4]; float32 bias[4]; unused[4]; float32 a, b; int32 flip; unused.  With
output "u8" the result is u8(round(y * a + b)), b with MAGIC, its bits changed by flip.
"""

import numba as nb

from ..lower import routine
from ..simd import (
    as_int,
    fma,
    load_f32,
    load_i32,
    load_i64,
    load_u16,
    loads,
    pack_in_order,
    splats,
    store,
    xor,
)
from .activations import ACTIVATIONS, ACTIVATIONS_FOR_BYTES
from .context import ARENA

f32 = nb.float32
SIZE = {"f32": 4, "u8": 1}


def float_epilogue(lanes, width, output, activation):
    """A routine (address of the tokens' lanes of output 0, sums in token order, record, n)."""
    splat, flip = splats("f32", width), splats("i32", width // 4)
    act = (ACTIVATIONS if output == "f32" else ACTIVATIONS_FOR_BYTES)[activation](width)

    def floats(out, sums, record, n):
        store(out + 4 * lanes * n, act(sums))

    def bytes_(out, sums, record, n):
        v = fma(act(sums), splat(load_f32(record + 48)), splat(load_f32(record + 52)))
        store(out + lanes * n, xor(as_int(pack_in_order(v)), flip(load_i32(record + 56))))

    return routine(floats if output == "f32" else bytes_)


def sparse_dot_f32_4x1(lanes, width, output, activation):
    """Blocks of 4 outputs x 1 input."""
    finish, size = float_epilogue(lanes, width, output, activation), SIZE[output]
    splat, load = splats("f32", width), loads("f32", width)
    stretch = lanes // 2  # 8 * k -> bytes

    def kernel(params, context, begin, end):
        arena = load_i64(context + ARENA)
        x, y = arena + load_i64(params), arena + load_i64(params + 16)
        x_tile, y_tile = load_i64(params + 8), load_i64(params + 24)
        parts, rows = load_i64(params + 32), load_i64(params + 40)
        for unit in range(begin, end):
            tile, part = unit // parts, rows + 48 * (unit % parts)
            for token in range(0, lanes, width):
                source, target = x + tile * x_tile + 4 * token, y + tile * y_tile + size * token
                headers, offsets, weights = (
                    load_i64(part + 8),
                    load_i64(part + 16),
                    load_i64(part + 24),
                )
                record = load_i64(part + 32)
                for _ in range(load_i64(part)):
                    a, b = splat(load_f32(record + 16)), splat(load_f32(record + 20))
                    c, d = splat(load_f32(record + 24)), splat(load_f32(record + 28))
                    for _ in range(load_i32(headers)):
                        v = load(source + stretch * load_u16(offsets))
                        a, b = (
                            fma(v, splat(load_f32(weights)), a),
                            fma(v, splat(load_f32(weights + 4)), b),
                        )
                        c, d = (
                            fma(v, splat(load_f32(weights + 8)), c),
                            fma(v, splat(load_f32(weights + 12)), d),
                        )
                        offsets, weights = offsets + 2, weights + 16
                    out = target + load_i32(headers + 4)
                    finish(out, a, record, 0)
                    finish(out, b, record, 1)
                    finish(out, c, record, 2)
                    finish(out, d, record, 3)
                    headers, record = headers + 8, record + 64

    return kernel


def dense_dot_f32(lanes, width, output, activation):
    """All inputs; params: 6 inputs.  Groups differ in nothing, headers give the place only."""
    finish, size = float_epilogue(lanes, width, output, activation), SIZE[output]
    splat, load = splats("f32", width), loads("f32", width)

    def kernel(params, context, begin, end):
        arena = load_i64(context + ARENA)
        x, y = arena + load_i64(params), arena + load_i64(params + 16)
        x_tile, y_tile = load_i64(params + 8), load_i64(params + 24)
        parts, rows = load_i64(params + 32), load_i64(params + 40)
        for unit in range(begin, end):
            tile, part = unit // parts, rows + 48 * (unit % parts)
            for token in range(0, lanes, width):
                source, target = x + tile * x_tile + 4 * token, y + tile * y_tile + size * token
                headers, weights, record = (
                    load_i64(part + 8),
                    load_i64(part + 24),
                    load_i64(part + 32),
                )
                for _ in range(load_i64(part)):
                    a, b = splat(load_f32(record + 16)), splat(load_f32(record + 20))
                    c, d = splat(load_f32(record + 24)), splat(load_f32(record + 28))
                    at = source
                    for _ in range(load_i32(headers)):
                        v = load(at)
                        a, b = (
                            fma(v, splat(load_f32(weights)), a),
                            fma(v, splat(load_f32(weights + 4)), b),
                        )
                        c, d = (
                            fma(v, splat(load_f32(weights + 8)), c),
                            fma(v, splat(load_f32(weights + 12)), d),
                        )
                        at, weights = at + 4 * lanes, weights + 16
                    out = target + load_i32(headers + 4)
                    finish(out, a, record, 0)
                    finish(out, b, record, 1)
                    finish(out, c, record, 2)
                    finish(out, d, record, 3)
                    headers, record = headers + 8, record + 64

    return kernel
