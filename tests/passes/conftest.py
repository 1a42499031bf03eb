"""Exported models by name, each made once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Name of a row of `dialects.DIALECTS` -> its file."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    pytest.importorskip("onnxruntime")
    from tests.passes.dialects import DIALECTS

    folder = tmp_path_factory.mktemp("dialects")

    def path(name: str) -> Path:
        file = folder / f"{name}.onnx"
        if not file.exists():
            source, make = DIALECTS[name]
            make(path(source), file) if source else make(file)
        return file

    return path
