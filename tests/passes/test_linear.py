"""Linear layers: weights, biases, activations."""

from __future__ import annotations

import numpy as np
import pytest

from engine.graph import Graph, Quantization
from engine.passes.clean import clean
from engine.passes.fusion import why
from engine.passes.gelu import gelu
from engine.passes.linear import FUSIONS, linear
from engine.passes.simulate import simulate
from tests.passes.sketch import Array, Sketch, assert_same, normal, only, operators

HIDDEN = ("float32", ("batch", "sequence", 8))
X = normal(2, 3, 8)
WEIGHT, BIAS = normal(8, 4, seed=1), normal(4, seed=2)
PRODUCT, GEMM, ADDED = FUSIONS[0], FUSIONS[1], FUSIONS[2]


def biased(s: Sketch, **kind: str) -> str:
    weight = s.constant(WEIGHT, "onnx::MatMul_12")
    return str(s.Add(s.constant(BIAS, "encoder.query.bias"), s.MatMul("x", weight)))


def test_product_and_bias() -> None:
    sketch = Sketch(x=HIDDEN)
    graph = sketch.graph(biased(sketch))
    after = linear(graph)
    assert operators(after) == ["Linear"]
    node = only(after, "Linear")
    assert after.constants[node.inputs[1]].shape == (4, 8)  # [outputs, inputs]
    assert node.inputs[2:] == ("", "encoder.query.bias")
    assert node.name == "encoder.query"
    assert node.attributes["precision"] == "float32"
    assert_same(graph, after, x=X)


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("with_bias", [True, False])
def test_gemm(transposed: int, with_bias: bool) -> None:
    sketch = Sketch(x=("float32", ("batch", 8)))
    weight = WEIGHT.T if transposed else WEIGHT
    graph = sketch.graph(sketch.Gemm("x", weight, *[BIAS] * with_bias, transB=transposed))
    after = linear(graph)
    assert operators(after) == ["Linear"]
    assert_same(graph, after, x=X[0])


@pytest.mark.parametrize("op", ["Tanh", "Relu"])
def test_activations(op: str) -> None:
    sketch = Sketch(x=HIDDEN)
    graph = sketch.graph(getattr(sketch, op)(biased(sketch)))
    after = linear(graph)
    assert operators(after) == ["Linear"]
    assert only(after, "Linear").attributes["activation"] == op.lower()
    assert_same(graph, after, x=X)


@pytest.mark.parametrize(("approximate", "name"), [("none", "gelu"), ("tanh", "gelu_tanh")])
def test_gelu_is_an_activation(approximate: str, name: str) -> None:
    sketch = Sketch(opset=20, x=HIDDEN)
    graph = sketch.graph(sketch.Gelu(biased(sketch), approximate=approximate))
    after = linear(gelu(graph))
    assert only(after, "Linear").attributes["activation"] == name
    assert_same(graph, after, x=X)


@pytest.mark.parametrize(("stored", "precision"), [(True, "bfloat16"), (False, "float32")])
def test_weights_stored_in_bfloat16_say_so(stored: bool, precision: str) -> None:
    """Values that are exact in bfloat16 are not enough: those of a float32 model may be too."""
    sketch = Sketch(x=HIDDEN)
    exact = (WEIGHT.view(np.uint32) & 0xFFFF0000).view(np.float32)
    after = linear(sketch.graph(sketch.MatMul("x", exact)).changed(has_bfloat16=stored))
    assert only(after, "Linear").attributes["precision"] == precision


# --- 8 bits ---
def stored(dtype: str, zero: int, low: int, high: int) -> tuple[Array, Array]:
    weight = np.random.default_rng(0).integers(low, high, (8, 4)).astype(dtype)
    return weight, np.full(4, zero, dtype)


def graph_with_stored_weight(weight: Array, zero: Array, *, per_output: bool = True) -> Graph:
    sketch = Sketch(x=HIDDEN)
    scale = np.linspace(0.01, 0.04, 4).astype(np.float32)
    how = (scale, zero) if per_output else (scale[0], zero[0])
    matrix = sketch.DequantizeLinear(weight, *how, axis=1)
    return sketch.graph(sketch.MatMul(sketch.round_trip("x", 0.02), matrix))


@pytest.mark.parametrize("per_output", [True, False])
@pytest.mark.parametrize(
    "how", [("int8", 0, -127, 128), ("uint8", 128, 1, 256), ("int8", 3, -100, 100)]
)
def test_8_bits_stay_8_bits(how: tuple[str, int, int, int], per_output: bool) -> None:
    graph = graph_with_stored_weight(*stored(*how), per_output=per_output)
    after = linear(simulate(clean(graph)))
    node = only(after, "Linear")
    assert node.attributes["precision"] == "int8"
    assert after.constants[node.inputs[1]].dtype == np.int8
    assert after.constants[node.inputs[2]].shape == (4,)
    assert_same(graph, after, x=X)


def test_a_zero_point_that_does_not_fit_int8_makes_int16() -> None:
    graph = graph_with_stored_weight(*stored("uint8", 20, 0, 256))
    after = linear(simulate(clean(graph)))
    node = only(after, "Linear")
    assert node.attributes["precision"] == "int8"
    assert after.constants[node.weight].dtype == np.int16
    assert_same(graph, after, x=X, atol=1e-5)


def test_the_product_may_be_quantised_before_the_bias() -> None:
    sketch = Sketch(x=HIDDEN)
    product = sketch.round_trip(sketch.MatMul("x", WEIGHT), 0.05, 120)
    graph = sketch.graph(sketch.Tanh(sketch.Add(product, BIAS)))
    after = linear(simulate(graph))
    assert operators(after) == ["Linear"]
    expected = Quantization(float(np.float32(0.05)), 120)
    assert only(after, "Linear").attributes["product"] == expected
    assert_same(graph, after, x=X)


def test_the_product_may_be_quantised_before_the_activation() -> None:
    """Where there is no bias, as in T5."""
    sketch = Sketch(x=HIDDEN)
    product = sketch.round_trip(sketch.MatMul("x", WEIGHT), 0.05, 120)
    graph = sketch.graph(sketch.Relu(product))
    after = linear(simulate(graph))
    node = only(after, "Linear")
    assert operators(after) == ["Linear"] and node.attributes["activation"] == "relu"
    assert node.attributes["product"] == Quantization(float(np.float32(0.05)), 120)
    assert_same(graph, after, x=X)


def test_quantised_after_the_bias_the_activation_stands_alone() -> None:
    sketch = Sketch(x=HIDDEN)
    total = sketch.round_trip(sketch.Add(sketch.MatMul("x", WEIGHT), BIAS), 0.05)
    after = linear(simulate(sketch.graph(sketch.Tanh(total))))
    assert operators(after) == ["Linear", "FakeQuantize", "Tanh"]


# --- refused ---
def test_a_product_of_activations_is_refused() -> None:
    sketch = Sketch(x=HIDDEN, y=("float32", ("batch", 8, 4)))
    graph = sketch.graph(sketch.MatMul("x", "y"))
    assert operators(linear(graph)) == ["MatMul"]
    assert "the weight 'y' is not constant" in why(graph, PRODUCT)


def test_a_scaled_gemm_is_refused() -> None:
    sketch = Sketch(x=("float32", ("batch", 8)))
    graph = sketch.graph(sketch.Gemm("x", WEIGHT, BIAS, alpha=0.5))
    assert operators(linear(graph)) == ["Gemm"]
    assert "scales or transposes its input" in why(graph, GEMM)


def test_one_scale_per_input_is_refused() -> None:
    sketch = Sketch(x=HIDDEN)
    parameters = (np.ones(8, np.float32), np.zeros(8, np.int8))
    matrix = sketch.DequantizeLinear(np.ones((8, 4), np.int8), *parameters, axis=0)
    graph = sketch.graph(sketch.MatMul("x", matrix))
    assert operators(linear(graph)) == ["DequantizeLinear", "MatMul"]
    assert "a scale per input, expected one per output" in why(graph, PRODUCT)


def test_a_bias_per_token_is_no_bias() -> None:
    sketch = Sketch(x=("float32", ("batch", 4, 8)))
    graph = linear(sketch.graph(sketch.Add(sketch.MatMul("x", WEIGHT), normal(4, 4))))
    assert operators(graph) == ["Linear", "Add"]
    assert "is not one number per output" in why(graph, ADDED)


def test_a_product_read_twice_keeps_its_bias_apart() -> None:
    sketch = Sketch(x=HIDDEN)
    product = sketch.MatMul("x", WEIGHT)
    graph = sketch.graph(sketch.Add(product, BIAS), sketch.Neg(product))
    after = linear(graph)
    assert operators(after) == ["Linear", "Add", "Neg"]
    assert_same(graph, after, x=X)


def test_quick_gelu_is_a_swish_of_scaled_weights() -> None:
    s = Sketch(x=HIDDEN)
    inner = s.Add(s.MatMul("x", normal(8, 12)), normal(12, seed=1))
    quick = s.Mul(inner, s.Sigmoid(s.Mul(inner, 1.702)))
    graph = s.graph(s.MatMul(quick, normal(12, 8, seed=2)))
    after = linear(gelu(graph))
    assert operators(after) == ["Linear", "Linear"]
    assert [node.attributes["activation"] for node in after] == ["swish", None]
    assert_same(graph, after, x=normal(2, 3, 8), atol=1e-4)


def test_stored_weights_have_the_factor_in_their_scales() -> None:
    s, weight = Sketch(x=HIDDEN), np.arange(96).reshape(8, 12).astype(np.int8)
    inner = s.MatMul("x", s.DequantizeLinear(weight, np.float32(0.01), np.int8(0)))
    graph = s.graph(s.Mul(inner, s.Sigmoid(s.Mul(inner, 1.702))))
    after = linear(gelu(graph))
    assert operators(after) == ["Linear", "Mul"]
    assert np.array_equal(after.constants[after.nodes[0].weight], weight.T)
    assert_same(graph, after, x=normal(2, 3, 8), atol=1e-4)
