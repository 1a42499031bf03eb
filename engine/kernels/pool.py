"""One row of a sentence's tokens: their sum, mean or greatest, channel by channel.

Tokens are taken 16 at a time from where they lie, with 0 (for the greatest, -inf) in the lanes of
other sentences.  A sentence that begins elsewhere has the same numbers in lanes turned round, which
`total` does not see: each of its steps adds lanes half a turn apart.

The greatest is NaN where a token is, as NumPy has it, and at least `fill` where some token of the
sentence is masked.  A unit is a tile of rows; params: POOL.
Scratch: of each 16 tokens their mask, what is added to them, their address: a BLOCK.
"""

import numba as nb

from ..codegen.lower import routine
from ..codegen.simd import (
    add,
    as_float,
    as_int,
    both,
    load_f32,
    load_i64,
    loads,
    parts,
    splats,
    square_root,
    store,
    store_lanes,
    store_unaligned,
    total,
    where_above,
)
from .buffers import rows_of_tile, tokens_of_row
from .context import CONTEXT, ROWS, TILE
from .params import POOL

f32, i32, i64 = nb.float32, nb.int32, nb.int64
LANES = 16
LINE = 4 * LANES
ADDED, ADDRESS, BLOCK = LINE, 2 * LINE, 3 * LINE  # in scratch
BLOCKS_OF_TILE = TILE // LANES
LEAST = -float("inf")


def _blocks(rest):
    """A routine that describes the blocks of a sentence's tokens in scratch and returns their
    number; rest: what is added to the others' zeros.
    """
    splat, whole = splats("f32", LANES), splats("i32", LANES)

    def describe(x, x_tile, start, stop, scratch):
        first, behind = start // LANES, (stop + LANES - 1) // LANES
        for block in range(first, behind):
            begins, ends = max(start - LANES * block, 0), min(stop - LANES * block, LANES)
            store(scratch, whole(i32(0)))
            store_lanes(scratch, whole(i32(-1)), begins, ends)
            store(scratch + ADDED, splat(f32(rest)))
            store_lanes(scratch + ADDED, splat(f32(0)), begins, ends)
            at = x + x_tile * (block // BLOCKS_OF_TILE) + LINE * (block % BLOCKS_OF_TILE)
            store_unaligned(scratch + ADDRESS, i64(at))
            scratch += BLOCK
        return behind - first

    return routine(describe)


@routine
def _above(x, y):
    return where_above(x, y, x, y)


def _greatest():
    """A routine: the greatest of 16 lanes, in one."""
    low, high = parts(2, 0), parts(2, 1)

    def greatest(v):
        eight = _above(low(v), high(v))
        four = _above(low(eight), high(eight))
        two = _above(low(four), high(four))
        return _above(low(two), high(two))

    return routine(greatest)


def _of_channel(how):
    """A routine: what becomes of one channel; at: of the channel in a tile; divisor: of the sum;
    fill: not less than this.
    """
    load, load_mask, splat = loads("f32", LANES), loads("i32", LANES), splats("f32", LANES)
    greatest = _greatest()

    def real(block, at):
        v = load(load_i64(block + ADDRESS) + at)
        return as_float(both(as_int(v), load_mask(block)))  # neighbours' may be NaN

    real = routine(real)

    def most(blocks, count, at, divisor, fill):
        found = splat(fill)
        for n in range(count):
            block = blocks + BLOCK * n
            found = _above(add(real(block, at), load(block + ADDED)), found)
        return greatest(found)

    def sum_(blocks, count, at, divisor, fill):
        sums = splat(f32(0))
        for n in range(count):
            sums = add(sums, real(blocks + BLOCK * n, at))
        return total(sums) / divisor

    return routine(most if how == "max" else sum_)


def pool(how):
    """how: "mean", "sum" or "max"."""
    describe, of_channel = _blocks(LEAST if how == "max" else 0.0), _of_channel(how)

    def kernel(params, context, begin, end):
        arena, blocks = load_i64(context + CONTEXT.arena), load_i64(context + CONTEXT.scratch)
        x, x_tile = arena + load_i64(params + POOL.x), load_i64(params + POOL.x_tile)
        channels, length = load_i64(params + POOL.channels), load_i64(context + CONTEXT.length)
        y, y_tile = arena + load_i64(params + POOL.y), load_i64(params + POOL.y_tile)
        for tile in range(begin, end):
            low, high = rows_of_tile(context, tile)
            for row in range(low, high):
                start, stop = tokens_of_row(context, row)
                count = describe(x, x_tile, start, stop, blocks)
                divisor, fill = f32(1), f32(LEAST)
                if how == "mean":
                    divisor = max(f32(stop - start), load_f32(params + POOL.least))
                    if load_i64(params + POOL.root):
                        divisor = square_root(divisor)
                if stop - start < length:
                    fill = load_f32(params + POOL.least)
                to = y + y_tile * tile + 4 * (row - ROWS * tile)
                for n in range(channels):
                    made = of_channel(blocks, count, 4 * TILE * n, divisor, fill)
                    store_unaligned(to + 4 * ROWS * n, made)

    return kernel
