"""Windows: a query sees only the keys that stand at most `window` places from it in its sentence.

Which keys of a sentence a block of queries may see at all is known by their numbers in the pack,
which are never further apart than their places; the rest is decided lane by lane.  What is taken
out comes to exactly nothing, so it does not matter how many such keys a block goes through.
"""

import numba as nb

from ...codegen.lower import routine
from ...codegen.simd import (
    absolute,
    add,
    load_i64,
    load_int,
    loads_unaligned,
    maximum,
    minimum,
    mul,
    splats,
    sub,
    to_float,
)
from ..context import CONTEXT, TILE

f32 = nb.float32
FAR = 3.0e38  # taken off scores


@routine
def seen_from(context, tile, window):
    """What `seen` and `near` need of a tile of queries: where the places of the pack's tokens and
    of the tile's are, the number of its first token, the window (below 0: everything is seen).
    """
    places = load_i64(context + CONTEXT.positions)
    return places, places + 4 * TILE * tile, TILE * tile, window


@routine
def seen(view, start, end, first, last):
    """The keys among start .. end - 1 that queries first .. last - 1 of the tile may see; an even
    number of them is left out before these.
    """
    _, _, number, window = view
    if window < 0:
        return start, end
    before = max(number + first - window - start, 0) & ~1
    return start + before, min(number + last + window, end)


def near(lanes):
    """Two routines: the places of queries from lane `at` of the tile, where there is a window; 1 in
    those lanes for which a key is near enough, else 0.
    """
    load, splat = loads_unaligned("i32", lanes), splats("f32", lanes)

    def places_of(view, at):
        _, queries, _, window = view
        places = splat(f32(0))
        if window >= 0:
            places = to_float(load(queries + 4 * at))
        return places

    def keep(view, places, key):
        keys, _, _, window = view
        apart = absolute(sub(places, splat(f32(load_int(keys + 4 * key)))))
        inside = sub(splat(f32(window + 1)), apart)
        return maximum(splat(f32(0)), minimum(splat(f32(1)), inside))

    return routine(places_of), routine(keep)


def far_below(lanes):
    """A routine: scores of one key, so low where it is not kept that their exps are 0."""
    splat = splats("f32", lanes)

    def lowered(scores, keep):
        return add(scores, mul(sub(keep, splat(f32(1))), splat(f32(FAR))))

    return routine(lowered)


def four_far_below(lanes):
    """The same of four keys from one on, each by its own place."""
    (_, keep), lowered = near(lanes), far_below(lanes)

    def four(a, b, c, d, view, places, key):
        a, b = lowered(a, keep(view, places, key)), lowered(b, keep(view, places, key + 1))
        c, d = lowered(c, keep(view, places, key + 2)), lowered(d, keep(view, places, key + 3))
        return a, b, c, d

    return routine(four)
