"""What a core does at most, measured: products in registers by type, bytes from its second cache
and from memory; and what a barrier costs two of them.

The peaks are measured in turns with what is compared to them, so that both meet the same clock.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

import numpy as np

from ..codegen import isa
from ..kernels import kernel
from ..kernels.params import PEAK
from ..kernels.record import aligned

__all__ = [
    "BYTES_PEAK",
    "PEAKS",
    "Peaks",
    "barrier_seconds",
    "bytes_from_memory",
    "cycles_per_second",
]

PEAKS = {"u8": 4, "bf16": 2, "f32": 1}  # multiply-adds of a 32-bit lane in one product
BYTES_PEAK = "bytes"
CHAINS = {16: 16, 8: 8, 4: 8}  # by the lanes of a register, as kernels/peak.py has
READ_BYTES = 1 << 18
TURNS = {**dict.fromkeys(PEAKS, 100_000), BYTES_PEAK: 100}  # a fraction of a millisecond each


class Peaks:
    """Highest rates so far: multiply-adds a second by type, bytes a second (BYTES_PEAK)."""

    def __init__(self) -> None:
        self.isa = isa.chosen()
        lanes = self.isa.lanes
        self._memory = aligned(READ_BYTES + 8192, np.uint8)
        packed = PEAK.pack(memory=self._memory.ctypes.data)
        self._params = np.array(list(packed.values()), np.int64)
        variants = {name: ("peak", name, lanes) for name in PEAKS} | {BYTES_PEAK: ("read", lanes)}
        self._work = {name: CHAINS[lanes] * lanes * macs for name, macs in PEAKS.items()} | {
            BYTES_PEAK: READ_BYTES
        }
        self._calls = {name: self._caller(name, *variant) for name, variant in variants.items()}
        self.rates = dict.fromkeys(variants, 0.0)

    def _caller(self, name: str, row: str, *variant: object) -> Callable[[], None]:
        code = kernel(self.isa, row, *variant)
        call, address, turns = code.function(), int(self._params.ctypes.data), TURNS[name]
        return lambda: call(address, 0, 0, turns)

    def round(self) -> dict[str, float]:
        """Measure each once, about a millisecond in all; the rates so far."""
        for name, call in self._calls.items():
            began = time.perf_counter()
            call()
            rate = TURNS[name] * self._work[name] / (time.perf_counter() - began)
            self.rates[name] = max(self.rates[name], rate)
        return self.rates


def cycles_per_second() -> float:
    """Of the time stamp counter that `Session.timed` counts in."""
    params = np.zeros(1, np.int64)
    read = kernel(isa.chosen(), "clock").function()

    def both() -> tuple[int, int]:
        read(params.ctypes.data, 0, 0, 0)
        return int(params[0]), time.perf_counter_ns()

    first, began = both()
    time.sleep(0.05)
    second, ended = both()
    return (second - first) / (ended - began) * 1e9


def bytes_from_memory(cache_bytes: int, rounds: int = 3) -> float:
    """A second, by one core that reads four times what its caches hold."""
    chosen, size = isa.chosen(), max(4 * cache_bytes, 4 * READ_BYTES)
    memory = aligned(size + 8192, np.uint8)
    memory.fill(1)  # or all of it would be one page of zeros
    begin, params = memory.ctypes.data, np.zeros(1, np.int64)
    call, address = kernel(chosen, "read", chosen.lanes).function(), int(params.ctypes.data)
    rates = []
    for _ in range(rounds):
        began = time.perf_counter()
        for at in range(begin, begin + size, READ_BYTES):
            params[0] = at
            call(address, 0, 0, 1)
        rates.append(size / (time.perf_counter() - began))
    return max(rates)


def barrier_seconds(cpus: tuple[int, int], turns: int = 5_000, rounds: int = 100) -> float:
    """Of a barrier that two workers come to at once, each on a CPU of its own."""
    call, taken = kernel(isa.chosen(), "barrier").function(), []

    def all_turns(cpu: int, address: int) -> None:
        os.sched_setaffinity(0, {cpu})  # this thread
        began = time.perf_counter()
        call(address, 0, len(cpus), turns)
        taken.append(time.perf_counter() - began)

    for _ in range(rounds):
        counter = aligned(8, np.int64)
        params = np.array([counter.ctypes.data], np.int64)
        address = int(params.ctypes.data)
        threads = [threading.Thread(target=all_turns, args=(cpu, address)) for cpu in cpus]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return min(taken) / turns  # by the clock of who came last
