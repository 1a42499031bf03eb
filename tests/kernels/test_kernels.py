"""The table of kernels: names, modules, and that each row has a test."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path

import pytest

from engine.kernels import KERNELS, Kernel, builder, kernel_name

BY_SESSIONS = {"prepare", "run", "call", "serve"}  # tests/runtime
BY_PROFILE = {"peak", "read", "clock", "barrier"}  # tests/test_profile.py, test_scaling.py


@pytest.mark.parametrize("row", KERNELS.values(), ids=list(KERNELS))
def test_row_names_a_function_with_its_variant(row: Kernel) -> None:
    function = getattr(importlib.import_module(f"engine.kernels.{row.module}"), row.name)
    assert len(inspect.signature(function).parameters) == len(row.variant)


def test_every_kernel_has_a_test() -> None:
    text = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    missing = [name for name in KERNELS if f'"{name}"' not in text]
    assert set(missing) <= BY_SESSIONS | BY_PROFILE


def test_name_holds_the_variant() -> None:
    assert kernel_name("dense_dot_f32", 64, 16, "f32", "gelu") == "dense_dot_f32_64_16_f32_gelu"


def test_wrong_variant_is_our_fault() -> None:
    with pytest.raises(AssertionError, match="takes"):
        builder("dense_dot_f32", 64)
    with pytest.raises(AssertionError, match="activation mish, the table has"):
        builder("dense_dot_f32", 64, 64, "f32", "mish")
