"""Kernels that are missing, compiled by as many processes as there are cores: Numba holds Python's
lock, so threads would take turns.

A process reads a kernel a line, makes its code, keeps it in the cache and says so.  What it fails
to make is made by who needs it, who then has the error.
"""

from __future__ import annotations

import gc
import json
import logging
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .. import settings
from ..codegen.compile import is_ready, make
from ..codegen.isa import Isa, missing
from ..machine.topology import usable
from . import builder, kernel_name
from .table import KERNELS

__all__ = ["Variant", "compile_ahead"]

log = logging.getLogger(__name__)
Variant = tuple[Any, ...]  # a row's name, then what the variant is made of
LEAST = 4  # kernels for which it pays to start processes, which import Numba first
PROGRAM = (
    "import json, sys; told = json.loads(sys.stdin.readline()); sys.path[:] = told['path'];"
    " from engine.kernels.ahead import serve; serve(told)"
)


def compile_ahead(isa: Isa, wanted: Collection[Variant]) -> int:
    """Makes and keeps the code that is not there yet, if that is much; says so in a line.  How many
    kernels were missing.
    """
    isa = isa.native
    lacking = [each for each in dict.fromkeys(wanted) if not is_ready(kernel_name(*each), isa)]
    count = min(len(usable()) or 1, len(lacking))
    now = settings.current()
    pays = len(lacking) >= LEAST and count > 1
    if not pays or missing(isa) or not now.cache or now.debug >= 4 or not _is_python():
        return len(lacking)
    log.warning("%d kernels are compiled for %s, once, by %d processes", len(lacking), isa, count)
    began = time.perf_counter()
    in_turn = iter(sorted(lacking, key=_longest_first))
    with ThreadPoolExecutor(count) as threads:
        list(threads.map(lambda _: _let_make(isa, in_turn), range(count)))
    log.info("compiled in %.1f s", time.perf_counter() - began)
    return len(lacking)


def _is_python() -> bool:
    """Whether this process's program takes -c: an application that embeds Python would start
    itself.
    """
    return Path(sys.executable or "").name.startswith("python") and not hasattr(sys, "frozen")


def _longest_first(variant: Variant) -> tuple[bool, bool, str]:
    """The longest kernels first: begun last, one would be waited for alone."""
    row = KERNELS[variant[0]]
    return not row.of_pairs, not (row.multiplies or row.name == "call"), row.name


def _let_make(isa: Isa, in_turn: Iterator[Variant]) -> None:
    """A process, given one kernel after the other until there are no more."""
    words = [sys.executable, "-P", "-c", PROGRAM]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    try:
        process = subprocess.Popen(words, stderr=subprocess.DEVNULL, **pipes)
    except OSError as error:  # no such interpreter, no more processes
        log.info("no process to compile in: %s", error)
        return
    try:
        told = {"path": sys.path, "isa": asdict(isa), "settings": asdict(settings.current())}
        _give(process, told)
        for variant in in_turn:
            _give(process, variant)
            if not process.stdout.readline():
                break
    except OSError as error:
        log.info("a process that compiled has ended: %s", error)
    finally:
        process.kill()
        process.communicate()


def _give(process: Any, message: Any) -> None:
    process.stdin.write(json.dumps(message) + "\n")
    process.stdin.flush()


# --- in the process
def serve(told: dict[str, Any]) -> None:
    """Makes what it reads, until there is nothing more."""
    gc.disable()  # of a process that ends soon: a twentieth of the time
    fields: dict[str, Any] = {key: _tuple(value) for key, value in told["isa"].items()}
    with settings.override(**told["settings"]):
        for line in sys.stdin:
            variant: Sequence[Any] = json.loads(line)
            make(kernel_name(*variant), builder(*variant), Isa(**fields))
            sys.stdout.write("made\n")
            sys.stdout.flush()


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
