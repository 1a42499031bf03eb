"""Kernels that are missing are compiled side by side, and never a second time."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine import settings
from engine.codegen import compile as compiler
from engine.codegen.isa import chosen
from engine.kernels import ahead, kernel
from engine.kernels.ahead import compile_ahead

# Of those that take least time to make.
FEW = [("clock",), ("look_up", 16), ("look_up", 64), ("affine", 16, False)]


@pytest.fixture(autouse=True)
def nothing_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(compiler, "_loaded", {})
    monkeypatch.setattr(ahead, "usable", lambda: (0, 1))
    monkeypatch.setattr(ahead, "LEAST", 4)
    with settings.override(cache=str(tmp_path)):
        yield tmp_path / "code"


def not_here(*_: Any, **__: Any) -> Any:
    raise AssertionError("compiled in this process")


def test_what_is_missing_is_made_by_processes(
    nothing_is_there: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as forbidding:
        forbidding.setattr(compiler, "object_code", not_here)
        assert compile_ahead(chosen(), [*FEW, *FEW]) == len(FEW)
        assert [each.name for each in caplog.records] == ["engine.kernels.ahead"]
        assert f"4 kernels are compiled for {chosen()}, once, by 2 processes" in caplog.text
        assert len(list(nothing_is_there.iterdir())) == len(FEW)
        for each in FEW:
            assert kernel(chosen(), *each).address
        assert compile_ahead(chosen(), FEW) == 0


def broken(*_: Any, **__: Any) -> Any:
    raise OSError("no more processes")


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.setattr(subprocess, "Popen", broken),
        lambda m: m.setattr(ahead, "PROGRAM", "raise SystemExit(3)"),
        lambda m: m.setattr(ahead, "PROGRAM", "import sys; sys.stdin.readline(); 1 / 0"),
    ],
    ids=["none", "at once", "in the midst"],
)
def test_without_processes_who_needs_a_kernel_makes_it(
    change: Callable[[pytest.MonkeyPatch], None],
    monkeypatch: pytest.MonkeyPatch,
    nothing_is_there: Path,
) -> None:
    change(monkeypatch)
    assert compile_ahead(chosen(), FEW) == len(FEW)
    assert not nothing_is_there.exists()
    assert kernel(chosen(), "clock").address


@pytest.mark.parametrize("how", ["few", "one core", "no cache", "listings", "embedded"])
def test_no_processes_where_they_would_not_pay(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "_let_make", not_here)
    if how == "one core":
        monkeypatch.setattr(ahead, "usable", lambda: (0,))
    if how == "embedded":
        monkeypatch.setattr("sys.executable", "/usr/bin/uwsgi")
    changes: dict[str, Any] = {"no cache": {"cache": ""}, "listings": {"debug": 4}}.get(how, {})
    with settings.override(**changes):
        assert compile_ahead(chosen(), FEW[: 3 if how == "few" else 4])


def test_the_longest_begin_first() -> None:
    wanted = [("clock",), ("dense_dot_f32", 64, 16, "f32", "none"), ("attention_f32", 64, 16)]
    assert [each[0] for each in sorted(wanted, key=ahead._longest_first)] == [
        "attention_f32", "dense_dot_f32", "clock",
    ]  # fmt: skip
