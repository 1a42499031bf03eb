"""The loops around a 4x1 or dense product: (tile, part), tokens of the tile, groups of the part.

A register block is 4 outputs x `width` tokens; `width` divides `lanes`, the tokens of a tile, so
that registers suffice.  In every precision a step's weights are 4 bytes for each of 4 outputs.
"""

from ...codegen.lower import routine
from ...codegen.simd import load_i32, load_i64
from ..buffers import tile_of
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


def times_four(dot, load):
    """A routine: what one v adds to the sums of four outputs, each dot(sums, v, load(weight))."""

    def multiply(v, weights, a, b, c, d):
        a, b = dot(a, v, load(weights)), dot(b, v, load(weights + 4))
        c, d = dot(c, v, load(weights + 8)), dot(d, v, load(weights + 12))
        return a, b, c, d

    return routine(multiply)


def product_4x1(gather, multiply, offset_bytes, x_bytes, *variant):
    """gather: routine (x, offsets of a step) -> v; multiply: times_four; x_bytes: of a token."""

    def accumulate(x, steps, offsets, weights, a, b, c, d):
        for _ in range(steps):
            a, b, c, d = multiply(gather(x, offsets), weights, a, b, c, d)
            offsets, weights = offsets + offset_bytes, weights + STEP_BYTES
        return a, b, c, d

    return _product(routine(accumulate), offset_bytes, x_bytes, *variant)


def dense_product(load, multiply, step_bytes, x_bytes, *variant):
    """load: of x, from step to step step_bytes further; x_bytes: of a token, or 0 where blocks of
    `width` tokens are interleaved.
    """

    def accumulate(x, steps, offsets, weights, a, b, c, d):
        for _ in range(steps):
            a, b, c, d = multiply(load(x), weights, a, b, c, d)
            x, weights = x + step_bytes, weights + STEP_BYTES
        return a, b, c, d

    return _product(routine(accumulate), 0, x_bytes, *variant)


def _product(accumulate, offset_bytes, x_bytes, lanes, width, epilogue, activation):
    """accumulate: routine (x, steps, offsets, weights, a, b, c, d) -> the sums of four outputs.

    A routine for the groups of a part would be inlined twice, and the code be twice as long.
    """
    finish, begun = epilogue_of_four(lanes, width, epilogue, activation), start_of(width, epilogue)
    size, dynamic = SIZE[epilogue], epilogue == "dynamic"

    def kernel(params, context, begin, end):
        arena = load_i64(context + CONTEXT.arena)
        x, x_tile = arena + load_i64(params + LINEAR.x), load_i64(params + LINEAR.x_tile)
        y, y_tile = arena + load_i64(params + LINEAR.y), load_i64(params + LINEAR.y_tile)
        parts, count = load_i64(params + LINEAR.parts), load_i64(params + LINEAR.part_count)
        for unit in range(begin, end):
            tile, part = unit // count, parts + PART_BYTES * (unit % count)
            for token in range(0, lanes, width):
                at = x_bytes * token if x_bytes else x_tile * token // lanes
                source, target = x + tile * x_tile + at, y + tile * y_tile + size * token
                header, offsets = load_i64(part + PART.headers), load_i64(part + PART.offsets)
                weights, record = load_i64(part + PART.weights), load_i64(part + PART.records)
                table = load_i64(part + PART.tables)
                if dynamic:
                    table = tile_of(arena, params + DYNAMIC_LINEAR.scales, tile) + 4 * token
                for _ in range(load_i64(part + PART.groups)):
                    steps, start = load_i32(header + HEADER.steps), record + OUTPUT.start
                    a, b, c, d = begun(start), begun(start + 4), begun(start + 8), begun(start + 12)
                    a, b, c, d = accumulate(source, steps, offsets, weights, a, b, c, d)
                    finish(target + load_i32(header + HEADER.output), a, b, c, d, record, table)
                    offsets, weights = offsets + offset_bytes * steps, weights + STEP_BYTES * steps
                    header, record = header + HEADER_BYTES, record + OUTPUT_BYTES

    return kernel
