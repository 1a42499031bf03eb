"""A worker's life beside the caller's: it waits for calls and does its share of each."""

from ...codegen.lower import routine
from ...codegen.simd import (
    call_kernel,
    exchange,
    fetch_add,
    load_i64,
    load_shared,
    pause,
    store_unaligned,
)
from ..call import CONTROL, CPUS_BYTES, LINE
from ..context import CONTEXT
from .calls import work


@routine
def sleep(control, line, seen):
    """Until the caller wakes this worker (or a signal does) where no generation has come yet."""
    exchange(line + LINE.state, 1)
    if load_shared(control + CONTROL.generation) == seen:
        call_kernel(load_i64(control + CONTROL.sem_wait), line + LINE.semaphore, 0, 0, 0)
    exchange(line + LINE.state, 0)


def serve():
    """A worker's life: waits for generations and does its share of each, until the pool ends.

    The parameters are the CONTROL, the context its own, begin its number; the generation it has
    seen is kept in the context.
    """
    share = work(False)

    def kernel(control, context, begin, end):
        line = control + CONTROL.size + LINE.size * begin
        pin = load_i64(control + CONTROL.sched_setaffinity)
        if pin:  # this thread, where it may
            call_kernel(pin, 0, CPUS_BYTES, line + LINE.cpus, 0)
        while True:
            seen, spins = load_i64(context + CONTEXT.generation), 0
            while load_shared(control + CONTROL.generation) == seen:
                pause()
                spins += 1
                if spins > load_i64(control + CONTROL.spins):
                    sleep(control, line, seen)
                    spins = 0
            store_unaligned(context + CONTEXT.generation, load_shared(control + CONTROL.generation))
            if load_i64(control + CONTROL.call) == 0:
                return
            share(load_i64(control + CONTROL.call), context, begin)
            fetch_add(control + CONTROL.finished, 1)

    return kernel
