"""Products of float32 and bfloat16: y[n, t] = activation(sum over k of w[n, k] x[k, t] + bias[n]).

Sums are float32 and stay in registers, 4 outputs x `width` tokens: 64 on 512 bits, 16 on fewer.  A
unit is (tile, part).  Parameters: LINEAR, records FLOAT_OUTPUT, whose start is the bias; headers,
offsets and weights: pack/vectors.py.

4x1 and dense products of float32 read x as it lies, the others as round_rows makes it
(rearrange.py): "rows" for bfloat16 4x1, which interleaves two rows (k2) for four outputs, "pairs"
for bfloat16 1x4 and dense, "pieces" for float32 1x4.
"""

from ...codegen.lower import routine
from ...codegen.simd import (
    as_float,
    dot2_bf16,
    interleave_words,
    load_f32,
    load_four,
    load_i32,
    load_u16,
    loads,
    low_half,
    multiply_add,
    splats,
    spreads,
)
from .loop import dense_product, product_4x1, times_four
from .panels import in_panels, one_by_one


def _of_float32(width):
    """times_four for float32: one input, a weight broadcast."""
    splat = splats("f32", width)

    def dot(sums, v, weight):
        return multiply_add(v, splat(weight), sums)

    return times_four(routine(dot), load_f32)


def sparse_dot_f32_4x1(lanes, width, output, activation):
    """Four outputs share a row of x."""
    stretch = lanes // 2  # 8 * input -> bytes

    def made(width):
        load = loads("f32", width)

        def gather(x, offsets):
            return load(x + stretch * load_u16(offsets))

        return routine(gather), _of_float32(width)

    return product_4x1(made, 2, 4, lanes, width, output, activation)


def dense_dot_f32(lanes, width, output, activation):
    """The same with all rows in their order."""

    def made(width):
        return loads("f32", width), _of_float32(width)

    return dense_product(made, 4 * lanes, 4, lanes, width, output, activation)


def sparse_dot_f32_1x4(lanes, width, output, activation):
    """A step takes four rows of x for each of four outputs."""
    row, quad_bytes = 4 * width, 16 * width

    def made(width):
        load = loads("f32", width)
        one, two, three, four = (spreads(n, width) for n in range(4))

        def dot(sums, x, weights):
            w = load_four(weights)
            sums = multiply_add(load(x), as_float(one(w)), sums)
            sums = multiply_add(load(x + row), as_float(two(w)), sums)
            sums = multiply_add(load(x + 2 * row), as_float(three(w)), sums)
            return multiply_add(load(x + 3 * row), as_float(four(w)), sums)

        dot = routine(dot)

        def step(x, at, weights, a, b, c, d):
            p, q, r, s = at
            a = dot(a, x + quad_bytes * p, weights)
            b = dot(b, x + quad_bytes * q, weights + 16)
            c = dot(c, x + quad_bytes * r, weights + 32)
            d = dot(d, x + quad_bytes * s, weights + 48)
            return a, b, c, d

        return one_by_one(routine(step), 64)

    return in_panels(made, quad_bytes, lanes, width, output, activation)


def sparse_dot_bf16_4x1(lanes, width, output, activation):
    """Two rows of x, interleaved in registers, serve four outputs."""
    stretch = lanes // 4  # 8 * input -> bytes
    block = width

    def made(width):
        some = width < block  # the first tokens of a block stand in fours, others between them
        load = loads("bf16", 2 * width if some else width)

        def pairs(x, offsets):
            p, q = x + stretch * load_u16(offsets), x + stretch * load_u16(offsets + 2)
            return interleave_words(load(p), load(q))

        pairs = routine(pairs)

        def first(x, offsets):
            return low_half(pairs(x, offsets))

        return routine(first) if some else pairs, times_four(dot2_bf16, load_i32)

    return product_4x1(made, 4, 2, lanes, width, output, activation)


def dense_dot_bf16(lanes, width, output, activation):
    """All pairs in their order."""

    def made(width):
        return loads("bf16", 2 * width), times_four(dot2_bf16, load_i32)

    return dense_product(made, 4 * width, 0, lanes, width, output, activation)


def sparse_dot_bf16_1x4(lanes, width, output, activation):
    """A step takes two pairs of x for each of four outputs."""
    row, quad_bytes = 4 * width, 8 * width

    def made(width):
        load = loads("bf16", 2 * width)
        one, two, three, four = (spreads(n, width) for n in range(4))

        def step(x, at, weights, a, b, c, d):
            p, q, r, s = at
            p, q = x + quad_bytes * p, x + quad_bytes * q
            r, s = x + quad_bytes * r, x + quad_bytes * s
            v, w = load_four(weights), load_four(weights + 16)
            a, b = dot2_bf16(a, load(p), one(v)), dot2_bf16(b, load(q), three(v))
            c, d = dot2_bf16(c, load(r), one(w)), dot2_bf16(d, load(s), three(w))
            a, b = dot2_bf16(a, load(p + row), two(v)), dot2_bf16(b, load(q + row), four(v))
            c, d = dot2_bf16(c, load(r + row), two(w)), dot2_bf16(d, load(s + row), four(w))
            return a, b, c, d

        return one_by_one(routine(step), 32)

    return in_panels(made, quad_bytes, lanes, width, output, activation)
