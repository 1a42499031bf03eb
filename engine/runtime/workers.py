"""Memory of the workers and the threads that run a program.

Every worker has a context, scratch and the arrays that describe a pack.  In throughput each has its
own arena and takes packs from a counter; in latency all share the first one's arena and each step's
units, and wait at barriers where plan/barriers.py says so.  The caller is worker 0.  The others
spin for a while after a call, so that the next begins at once, and then sleep.

All that calls need is a Room.  It is made whole or not at all, never changed, and exchanged by one
assignment: an exception or a fork at any place finds a session that is ready for its next call.
"""

from __future__ import annotations

import _thread
import ctypes
import mmap
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import settings
from ..codegen.isa import Isa
from ..errors import ResourceError
from ..kernels import kernel
from ..kernels.call import CALL, CONTROL, CPUS_BYTES, LINE, PACK
from ..kernels.context import CONTEXT, MOST_ROWS

__all__ = ["NO_ROOM", "Room", "ThreadPool", "Worker", "give_back"]

Array = NDArray[Any]
SERVE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
LIBC = ctypes.CDLL(None)
PAGE = mmap.PAGESIZE
SPINS_A_MICROSECOND = 25  # a pause is about 40 ns


def memory(size: int) -> NDArray[np.uint8]:
    """Zeroed memory on a page boundary, touched only when used; a fork copies it.

    Raises:
        ResourceError: the system does not give so much.
    """
    try:
        pages = mmap.mmap(-1, max(size, PAGE), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError) as error:
        raise ResourceError(f"{size} bytes of memory for a call: {error}") from error
    return np.frombuffer(pages, np.uint8)


def give_back() -> None:
    """Returns to the system what reading and packing a model has freed, where malloc can."""
    trim = getattr(LIBC, "malloc_trim", None)
    if trim is not None:
        trim(0)


class Worker:
    """One worker's context: where its arena, scratch and the arrays of a pack are."""

    def __init__(
        self,
        tokens: int,
        arena_bytes: int,
        scratch_bytes: int,
        shared: Worker | None,
        outputs: int,
    ) -> None:
        """shared: the first worker, or None for it; outputs: address of the results' addresses."""
        self.arena, self.scratch = memory(arena_bytes), memory(scratch_bytes)
        self.arrays = memory(4 * (4 * tokens + 2 * MOST_ROWS + 1)).view(np.int32)
        at = self.arrays.ctypes.data
        ids, types, positions, places, row_sentences = (at + 4 * tokens * n for n in range(5))
        self.context = CONTEXT.structure.from_buffer(memory(CONTEXT.size).data)
        self.address = ctypes.addressof(self.context)
        fields = {
            "own_arena": self.arena.ctypes.data,
            "shared_arena": (shared or self).arena.ctypes.data,
            "scratch": self.scratch.ctypes.data,
            "outputs": outputs,
            "ids": ids,
            "types": types,
            "positions": positions,
            "places": places,
            "row_sentences": row_sentences,
            "starts": row_sentences + 4 * MOST_ROWS,
        }
        for name, value in fields.items():
            setattr(self.context, name, value)


class ThreadPool:
    """Threads for workers 1 and up, which take part in calls (kernels/executor/workers.py).

    They run no Python: nothing that is raised reaches them, and they need the interpreter's lock
    only to begin and to end.  They hold the control block and a context each, not the pool: a pool
    that nobody holds any more, finished or half made, ends them.
    """

    _semaphores: Sequence[ctypes.c_void_p] = ()  # those of the threads that may be there

    def __init__(self, isa: Isa, workers: Sequence[Worker], cpus: tuple[int, ...]) -> None:
        """workers: new ones; cpus: where they are pinned, worker n to cpus[n % len].

        Raises:
            ResourceError: the system does not give so many threads.
        """
        size = len(workers)
        block = memory(CONTROL.size + LINE.size * size)
        self.control = CONTROL.structure.from_buffer(block.data)
        self.address = ctypes.addressof(self.control)
        self.control.spins = settings.current().spin_us * SPINS_A_MICROSECOND
        self.control.workers = size
        for name in ("sem_wait", "sem_post", "sched_setaffinity"):
            setattr(self.control, name, _address(name))
        lines = block[CONTROL.size :][: LINE.size * size].view(LINE.dtype)
        for number, line in enumerate(lines) if cpus else ():
            line["cpus"] = _mask(cpus[number % len(cpus)])
        first = self.address + CONTROL.size + LINE.semaphore
        self._semaphores = [ctypes.c_void_p(first + LINE.size * n) for n in range(1, size)]
        for semaphore in self._semaphores:
            if LIBC.sem_init(semaphore, 0, 0):
                raise ResourceError("semaphores: this system has none")
        self._start(SERVE(kernel(isa, "serve").address), workers)

    def _start(self, serve: Any, workers: Sequence[Worker]) -> None:
        control = ctypes.byref(self.control)
        for number, worker in enumerate(workers[1:], 1):
            own = ctypes.byref(worker.context)
            try:
                _thread.start_new_thread(serve, (control, own, number, 0))
            except RuntimeError as error:
                self.end()
                raise ResourceError(f"thread {number} of {len(workers) - 1}: {error}") from error

    def leave(self) -> None:
        """The caller goes on alone: in the child of a fork the threads are not there."""
        self.control.workers = 1

    def end(self) -> None:
        """End the threads, which are in no call."""
        self.leave()
        self.control.call = 0
        self.control.generation += 1
        for semaphore in self._semaphores:
            LIBC.sem_post(semaphore)

    def __del__(self) -> None:
        try:
            self._forgotten()
        except BaseException:  # of a signal's handler: nobody else would end the threads
            self._forgotten()
            raise

    def _forgotten(self) -> None:
        if self._semaphores and not sys.is_finalizing():  # then they must not be seen again
            self.end()


def _address(name: str) -> int:
    """Of a function of the C library, 0 where it lacks it."""
    function = getattr(LIBC, name, None)
    return 0 if function is None else ctypes.cast(function, ctypes.c_void_p).value or 0


def _mask(cpu: int) -> Array:
    """For sched_setaffinity: a bit for each CPU."""
    return np.packbits(np.arange(8 * CPUS_BYTES) == cpu, bitorder="little")


@dataclass(frozen=True, eq=False)
class Room:
    """What calls use, for packs of so many tokens and batches of so many sentences."""

    tokens: int = 0
    arena_bytes: int = 0
    batch: int = -1
    workers: tuple[Worker, ...] = ()
    pool: ThreadPool | None = None
    packs: Array = field(default_factory=lambda: np.zeros(0, PACK.dtype))
    counts: Array = field(default_factory=lambda: np.zeros(0, np.int32))
    table: Any = None  # int64 [results]: where their addresses are
    call: Any = None  # a CALL
    address: int = 0  # of call
    known: dict[tuple[int, ...], Any] = field(default_factory=dict)  # what calls of a shape need

    @classmethod
    def make(
        cls,
        isa: Isa,
        size: tuple[int, int, int],
        *,
        scratch_bytes: int,
        threads: int,
        results: int,
        cpus: tuple[int, ...],
    ) -> Room:
        """size: tokens of a pack, bytes of an arena, sentences of a batch; scratch_bytes: what so
        many tokens need.

        Raises:
            ResourceError: the system does not give memory or threads.
        """
        tokens, arena_bytes, batch = size
        table, call = (ctypes.c_int64 * results)(), CALL.structure.from_buffer(memory(PAGE).data)
        workers: list[Worker] = []
        for _ in range(threads):
            first = workers[0] if workers else None
            address = ctypes.addressof(table)
            workers.append(Worker(tokens, arena_bytes, scratch_bytes, first, address))
        room = cls(tokens, arena_bytes, workers=tuple(workers), table=table, call=call)
        room = room.widened(batch)
        return replace(room, pool=ThreadPool(isa, workers, cpus))  # threads, when all else is there

    def widened(self, batch: int) -> Room:
        """The same for larger batches."""
        packs, counts = memory(PACK.size * (batch + 1)), memory(4 * (batch + 1))
        return replace(
            self,
            batch=batch,
            packs=packs.view(PACK.dtype),
            counts=counts.view(np.int32),
            address=ctypes.addressof(self.call),
            known={},
        )


NO_ROOM = Room()
