"""Products on AMX tiles: y[n, t] = f_n(sum over k of w[n, k] x[k, t]); x u8, w s8 or both bfloat16.

An AMX tile of weights is 16 outputs x 64 bytes (64 inputs of int8, 32 of bfloat16: a block), one of
x 16 rows of interleaved inputs (k4 of bytes, k2 of bfloat16) x 16 tokens.  Two kernels:

dense   x comes interleaved in whole blocks (rearrange.py: interleave_rows with width as lanes, or
        round_rows "pairs").  A panel is 32 outputs, times half a tile of tokens: 2 x 2 AMX tiles of
        sums, 4 loads for 4 products.  A block of 32 outputs whose weights are all zero is no step:
        what pruning of heads or neurons leaves costs nothing.
16x1    weights in blocks of 16 outputs x 1 input: a panel of 16 outputs has its own list of inputs;
        64 (32) of them are interleaved for each step, that of the next while this one's products
        run, and times 16 outputs x 64 tokens make 1 x 4 AMX tiles of sums.  x as it lies; bfloat16
        from round_rows "rows".

Sums go through scratch to the epilogues.  A unit is (tile, part).  Parameters: LINEAR; a panel has
a TILE_HEADER, and a record for every 4 outputs; offsets and weights: pack/amx.py.
"""

from ...codegen.lower import routine
from ...codegen.simd import (
    add,
    interleave,
    interleave_words,
    load_i32,
    load_i64,
    load_u16,
    loads,
    store,
)  # fmt: skip
from ..buffers import tile_of
from ..context import CONTEXT
from ..tiles import (
    ROW_BYTES,
    ROWS,
    configures,
    every,
    products,
    release,
    side_by_side,
    tile_loads,
    tile_stores,
    zeros,
)
from .epilogues import SIZE, epilogue_of, start_of, sums_of
from .records import (
    LINEAR,
    OUTPUT,
    OUTPUT_BYTES,
    PART,
    PART_BYTES,
    TILE_HEADER,
    TILE_HEADER_BYTES,
)

TILE_BYTES = 1024
SUMS = 64  # scratch: configuration, sums [32][lanes], then two steps of interleaved x


# --- what int8 and bfloat16 have of their own
class Int8:
    """u8 x s8 -> int32."""

    product, inputs = "tdpbsud", 4  # in 4 bytes
    order = "quads"  # of tokens in rows that are interleaved here

    @staticmethod
    def gathers(lanes):
        """A routine (x, 4 offsets): rows of x, interleaved."""
        load, stretch = loads("u8", lanes), lanes // 8

        def gather(x, offsets):
            a, b = load(x + stretch * load_u16(offsets)), load(x + stretch * load_u16(offsets + 2))
            offsets += 4
            c, d = load(x + stretch * load_u16(offsets)), load(x + stretch * load_u16(offsets + 2))
            return interleave(a, b, c, d)

        return routine(gather)


class Bfloat16:
    """bfloat16 x bfloat16 -> float32."""

    product, inputs, order = "tdpbf16ps", 2, "tokens"

    @staticmethod
    def gathers(lanes):
        """The same of 2 offsets, in token order."""
        load, stretch = loads("bf16", lanes), lanes // 4

        def gather(x, offsets):
            p, q = load(x + stretch * load_u16(offsets)), load(x + stretch * load_u16(offsets + 2))
            return interleave_words(p, q)

        return routine(gather)


# --- tiles: 0-3 sums, then operands
def _square(product, lanes):
    """A routine: all steps of 2 x 16 outputs times 2 (64 lanes) or 1 (16 lanes) x 16 tokens."""
    columns = 2 if lanes == 64 else 1
    sums = [2 * n + t for n in range(2) for t in range(columns)]
    clear = every([zeros(tile) for tile in sums])
    multiply = every([products(product, tile, 4 + tile // 2, 6 + tile % 2) for tile in sums])
    upper, lower = tile_loads(4), tile_loads(5)
    load_x = side_by_side([tile_loads(6 + t) for t in range(columns)])
    save_upper = side_by_side([tile_stores(t) for t in range(columns)])
    save_lower = side_by_side([tile_stores(2 + t) for t in range(columns)])
    row = 4 * lanes

    def sum_up(x, offsets, weights, steps, sums):
        clear()
        for _ in range(steps):
            upper(weights, ROW_BYTES)
            lower(weights + TILE_BYTES, ROW_BYTES)
            load_x(x + 16 * row * load_u16(offsets), row)
            multiply()
            offsets, weights = offsets + 2, weights + 2 * TILE_BYTES
        save_upper(sums, row)
        save_lower(sums + 16 * row, row)

    return routine(sum_up)


def _strip(product, lanes):
    """Routines on the sums of 16 outputs x all tokens: clear them; do a step, (x, weights); store
    them, (address).
    """
    columns, row = lanes // 16, 4 * lanes
    load_weights, load_x = tile_loads(4), tile_loads(5)

    def column(tile):
        multiply = products(product, tile, 4, 5)

        def load_and_multiply(x, stride):
            load_x(x, stride)
            multiply()

        return routine(load_and_multiply)

    every_column = side_by_side([column(tile) for tile in range(columns)])
    save = side_by_side([tile_stores(tile) for tile in range(columns)])

    def step(x, weights):
        load_weights(weights, ROW_BYTES)
        every_column(x, row)

    def store_sums(sums):
        save(sums, row)

    return every([zeros(tile) for tile in range(columns)]), routine(step), routine(store_sums)


WHOLE_TILES = ((ROWS, ROW_BYTES),) * 8


# --- the loops
def _finish_panel(lanes, epilogue, activation, order="tokens"):
    """A routine (header, sums, y tile, record, table): every group of the panel."""
    finish = epilogue_of(lanes, lanes, epilogue, activation, order)
    begun = start_of(lanes, epilogue)
    load, row, y_row = loads(sums_of(epilogue), lanes), 4 * lanes, lanes * SIZE[epilogue]

    def finish_panel(header, sums, target, record, table):
        out = target + load_i32(header + TILE_HEADER.output)
        for _ in range(load_i32(header + TILE_HEADER.groups)):
            for n in range(4):
                v = add(load(sums + row * n), begun(record + OUTPUT.start + 4 * n))
                finish(out, v, record, n, table)
            sums, out, record = sums + 4 * row, out + 4 * y_row, record + OUTPUT_BYTES

    return routine(finish_panel)


def _dense(kind, lanes, epilogue, activation):
    """See the head of the file."""
    finish = _finish_panel(lanes, epilogue, activation)
    square, configure = _square(kind.product, lanes), configures(WHOLE_TILES)
    halves = 2 if lanes == 64 else 1

    def kernel(params, context, begin, end):
        arena, scratch = load_i64(context + CONTEXT.arena), load_i64(context + CONTEXT.scratch)
        parts, count = load_i64(params + LINEAR.parts), load_i64(params + LINEAR.part_count)
        configure(scratch)
        for unit in range(begin, end):
            tile, part = unit // count, parts + PART_BYTES * (unit % count)
            x = tile_of(arena, params + LINEAR.x, tile)
            target = tile_of(arena, params + LINEAR.y, tile)
            header, offsets = load_i64(part + PART.headers), load_i64(part + PART.offsets)
            weights, record = load_i64(part + PART.weights), load_i64(part + PART.records)
            table = load_i64(part + PART.tables)
            for _ in range(load_i64(part + PART.groups)):
                steps = load_i32(header + TILE_HEADER.steps)
                groups = load_i32(header + TILE_HEADER.groups)
                for half in range(halves):
                    at = 128 * half
                    square(x + at, offsets, weights, steps, scratch + SUMS + at)
                finish(header, scratch + SUMS, target, record, table)
                offsets, weights = offsets + 2 * steps, weights + 2 * TILE_BYTES * steps
                header, record = header + TILE_HEADER_BYTES, record + OUTPUT_BYTES * groups
        release()

    return kernel


def _blocks_16x1(kind, lanes, epilogue, activation):
    """See the head of the file."""
    row, inputs = 4 * lanes, kind.inputs
    gathered = kind.gathers(lanes)
    finish = _finish_panel(lanes, epilogue, activation, kind.order)
    configure, (clear, strip, save) = configures(WHOLE_TILES), _strip(kind.product, lanes)
    together, step_bytes = SUMS + 32 * row, 16 * row

    def gather(x, offsets, out):
        for _ in range(16):
            store(out, gathered(x, offsets))
            offsets, out = offsets + 2 * inputs, out + row

    gather = routine(gather)

    def kernel(params, context, begin, end):
        arena, scratch = load_i64(context + CONTEXT.arena), load_i64(context + CONTEXT.scratch)
        parts, count = load_i64(params + LINEAR.parts), load_i64(params + LINEAR.part_count)
        sums = scratch + SUMS
        configure(scratch)
        for unit in range(begin, end):
            tile, part = unit // count, parts + PART_BYTES * (unit % count)
            x = tile_of(arena, params + LINEAR.x, tile)
            target = tile_of(arena, params + LINEAR.y, tile)
            header, offsets = load_i64(part + PART.headers), load_i64(part + PART.offsets)
            weights, record = load_i64(part + PART.weights), load_i64(part + PART.records)
            table = load_i64(part + PART.tables)
            here, other = scratch + together, scratch + together + step_bytes
            gather(x, offsets, here)
            for _ in range(load_i64(part + PART.groups)):
                groups = load_i32(header + TILE_HEADER.groups)
                clear()
                for _ in range(load_i32(header + TILE_HEADER.steps)):
                    offsets += 32 * inputs
                    gather(x, offsets, other)
                    strip(here, weights)
                    here, other, weights = other, here, weights + TILE_BYTES
                save(sums)
                finish(header, sums, target, record, table)
                header, record = header + TILE_HEADER_BYTES, record + OUTPUT_BYTES * groups
        release()

    return kernel


def amx_dot_u8s8(lanes, epilogue, activation):
    """Dense, without empty blocks."""
    return _dense(Int8, lanes, epilogue, activation)


def amx_dot_u8s8_16x1(lanes, epilogue, activation):
    """Blocks of 16 outputs x 1 input."""
    return _blocks_16x1(Int8, lanes, epilogue, activation)


def amx_dot_bf16(lanes, output, activation):
    """Dense, without empty blocks."""
    return _dense(Bfloat16, lanes, output, activation)


def amx_dot_bf16_16x1(lanes, output, activation):
    """Blocks of 16 outputs x 1 input."""
    return _blocks_16x1(Bfloat16, lanes, output, activation)
