"""Memory of the workers and the threads that run a program.

Every worker has a context, scratch and the arrays that describe a pack.  In throughput each has its
own arena and takes packs from a counter; in latency all share the first one's arena and each step's
units, and meet at a barrier where plan/meetings.py says so.  The caller is worker 0.  The others
spin for a while after a call, so that the next begins at once, and then sleep.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import settings
from ..isa import Isa
from ..kernels import context as slots
from ..kernels import kernel

__all__ = ["CALL", "KERNEL", "Team", "Worker", "give_back", "memory"]

KERNEL = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 4)
CALL = ctypes.CFUNCTYPE(None, ctypes.c_int64)  # a kernel that reads one: half the time to begin
PAGE = mmap.PAGESIZE
SPINS_A_MICROSECOND = 25  # a pause is about 40 ns
CONTROL_STATES = 8  # slot of worker 0's state


def memory(size: int) -> NDArray[np.uint8]:
    """Zeroed memory on a page boundary, touched only when used."""
    return np.frombuffer(mmap.mmap(-1, max(size, PAGE)), np.uint8)


def give_back() -> None:
    """Returns to the system what reading and packing a model has freed, where malloc can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class Worker:
    """One worker's context: where its arena, scratch and the arrays of a pack are."""

    def __init__(self, tokens: int, arena_bytes: int, shared: Worker | None, outputs: int) -> None:
        """shared: the first worker, or None for it; outputs: address of the results' addresses."""
        self.arena, self.scratch = memory(arena_bytes), memory(slots.SCRATCH_BYTES)
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
    """Threads for workers 1 and up, which take part in calls (kernels/drive.py: serve)."""

    def __init__(self, isa: Isa, size: int, cpus: tuple[int, ...]) -> None:
        self.size, self.cpus = size, cpus
        self.control: NDArray[Any] = memory(8 * (CONTROL_STATES + size)).view(np.int64)
        self.control[3] = settings.current().spin_us * SPINS_A_MICROSECOND
        self.address = self.control.ctypes.data
        # a ctypes array beside: setting an item costs a third of what NumPy's does
        self._slots = (ctypes.c_int64 * len(self.control)).from_buffer(self.control.data)
        self._serve = KERNEL(kernel(isa, "serve").address)
        self._wake = [threading.Event() for _ in range(size)]
        self._workers: list[Worker] = []
        self._threads: list[threading.Thread] = []

    def _live(self, number: int) -> None:
        if self.cpus and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {self.cpus[number % len(self.cpus)]})
        while True:
            self._wake[number].wait()
            self._wake[number].clear()
            self.control[CONTROL_STATES + number] = 0
            if not self.control[1]:
                return
            self._serve(self.address, self._workers[number].address, number, 0)
            if not self.control[1]:
                return

    def ready(self, workers: list[Worker]) -> None:
        """Threads for these workers, which may be others than before."""
        if workers is not self._workers:
            self._quiet()
            self._workers = workers
            for worker in workers:
                worker.set(slots.GENERATION, int(self.control[0]))
        if not self._threads:
            self.control[CONTROL_STATES + 1 :] = 1
            self._threads = [
                threading.Thread(
                    target=self._live, args=(number,), daemon=True, name=f"engine-{number}"
                )
                for number in range(1, self.size)
            ]
            for thread in self._threads:
                thread.start()

    def wake(self) -> None:
        """Those that sleep, after a call has begun."""
        for number in range(1, self.size):
            if self._slots[CONTROL_STATES + number]:
                self._wake[number].set()

    def _quiet(self) -> None:
        """Until every worker sleeps: their contexts may then be exchanged."""
        while self._threads and not self.control[CONTROL_STATES + 1 :].all():
            threading.Event().wait(0.0005)

    def close(self) -> None:
        """End the threads."""
        self.control[1] = 0
        self.control[0] += 1
        for event in self._wake:
            event.set()
        for thread in self._threads:
            thread.join()
        self._threads = []
