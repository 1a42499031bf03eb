"""Products on bytes in register blocks of `width` tokens.

    narrow_dot_u8s8_4x1   blocks of 4 outputs x 1 input, as bytes_4x1.py, for few registers
    sparse_dot_u8s16_4x1  the same for CPUs without VNNI
    dense_dot_u8s8        all inputs
    sparse_dot_u8s8_1x4   blocks of 1 output x 4 inputs

4x1 interleaves rows of x in registers; the others read x as interleave_rows makes it (rearrange.py)
and so shuffle nothing in the loop.  `width` is 64 on 512 bits, 32 where only half a tile of x fits
the first-level cache, 16 on fewer bits.  Parameters: LINEAR, with
the epilogue "dynamic" DYNAMIC_LINEAR; headers, offsets and weights: pack/vectors.py.
"""

from ...codegen.lower import routine
from ...codegen.simd import (
    as_int,
    dot2_words,
    dot4,
    load_i32,
    load_u16,
    loads,
    spreads,
    weigh,
)
from .bytes_4x1 import gathers
from .loop import dense_product, product_4x1, times_four
from .panels import four_by_four, in_panels


def dense_dot_u8s8(lanes, width, epilogue, activation):
    """4 outputs share each load of x."""

    def made(width):
        return loads("u8", 4 * width), times_four(dot4, load_i32)

    return dense_product(made, 4 * width, 0, lanes, width, epilogue, activation)


def narrow_dot_u8s8_4x1(lanes, width, epilogue, activation):
    """`width` bytes of four rows are interleaved in registers."""

    def made(width):
        return gathers(lanes, width), times_four(dot4, load_i32)

    return product_4x1(made, 8, 1, lanes, width, epilogue, activation, order="quads")


def sparse_dot_u8s16_4x1(lanes, width, epilogue, activation):
    """Weights as 16-bit numbers, two inputs at a time: without VNNI nothing has to be split."""
    stretch = lanes // 8  # 8 * input -> bytes

    def made(width):
        load = loads("u8", width)

        def gather(x, offsets):
            p, q = x + stretch * load_u16(offsets), x + stretch * load_u16(offsets + 2)
            return as_int(weigh(load(p), load(q)))

        return routine(gather), times_four(dot2_words, load_i32)

    return product_4x1(made, 4, 1, lanes, width, epilogue, activation, order="quads")


def sparse_dot_u8s8_1x4(lanes, width, epilogue, activation):
    """A step takes a block of each of 4 outputs, whose sums do not wait for one another."""
    quad_bytes = 4 * width

    def made(width):
        load = loads("u8", 4 * width)
        first, second, third, fourth = (spreads(n, width) for n in range(4))

        def step(x, at, four, a, b, c, d):
            p, q, r, s = at
            a = dot4(a, load(x + p), first(four))
            b = dot4(b, load(x + q), second(four))
            c = dot4(c, load(x + r), third(four))
            d = dot4(d, load(x + s), fourth(four))
            return a, b, c, d

        return four_by_four(routine(step), quad_bytes)

    return in_panels(made, quad_bytes, lanes, width, epilogue, activation)
