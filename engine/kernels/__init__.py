"""All kernels, compiled: table.py has a row for each family.

A kernel's full name is its row's name and its variant joined by "_", e.g.
sparse_dot_u8s8_4x1_64_table_none: it is the test id, the line of the profile and the key of the
code cache.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from ..codegen.compile import Compiled, compiled
from ..codegen.isa import Isa
from .table import AXES, KERNELS, PRODUCTS, Kernel

__all__ = ["KERNELS", "PRODUCTS", "Kernel", "builder", "kernel", "kernel_name"]


def kernel_name(name: str, *variant: Any) -> str:
    """The full name of a variant."""
    return "_".join([name, *(str(part) for part in variant)])


def builder(name: str, *variant: Any) -> Callable[[], Any]:
    """A function that makes the kernel's Python function; imports Numba when called."""
    row = KERNELS[name]
    assert len(variant) == len(row.variant), f"{name} takes {row.variant}, got {variant}"
    for axis, part in zip(row.variant, variant, strict=True):
        assert part in AXES.get(axis, [part]), f"{name}: {axis} {part}, the table has {AXES[axis]}"
    return lambda: getattr(importlib.import_module(f".{row.module}", __package__), name)(*variant)


def kernel(isa: Isa, name: str, *variant: Any) -> Compiled:
    """The compiled kernel."""
    return compiled(kernel_name(name, *variant), builder(name, *variant), isa)
