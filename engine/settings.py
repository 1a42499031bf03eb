"""Every switch of the engine, read from the environment in this file and nowhere else.

`with override(debug=2): ...` changes them for a block (tests, experiments).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path

from .errors import SettingError

__all__ = ["DESCRIPTIONS", "Settings", "current", "override"]

DESCRIPTIONS = {  # the table of README.md is made from it
    "isa": "cap on the instruction set, a name that `engine isa` lists",
    "debug": "0 quiet, 1 counts per pass, 2 a line per step, 3 graph after each pass, 4 LLVM IR, 5 assembly",
    "check": "1: after each pass and each step, compare with the operator's NumPy meaning",
    "cache": "folder of compiled kernels and measured choices",
    "tune": "1: measure kernel variants on first use and keep the choice in the cache",
    "spin_us": "microseconds a waiting worker spins before it sleeps",
}


@dataclass(frozen=True)
class Settings:
    """ENGINE_<NAME> in the environment; defaults here."""

    isa: str = ""
    debug: int = 0
    check: int = 0
    cache: str = str(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "sparse-engine")
    tune: int = 0
    spin_us: int = 2000


def _from_environment() -> Settings:
    settings = Settings()
    for item in fields(Settings):
        text = os.environ.get(f"ENGINE_{item.name.upper()}")
        if text is None:
            continue
        default = getattr(settings, item.name)
        try:
            value = int(text) if isinstance(default, int) else text
        except ValueError as error:
            raise SettingError(f"ENGINE_{item.name.upper()}={text!r}: expected a whole number") from error
        settings = replace(settings, **{item.name: value})
    return settings


_stack: list[Settings] = []


def current() -> Settings:
    """The settings in force: the innermost override, else the environment's."""
    if not _stack:
        _stack.append(_from_environment())
    return _stack[-1]


@contextmanager
def override(**changes: object) -> Iterator[Settings]:
    """Settings changed for the length of a with block."""
    _stack.append(replace(current(), **changes))  # type: ignore[arg-type]
    try:
        yield _stack[-1]
    finally:
        _stack.pop()
