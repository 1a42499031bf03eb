"""A whole BERT through the reference executor, against ONNX Runtime on the same file."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from engine.errors import InputError, ModelError
from engine.formats import onnx_reader
from engine.graph import Graph, Node, Value
from engine.ops import reference

onnxruntime = pytest.importorskip("onnxruntime")

from workflow.scripts.convert import onnx_runtime  # noqa: E402

NAMES = ["input_ids", "attention_mask", "token_type_ids"]
LENGTHS = [(1, 1), (2, 7), (3, 16)]


def feeds_for(graph: Graph, batch: int, length: int) -> dict[str, np.ndarray]:
    """Random tokens; every sentence but the first is padded to the length of the batch."""
    random = np.random.default_rng(batch * 100 + length)
    lengths = np.r_[length, random.integers(1, length + 1, batch - 1)]
    feeds = {
        "input_ids": random.integers(0, 90, (batch, length)),
        "attention_mask": (np.arange(length) < lengths[:, None]).astype(np.int64),
        "token_type_ids": random.integers(0, 2, (batch, length)),
    }
    return {value.name: feeds[value.name] for value in graph.inputs}


def compare(path: Path, atol: float) -> None:
    graph = onnx_reader.read(path)
    session = onnx_runtime.session(path)
    for batch, length in LENGTHS:
        feeds = feeds_for(graph, batch, length)
        found = reference.run(graph, feeds)
        expected = session.run(None, feeds)
        for name, array in zip(found, expected, strict=True):
            assert found[name].dtype == array.dtype
            np.testing.assert_allclose(found[name], array, rtol=0, atol=atol, err_msg=name)


def random_bert() -> Any:
    """Two layers, eval mode."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=90, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=20,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config).eval()


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """opset -> file of a random BERT of two layers, by torch's exporter."""
    torch = pytest.importorskip("torch")
    model = random_bert()
    folder = tmp_path_factory.mktemp("bert")
    shape = {0: "batch", 1: "sequence"}

    def export_at(opset: int) -> Path:
        path = folder / f"bert{opset}.onnx"
        if not path.exists():
            torch.onnx.export(
                model, tuple(torch.ones(2, 5, dtype=torch.int64) for _ in NAMES), path,
                input_names=NAMES, output_names=["logits"], opset_version=opset, dynamo=False,
                dynamic_axes=dict.fromkeys(NAMES, shape) | {"logits": {0: "batch"}},
            )  # fmt: skip
        return path

    return export_at


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_bert_by_the_dynamo_exporter(tmp_path: Path) -> None:
    """Opset 18 and above, LayerNormalization and Gelu as operators, external weights."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    path = tmp_path / "dynamo.onnx"
    torch.onnx.export(
        random_bert(), tuple(torch.ones(2, 5, dtype=torch.int64) for _ in NAMES), path,
        input_names=NAMES, output_names=["logits"], dynamo=True, external_data=True,
        dynamic_shapes=[free for _ in NAMES], verbose=False,
    )  # fmt: skip
    assert path.with_name("dynamo.onnx.data").exists()
    assert {node.op for node in onnx_reader.read(path)} >= {"LayerNormalization", "Gelu"}
    compare(path, 2e-6)


@pytest.mark.parametrize("opset", [11, 14, 17])
@pytest.mark.filterwarnings("ignore")
def test_bert(export: Callable[[int], Path], opset: int) -> None:
    compare(export(opset), 2e-6)


@pytest.mark.filterwarnings("ignore")
def test_bert_as_the_optimiser_leaves_it(export: Callable[[int], Path], tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(str(export(14)), options, providers=["CPUExecutionProvider"])
    graph = onnx_reader.read(tmp_path / "optimised.onnx")
    assert any(node.domain == "com.microsoft" for node in graph)
    compare(tmp_path / "optimised.onnx", 2e-6)


def calibration(folder: Path) -> object:
    from onnxruntime.quantization import CalibrationDataReader

    class Sentences(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            graph = onnx_reader.read(folder)
            self.feeds = iter([feeds_for(graph, 4, n) for n in (3, 9, 16)])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.feeds, None)

    return Sentences()


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
@pytest.mark.filterwarnings("ignore")
def test_static_int8(export: Callable[[int], Path], tmp_path: Path, form: str) -> None:
    from onnxruntime import quantization

    logging.disable(logging.WARNING)
    path = tmp_path / "int8.onnx"
    quantization.quantize_static(
        str(export(14)), str(path), calibration(export(14)),
        quant_format=quantization.QuantFormat[form], per_channel=form == "QDQ",
        activation_type=quantization.QuantType.QUInt8, weight_type=quantization.QuantType.QInt8,
    )  # fmt: skip
    logging.disable(logging.NOTSET)
    compare(path, 2e-3)  # where a value lies between two steps, the runtime's fused kernels differ


@pytest.mark.filterwarnings("ignore")
def test_dynamic_int8(export: Callable[[int], Path], tmp_path: Path) -> None:
    from onnxruntime import quantization

    path = tmp_path / "dynamic.onnx"
    quantization.quantize_dynamic(str(export(14)), str(path))
    assert any(node.op == "MatMulInteger" for node in onnx_reader.read(path))
    compare(path, 2e-3)


# --- the executor itself ---
def chain() -> Graph:
    nodes = (Node("Add", ("x", "c"), ("a",), {}, "first"), Node("Mul", ("a", "a"), ("b",), {}, ""))
    values = [(Value(name, "float32", ("n", 2)),) for name in ("x", "b")]
    return Graph("chain", values[0], values[1], nodes, {"c": np.ones(2, np.float32)}).check()


def test_dead_values_are_freed() -> None:
    values = {"x": np.zeros((1, 2), np.float32)}
    left = [sorted(values) for _ in reference.steps(chain(), values)]
    assert left == [["x"], ["a"]]
    assert values == {}


def test_outputs_that_are_inputs_or_constants() -> None:
    graph = chain()
    outputs = (*graph.inputs, Value("c", "float32", (2,)), Value("a", "float32", ("n", 2)))
    found = reference.run(graph.changed(outputs=outputs), {"x": np.ones((1, 2), np.float32)})
    assert list(found) == ["x", "c", "a"]
    np.testing.assert_array_equal(found["a"], [[2, 2]])


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, r"inputs missing: \['x'\]"),
        ({"x": np.ones((1, 2), np.float32), "y": 1}, r"unknown: \['y'\]; expected \['x'\]"),
        ({"x": np.ones((1, 2))}, "input 'x': type float64, expected float32"),
        ({"x": np.ones(2, np.float32)}, r"input 'x': shape \(2,\), expected \('n', 2\)"),
        ({"x": np.ones((1, 3), np.float32)}, r"shape \(1, 3\), but '2' is 2 by the model"),
    ],
)
def test_feeds_are_checked(feeds: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(InputError, match=message):
        reference.run(chain(), feeds)


def test_errors_name_the_node() -> None:
    node = Node("Add", ("x", "c"), ("y",), {}, "sum")
    with pytest.raises(ModelError, match=r"node 'sum' \(Add\): .*float32\[2\], float32\[3\]"):
        reference.evaluate(node, [np.ones(2, np.float32), np.ones(3, np.float32)])
    with pytest.raises(ModelError, match=r"node 'sum' \(Add\): .*'axis'"):
        reference.evaluate(node.changed(attributes={"axis": 1}), [np.ones(2), np.ones(2)])


def test_softmax_before_opset_13_flattens(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    for opset in (11, 13):
        value = helper.make_tensor_value_info
        graph = helper.make_graph(
            [helper.make_node("Softmax", ["x"], ["y"], axis=1)], "g",
            [value("x", TensorProto.FLOAT, x.shape)], [value("y", TensorProto.FLOAT, x.shape)],
        )  # fmt: skip
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7
        )
        onnx.save(model, tmp_path / "softmax.onnx")
        session = onnx_runtime.session(tmp_path / "softmax.onnx")
        found = reference.run(onnx_reader.read(tmp_path / "softmax.onnx"), {"x": x})["y"]
        np.testing.assert_allclose(found, session.run(None, {"x": x})[0], atol=1e-6)
