"""The loops around a 1x4 product: panel after panel of inputs (pack.py), sums waiting in scratch.

Parts go through a panel together as far as their sums fit a cache.

The parts' rows: one with the number of panels, then for each part a row for each panel, as
linear.py has them.  Records of the first panel hold where sums start, those of the last one, in its
own order, what the epilogue needs.
"""

import numba as nb

from ..lower import routine
from ..simd import add, load_early, load_i32, load_i64, loads, splats, store
from .context import ARENA, SCRATCH

ROW_BYTES = 48
MOST_SUMS = 256 << 10  # bytes that wait, in the second-level cache, while x comes from the first


def waiting_sums(start, dtype, width):
    """Routines that begin a group's four sums, from the record or from nothing, add what waits of
    them, and keep them.

    p .. s: where the group's outputs have their place.
    """
    load, zero = loads(dtype, width), splats(dtype, width)
    nothing = nb.int32(0) if dtype == "i32" else nb.float32(0)

    def begun(first, record):
        if first:
            return start(record + 16), start(record + 20), start(record + 24), start(record + 28)
        return zero(nothing), zero(nothing), zero(nothing), zero(nothing)

    def gathered(kept, p, q, r, s, a, b, c, d):
        a, b = add(a, load(kept + p)), add(b, load(kept + q))
        return a, b, add(c, load(kept + r)), add(d, load(kept + s))

    def keep(kept, p, q, r, s, a, b, c, d):
        store(kept + p, a)
        store(kept + q, b)
        store(kept + r, c)
        store(kept + s, d)

    return routine(begun), routine(gathered), routine(keep)


def four_results(finish):
    """A routine: the epilogue of a group, whose outputs have a place each."""

    def ended(out, header, record, table, params, a, b, c, d):
        finish(out + load_i32(header + 4), a, record, 0, table, params)
        finish(out + load_i32(header + 8), b, record, 1, table, params)
        finish(out + load_i32(header + 12), c, record, 2, table, params)
        finish(out + load_i32(header + 16), d, record, 3, table, params)

    return routine(ended)


def one_panel(step, start, finish, dtype, size, weight_bytes, table_bytes, lanes, width):
    """A routine: all groups of one panel of a part.

    Loads of x keep both load ports busy and depend on offsets: these are loaded two steps ahead, or
    they would wait behind the loads of x before them.
    """
    begun, gathered, keep = waiting_sums(start, dtype, width)
    ended = four_results(finish)
    stretch, row = 4 // size, size * lanes  # from bytes of y to bytes of sums; bytes of an output

    def sum_up(part, source, target, kept, first, last, table, params):
        headers, offsets = load_i64(part + 8), load_i64(part + 16)
        weights, record = load_i64(part + 24), load_i64(part + 32)
        now, following = load_early(offsets), load_early(offsets + 8)
        for _ in range(load_i64(part)):
            p = stretch * load_i32(headers + 4)
            q = stretch * (load_i32(headers + 8) + row)
            r = stretch * (load_i32(headers + 12) + 2 * row)
            s = stretch * (load_i32(headers + 16) + 3 * row)
            a, b, c, d = begun(first, record)
            for _ in range(load_i32(headers)):
                ahead = load_early(offsets + 16)
                a, b, c, d = step(source, now, weights, a, b, c, d)
                now, following = following, ahead
                offsets, weights = offsets + 8, weights + weight_bytes
            if not first:
                a, b, c, d = gathered(kept, p, q, r, s, a, b, c, d)
            if last:
                ended(target, headers, record, table, params, a, b, c, d)
            else:
                keep(kept, p, q, r, s, a, b, c, d)
            headers, record, table = headers + 32, record + 64, table + table_bytes

    return routine(sum_up)


def in_panels(step, start, finish, dtype, size, weight_bytes, table_bytes, lanes, width):
    """step(x, four offsets in an int64, weights, a, b, c, d) -> four sums of dtype; start(address
    of where an output's sums start) -> sums; finish(address of output 0's tokens, sums, record, n,
    table, params); size: bytes of a result.

    Where a tile has a table of its own (table_bytes 0) params 6 is its place in the arena, 7 bytes
    of a tile of it.
    """
    stretch = 4 // size
    sum_up = one_panel(step, start, finish, dtype, size, weight_bytes, table_bytes, lanes, width)

    def kernel(params, context, begin, end):
        arena, kept = load_i64(context + ARENA), load_i64(context + SCRATCH)
        x, y = arena + load_i64(params), arena + load_i64(params + 16)
        x_tile, y_tile = load_i64(params + 8), load_i64(params + 24)
        parts, rows = load_i64(params + 32), load_i64(params + 40)
        panels = load_i64(rows)
        together = max(1, parts * MOST_SUMS // max(1, stretch * y_tile))
        unit = begin
        while unit < end:
            tile, part = unit // parts, unit % parts
            count = min(min(parts - part, end - unit), together)
            for token in range(0, lanes, width):
                source = x + tile * x_tile + x_tile * token // lanes
                target = y + tile * y_tile + size * token
                for panel in range(panels):
                    first, last = panel == 0, panel == panels - 1
                    for each in range(part, part + count):
                        row = rows + ROW_BYTES * (1 + panels * each + panel)
                        table = load_i64(row + 40)
                        if table_bytes == 0:
                            of_tile = load_i64(params + 48) + load_i64(params + 56) * tile
                            table = arena + of_tile + 4 * token
                        sum_up(row, source, target, kept, first, last, table, params)
            unit += count

    return kernel
