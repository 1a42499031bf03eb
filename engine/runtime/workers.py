"""Memory of the workers and the threads that run a program.

Every worker has a context, scratch and the arrays that describe a pack.  In throughput each has its own arena and takes packs from a counter;
in latency all share the first one's arena and each step's units.
"""

from __future__ import annotations

import ctypes
import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..kernels import context as slots

__all__ = ["Worker", "memory"]

MOST_SENTENCES = 64
KERNEL = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 4)
PAGE = mmap.PAGESIZE


def memory(size: int) -> NDArray[np.uint8]:
    """Zeroed memory on a page boundary, touched only when used."""
    return np.frombuffer(mmap.mmap(-1, max(size, PAGE)), np.uint8)


class Worker:
    """One worker's context: where its arena, scratch and the arrays of a pack are."""

    def __init__(self, tokens: int, arena: NDArray[np.uint8]) -> None:
        self.arena, self.scratch = arena, memory(slots.SCRATCH_BYTES)
        arrays = memory(4 * (4 * tokens + MOST_SENTENCES + 1) + 256)
        self.context = np.zeros(slots.CONTEXT_BYTES // 8, np.int64)
        self.keep: tuple[Any, ...] = (arrays, arena)
        at = arrays.ctypes.data
        self._set(slots.ARENA, arena.ctypes.data)
        self._set(slots.SCRATCH, self.scratch.ctypes.data)
        for slot in (slots.IDS, slots.TYPES, slots.POSITIONS, slots.PLACES, slots.STARTS):
            self._set(slot, at)
            at += 4 * tokens

    def _set(self, slot: int, value: int) -> None:
        self.context[slot // 8] = value

    @property
    def address(self) -> int:
        """Of the context."""
        return self.context.ctypes.data

    def results(self, table: int) -> None:
        """Where the call's results go."""
        self._set(slots.OUTPUTS, table)
