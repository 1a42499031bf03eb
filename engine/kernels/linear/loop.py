"""The loops around a 4x1 or dense product: (tile, part), tokens of the tile, groups of the part.

A register block is 4 outputs x `width` tokens; `width` divides `lanes`, the tokens of a tile, so
that registers suffice.  In every precision a step's weights are 4 bytes for each of 4 outputs.
"""

from functools import partial

from ...codegen.lower import routine
from ...codegen.simd import load_i32, load_i64, prefetch
from ..buffers import FEW, SOME, live_lanes, of_widths, tile_of
from ..context import CONTEXT
from .epilogues import SIZE, epilogue_of_four, start_of
from .records import (
    DYNAMIC_LINEAR,
    HEADER,
    HEADER_BYTES,
    LINEAR,
    OUTPUT,
    OUTPUT_BYTES,
    PART,
    PART_BYTES,
)

STEP_BYTES = 16  # of weights
AHEAD = 4096  # bytes of weights: a page, as hardware prefetchers stop at its end


def times_four(dot, load):
    """A routine: what one v adds to the sums of four outputs, each dot(sums, v, load(weight))."""

    def multiply(v, weights, a, b, c, d):
        a, b = dot(a, v, load(weights)), dot(b, v, load(weights + 4))
        c, d = dot(c, v, load(weights + 8)), dot(d, v, load(weights + 12))
        return a, b, c, d

    return routine(multiply)


def product_4x1(made, offset_bytes, x_bytes, *variant, order="tokens"):
    """made: width -> routine (x, offsets of a step) -> v, times_four; x_bytes: of a token; order:
    of tokens in v.
    """
    groups = partial(groups_4x1, made, offset_bytes, variant, order)
    return product(groups, x_bytes, *variant[:-1])


def groups_4x1(made, offset_bytes, variant, order, width):
    """groups_of a 4x1 product; variant: lanes, width, epilogue, activation."""
    gather, multiply = made(width)

    def accumulate(x, steps, offsets, weights, a, b, c, d):
        for _ in range(steps):
            a, b, c, d = multiply(gather(x, offsets), weights, a, b, c, d)
            offsets, weights = offsets + offset_bytes, weights + STEP_BYTES
        return a, b, c, d

    return groups_of(routine(accumulate), offset_bytes, variant, width, order)


def dense_product(made, step_bytes, x_bytes, *variant):
    """made: width -> load of x, from step to step step_bytes further, times_four; x_bytes: of a
    token, or 0 where blocks of `width` tokens are interleaved.
    """

    def groups(width):
        load, multiply = made(width)

        def accumulate(x, steps, offsets, weights, a, b, c, d):
            for _ in range(steps):
                prefetch(weights + AHEAD)
                a, b, c, d = multiply(load(x), weights, a, b, c, d)
                x, weights = x + step_bytes, weights + STEP_BYTES
            return a, b, c, d

        return groups_of(routine(accumulate), 0, variant, width)

    return product(groups, x_bytes, *variant[:-1])


def groups_of(accumulate, offset_bytes, variant, width, order="tokens"):
    """A routine (part, source, target, table): `width` tokens of a tile, all groups of a part.

    accumulate: routine (x, steps, offsets, weights, a, b, c, d) -> the sums of four outputs.
    """
    lanes, _, epilogue, activation = variant
    finish = epilogue_of_four(lanes, width, epilogue, activation, order)
    begun = start_of(width, epilogue)

    def groups(part, source, target, table):
        header, offsets = load_i64(part + PART.headers), load_i64(part + PART.offsets)
        weights, record = load_i64(part + PART.weights), load_i64(part + PART.records)
        for _ in range(load_i64(part + PART.groups)):
            steps, start = load_i32(header + HEADER.steps), record + OUTPUT.start
            a, b, c, d = begun(start), begun(start + 4), begun(start + 8), begun(start + 12)
            a, b, c, d = accumulate(source, steps, offsets, weights, a, b, c, d)
            finish(target + load_i32(header + HEADER.output), a, b, c, d, record, table)
            offsets, weights = offsets + offset_bytes * steps, weights + STEP_BYTES * steps
            header, record = header + HEADER_BYTES, record + OUTPUT_BYTES

    return routine(groups)


def product(groups, x_bytes, lanes, width, epilogue):
    """groups: width -> groups_of.  Only lanes that hold tokens are multiplied: block by block, and
    where a block is not full, in a narrower one.
    """
    size, dynamic, live = SIZE[epilogue], epilogue == "dynamic", live_lanes(lanes)
    few, some, whole = of_widths(groups, width)

    def kernel(params, context, begin, end):
        arena = load_i64(context + CONTEXT.arena)
        x, x_tile = arena + load_i64(params + LINEAR.x), load_i64(params + LINEAR.x_tile)
        y, y_tile = arena + load_i64(params + LINEAR.y), load_i64(params + LINEAR.y_tile)
        parts, count = load_i64(params + LINEAR.parts), load_i64(params + LINEAR.part_count)
        for unit in range(begin, end):
            tile, part = unit // count, parts + PART_BYTES * (unit % count)
            there = live(context, tile)
            for token in range(0, there, width):
                at = x_bytes * token if x_bytes else x_tile * token // lanes
                source, target = x + tile * x_tile + at, y + tile * y_tile + size * token
                table = load_i64(part + PART.tables)
                if dynamic:
                    table = tile_of(arena, params + DYNAMIC_LINEAR.scales, tile) + 4 * token
                if there - token <= FEW < width:
                    few(part, source, target, table)
                elif there - token <= SOME < width:
                    some(part, source, target, table)
                else:
                    whole(part, source, target, table)

    return kernel
