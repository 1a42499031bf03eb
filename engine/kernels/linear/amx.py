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
    load_f32,
    load_i32,
    load_i64,
    load_u16,
    loads,
    splats,
    store,
)  # fmt: skip
from ..context import ARENA, SCRATCH
from ..tiles import configures, every, products, release, tile_loads, tile_stores, zeros
from .bytes_4x1 import EPILOGUES
from .floats import SIZE, float_epilogue

TILE_BYTES = 1024
SUMS = 64  # scratch: configuration, sums [32][lanes], then two steps of interleaved x
FLOAT_EPILOGUES = ("floats", "rounded")  # of bytes_4x1.py: y is float32


# --- what int8 and bfloat16 have of their own
def _gathered_quad(lanes):
    """A routine (x, 4 offsets, out): rows of bytes -> quads, in quad order."""
    load, stretch = loads("u8", lanes), lanes // 8

    def quad(x, offsets, out):
        a, b = load(x + stretch * load_u16(offsets)), load(x + stretch * load_u16(offsets + 2))
        c, d = load(x + stretch * load_u16(offsets + 4)), load(x + stretch * load_u16(offsets + 6))
        store(out, interleave(a, b, c, d))

    return routine(quad)


def _gathered_pair(lanes):
    """A routine (x, 2 offsets, out): rows of bfloat16 -> pairs, in token order."""
    load, stretch = loads("bf16", lanes), lanes // 4

    def pair(x, offsets, out):
        p, q = load(x + stretch * load_u16(offsets)), load(x + stretch * load_u16(offsets + 2))
        store(out, interleave_words(p, q))

    return routine(pair)


class Int8:
    """u8 x s8 -> int32."""

    product, inputs = "tdpbsud", 4  # in 4 bytes
    gathered = staticmethod(_gathered_quad)

    @staticmethod
    def epilogue(lanes, name, activation):
        """A routine (sums, record, n, out, table, params) for output n of 4; bytes of its row."""
        emit, load = EPILOGUES[name](lanes, activation), loads("i32", lanes)
        splat, row = splats("i32", lanes), 4 * lanes

        def finish(sums, record, n, out, table, params):
            v = add(load(sums + row * n), splat(load_i32(record + 16 + 4 * n)))
            emit(out, v, record, n, table, params)

        return routine(finish), lanes * (4 if name in FLOAT_EPILOGUES else 1)


class Bfloat16:
    """bfloat16 x bfloat16 -> float32."""

    product, inputs = "tdpbf16ps", 2
    gathered = staticmethod(_gathered_pair)

    @staticmethod
    def epilogue(lanes, name, activation):
        """The same; name: "f32" or "u8"."""
        emit, load = float_epilogue(lanes, lanes, name, activation), loads("f32", lanes)
        splat, row = splats("f32", lanes), 4 * lanes

        def finish(sums, record, n, out, table, params):
            v = add(load(sums + row * n), splat(load_f32(record + 16 + 4 * n)))
            emit(out, v, record, n)

        return routine(finish), lanes * SIZE[name]


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
def _finish_panel(epilogue, y_row, lanes):
    """A routine (header, sums, y tile, record, table, params): every group of the panel."""

    def finish(header, sums, target, record, table, params):
        out = target + load_i32(header + 4)
        for _ in range(load_i32(header + 8)):
            for n in range(4):
                epilogue(sums, record, n, out, table, params)
            sums, out, record = sums + 16 * lanes, out + 4 * y_row, record + 64

    return routine(finish)


def _dense(kind, lanes, epilogue, activation):
    """See the head of the file."""
    finish_group, y_row = kind.epilogue(lanes, epilogue, activation)
    finish = _finish_panel(finish_group, y_row, lanes)
    square, configure = _square(kind.product, lanes), configures(WHOLE_TILES)
    halves = 2 if lanes == 64 else 1

    def kernel(params, context, begin, end):
        arena, scratch = load_i64(context + ARENA), load_i64(context + SCRATCH)
        parts, rows = load_i64(params + 32), load_i64(params + 40)
        configure(scratch)
        for unit in range(begin, end):
            tile, part = unit // parts, rows + 48 * (unit % parts)
            x = arena + load_i64(params) + load_i64(params + 8) * tile
            target = arena + load_i64(params + 16) + load_i64(params + 24) * tile
            header, offsets, weights = load_i64(part + 8), load_i64(part + 16), load_i64(part + 24)
            record, table = load_i64(part + 32), load_i64(part + 40)
            for _ in range(load_i64(part)):
                steps, groups = load_i32(header), load_i32(header + 8)
                for half in range(halves):
                    at = 128 * half
                    square(x + at, offsets, weights, steps, scratch + SUMS + at)
                finish(header, scratch + SUMS, target, record, table, params)
                offsets, weights = offsets + 2 * steps, weights + 2 * TILE_BYTES * steps
                header, record = header + 16, record + 64 * groups
        release()

    return kernel


def _blocks_16x1(kind, lanes, epilogue, activation):
    """See the head of the file."""
    row, inputs = 4 * lanes, kind.inputs
    fill = kind.gathered(lanes)
    finish_group, y_row = kind.epilogue(lanes, epilogue, activation)
    finish = _finish_panel(finish_group, y_row, lanes)
    strip, configure = _strip(kind.product, lanes), configures(WHOLE_TILES)
    clear, save = _strip_ends(lanes)
    together, step_bytes = SUMS + 32 * row, 16 * row

    def gather(x, offsets, out):
        for _ in range(16):
            fill(x, offsets, out)
            offsets, out = offsets + 2 * inputs, out + row

    gather = routine(gather)

    def kernel(params, context, begin, end):
        arena, scratch = load_i64(context + ARENA), load_i64(context + SCRATCH)
        parts, rows = load_i64(params + 32), load_i64(params + 40)
        sums = scratch + SUMS
        configure(scratch)
        for unit in range(begin, end):
            tile, part = unit // parts, rows + 48 * (unit % parts)
            x = arena + load_i64(params) + load_i64(params + 8) * tile
            target = arena + load_i64(params + 16) + load_i64(params + 24) * tile
            header, offsets, weights = load_i64(part + 8), load_i64(part + 16), load_i64(part + 24)
            record, table = load_i64(part + 32), load_i64(part + 40)
            here, other = scratch + together, scratch + together + step_bytes
            gather(x, offsets, here)
            for _ in range(load_i64(part)):
                groups = load_i32(header + 8)
                clear()
                for _ in range(load_i32(header)):
                    offsets += 32 * inputs
                    gather(x, offsets, other)
                    strip(here, weights)
                    here, other, weights = other, here, weights + TILE_BYTES
                save(sums)
                finish(header, sums, target, record, table, params)
                header, record = header + 16, record + 64 * groups
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
