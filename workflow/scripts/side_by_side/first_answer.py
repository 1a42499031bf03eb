"""A new process: how soon it has its first answer, and what calls after that cost in memory.

Run by whole_runs.py; its last line is JSON.
"""

import json
import os
import resource
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np

CALLS = 200


def process_age() -> float:
    """Seconds since the kernel started this process, the interpreter's own start counted."""
    ticks = int(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
    up = float(Path("/proc/uptime").read_text().split()[0])
    return up - ticks / os.sysconf("SC_CLK_TCK")


def feed_of(session: Any, batch: int, length: int) -> dict[str, np.ndarray]:
    ids = np.random.default_rng(0).integers(0, 1000, (batch, length))
    made = {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "token_type_ids": np.zeros_like(ids),
    }
    return {value.name: made[value.name] for value in session.graph.inputs}


def allocations(session: Any, feed: dict[str, np.ndarray]) -> dict[str, int]:
    """Python memory at the height of a call, its outputs counted apart; growth over many calls."""
    outputs = sum(array.nbytes for array in session.run(feed).values())
    tracemalloc.start()
    session.run(feed)
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    session.run(feed)
    height = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    resident = _resident()
    for _ in range(CALLS):
        session.run(feed)
    grown = _resident() - resident
    return {"output_bytes": outputs, "python_bytes_a_call": height, "grown_bytes": grown}


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def main(model: str) -> None:
    import engine

    session = engine.load(model)
    session.run(feed_of(session, 1, 128))
    seconds = process_age()
    many = feed_of(session, 32, 128)
    session.run(many)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    found = {"seconds": seconds, "peak_bytes": peak, **allocations(session, many)}
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
