"""How workers share a pack: each one's units of a step, and where they wait for one another."""

import numba as nb

from ...codegen.lower import routine
from ...codegen.simd import fetch_add, load_i64, load_shared, pause, yield_core
from ..call import EVERYWHERE, STEP, WHERE_UNEVEN
from ..context import CONTEXT, ROWS

i64 = nb.int64
MOST_SPINS = 2000  # then another process has one of our cores: let it have this one


@routine
def wait_until(counter, target):
    """Until other workers have counted so far."""
    spins = 0
    while load_shared(counter) < target:
        pause()
        spins += 1
        if spins > MOST_SPINS:
            yield_core()


@routine
def wait_for_all(counter, target):
    """A barrier: every worker adds one and waits until all have."""
    fetch_add(counter, 1)
    wait_until(counter, target)


@routine
def units_of(step, context):
    """Units of work a step has in this pack: the first and behind the last."""
    what, units, first = load_i64(step + STEP.counted), load_i64(step + STEP.units), i64(0)
    if what == CONTEXT.row_tiles:
        first = units * (load_i64(context + CONTEXT.first_row) // ROWS)
    if what:
        units *= load_i64(context + what)
    return first, units


@routine
def has_barrier(step, context, sharing):
    """Whether workers that share the pack wait for one another after a step."""
    where = load_i64(step + STEP.barrier)
    return where == EVERYWHERE or (
        where == WHERE_UNEVEN and load_i64(context + CONTEXT.tiles) % sharing != 0
    )


@routine
def is_alone(step, context):
    """Whether all of a step is the first worker's."""
    low, high = units_of(step, context)
    return high - low == 1 or load_i64(step + STEP.alone) != 0


@routine
def share_of(step, context, worker, sharing):
    """A worker's units: the first and behind the last."""
    low, high = units_of(step, context)
    if sharing == 1:
        return low, high
    if is_alone(step, context):
        return low, high if worker == 0 else low
    units = high - low
    return (
        low + (units * worker + sharing - 1) // sharing,
        low + (units * (worker + 1) + sharing - 1) // sharing,
    )


@routine
def is_alone_until_barrier(step, context, sharing):
    """Whether all steps until the next barrier are the first worker's."""
    while True:
        if not is_alone(step, context):
            return False
        if has_barrier(step, context, sharing):
            return True
        step += STEP.size
