"""`engine compare` between backends and instruction sets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from engine.codegen import isa
from engine.commands.cli import main
from engine.formats import store
from tests import original_writer as writer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    graph = store.read(writer.write(tmp_path / "theirs", "int8"))
    store.write(graph, tmp_path / "ir")
    return tmp_path / "ir"


def test_every_step_of_the_kernels(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["compare", str(folder), str(folder), "--backends", "reference,kernels"]
    assert main([*command, "--tolerance", "0.2", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    fused = [node for node in store.read(folder) if node.domain == "engine"]
    assert len(rows) >= len(fused)
    assert (rows[0]["first"], rows[0]["second"][:9]) == ("Embedding", "embedding")


def test_the_first_step_that_differs_is_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = store.read(folder)
    layer = next(node for node in graph if node.name == "key_heads.op")
    bias = graph.constants[layer.inputs[3]].copy()
    bias[7] += 1
    store.write(
        graph.changed(constants={**graph.constants, layer.inputs[3]: bias}), tmp_path / "other"
    )
    command = ["compare", str(folder), str(tmp_path / "other"), "--backends", "kernels"]
    assert main([*command, "--tolerance", "0.1"]) == 1
    out = capsys.readouterr().out
    assert "that part: 'key_heads' (sparse_dot" in out
    assert ", 7], values up to" in out


def test_two_instruction_sets(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here = isa.detected()[-1].name
    command = ["compare", str(folder), str(folder), "--isa", f"{here},{here}", "--tolerance", "0"]
    assert main(command) == 0
    assert "values agree within 0.0" in capsys.readouterr().out


def test_backends_have_names(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(folder), str(folder), "--backends", "torch"]) == 2
    assert "torch: expected one of reference, kernels, onnxruntime" in capsys.readouterr().err


def test_with_onnxruntime(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("torch")
    from tests.passes import exported

    path = tmp_path / "model.onnx"
    exported.export(exported.bert(hidden_size=64, num_attention_heads=2), path)
    command = ["compare", str(path), str(path), "--backends", "onnxruntime,reference", "--json"]
    assert main([*command, "--tolerance", "1e-4"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) > 3
    assert max(row["difference"] for row in rows) < 1e-4
    assert np.ptp([len(row["place"]) for row in rows]) >= 1
