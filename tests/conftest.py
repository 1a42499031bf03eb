"""Fixtures of all tests."""

from __future__ import annotations

import importlib
import platform
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from engine.codegen import isa
from engine.kernels import ahead

LONGEST = (
    "test_slurm.py",
    "test_sparsify.py",
    "test_stale.py",
    "test_cross_compile.py",
    "test_attention.py",
    "test_end_to_end.py",
    "test_targets.py",
)
TILE_FLAGS = {"amx_tile", "amx_int8", "amx_bf16"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--flags", help="run as on a CPU that has these flags of /proc/cpuinfo and no others"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Before tests are collected: which instruction sets they take is asked at import.

    Tests run on all cores already: none starts processes to compile in, but those of them.
    """
    ahead.LEAST = sys.maxsize
    flags = config.getoption("--flags")
    if flags is not None:
        stack = ExitStack()
        stack.enter_context(isa.pretend(flags.split()))
        config.add_cleanup(stack.close)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: begun last, one of them would run alone at the end."""
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


@pytest.fixture
def amx() -> Iterator[Any]:
    """AMX works: natively where CPU and kernel have it, else emulated, with counts in `amx.count`.

    `amx` is None natively.  Where only the permission is missing the test is skipped: ldtilecfg
    would run on the CPU and the tiles in the emulator.  What AMX kernels do between the tiles takes
    no AVX-512: `reachable("amx_bf16")` is in instructions that this CPU has.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        pytest.skip("the AMX emulator needs Linux on x86-64")
    if not isa.missing(isa.named("amx_bf16")):
        yield None
        return
    if "amx_tile" in isa.cpu_flags():
        pytest.skip(isa.missing(isa.named("amx_bf16")))
    with ExitStack() as stack:
        tiles = stack.enter_context(importlib.import_module("tests.amx_emulator").enabled())
        stack.enter_context(isa.pretend(isa.cpu_flags() | TILE_FLAGS))
        yield tiles
