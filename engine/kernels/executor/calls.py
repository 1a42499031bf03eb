"""The executor loop: packs of sentences go through all steps, one pack at a time, without returning
to Python.

The last steps, on rows alone (a lane a sentence), wait until as many rows as there is room for have
come together: one row costs them as much as sixteen.  Workers share each pack where that ends
before each has done packs of its own.
"""

import numba as nb

from ...codegen.lower import routine
from ...codegen.simd import (
    call_kernel,
    cycles,
    exchange,
    fetch_add,
    load_i64,
    load_int,
    load_shared,
    store_unaligned,
)
from ..call import CALL, CONTROL, LINE, PACK, STEP
from ..context import CONTEXT, MOST_ROWS
from .packs import cut_into_packs, fill, find_arrays, set_rows
from .sharing import (
    has_barrier,
    is_alone,
    is_alone_until_barrier,
    share_of,
    wait_for_all,
    wait_until,
)

i64 = nb.int64
SHARING_COST = 115  # percent: barriers and uneven steps, against one worker a pack


def steps_in_turn(profiled):
    """A worker's share of steps first .. last - 1: routine (call, context, its number, first, last,
    arrivals at the barrier so far) -> arrivals.

    Where all steps since the last barrier were the first worker's, and all until the next one are,
    nobody else has anything to wait for.
    """

    def through(params, context, worker, first, last, arrivals):
        steps, sharing = load_i64(params + CALL.steps), load_i64(params + CALL.sharing)
        alone = True
        for number in range(first, last):
            step = steps + STEP.size * number
            low, high = share_of(step, context, worker, sharing)
            began = cycles() if profiled else i64(0)
            code, own = load_i64(step + STEP.kernel), load_i64(step + STEP.params)
            call_kernel(code, own, context, low, high)
            alone = alone and (sharing == 1 or is_alone(step, context))
            if sharing > 1 and has_barrier(step, context, sharing):
                following, more = step + STEP.size, number + 1 < last
                if not (alone and more and is_alone_until_barrier(following, context, sharing)):
                    arrivals += sharing
                    wait_for_all(params + CALL.arrived, arrivals)
                    alone = True
            if profiled and worker == 0:
                store_unaligned(step + STEP.cycles, load_i64(step + STEP.cycles) + cycles() - began)
                store_unaligned(step + STEP.calls, load_i64(step + STEP.calls) + 1)
        return arrivals

    return routine(through)


def work(profiled):
    """A worker's share of a call: routine (call, context, its number)."""
    through = steps_in_turn(profiled)

    def share(params, context, worker):
        count = load_i64(params + CALL.step_count)
        packs = load_i64(params + CALL.pack_count)
        late = load_i64(params + CALL.late)
        sharing = load_i64(params + CALL.sharing)
        pack, rows, arrivals = i64(0), i64(0), i64(0)
        arena = CONTEXT.own_arena if sharing == 1 else CONTEXT.shared_arena
        store_unaligned(context + CONTEXT.arena, load_i64(context + arena))
        while True:
            if sharing == 1:
                pack = fetch_add(params + CALL.taken, 1)
            sentences = i64(0)
            if pack < packs:
                at = load_i64(params + CALL.packs) + PACK.size * pack
                sentences = load_int(at + PACK.sentences)
            if rows and (pack >= packs or rows + sentences > MOST_ROWS):
                set_rows(context, 0, rows)
                arrivals = through(params, context, worker, late, count, arrivals)
                rows = i64(0)
            if pack >= packs:
                break
            fill(params, context, pack, rows)
            arrivals = through(params, context, worker, 0, late, arrivals)
            rows += sentences
            if sharing > 1:
                pack += 1

    return routine(share)


def prepare():
    """The first part of a call alone.  params: call."""

    def kernel(params, context, begin, end):
        find_arrays(params)
        cut_into_packs(params)

    return kernel


def run(profiled):
    """The packs of a call that is prepared, by one thread.  params: call; context: the worker's."""
    share = work(profiled)

    def kernel(params, context, begin, end):
        share(params, context, 0)

    return kernel


@routine
def begin_together(params, control, workers):
    """Shares the packs out, lets the other workers begin and wakes those that sleep."""
    packs = load_i64(params + CALL.pack_count)
    alone = (packs + workers - 1) // workers
    if 100 * alone * workers > SHARING_COST * packs:
        store_unaligned(params + CALL.steps, load_i64(params + CALL.shared_steps))
        store_unaligned(params + CALL.sharing, workers)
    store_unaligned(params + CALL.arrived, i64(0))
    store_unaligned(control + CONTROL.call, params)
    store_unaligned(control + CONTROL.finished, i64(0))
    fetch_add(control + CONTROL.generation, 1)
    for worker in range(1, workers):
        line = control + CONTROL.size + LINE.size * worker
        if load_shared(line + LINE.state) and exchange(line + LINE.state, 0):
            call_kernel(load_i64(control + CONTROL.sem_post), line + LINE.semaphore, 0, 0, 0)


def call(profiled):
    """A whole call, by the first worker.  params: call; nothing else is read."""
    share = work(profiled)

    def kernel(params, context, begin, end):
        control = load_i64(params + CALL.control)
        workers = load_i64(control + CONTROL.workers)
        find_arrays(params)
        cut_into_packs(params)
        if load_i64(params + CALL.wrong) or load_i64(params + CALL.odd):
            return
        if workers > 1:
            begin_together(params, control, workers)
        share(params, load_i64(params + CALL.first_context), 0)
        if workers > 1:
            wait_until(control + CONTROL.finished, workers - 1)

    return kernel
