"""Products on AMX tiles: y[n, t] = f_n(sum over k of w[n, k] x[k, t]); x u8, w s8 or both bfloat16.

A tile of weights is 16 outputs x 64 bytes (64 inputs of int8, 32 of bfloat16: a block), a tile of
x 16 rows of interleaved inputs (a quad of bytes, a pair of bfloat16) x 16 tokens.  Two kernels:

dense   x comes interleaved: [input / 4][token][4] from interleave_rows (bytes.py; width as
        lanes) or [input / 2][token][2] from round_rows (floats.py; "pairs"), whole blocks.
        Panels of 32 outputs times half a tile of tokens: 2 x 2 tiles of sums, 4 loads for 4
        products.  A block of 32 outputs whose weights are all zero is no step: what pruning of
        heads or neurons leaves costs nothing.
16x1    weights in blocks of 16 outputs x 1 input: a panel of 16 outputs has its own list of inputs;
        64 (32) of them are interleaved for each step, that of the next while this one's products
        run, and times 16 outputs x 64 tokens make 1 x 4 tiles of sums.  x as everywhere; bfloat16
        from round_rows ("rows").

Sums go through scratch to the epilogues of bytes_4x1.py (int8; lanes in quad order) or floats.py
(bfloat16; lanes in token order).

A unit is (tile, part).  params: 0 x, 1 bytes of an x tile, 2 y, 3 bytes of a y tile, 4 parts,
5 address of the parts' rows.
A part's row: panels, addresses of headers, offsets, weights, records, tables.
header (16 bytes): int32 steps, first output's offset in a y tile, groups of 4 outputs, unused.
offsets: dense: u16 number of the block, one a step; 16x1: u16 8 * input, 64 (32) a step and a step
more at the end.  weights: tiles of 1024 bytes, two a step (dense) or one.  records and tables:
those of the epilogue, a record for 4 outputs.
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
from ..tiles import configures, every, products, release, tile_loads, tile_stores, zeros
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

    @staticmethod
    def gathers(lanes):
        """A routine (x, offsets): rows of x, interleaved."""
        load, stretch = loads("u8", lanes), lanes // 8

        def gather(x, offsets):
            a, b = load(x + stretch * load_u16(offsets)), load(x + stretch * load_u16(offsets + 2))
            offsets += 4
            c, d = load(x + stretch * load_u16(offsets)), load(x + stretch * load_u16(offsets + 2))
            return interleave(a, b, c, d)

        return routine(gather)


class Bfloat16:
    """bfloat16 x bfloat16 -> float32."""

    product, inputs = "tdpbf16ps", 2

    @staticmethod
    def gathers(lanes):
        """The same, in token order."""
        load, stretch = loads("bf16", lanes), lanes // 4

        def gather(x, offsets):
            p, q = load(x + stretch * load_u16(offsets)), load(x + stretch * load_u16(offsets + 2))
            return interleave_words(p, q)

        return routine(gather)


# --- tiles: 0-3 sums, then operands
def _square(product, lanes):
    """2 panels of 16 outputs x 2 (64 lanes) or 1 (16 lanes) groups of 16 tokens, all steps."""
    columns = 2 if lanes == 64 else 1
    sums = [2 * n + t for n in range(2) for t in range(columns)]
    clear = every([zeros(tile) for tile in sums])
    multiply = every([products(product, tile, 4 + tile // 2, 6 + tile % 2) for tile in sums])
    left, right, first, second = (tile_loads(tile) for tile in range(4, 8))
    a, b, c, d = (tile_stores(tile) for tile in range(4))
    row = 4 * lanes

    def two_columns(x, offsets, weights, steps, sums):
        clear()
        for _ in range(steps):
            at = x + 16 * row * load_u16(offsets)
            left(weights, 64)
            right(weights + TILE_BYTES, 64)
            first(at, row)
            second(at + 64, row)
            multiply()
            offsets, weights = offsets + 2, weights + 2 * TILE_BYTES
        a(sums, row)
        b(sums + 64, row)
        c(sums + 16 * row, row)
        d(sums + 16 * row + 64, row)

    def one_column(x, offsets, weights, steps, sums):
        clear()
        for _ in range(steps):
            left(weights, 64)
            right(weights + TILE_BYTES, 64)
            first(x + 16 * row * load_u16(offsets), row)
            multiply()
            offsets, weights = offsets + 2, weights + 2 * TILE_BYTES
        a(sums, row)
        c(sums + 16 * row, row)

    return routine(two_columns if columns == 2 else one_column)


def _strip(product, lanes):
    """16 outputs x all tokens, one step: (x, weights)."""
    columns = lanes // 16
    weights_tile, x_tile = tile_loads(4), tile_loads(5)
    a, b, c, d = (products(product, t, 4, 5) for t in range(4))
    row = 4 * lanes

    def four_columns(x, weights):
        weights_tile(weights, 64)
        x_tile(x, row)
        a()
        x_tile(x + 64, row)
        b()
        x_tile(x + 128, row)
        c()
        x_tile(x + 192, row)
        d()

    def one_column(x, weights):
        weights_tile(weights, 64)
        x_tile(x, row)
        a()

    return routine(four_columns if columns == 4 else one_column)


def _strip_ends(lanes):
    """Routines that clear and (address) store the sums of a strip."""
    row = 4 * lanes
    clear = every([zeros(tile) for tile in range(lanes // 16)])
    a, b, c, d = (tile_stores(tile) for tile in range(4))

    def four_columns(sums):
        a(sums, row)
        b(sums + 64, row)
        c(sums + 128, row)
        d(sums + 192, row)

    def one_column(sums):
        a(sums, row)

    return clear, routine(four_columns if lanes == 64 else one_column)


WHOLE_TILES = ((16, 64),) * 8


# --- the loops
def _finish_panel(lanes, epilogue, activation):
    """A routine (header, sums, y tile, record, table): every group of the panel."""
    finish, begun = epilogue_of(lanes, lanes, epilogue, activation), start_of(lanes, epilogue)
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
    finish = _finish_panel(lanes, epilogue, activation)
    strip, configure = _strip(kind.product, lanes), configures(WHOLE_TILES)
    clear, save = _strip_ends(lanes)
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
