"""A kernel is made once, however many threads ask for it."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from engine.codegen import compile as compiler
from engine.codegen.isa import chosen
from engine.kernels import kernel


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
