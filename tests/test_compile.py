"""A kernel is made once, however many threads ask for it; what ENGINE_DEBUG shows of it."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from engine.codegen import compile as compiler
from engine.codegen.isa import chosen
from engine.kernels import kernel
from engine.settings import override


def test_threads_that_ask_at_once_get_the_same_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second copy in its place would free the code that the first thread runs."""
    load, made, got = compiler._load, [], []

    def slowly(*given: Any) -> compiler.Compiled:
        made.append(given[0])
        time.sleep(0.02)
        return load(*given)

    monkeypatch.setattr(compiler, "_loaded", {})
    monkeypatch.setattr(compiler, "_load", slowly)
    threads = [
        threading.Thread(target=lambda: got.append(kernel(chosen(), "prepare"))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == ["prepare"]
    assert len(got) == 4 and all(each is got[0] for each in got)


@pytest.mark.parametrize(
    ("debug", "kinds"), [(3, []), (4, ["LLVM IR"]), (5, ["LLVM IR", "assembly"])]
)
def test_listings_are_kept_where_the_log_says(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    debug: int,
    kinds: list[str],
) -> None:
    caplog.set_level(logging.INFO, "engine")
    for _ in range(2):  # code that was kept has no listing: it is made again
        caplog.clear()
        monkeypatch.setattr(compiler, "_loaded", {})
        with override(debug=debug, cache=str(tmp_path)):
            kernel(chosen(), "read", 16)
        lines = [record.message.split(" in ") for record in caplog.records]
        assert [what for what, _ in lines] == [f"read_16: {kind}" for kind in kinds]
        texts = [Path(path).read_text(encoding="utf-8") for _, path in lines]
        assert all("read_16" in text for text in texts)
        for text, word in zip(texts, ("define void", ".globl")[: len(texts)], strict=True):
            assert word in text


def test_without_a_cache_it_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "engine")
    monkeypatch.setattr(compiler, "_loaded", {})
    with override(debug=4, cache=""):
        kernel(chosen(), "read", 16)
    assert caplog.messages == ["read_16: LLVM IR has no place: ENGINE_CACHE"]
