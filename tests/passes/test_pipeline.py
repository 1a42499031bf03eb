"""Whole models in every dialect: what the passes leave, and the numbers against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from engine import settings
from engine.errors import PassError
from engine.formats import onnx_reader
from engine.graph import Graph, Node, Value
from engine.ops import reference
from engine.passes import FUSIONS, PIPELINE, explain, optimize, why
from engine.passes.run import run_pipeline
from tests.passes.sketch import Sketch, counts, operators

Models = Callable[[str], Path]
CLASSIFIER = {
    "Embedding": 1,
    "Linear": 14,
    "Attention": 2,
    "LayerNorm": 4,
    "Select": 1,
    "Squeeze": 1,
}
# quantised after the bias and before tanh, which no attribute says: the pooler's tanh stands alone
QUANTIZED_HEAD = CLASSIFIER | {"DequantizeLinear": 1, "Lookup": 1}
SPANS = {"Embedding": 1, "Linear": 13, "Attention": 2, "LayerNorm": 4, "Channels": 2, "Squeeze": 2}
HIDDEN = CLASSIFIER | {"Linear": 13}

FLOAT = {  # dialect -> operators left
    "bert": CLASSIFIER,
    "bert_unfolded": CLASSIFIER,
    "bert_opset17": CLASSIFIER,
    "bert_dynamo": CLASSIFIER,
    "bert_tanh_gelu": CLASSIFIER,
    "bert_relu": CLASSIFIER,
    "bert_no_types": CLASSIFIER,
    "bert_other_order": CLASSIFIER,
    "sdpa": CLASSIFIER,
    "sdpa_dynamo": CLASSIFIER,
    "distilbert": CLASSIFIER,
    "roberta": CLASSIFIER,
    "optimised": CLASSIFIER,
    "hidden_states": HIDDEN,
    "spans": SPANS,
    "tokens": {"Embedding": 1, "Linear": 13, "Attention": 2, "LayerNorm": 4},
}
# fixed ranges: the same integers but for sums that round to the other side of a step
INT8 = {
    "int8": QUANTIZED_HEAD,
    "int8_float_head": CLASSIFIER,
    "int8_no_product": CLASSIFIER,
    "int8_unfolded": QUANTIZED_HEAD,
    "int8_opset17": QUANTIZED_HEAD,
    "int8_dynamo": QUANTIZED_HEAD,
    "int8_s8s8": QUANTIZED_HEAD,
    "int8_moves": QUANTIZED_HEAD,
    "int8_distilbert": QUANTIZED_HEAD,
    "int8_roberta": QUANTIZED_HEAD,
    "int8_sdpa": QUANTIZED_HEAD,
    "int8_spans": SPANS,
    "int8_optimised": QUANTIZED_HEAD,
    # here the residual takes the float32 value, so LayerNorm makes that and QuantizeLinear stays
    "int8_operators": QUANTIZED_HEAD | {"QuantizeLinear": 4, "Select": 2},
    "integer_products": CLASSIFIER | {"QuantizeLinear": 4, "Select": 2},
}
ROUNDED = {"dynamic_int8": (CLASSIFIER, 3e-2), "bfloat16": (CLASSIFIER, 1e-2)}
ROUNDED["dynamic_int8_optimised"] = ROUNDED["dynamic_int8"]
SENTENCES = [(1, 1), (1, 31), (3, 31), (3, 37)]


def differences(path: Path, expected: dict[str, int]) -> np.ndarray:
    """Of every number of every output, fused against ONNX Runtime on the file as it is."""
    from tests.passes import exported

    fused = optimize(onnx_reader.read(path))
    assert counts(fused) == {op: count for op, count in expected.items() if count}
    found = []
    for batch, tokens in SENTENCES:
        feeds = exported.feeds(path, batch, tokens)
        got, theirs = reference.run(fused, feeds), exported.runtime(path, feeds)
        found += [np.abs(got[name] - array).reshape(-1) for name, array in theirs.items()]
    return np.concatenate(found)


@pytest.mark.slow
@pytest.mark.parametrize("dialect", FLOAT)
def test_float_models_fuse_completely_and_keep_their_numbers(model: Models, dialect: str) -> None:
    assert differences(model(dialect), FLOAT[dialect]).max() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("dialect", INT8)
def test_int8_models_keep_their_integers(model: Models, dialect: str) -> None:
    """A sum that lies between two steps may round to the other one: rare, and in so small a model
    felt at that sentence's logits; all others are the same."""
    found = differences(model(dialect), INT8[dialect])
    assert np.median(found) < 2e-6
    assert (found > 1e-4).mean() < 0.2
    assert found.max() < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("dialect", ROUNDED)
def test_models_that_round_activations_at_run_time(model: Models, dialect: str) -> None:
    """One last bit of a float32 sum moves an activation to the next of 256 steps (dynamic) or of
    2^8 in an octave (bfloat16); the bounds are a few such steps seen at the logits."""
    expected, limit = ROUNDED[dialect]
    assert differences(model(dialect), expected).max() < limit


@pytest.mark.slow
@pytest.mark.parametrize("dialect", ["int8", "int8_operators", "dynamic_int8", "roberta"])
def test_every_pass_keeps_the_numbers(model: Models, dialect: str) -> None:
    with settings.override(check=1):
        optimize(onnx_reader.read(model(dialect)))


def test_layers_have_the_names_of_their_modules(model: Models) -> None:
    fused = optimize(onnx_reader.read(model("int8_float_head")))
    names = [node.name for node in fused.nodes]
    assert names[0] == "bert.embeddings"
    for name in ("query", "key", "value"):
        assert f"bert.encoder.layer.0.attention.self.{name}" in names
    assert "bert.encoder.layer.1.attention.self" in names
    assert "bert.encoder.layer.1.attention.output.LayerNorm" in names
    assert names[-3:-1] == ["bert.pooler.dense", "classifier"]


# --- a graph nothing matches ---
def test_a_graph_without_a_match_comes_through_unharmed() -> None:
    sketch = Sketch(x=("float32", ("batch", 4)))
    y = sketch.Exp(sketch.Neg("x"))
    graph = sketch.graph(y)
    fused = optimize(graph)
    assert operators(fused) == ["Neg", "Exp"]
    assert all(why(fused, fusion).startswith(fusion.name) for fusion in FUSIONS.values())
    assert len(explain(graph)) == len(FUSIONS)


# --- the pipeline itself ---
def broken(graph: Graph) -> Graph:
    return graph.changed(nodes=(*graph.nodes, Node("Neg", ("nowhere",), ("y",))))


def changing(graph: Graph) -> Graph:
    return graph.changed(nodes=tuple(node.changed(op="Neg") for node in graph.nodes))


def one_node() -> Graph:
    x, y = Value("x", "float32", (3,)), Value("y", "float32", (3,))
    return Graph("small", (x,), (y,), (Node("Exp", ("x",), ("y",)),), {})


def test_an_unsound_graph_is_blamed_on_its_pass() -> None:
    with pytest.raises(PassError, match=r"small: pass 2 \(broken\).*nowhere"):
        run_pipeline(one_node(), [PIPELINE[0], broken])


def test_changed_numbers_are_blamed_on_their_pass_when_asked_for() -> None:
    run_pipeline(one_node(), [changing])
    with (
        settings.override(check=1),
        pytest.raises(PassError, match=r"pass 1 \(changing\).*differs"),
    ):
        run_pipeline(one_node(), [changing])


def test_counts_are_logged_on_demand(caplog: pytest.LogCaptureFixture) -> None:
    with settings.override(debug=1), caplog.at_level("INFO", logger="engine.passes"):
        optimize(one_node())
    assert "2 clean: 1 -> 1 nodes" in caplog.text
