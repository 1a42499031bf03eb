"""Tries mutations one after the other and writes a line of JSON for each: [seed, class, what, MB].

    python -m tests.fuzz.child KIND SEED,SEED,...

Limited from inside, so that whatever a file does to the process is seen from outside: ten seconds
of processor time and a gigabyte for each mutation.
"""

from __future__ import annotations

import json
import logging
import os
import re
import resource
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz.attempt import attempt, mutated

__all__ = ["MOST_MEGABYTES", "MOST_SECONDS"]

MOST_SECONDS, MOST_MEGABYTES = 10, 1024
ADDRESS_SPACE = 16 << 30  # compiled code and mapped files need some, too


def main(kind: str, seeds: list[int]) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    np.seterr(all="ignore")
    logging.disable(logging.CRITICAL)
    lines = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tell(lines, "ready")
        for seed in seeds:
            tell(lines, seed)
            base = mutated(kind, seed, folder)
            reset_peak()
            before = peak()
            signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)  # ends the process
            found, what = attempt(kind, folder)
            signal.setitimer(signal.ITIMER_PROF, 0)
            grown = peak() - before
            if grown > MOST_MEGABYTES:
                found, what = "memory", f"{grown} MB; {found}: {what}"
            tell(lines, [seed, found, f"{base}: {what}"[:500], grown])


def tell(lines: Any, value: Any) -> None:
    lines.write(json.dumps(value) + "\n")


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """Megabytes that were in memory at once since the last reset."""
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) >> 10


if __name__ == "__main__":
    main(sys.argv[1], [int(seed) for seed in sys.argv[2].split(",")])
