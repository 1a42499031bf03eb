"""The loops around a 1x4 product: panel after panel of inputs, sums in scratch between them.

A 1x4 product loads x as often as it multiplies, so that the first-level cache has to hold what it
reads: inputs are cut into panels (pack/vectors.py), and parts go through a panel together as far as
their sums fit the second-level cache.  Parameters: LINEAR, whose parts begin with PANELS; a group
has a PANEL_HEADER.  Records of the first panel hold where sums start, those of the last one, in its
own order, what the epilogue needs.
"""

import numba as nb

from ...codegen.lower import routine
from ...codegen.simd import (
    add,
    bytes_at,
    four_of,
    four_places,
    load_early,
    load_four_fours,
    load_i32,
    load_i64,
    load_words,
    loads,
    splats,
    store,
    word,
)
from ..buffers import FEW, SOME, live_lanes, of_widths, tile_of
from ..context import CONTEXT
from .epilogues import SIZE, epilogue_of, start_of, sums_of
from .records import (
    DYNAMIC_LINEAR,
    LINEAR,
    OUTPUT,
    OUTPUT_BYTES,
    PANEL_HEADER,
    PANEL_HEADER_BYTES,
    PANELS,
    PART,
    PART_BYTES,
)

MOST_SUMS = 256 << 10  # bytes that wait, in the second-level cache, while x comes from the first


def on_group(lanes, width, epilogue, activation):
    """Routines on the sums of a group, whose outputs have their places in a tile of y: begin them,
    from the record or from nothing; add what waits of them; keep them; finish them.
    """
    start, finish = start_of(width, epilogue), epilogue_of(lanes, width, epilogue, activation)
    dtype, size = sums_of(epilogue), SIZE[epilogue]
    load, zero = loads(dtype, width), splats(dtype, width)
    nothing = nb.int32(0) if dtype == "i32" else nb.float32(0)
    stretch, row = 4 // size, 4 * lanes  # from bytes of y to bytes of sums; bytes of an output's

    def begun(first, record):
        if first:
            at = record + OUTPUT.start
            return start(at), start(at + 4), start(at + 8), start(at + 12)
        return zero(nothing), zero(nothing), zero(nothing), zero(nothing)

    def waiting(kept, places):
        p, q, r, s = places
        p, q, r, s = stretch * p, stretch * q + row, stretch * r + 2 * row, stretch * s + 3 * row
        return kept + p, kept + q, kept + r, kept + s

    waiting = routine(waiting)

    def gathered(kept, places, a, b, c, d):
        p, q, r, s = waiting(kept, places)
        return add(a, load(p)), add(b, load(q)), add(c, load(r)), add(d, load(s))

    def keep(kept, places, a, b, c, d):
        p, q, r, s = waiting(kept, places)
        store(p, a)
        store(q, b)
        store(r, c)
        store(s, d)

    def ended(out, places, record, table, a, b, c, d):
        p, q, r, s = places
        finish(out + p, a, record, 0, table)
        finish(out + q, b, record, 1, table)
        finish(out + r, c, record, 2, table)
        finish(out + s, d, record, 3, table)

    return routine(begun), routine(gathered), routine(keep), routine(ended)


def one_by_one(step, weight_bytes):
    """Routines: what is loaded ahead at the beginning; all steps of a group, each step(x, four
    offsets, address of weights, a, b, c, d).

    Loads of x keep both load ports busy and depend on offsets: these are loaded two steps ahead, or
    they would wait behind the loads of x before them.
    """

    def ready(offsets):
        return load_early(offsets), load_early(offsets + 4)

    def walk(steps, x, ahead, offsets, weights, a, b, c, d):
        now, following = ahead
        for _ in range(steps):
            later = load_early(offsets + 8)
            a, b, c, d = step(x, four_places(now), weights, a, b, c, d)
            now, following = following, later
            offsets, weights = offsets + 4, weights + weight_bytes
        return (now, following), offsets, weights, a, b, c, d

    return routine(ready), routine(walk)


def four_by_four(step, quad_bytes):
    """The same for step(x, places, weights of four outputs, a, b, c, d) so short that the loads of
    its offsets and weights count: one of each for a turn of four steps.

    Offsets come through a vector register, behind the products that wait for the vector unit: they
    leave it a turn ahead, so that loads of x run on through steps and groups.
    """
    even, odd = bytes_at(0, quad_bytes), bytes_at(4, quad_bytes)
    low, high = word(0), word(1)
    first, second, third, fourth = (four_of(n) for n in range(4))

    def ready(offsets):
        now, after = load_i64(offsets), load_i64(offsets + 8)
        return even(now), now, after, load_words(offsets + 16)

    def walk(steps, x, ahead, offsets, weights, a, b, c, d):
        at, now, after, later = ahead
        for _ in range(steps >> 2):
            next_now, next_after = low(later), high(later)
            later, w = load_words(offsets + 32), load_four_fours(weights)
            a, b, c, d = step(x, at, first(w), a, b, c, d)
            at = odd(now)
            a, b, c, d = step(x, at, second(w), a, b, c, d)
            at = even(after)
            a, b, c, d = step(x, at, third(w), a, b, c, d)
            at = odd(after)
            a, b, c, d = step(x, at, fourth(w), a, b, c, d)
            now, after = next_now, next_after
            at = even(now)
            offsets, weights = offsets + 16, weights + 64
        left = steps & 3
        if left > 0:
            next_now, next_after = low(later), high(later)
            later, w = load_words(offsets + 32), load_four_fours(weights)
            a, b, c, d = step(x, at, first(w), a, b, c, d)
            if left > 1:
                at = odd(now)
                a, b, c, d = step(x, at, second(w), a, b, c, d)
                if left > 2:
                    at = even(after)
                    a, b, c, d = step(x, at, third(w), a, b, c, d)
            now, after = next_now, next_after
            at = even(now)
            offsets, weights = offsets + 16, weights + 64
        return (at, now, after, later), offsets, weights, a, b, c, d

    return routine(ready), routine(walk)


def one_panel(loop, group, quad_bytes):
    """A routine: all groups of one panel of a part."""
    ready, walk = loop
    begun, gathered, keep, ended = group

    def sum_up(part, source, target, kept, first, last, table):
        header, offsets = load_i64(part + PART.headers), load_i64(part + PART.offsets)
        weights, record = load_i64(part + PART.weights), load_i64(part + PART.records)
        x = source + quad_bytes * load_i32(header + PANEL_HEADER.quad)
        ahead = ready(offsets)
        for _ in range(load_i64(part + PART.groups)):
            steps, at = load_i32(header + PANEL_HEADER.steps), header + PANEL_HEADER.outputs
            places = load_i32(at), load_i32(at + 4), load_i32(at + 8), load_i32(at + 12)
            a, b, c, d = begun(first, record)
            ahead, offsets, weights, a, b, c, d = walk(
                steps, x, ahead, offsets, weights, a, b, c, d
            )
            if not first:
                a, b, c, d = gathered(kept, places, a, b, c, d)
            if last:
                ended(target, places, record, table, a, b, c, d)
            else:
                keep(kept, places, a, b, c, d)
            header, record = header + PANEL_HEADER_BYTES, record + OUTPUT_BYTES

    return routine(sum_up)


def in_panels(made, quad_bytes, lanes, width, epilogue, activation):
    """made: width -> one_by_one or four_by_four; quad_bytes: of 4 inputs of x, in a whole block."""
    size, dynamic, live = SIZE[epilogue], epilogue == "dynamic", live_lanes(lanes)
    stretch = 4 // size  # from bytes of y to bytes of sums

    def of_width(width):
        return one_panel(made(width), on_group(lanes, width, epilogue, activation), quad_bytes)

    few, some, whole = of_widths(of_width, width)

    def kernel(params, context, begin, end):
        arena, kept = load_i64(context + CONTEXT.arena), load_i64(context + CONTEXT.scratch)
        x, x_tile = arena + load_i64(params + LINEAR.x), load_i64(params + LINEAR.x_tile)
        y, y_tile = arena + load_i64(params + LINEAR.y), load_i64(params + LINEAR.y_tile)
        head, parts = load_i64(params + LINEAR.parts), load_i64(params + LINEAR.part_count)
        panels = load_i64(head + PANELS.count)
        together = max(1, parts * MOST_SUMS // max(1, stretch * y_tile))
        unit = begin
        while unit < end:
            tile, part = unit // parts, unit % parts
            count = min(min(parts - part, end - unit), together)
            there = live(context, tile)
            for token in range(0, there, width):
                source = x + tile * x_tile + x_tile * token // lanes
                target = y + tile * y_tile + size * token
                for panel in range(panels):
                    first, last = panel == 0, panel == panels - 1
                    for each in range(part, part + count):
                        row = head + PART_BYTES * (1 + panels * each + panel)
                        table = load_i64(row + PART.tables)
                        if dynamic:
                            scales = tile_of(arena, params + DYNAMIC_LINEAR.scales, tile)
                            table = scales + 4 * token
                        if there - token <= FEW < width:
                            few(row, source, target, kept, first, last, table)
                        elif there - token <= SOME < width:
                            some(row, source, target, kept, first, last, table)
                        else:
                            whole(row, source, target, kept, first, last, table)
            unit += count

    return kernel
