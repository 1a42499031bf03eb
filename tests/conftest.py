"""Fixtures of all tests."""

from __future__ import annotations

import importlib.util
import platform
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from engine import isa

TILE_FLAGS = {"amx_tile", "amx_int8", "amx_bf16"}


def _emulator() -> ModuleType:
    """tests/amx_emulator.py, imported once: it needs Numba."""
    name = "tests_amx_emulator"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            name, Path(__file__).with_name("amx_emulator.py")
        )
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture
def amx() -> Iterator[Any]:
    """AMX works: natively where CPU and kernel have it, else emulated, with counts in `amx.count`.

    `amx` is None natively.  Where only the permission is missing the test is skipped: ldtilecfg
    would run on the CPU and the tiles in the emulator.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        pytest.skip("the AMX emulator needs Linux on x86-64")
    if not isa.missing(isa.named("amx_bf16")):
        yield None
        return
    if "amx_tile" in isa.cpu_flags():
        pytest.skip(isa.missing(isa.named("amx_bf16")))
    if "avx512_bf16" not in isa.cpu_flags():
        pytest.skip("AMX kernels use AVX-512 too, which this CPU lacks")
    with ExitStack() as stack:
        tiles = stack.enter_context(_emulator().enabled())
        stack.enter_context(isa.pretend(isa.cpu_flags() | TILE_FLAGS))
        yield tiles
