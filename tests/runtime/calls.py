"""Calls with known answers, processes and threads, for the tests of what disturbs a session."""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import engine
from tests.tiny import feeds, tiny_graph

Feeds = dict[str, np.ndarray]
LENGTHS = ([4], [20, 5, 7], [40] * 9, [64, 1, 64, 30, 64, 64])  # tokens of the sentences of a call
PATIENCE = 20.0  # seconds, for what takes milliseconds


def calls() -> list[tuple[Feeds, np.ndarray]]:
    """Feeds of several shapes, and the logits that a session of one thread makes of them."""
    alone, given = (
        engine.Session(tiny_graph(), threads=1),
        [feeds(each, max(each)) for each in LENGTHS],
    )
    return [(each, alone.run(each)["logits"]) for each in given]


def wrong(session: engine.Session, known: list[tuple[Feeds, np.ndarray]], turns: int = 1) -> int:
    """How many of the session's answers are not the known ones."""
    return sum(
        not np.array_equal(session.run(given)["logits"], logits)
        for _ in range(turns)
        for given, logits in known
    )


def child(work: Callable[[], int]) -> int:
    """Forks a process that ends with what `work` returns; its number."""
    number = os.fork()
    if number == 0:
        status = 99
        try:
            status = work()
        finally:
            os._exit(status)
    return number


def ended(number: int) -> int:
    """A child's exit status, less than 0 for a signal; one that hangs is killed."""
    limit = time.monotonic() + PATIENCE
    while time.monotonic() < limit:
        found, status = os.waitpid(number, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(number, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


def threads() -> int:
    """Of this process, as the system counts them."""
    return len(list(Path("/proc/self/task").iterdir()))


def at_rest() -> int:
    """The number of threads, once those that are ending have ended."""
    gc.collect()
    count = 0
    while count != threads():
        count = threads()
        time.sleep(0.05)
    return count


def falls_to(count: Callable[[], int], wanted: int) -> bool:
    """Whether the count comes to be no more than this: threads end by and by."""
    limit = time.monotonic() + PATIENCE
    while count() > wanted and time.monotonic() < limit:
        time.sleep(0.002)
    return count() <= wanted
