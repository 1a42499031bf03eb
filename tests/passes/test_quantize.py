"""What is stored in 8 bits, and who reads it."""

from __future__ import annotations

import numpy as np

from engine.graph import Graph, Quantization
from engine.passes.attention import attention
from engine.passes.clean import clean
from engine.passes.layer_norm import layer_norm, residual
from engine.passes.linear import linear
from engine.passes.quantize import quantize
from engine.passes.select import select
from engine.passes.simulate import simulate
from tests.passes.sketch import Sketch, assert_same, counts, normal, only, operators

HIDDEN = ("float32", ("batch", "sequence", 8))
X = normal(2, 3, 8)


def q(scale: float, zero: int = 128) -> Quantization:
    return Quantization(float(np.float32(scale)), zero)


def weight(s: Sketch, seed: int = 0) -> str:
    values = np.random.default_rng(seed).integers(-127, 128, (8, 8)).astype(np.int8)
    scale = np.linspace(0.002, 0.004, 8).astype(np.float32)
    return str(s.DequantizeLinear(values, scale, np.zeros(8, np.int8), axis=1))


def layer(s: Sketch, x: str, seed: int = 0) -> str:
    """8-bit weight, bias."""
    return str(s.Add(s.MatMul(x, weight(s, seed)), normal(8, seed=seed)))


def norm(s: Sketch, x: str) -> str:
    return str(s.LayerNormalization(x, 1 + 0.1 * normal(8), normal(8), axis=-1))


def fused(graph: Graph) -> Graph:
    graph = linear(layer_norm(simulate(clean(graph))))
    return quantize(select(attention(residual(graph)))).check()


def test_a_result_that_all_take_quantised_is_stored() -> None:
    s = Sketch(x=HIDDEN)
    stored = s.round_trip(norm(s, "x"), 0.03)
    graph = s.graph(layer(s, stored), layer(s, stored, 1))
    after = fused(graph)
    assert counts(after) == {"LayerNorm": 1, "Linear": 2}
    assert only(after, "LayerNorm").attributes["output"] == q(0.03)
    assert all(n.attributes["input"] == q(0.03) for n in after.nodes if n.op == "Linear")
    assert_same(graph, after, x=X)


def test_a_reader_of_float32_leaves_a_quantize_linear() -> None:
    s = Sketch(x=HIDDEN)
    value = norm(s, "x")
    graph = s.graph(layer(s, s.round_trip(value, 0.03)), s.Exp(value))
    after = fused(graph)
    assert sorted(operators(after)) == ["Exp", "LayerNorm", "Linear", "QuantizeLinear"]
    assert only(after, "LayerNorm").attributes["output"] is None
    assert_same(graph, after, x=X)


def test_a_reader_of_the_rounded_value_dequantises_it() -> None:
    s = Sketch(x=HIDDEN)
    stored = s.round_trip(norm(s, "x"), 0.03)
    graph = s.graph(layer(s, stored), s.Exp(stored))
    after = fused(graph)
    assert sorted(operators(after)) == ["DequantizeLinear", "Exp", "LayerNorm", "Linear"]
    assert only(after, "LayerNorm").attributes["output"] == q(0.03)
    assert_same(graph, after, x=X)


def test_an_output_of_the_graph_stays_float32() -> None:
    s = Sketch(x=HIDDEN)
    graph = s.graph(s.round_trip(layer(s, s.round_trip("x", 0.02)), 0.05))
    after = fused(graph)
    assert operators(after) == ["QuantizeLinear", "Linear", "DequantizeLinear"]
    assert_same(graph, after, x=X)


def test_the_residual_is_read_stored() -> None:
    s = Sketch(x=HIDDEN)
    before = s.round_trip(norm(s, "x"), 0.03)
    graph = s.graph(norm(s, s.Add(layer(s, before), before)))
    after = fused(graph)
    assert operators(after) == ["LayerNorm", "Linear", "LayerNorm"]
    last = after.nodes[-1]
    assert (last.attributes["input"], last.attributes["residual"]) == (None, q(0.03))
    assert_same(graph, after, x=X)


def test_the_bias_after_a_stored_product_goes_to_the_layer_norm() -> None:
    s = Sketch(x=HIDDEN)
    before = s.round_trip(norm(s, "x"), 0.03)
    product = s.round_trip(s.MatMul(before, weight(s)), 0.05, 120)
    graph = s.graph(norm(s, s.Add(s.Add(product, s.constant(normal(8), "bias")), before)))
    after = fused(graph)
    assert operators(after) == ["LayerNorm", "Linear", "LayerNorm"]
    node, last = only(after, "Linear"), after.nodes[-1]
    assert node.inputs[3] == ""
    assert (node.attributes["product"], node.attributes["output"]) == (None, q(0.05, 120))
    assert last.inputs[2] == "bias"
    assert last.attributes["input"] == q(0.05, 120)
    assert_same(graph, after, x=X)


def test_a_product_with_an_activation_keeps_its_bias() -> None:
    s = Sketch(x=HIDDEN)
    product = s.round_trip(s.MatMul(s.round_trip("x", 0.02), weight(s)), 0.05)
    y = s.round_trip(s.Tanh(s.Add(product, s.constant(normal(8), "bias"))), 0.01)
    graph = s.graph(layer(s, y, 1))
    after = fused(graph)
    first = next(n for n in after.nodes if n.op == "Linear")
    assert first.inputs[3] == "bias"
    assert (first.attributes["product"], first.attributes["output"]) == (q(0.05), q(0.01))
    assert_same(graph, after, x=X)


def test_a_selected_row_is_stored_as_the_whole_is() -> None:
    s = Sketch(x=HIDDEN)
    stored = s.round_trip(norm(s, "x"), 0.03)
    row = s.Gather(stored, np.array(0), axis=1)
    graph = s.graph(s.Gemm(row, weight(s), normal(8)), layer(s, stored, 1))
    after = fused(graph)
    assert counts(after) == {"LayerNorm": 1, "Select": 1, "Linear": 2, "Squeeze": 1}
    assert {n.attributes["precision"] for n in after.nodes if n.op == "Linear"} == {"int8"}
    assert_same(graph, after, x=X)


def test_weights_alone_in_8_bits_become_float32() -> None:
    s = Sketch(x=HIDDEN)
    graph = s.graph(layer(s, "x"))
    after = fused(graph)
    node = only(after, "Linear")
    assert node.attributes["precision"] == "float32"
    assert after.constants[node.inputs[1]].dtype == np.float32
    assert_same(graph, after, x=X)


def test_a_range_found_at_run_time() -> None:
    s = Sketch(x=HIDDEN)
    parts = s.DynamicQuantizeLinear("x", outputs=3)
    graph = s.graph(layer(s, s.DequantizeLinear(*parts)))
    after = fused(graph)
    assert operators(after) == ["Linear"]
    assert only(after, "Linear").attributes["dynamic"] == "tensor"
    assert_same(graph, after, x=X)


# --- attention ---
def attended(s: Sketch, first: float, second: float) -> str:
    """p . v quantised, joined, quantised again."""
    shape = np.array([0, 0, 2, 4])
    q, k, v = (
        s.Transpose(s.Reshape(s.round_trip("x", 0.02), shape), perm=order)
        for order in ((0, 2, 1, 3), (0, 2, 3, 1), (0, 2, 1, 3))
    )
    p = s.round_trip(s.Softmax(s.MatMul(q, k), axis=-1), 1 / 255, 0)
    context = s.Transpose(s.round_trip(s.MatMul(p, v), first), perm=(0, 2, 1, 3))
    return layer(s, s.round_trip(s.Reshape(context, np.array([0, 0, 8])), second))


def test_a_product_quantised_once_is_the_output() -> None:
    s = Sketch(x=HIDDEN)
    graph = s.graph(attended(s, 0.01, 0.01))
    after = fused(graph)
    attributes = only(after, "Attention").attributes
    assert (attributes["product"], attributes["output"]) == (None, q(0.01))
    assert_same(graph, after, x=X)


def test_a_product_quantised_twice_is_requantised() -> None:
    s = Sketch(x=HIDDEN)
    graph = s.graph(attended(s, 0.01, 0.02))
    after = fused(graph)
    assert operators(after) == ["QuantizeLinear", "Attention", "Linear"]
    attributes = only(after, "Attention").attributes
    assert (attributes["product"], attributes["output"]) == (q(0.01), q(0.02))
    assert_same(graph, after, x=X)
