"""The command line, in this process: what it prints, its exit status, its errors."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engine.commands.cli import COMMANDS, main
from engine.commands.waiting import told
from engine.formats import models, onnx_reader, store
from engine.ops import reference


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Two layers: a sparse one, a dense one, and an operator no fusion knows."""
    random = np.random.default_rng(0)
    sparse = np.zeros((16, 32), np.float32)  # [inputs, outputs]: 4 x 1 blocks lie along outputs
    sparse[3, 4:8], sparse[9, 20:24] = 0.3, random.normal(size=4)
    dense = random.normal(size=(32, 2)).astype(np.float32)
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("MatMul", ["x", "sparse"], ["h"], "first"),
        helper.make_node("MatMul", ["h", "dense"], ["z"], "second"),
        helper.make_node("Softplus", ["z"], ["y"], "last"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, ["batch", 16])],
        [value("y", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(sparse, "sparse"), numpy_helper.from_array(dense, "dense")],
    )
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


def run(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str, str]:
    status = main([str(word) for word in words])
    return (status, *capsys.readouterr())


def test_compile_and_inspect(
    capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path
) -> None:
    ir = tmp_path / "ir"
    status, out, err = run(capsys, "compile", model, ir)
    assert (status, err) == (0, "")
    assert "3 operators, 2 of them fused" in out
    assert {path.name for path in ir.iterdir()} == {"conf.yaml", "model.bin"}
    for words in (
        [f"--input_model={model}", f"--output_dir={tmp_path / 'other'}"],  # as in ITREX
        ["--input_model", model, tmp_path / "other"],
    ):
        assert run(capsys, "compile", *words)[1] == out.replace(f"{ir}:", f"{tmp_path}/other:")

    status, out, _ = run(capsys, "inspect", ir)
    assert status == 0
    head, first, second, last, total, reason = out.splitlines()
    assert head.split() == ["name", "op", "shape", "type", "pattern", "zeros", "kernel", "bytes"]
    assert first.split()[1:6] == ["Linear", "32x16", "float32", "4x1", "0.984"]
    assert second.split()[1:6] == ["Linear", "2x32", "float32", "dense", "0.000"]
    assert "Softplus" in last
    assert total.startswith("3 operators, 1 sparse")
    assert reason.startswith(first.split()[0])
    assert reason.endswith("is left to the reference: 'x' is not an activation")

    status, out, _ = run(capsys, "inspect", ir / "conf.yaml", "--json")
    rows = json.loads(out)
    assert [row["op"] for row in rows] == ["Linear", "Linear", "Softplus"]
    assert rows[0]["bytes"] < 32 * 16 * 4
    assert all(row["kernel"] == "reference" and row["reason"] for row in rows)


def test_inspect_names_constants_that_are_not_finite(
    capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path
) -> None:
    graph = models.compiled(model)
    name = graph.nodes[0].inputs[1]
    weight = graph.constants[name].copy()
    weight[2, 3] = np.nan
    store.write(graph.changed(constants={**graph.constants, name: weight}), tmp_path / "ir")
    _, out, _ = run(capsys, "inspect", tmp_path / "ir")
    found = f"constant '{name}': 1 of 512 numbers are not finite, the first at [2, 3]: nan"
    sentence = f"{graph.nodes[0]}, {found}"
    assert out.splitlines()[-1] == sentence
    _, out, _ = run(capsys, "inspect", tmp_path / "ir", "--json")
    assert [row["not_finite"] for row in json.loads(out)] == [[sentence], [], []]


def test_ir_means_what_the_model_means(
    capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path
) -> None:
    run(capsys, "compile", model, tmp_path / "ir")
    feeds = {"x": np.random.default_rng(1).normal(size=(3, 16)).astype(np.float32)}
    found = reference.run(store.read(tmp_path / "ir"), feeds)["y"]
    expected = reference.run(onnx_reader.read(model), feeds)["y"]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_why(capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path) -> None:
    status, out, _ = run(capsys, "inspect", model, "--why")
    assert status == 0
    assert "layer_norm: nothing in the graph looks like it" in out
    run(capsys, "compile", model, tmp_path / "ir")
    status, _, err = run(capsys, "inspect", tmp_path / "ir", "--why")
    assert status == 2
    assert "--why needs the ONNX file" in err


def test_passes_can_be_left_out(
    capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path
) -> None:
    run(capsys, "compile", model, tmp_path / "ir", "--keep-dense")
    _, out, _ = run(capsys, "inspect", tmp_path / "ir")
    assert "3 operators, 0 sparse" in out


def test_compare(capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path) -> None:
    run(capsys, "compile", model, tmp_path / "ir")
    status, out, _ = run(capsys, "compare", model, tmp_path / "ir", "--as-read")
    assert status == 0
    assert out.startswith("3 values agree within 0.001")
    np.savez(tmp_path / "x.npz", x=np.ones((2, 16)))
    words = ["compare", model, tmp_path / "ir", "--inputs", tmp_path / "x.npz", "--kernels"]
    assert run(capsys, *words)[0] == 0

    changed = onnx.load(model)
    weight = numpy_helper.to_array(changed.graph.initializer[1]) * np.float32(1.5)
    changed.graph.initializer[1].CopyFrom(numpy_helper.from_array(weight, "dense"))
    onnx.save(changed, tmp_path / "changed.onnx")
    status, out, _ = run(capsys, "compare", model, tmp_path / "changed.onnx")
    assert status == 1
    assert out.startswith("first of 2 values (of 3) that part: 'z' (Linear and Linear)")
    status, out, _ = run(capsys, "compare", model, tmp_path / "changed.onnx", "--json")
    assert [row["value"] for row in json.loads(out)] == ["h", "z", "y"]
    np.savez(tmp_path / "x.npz", other=np.ones((2, 16)))
    assert "takes x too, which is not in other" in run(capsys, *words)[2]


def test_isa(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "isa")
    assert status == 0
    assert out.count("in use") == 1
    _, out, _ = run(capsys, "isa", "--json")
    content = json.loads(out)
    assert content["isa"] in content["available"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["inspect", "{folder}/none.onnx"],
            "none.onnx: No such file or directory; expected an ONNX",
        ),
        (["inspect", "{folder}"], "conf.yaml: No such file or directory; expected an IR's"),
        (["compile", "{folder}/text.onnx", "{folder}/ir"], "are not a whole ONNX file"),
        (["inspect", "{folder}/text.onnx", "--weight", "model.bin"], "not with ONNX"),
        (["compile", "--output_dir", "ir"], "expected one model and one folder"),
        (["compile", "a.onnx", "ir", "--input_model", "b.onnx"], "expected one model and"),
    ],
)
def test_errors_are_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, words: list[str], message: str
) -> None:
    (tmp_path / "text.onnx").write_text("not a model")
    status, out, err = run(capsys, *(word.format(folder=tmp_path) for word in words))
    assert (status, out) == (2, "")
    assert err.startswith("engine: ")
    assert err.count("\n") == 1
    assert message in err


def test_wrong_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["fly"], [], ["compile", "--fast"]):
        with pytest.raises(SystemExit) as stop:
            main(words)
        assert stop.value.code == 2
    assert "usage: engine" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str], name: str) -> None:
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    assert COMMANDS[name].split()[0] in capsys.readouterr().out


def test_who_waits_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    with told("at work", seconds=0.01):
        time.sleep(0.1)
    with told("not worth a line"):
        pass
    assert capsys.readouterr().err == "at work\n"


def test_help_has_its_example_as_written(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert '\nimport engine\nsession = engine.load("int8.onnx"' in capsys.readouterr().out
