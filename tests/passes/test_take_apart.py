"""Operators of ONNX Runtime's optimiser in ONNX's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.passes.take_apart import take_apart
from tests.passes.sketch import Sketch, assert_same, normal, operators

HIDDEN = ("float32", ("batch", "sequence", 8))
ROWS = ("float32", ("batch", 8))
X = normal(2, 3, 8)
MICROSOFT: dict[str, Any] = {"domain": "com.microsoft"}
WEIGHT = np.random.default_rng(1).integers(-127, 128, (8, 4)).astype(np.int8)
STORED = (WEIGHT, np.linspace(0.01, 0.02, 4).astype(np.float32), np.zeros(4, np.int8))


def check(sketch: Sketch, result: str, expected: list[str], **feeds: Any) -> None:
    graph = sketch.graph(result)
    after = take_apart(graph)
    assert operators(after) == expected
    assert_same(graph, after, atol=1e-4, **(feeds or {"x": X}))


def test_bias_gelu() -> None:
    s = Sketch(x=HIDDEN)
    check(s, s.BiasGelu("x", normal(8), **MICROSOFT), ["Add", "Gelu"])


def test_gelu() -> None:
    s = Sketch(x=HIDDEN)
    check(s, s.Gelu("x", **MICROSOFT), ["Gelu"])


def test_operators_that_onnx_took_over_since_are_its_own() -> None:
    s = Sketch(x=HIDDEN)
    how = (np.float32(0.02), np.array(7, np.int8))
    y = s.DequantizeLinear(s.QuantizeLinear("x", *how, **MICROSOFT), *how, **MICROSOFT)
    check(s, y, ["QuantizeLinear", "DequantizeLinear"])
    assert {node.domain for node in take_apart(s.graph(y)).nodes} == {""}


@pytest.mark.parametrize("bias", [True, False])
def test_fast_gelu(bias: bool) -> None:
    s = Sketch(x=HIDDEN)
    y = s.FastGelu("x", *[normal(8)] * bias, **MICROSOFT)
    check(s, y, ["Add", "Gelu"] if bias else ["Gelu"])


@pytest.mark.parametrize(("a", "b"), [(0, 0), (0, 1), (1, 0)])
def test_fused_matmul(a: int, b: int) -> None:
    s = Sketch(x=HIDDEN, y=("float32", ("batch", 8, "sequence") if a == b else HIDDEN[1]))
    y = s.FusedMatMul("x", "y", transA=a, transB=b, alpha=0.25, **MICROSOFT)
    other = normal(2, 8, 3) if a == b else normal(2, 3, 8)
    check(s, y, ["Transpose"] * (a + b) + ["MatMul", "Mul"], x=X, y=other)


def test_fused_matmul_of_factor_one() -> None:
    s = Sketch(x=HIDDEN)
    check(s, s.FusedMatMul("x", normal(8, 4), alpha=1.0, **MICROSOFT), ["MatMul"])


def test_fused_matmul_over_batches_stays() -> None:
    s = Sketch(x=HIDDEN, y=HIDDEN)
    graph = s.graph(s.FusedMatMul("x", "y", transBatchA=1, **MICROSOFT))
    assert operators(take_apart(graph)) == ["FusedMatMul"]


def test_fused_gemm() -> None:
    s = Sketch(x=ROWS)
    y = s.FusedGemm("x", normal(4, 8), normal(4), transB=1, activation="Tanh", **MICROSOFT)
    check(s, y, ["Gemm", "Tanh"], x=X[0])


@pytest.mark.parametrize("bias", [True, False])
def test_skip_layer_normalization(bias: bool) -> None:
    s = Sketch(x=HIDDEN, y=HIDDEN)
    inputs = ("x", "y", normal(8), normal(8), *[normal(8)] * bias)
    y = s.SkipLayerNormalization(*inputs, epsilon=1e-5, **MICROSOFT)
    check(s, y, ["Add"] * (1 + bias) + ["LayerNormalization"], x=X, y=normal(2, 3, 8, seed=3))


def test_the_sum_of_a_skip_layer_normalization_is_kept() -> None:
    s = Sketch(x=HIDDEN, y=HIDDEN)
    inputs = ("x", "y", normal(8), normal(8))
    parts = s.SkipLayerNormalization(*inputs, outputs=4, **MICROSOFT)
    graph = s.graph(parts[0], parts[3])
    after = take_apart(graph)
    assert operators(after) == ["Add", "LayerNormalization"]
    assert_same(graph, after, x=X, y=X)


def test_inputs_that_are_left_out_read_no_results_that_are() -> None:
    s = Sketch(x=HIDDEN, y=HIDDEN)
    parts = s.SkipSimplifiedLayerNormalization("x", "y", normal(8), outputs=4, **MICROSOFT)
    graph = s.graph(parts[0], s.Clip(parts[3], "", np.float32(1)))
    names = (parts[0], "", "", parts[3])
    nodes = [n.changed(outputs=names) if len(n.outputs) == 4 else n for n in graph.nodes]
    graph = graph.changed(nodes=tuple(nodes))
    after = take_apart(graph)
    assert operators(after) == ["Add", "SimplifiedLayerNormalization", "Clip"]
    assert_same(graph, after, x=X, y=X)


@pytest.mark.parametrize("alpha", [{}, {"alpha": 1.0}], ids=str)
def test_quick_gelu(alpha: dict[str, float]) -> None:
    s = Sketch(x=HIDDEN)
    check(s, s.QuickGelu("x", **alpha, **MICROSOFT), [*["Mul"] * (not alpha), "Sigmoid", "Mul"])


def test_lengths_behind_a_fused_product_are_known() -> None:
    """As ONNX Runtime saves ALBERT: the target of a Reshape is read from what a product made."""
    s = Sketch(x=HIDDEN)
    product = s.FusedMatMul("x", normal(8, 6), alpha=0.5, **MICROSOFT)
    rows = s.Slice(s.Shape(product), np.array([0]), np.array([2]), np.array([0]))
    graph = s.graph(s.Reshape(product, s.Concat(rows, np.array([2, 3]), axis=0)))
    after = take_apart(graph)
    assert operators(after) == ["MatMul", "Mul", "Reshape"]
    assert_same(graph, after, x=X)


@pytest.mark.parametrize("bias", [True, False])
def test_products_that_quantise_their_input(bias: bool) -> None:
    s = Sketch(x=HIDDEN)
    y = s.DynamicQuantizeMatMul("x", *STORED, *[normal(4)] * bias, **MICROSOFT)
    first = ["DynamicQuantizeLinear", "DequantizeLinear", "DequantizeLinear", "MatMul"]
    check(s, y, first + ["Add"] * bias)


def test_products_of_stored_values() -> None:
    s = Sketch(x=HIDDEN)
    stored, scale, zero = s.DynamicQuantizeLinear("x", outputs=3)
    inputs = (stored, STORED[0], scale, STORED[1], zero, STORED[2], normal(4))
    y = s.MatMulIntegerToFloat(*inputs, **MICROSOFT)
    tail = ["DequantizeLinear", "DequantizeLinear", "MatMul", "Add"]
    check(s, y, ["DynamicQuantizeLinear", *tail])


# --- layers ---
INTEGERS = ("int32", ("batch", "sequence"))
LENGTHS = ("int32", ("batch",))
MASK = np.array([[1, 1, 0], [1, 1, 1]], np.int32)
LAYERS = (normal(8, 24), normal(24, seed=1))


@pytest.mark.parametrize(
    ("kind", "mask"),
    [(INTEGERS, MASK), (LENGTHS, MASK.sum(1).astype(np.int32)), (None, None)],
    ids=["masks", "lengths", "none"],
)
@pytest.mark.parametrize("scale", [{}, {"scale": 0.3}], ids=str)
def test_attention(kind: Any, mask: Any, scale: dict[str, float]) -> None:
    s = Sketch(x=HIDDEN, **({"mask": kind} if kind else {}))
    y = s.Attention("x", *LAYERS, *["mask"] * bool(kind), num_heads=2, **scale, **MICROSOFT)
    graph = s.graph(y)
    after = take_apart(graph)
    assert not any(node.domain for node in after)
    assert_same(graph, after, atol=1e-5, x=X, **({"mask": mask} if kind else {}))


@pytest.mark.parametrize("kind", [INTEGERS, LENGTHS], ids=["masks", "lengths"])
@pytest.mark.parametrize("bias", [True, False])
def test_multi_head_attention(kind: Any, bias: bool) -> None:
    s = Sketch(query=HIDDEN, key=HIDDEN, value=HIDDEN, mask=kind)
    inputs = ("query", "key", "value", LAYERS[1] if bias else "", "mask")
    graph = s.graph(s.MultiHeadAttention(*inputs, num_heads=2, **MICROSOFT))
    after = take_apart(graph)
    assert not any(node.domain for node in after)
    mask = MASK if kind is INTEGERS else MASK.sum(1).astype(np.int32)
    layers = {name: normal(2, 3, 8, seed=n) for n, name in enumerate(("query", "key", "value"))}
    assert_same(graph, after, atol=1e-5, mask=mask, **layers)


@pytest.mark.parametrize("lengths", ["others", 3])
def test_multi_head_attention_to_another_sentence_stays(lengths: Any) -> None:
    other = ("float32", ("batch", lengths, 8))
    s = Sketch(query=HIDDEN, key=other, value=other)
    y = s.MultiHeadAttention("query", "key", "value", num_heads=2, **MICROSOFT)
    assert operators(take_apart(s.graph(y))) == ["MultiHeadAttention"]


@pytest.mark.parametrize("per_channel", [True, False])
def test_attention_of_stored_values(per_channel: bool) -> None:
    s = Sketch(x=HIDDEN, mask=INTEGERS)
    weight = np.random.default_rng(1).integers(-127, 128, (8, 24)).astype(np.int8)
    scales = np.linspace(0.01, 0.02, 24 if per_channel else 1).astype(np.float32)
    stored, scale, zero = s.DynamicQuantizeLinear("x", outputs=3)
    zeros = np.zeros(scales.shape, np.int8)
    inputs = (stored, weight, LAYERS[1], scale, scales, "mask", zero, zeros)
    graph = s.graph(s.QAttention(*inputs, num_heads=2, **MICROSOFT))
    after = take_apart(graph)
    assert not any(node.domain for node in after)
    assert_same(graph, after, atol=1e-4, x=X, mask=MASK)


def test_attention_without_biases() -> None:
    s = Sketch(x=HIDDEN)
    graph = s.graph(s.Attention("x", LAYERS[0], num_heads=4, **MICROSOFT))
    assert "Attention" not in operators(take_apart(graph))
    assert_same(graph, take_apart(graph), atol=1e-5, x=X)


@pytest.mark.parametrize(
    "mask",
    [("int32", ("batch", "sequence", "sequence")), ("int32", (7,)), ("int32", ("batch", 1))],
    ids=["for each query", "of other rows", "for all keys"],
)
def test_attention_with_another_mask_stays(mask: Any) -> None:
    s = Sketch(x=("float32", (2, 3, 8)), mask=mask)
    graph = s.graph(s.Attention("x", *LAYERS, "mask", num_heads=2, **MICROSOFT))
    assert operators(take_apart(graph)) == ["Attention"]


@pytest.mark.parametrize("how", [{"unidirectional": 1}, {"qkv_hidden_sizes": (4, 4, 16)}], ids=str)
def test_attention_of_another_kind_stays(how: dict[str, Any]) -> None:
    s = Sketch(x=HIDDEN)
    graph = s.graph(s.Attention("x", *LAYERS, num_heads=2, **how, **MICROSOFT))
    assert operators(take_apart(graph)) == ["Attention"]


@pytest.mark.parametrize(
    ("weight", "bias", "heads"),
    [((8, 24), 24, 0), ((8, 24), 24, 3), ((8, 24), 8, 2), ((8, 20), 20, 2)],
)
def test_attention_that_does_not_fit_stays(weight: Any, bias: int, heads: int) -> None:
    s = Sketch(x=HIDDEN)
    y = s.Attention("x", normal(*weight), normal(bias), num_heads=heads, **MICROSOFT)
    assert operators(take_apart(s.graph(y))) == ["Attention"]


@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize("places", [False, True])
def test_embed_layer_normalization(opset: int, places: bool) -> None:
    ids = {"ids": INTEGERS, "types": INTEGERS, "mask": INTEGERS, "places": INTEGERS}
    s = Sketch(opset, **ids)
    tables = (normal(5, 8), normal(6, 8, seed=1), normal(2, 8, seed=2), normal(8), normal(8))
    rest = ("mask", *["places"] * places)
    made = s.EmbedLayerNormalization("ids", "types", *tables, *rest, outputs=3, **MICROSOFT)
    graph = s.graph(*made)
    after = take_apart(graph)
    assert not any(node.domain for node in after)
    feeds = {name: np.random.default_rng(n).integers(0, 2, (2, 3)) for n, name in enumerate(ids)}
    assert_same(graph, after, **{name: each.astype(np.int32) for name, each in feeds.items()})


def test_embed_layer_normalization_of_stored_tables() -> None:
    s = Sketch(ids=INTEGERS, types=INTEGERS, mask=INTEGERS)
    rng = np.random.default_rng(0)
    shapes = ((5, 8), (6, 8), (2, 8), (8,), (8,))
    tables = [rng.integers(-127, 128, shape).astype(np.int8) for shape in shapes]
    how = (*[np.float32(0.02)] * 5, *[np.int8(3)] * 5)
    made = s.QEmbedLayerNormalization("ids", "types", *tables, "mask", *how, outputs=2, **MICROSOFT)
    graph = s.graph(*made)
    after = take_apart(graph)
    assert not any(node.domain for node in after)
    assert_same(graph, after, ids=MASK + 2, types=1 - MASK, mask=MASK)


def test_onnx_own_operators_are_not_touched() -> None:
    s = Sketch(x=HIDDEN)
    graph = s.graph(s.Gelu("x"))
    assert take_apart(graph) is graph
