"""Memory of the workers and the threads that run a program.

Every worker has a context, scratch and the arrays that describe a pack.  In throughput each has its
own arena and takes packs from a counter; in latency all share the first one's arena and each step's
units, and meet at a barrier where plan/meetings.py says so.  The caller is worker 0.  The others
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
from ..kernels import context as slots
from ..kernels import kernel
from ..kernels.context import CPUS, CPUS_BYTES, LINE, LINES, SEMAPHORE

__all__ = ["CALL", "KERNEL", "NO_ROOM", "Room", "Team", "Worker", "give_back"]

Array = NDArray[Any]
KERNEL = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 4)
CALL = ctypes.CFUNCTYPE(None, ctypes.c_int64)  # a kernel that reads one: half the time to begin
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
        self.arrays = memory(4 * (4 * tokens + 2 * slots.MOST_ROWS + 1))
        self.context = memory(slots.CONTEXT_BYTES).view(np.int64)
        self.address = self.context.ctypes.data
        self.set(slots.OWN_ARENA, self.arena.ctypes.data)
        self.set(slots.SHARED_ARENA, (shared or self).arena.ctypes.data)
        self.set(slots.SCRATCH, self.scratch.ctypes.data)
        self.set(slots.OUTPUTS, outputs)
        at = self.arrays.ctypes.data
        for slot in (slots.IDS, slots.TYPES, slots.POSITIONS, slots.PLACES):
            self.set(slot, at)
            at += 4 * tokens
        self.set(slots.ROW_SENTENCES, at)
        self.set(slots.STARTS, at + 4 * slots.MOST_ROWS)

    def set(self, slot: int, value: int) -> None:
        """A slot of the context."""
        self.context[slot // 8] = value


class Team:
    """Threads for workers 1 and up, which take part in calls (kernels/drive.py: serve).

    They run no Python: nothing that is raised reaches them, and they need the interpreter's lock
    only to begin and to end.  They hold the control block and a context each, not the team: a team
    that nobody holds any more, finished or half made, ends them.
    """

    _semaphores: Sequence[ctypes.c_void_p] = ()  # those of the threads that may be there

    def __init__(self, isa: Isa, workers: Sequence[Worker], cpus: tuple[int, ...]) -> None:
        """workers: new ones; cpus: where they are pinned, worker n to cpus[n % len].

        Raises:
            ResourceError: the system does not give so many threads.
        """
        size = len(workers)
        self.control = memory(LINES + LINE * size).view(np.int64)
        self.address = self.control.ctypes.data
        self.control[3] = settings.current().spin_us * SPINS_A_MICROSECOND
        self.control[4:8] = size, *map(_address, ("sem_wait", "sem_post", "sched_setaffinity"))
        lines = self.control.view(np.uint8)[LINES : LINES + LINE * size].reshape(size, LINE)
        for number, line in enumerate(lines) if cpus else ():
            line[CPUS:] = _mask(cpus[number % len(cpus)])
        self._semaphores = [ctypes.c_void_p(line[SEMAPHORE:].ctypes.data) for line in lines[1:]]
        for semaphore in self._semaphores:
            if LIBC.sem_init(semaphore, 0, 0):
                raise ResourceError("semaphores: this system has none")
        self._start(SERVE(kernel(isa, "serve").address), workers)

    def _start(self, serve: Any, workers: Sequence[Worker]) -> None:
        control = _block(self.control)
        for number, worker in enumerate(workers[1:], 1):
            try:
                _thread.start_new_thread(serve, (control, _block(worker.context), number, 0))
            except RuntimeError as error:
                self.end()
                raise ResourceError(f"thread {number} of {len(workers) - 1}: {error}") from error

    def leave(self) -> None:
        """The caller goes on alone: in the child of a fork the threads are not there."""
        self.control[4] = 1

    def end(self) -> None:
        """End the threads, which are in no call."""
        self.leave()
        self.control[1] = 0
        self.control[0] += 1
        for semaphore in self._semaphores:
            LIBC.sem_post(semaphore)

    def __del__(self) -> None:
        if self._semaphores and not sys.is_finalizing():  # then they must not be seen again
            self.end()


def _address(name: str) -> int:
    """Of a function of the C library, 0 where it lacks it."""
    function = getattr(LIBC, name, None)
    return 0 if function is None else ctypes.cast(function, ctypes.c_void_p).value or 0


def _mask(cpu: int) -> Array:
    """For sched_setaffinity: a bit for each CPU."""
    return np.packbits(np.arange(8 * CPUS_BYTES) == cpu, bitorder="little")


def _block(array: Array) -> Any:
    """The same memory as what ctypes passes on by address, and what a thread holds."""
    return (ctypes.c_int64 * len(array)).from_buffer(array.data)


@dataclass(frozen=True, eq=False)
class Room:
    """What calls use, for packs of so many tokens and batches of so many sentences."""

    tokens: int = 0
    arena_bytes: int = 0
    batch: int = -1
    workers: tuple[Worker, ...] = ()
    team: Team | None = None
    packs: Array = field(default_factory=lambda: np.zeros((0, 2), np.int32))
    counts: Array = field(default_factory=lambda: np.zeros(0, np.int32))
    table: Any = None  # int64 [results]: where their addresses are
    call: Any = None  # int64 slots: kernels/drive.py
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
        table, call = (ctypes.c_int64 * results)(), _block(memory(PAGE).view(np.int64))
        workers: list[Worker] = []
        for _ in range(threads):
            first = workers[0] if workers else None
            address = ctypes.addressof(table)
            workers.append(Worker(tokens, arena_bytes, scratch_bytes, first, address))
        room = cls(tokens, arena_bytes, workers=tuple(workers), table=table, call=call).widened(
            batch
        )
        return replace(room, team=Team(isa, workers, cpus))  # the threads, when all else is there

    def widened(self, batch: int) -> Room:
        """The same for larger batches."""
        packs, counts = memory(8 * (batch + 1)), memory(4 * (batch + 1))
        return replace(
            self,
            batch=batch,
            packs=packs.view(np.int32).reshape(-1, 2),
            counts=counts.view(np.int32),
            address=ctypes.addressof(self.call),
            known={},
        )


NO_ROOM = Room()
