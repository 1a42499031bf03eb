"""Fixtures of all tests."""

from __future__ import annotations

import importlib
import platform
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from engine import isa

LONGEST = ("test_slurm.py", "test_sparsify.py", "test_attention.py", "test_end_to_end.py")
TILE_FLAGS = {"amx_tile", "amx_int8", "amx_bf16"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: begun last, one of them would run alone at the end."""
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


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
        tiles = stack.enter_context(importlib.import_module("tests.amx_emulator").enabled())
        stack.enter_context(isa.pretend(isa.cpu_flags() | TILE_FLAGS))
        yield tiles
