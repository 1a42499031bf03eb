"""A line for those who wait: a command that takes longer than two seconds says that it is at work.

Plain, as it is the only one: nothing here draws in a terminal.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer

__all__ = ["told"]

SECONDS = 2.0


@contextmanager
def told(line: str, seconds: float = SECONDS) -> Iterator[None]:
    """Writes the line to stderr, once, if the block is not done by then."""
    timer = Timer(seconds, _say, [line])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
