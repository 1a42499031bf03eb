"""4x1 products on bytes in the rows domain: a few rows by themselves, many as tiles.

A tile of sparse_dot_u8s8_4x1 costs the same for one row as for 16.  Up to FEW rows are made one by
one: the inputs that 16 blocks of a group read are looked up in 256 bytes of x (vpermi2b), four at a
time for each of 4 outputs, so that one dot4 does 64 multiply-adds of one row.  The sums of 16
outputs end in lanes of one vector.

A unit is (tile, part), as in bytes_4x1.py: a part of the layer's blocks of 16 outputs.  Parameters:
FEW_ROWS; a block's steps have FEW_ROWS_PLACES and 256 bytes of weights each, the block a record
FEW_ROWS_OUTPUT.
"""

import numba as nb

from ...codegen.lower import routine
from ...codegen.simd import (
    MAGIC,
    add,
    as_bytes,
    as_int,
    dot4,
    fma,
    load_f32,
    load_four,
    load_i32,
    load_i64,
    load_int,
    load_u8,
    loads,
    lookup,
    saturate_words,
    splats,
    store,
    store_u8,
    sums_of_quads,
    to_float,
    xor,
)
from ..activations import ROUGH_ACTIVATIONS
from ..buffers import tile_of
from ..context import CONTEXT, ROWS
from .bytes_4x1 import sparse_dot_u8s8_4x1
from .records import FEW_ROWS, FEW_ROWS_OUTPUT, FEW_ROWS_PLACES

f32, i32 = nb.float32, nb.int32
FEW = 2  # rows: three one by one take as long as a tile
PLACES_BYTES, WEIGHT_BYTES = FEW_ROWS_PLACES.size, 256  # of a step
RECORD_BYTES = FEW_ROWS_OUTPUT.size  # of a block


def finish_of(epilogue, activation):
    """A routine: sums of 16 outputs -> bytes at `out`, 16 bytes of scratch at `kept`."""
    load_scale, load_start, splat = loads("f32", 16), loads("i32", 16), splats("f32", 16)
    flip, act = splats("i32", 4), ROUGH_ACTIVATIONS[activation](16)

    def scaled(sums, record):
        v = to_float(add(sums, load_start(record + FEW_ROWS_OUTPUT.start)))
        factor, shift = record + FEW_ROWS_OUTPUT.scale, record + FEW_ROWS_OUTPUT.shift
        return fma(v, load_scale(factor), load_scale(shift))

    scaled = routine(scaled)

    def table(out, sums, record, tables, kept):
        store(kept, saturate_words(as_int(scaled(sums, record))))
        for n in range(16):
            at = tables + load_int(record + FEW_ROWS_OUTPUT.table + 4 * n) + load_u8(kept + n)
            store_u8(out + load_int(record + FEW_ROWS_OUTPUT.place + 4 * n), load_u8(at))

    def put(out, v, record, kept):
        flipped = flip(load_i32(record + FEW_ROWS_OUTPUT.flip))
        store(kept, xor(as_int(saturate_words(as_int(v))), flipped))
        for n in range(16):
            store_u8(out + load_int(record + FEW_ROWS_OUTPUT.place + 4 * n), load_u8(kept + n))

    put = routine(put)

    def plain(out, sums, record, tables, kept):
        put(out, scaled(sums, record), record, kept)

    def linear(out, sums, record, tables, kept):
        put(out, add(scaled(sums, record), splat(f32(MAGIC))), record, kept)

    def activated(out, sums, record, tables, kept):
        a = splat(load_f32(record + FEW_ROWS_OUTPUT.a))
        b = splat(load_f32(record + FEW_ROWS_OUTPUT.b))
        put(out, fma(act(scaled(sums, record)), a, b), record, kept)

    bytes_ = linear if activation == "none" else activated
    return routine({"table": table, "plain": plain, "bytes": bytes_}[epilogue])


def one_row(epilogue, activation):
    """A routine: blocks first .. last - 1 of one row, whose x stands in `row`."""
    finish, whole, load = finish_of(epilogue, activation), splats("i32", 16), loads("i32", 16)

    def looked_up(row, places, n):
        window = row + load_int(places + FEW_ROWS_PLACES.windows + 4 * n)
        return lookup(window, as_bytes(load_four(places + FEW_ROWS_PLACES.inputs + 16 * n)))

    looked_up = routine(looked_up)

    def product(row, out, kept, params, first, last):
        steps, places = load_i64(params + FEW_ROWS.steps), load_i64(params + FEW_ROWS.places)
        weights, record = load_i64(params + FEW_ROWS.weights), load_i64(params + FEW_ROWS.records)
        tables = load_i64(params + FEW_ROWS.tables)
        for block in range(last):
            count = load_int(steps + 4 * block)
            if block >= first:
                a, b, c, d = whole(i32(0)), whole(i32(0)), whole(i32(0)), whole(i32(0))
                place, weight = places, weights
                for _ in range(count):
                    a = dot4(a, looked_up(row, place, 0), load(weight))
                    b = dot4(b, looked_up(row, place, 1), load(weight + 64))
                    c = dot4(c, looked_up(row, place, 2), load(weight + 128))
                    d = dot4(d, looked_up(row, place, 3), load(weight + 192))
                    place, weight = place + PLACES_BYTES, weight + WEIGHT_BYTES
                finish(out, sums_of_quads(a, b, c, d), record, tables, kept)
            places, weights = places + PLACES_BYTES * count, weights + WEIGHT_BYTES * count
            record += RECORD_BYTES

    return routine(product)


def rows_dot_u8s8_4x1(epilogue, activation):
    """See the head of the file."""
    tiles = routine(sparse_dot_u8s8_4x1(ROWS, epilogue, activation))
    product = one_row(epilogue, activation)

    def kernel(params, context, begin, end):
        arena, kept = load_i64(context + CONTEXT.arena), load_i64(context + CONTEXT.scratch)
        row = kept + 64
        parts, blocks = load_i64(params + FEW_ROWS.part_count), load_i64(params + FEW_ROWS.blocks)
        inputs = load_i64(params + FEW_ROWS.inputs)
        first_row = load_i64(context + CONTEXT.first_row)
        behind = first_row + load_i64(context + CONTEXT.sentences)
        unit = begin
        while unit < end:
            tile = unit // parts
            until = min(end, parts * (tile + 1))
            low, high = max(first_row, ROWS * tile), min(behind, ROWS * tile + ROWS)
            if high - low > FEW:
                tiles(params, context, unit, until)
            else:
                x = tile_of(arena, params + FEW_ROWS.x, tile)
                y = tile_of(arena, params + FEW_ROWS.y, tile)
                first = blocks * (unit - parts * tile) // parts
                last = blocks * (until - parts * tile) // parts
                for lane in range(low - ROWS * tile, high - ROWS * tile):
                    for n in range(inputs):
                        store_u8(row + n, load_u8(x + ROWS * n + lane))
                    product(row, y + lane, kept, params, first, last)
            unit = until

    return kernel
