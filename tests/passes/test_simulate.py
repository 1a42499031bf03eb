"""Every spelling of quantised arithmetic in terms of FakeQuantize."""

from __future__ import annotations

import numpy as np
import pytest

from engine.graph import Quantization
from engine.passes.clean import clean
from engine.passes.fusion import why
from engine.passes.simulate import INTEGER_PRODUCTS, simulate
from tests.passes.sketch import Sketch, assert_same, counts, normal, only, operators

HIDDEN = ("float32", ("batch", "sequence", 8))
X = 2 * normal(2, 3, 8)
WEIGHT = np.random.default_rng(1).integers(-127, 128, (8, 4)).astype(np.int8)
HOW = (np.float32(0.03), np.uint8(130))


def whole(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


@pytest.mark.parametrize(("zero", "dtype"), [(120, "uint8"), (-5, "int8")])
def test_a_pair_is_one_operator(zero: int, dtype: str) -> None:
    sketch = Sketch(x=HIDDEN)
    graph = sketch.graph(sketch.Neg(sketch.round_trip("x", 0.03, zero, dtype)))
    after = simulate(graph)
    assert operators(after) == ["FakeQuantize", "Neg"]
    how = only(after, "FakeQuantize").attributes["quantization"]
    assert how == Quantization(float(np.float32(0.03)), zero, dtype)
    assert_same(graph, after, x=X)


def test_pairs_of_one_value_are_one() -> None:
    sketch = Sketch(x=HIDDEN)
    graph = sketch.graph(*(sketch.Neg(sketch.round_trip("x", 0.03)) for _ in range(2)))
    assert counts(simulate(graph)) == {"FakeQuantize": 1, "Neg": 2}


def test_a_pair_of_different_scales_stays() -> None:
    sketch = Sketch(x=HIDDEN)
    stored = sketch.QuantizeLinear("x", *HOW)
    graph = sketch.graph(sketch.DequantizeLinear(stored, np.float32(0.04), HOW[1]))
    assert operators(simulate(graph)) == ["QuantizeLinear", "DequantizeLinear"]


def test_one_scale_per_channel_stays() -> None:
    sketch = Sketch(x=HIDDEN)
    how = (np.linspace(0.01, 0.02, 8).astype(np.float32), np.full(8, 128, np.uint8))
    stored = sketch.QuantizeLinear("x", *how, axis=2)
    graph = sketch.graph(sketch.DequantizeLinear(stored, *how, axis=2))
    assert operators(simulate(graph)) == ["QuantizeLinear", "DequantizeLinear"]


@pytest.mark.parametrize("stored_before", [False, True], ids=["float", "8 bits"])
def test_a_constant_that_is_quantised_is_a_stored_weight(stored_before: bool) -> None:
    sketch = Sketch(x=HIDDEN)
    scales = np.linspace(0.01, 0.02, 4).astype(np.float32)
    weight = sketch.DequantizeLinear(WEIGHT, scales, np.zeros(4, np.int8), axis=1)
    twin = sketch.round_trip(sketch.Identity(weight if stored_before else normal(8, 4)), 0.03, 131)
    graph = clean(sketch.graph(sketch.MatMul("x", weight), sketch.MatMul("x", twin)))
    after = simulate(graph)
    assert counts(after) == {"DequantizeLinear": 2, "MatMul": 2}
    assert {
        after.constants[n.inputs[0]].dtype.itemsize for n in after.nodes if n.op != "MatMul"
    } == {1}
    assert_same(graph, after, x=X)


# --- moves ---
def test_quantising_goes_before_moves_and_is_done_once() -> None:
    sketch = Sketch(x=HIDDEN)
    y = sketch.Reshape(sketch.round_trip(sketch.Exp("x"), 0.03), whole(0, 0, 2, 4))
    y = sketch.round_trip(sketch.Transpose(sketch.round_trip(y, 0.03), perm=(0, 2, 1, 3)), 0.03)
    graph = sketch.graph(sketch.Neg(y))
    after = simulate(graph)
    assert operators(after) == ["Exp", "FakeQuantize", "Reshape", "Transpose", "Neg"]
    assert_same(graph, after, x=X)


def test_moves_of_stored_values() -> None:
    """QOperator models move bytes."""
    sketch = Sketch(x=HIDDEN)
    moved = sketch.Transpose(sketch.QuantizeLinear("x", *HOW), perm=(0, 2, 1))
    graph = sketch.graph(sketch.DequantizeLinear(moved, *HOW))
    after = simulate(graph)
    assert operators(after) == ["FakeQuantize", "Transpose"]
    assert_same(graph, after, x=X)


def test_a_moved_value_read_in_float_is_not_quantised() -> None:
    sketch = Sketch(x=HIDDEN)
    moved = sketch.Transpose("x", perm=(0, 2, 1))
    graph = sketch.graph(sketch.Neg(moved), sketch.Neg(sketch.round_trip(moved, 0.03)))
    after = simulate(graph)
    assert operators(after)[0] == "Transpose"
    assert_same(graph, after, x=X)


# --- operators on integers ---
def test_qlinear_matmul() -> None:
    sketch = Sketch(x=HIDDEN)
    weight = (WEIGHT, np.linspace(0.01, 0.02, 4).astype(np.float32), np.zeros(4, np.int8))
    result = (np.float32(0.4), np.uint8(100))
    stored = sketch.QLinearMatMul(sketch.QuantizeLinear("x", *HOW), *HOW, *weight, *result)
    graph = sketch.graph(sketch.DequantizeLinear(stored, *result))
    after = simulate(clean(graph))
    assert counts(after) == {"FakeQuantize": 2, "DequantizeLinear": 1, "MatMul": 1}
    assert_same(graph, after, x=X)


def test_operators_on_stored_values() -> None:
    sketch, more = Sketch(x=HIDDEN, y=HIDDEN), (np.float32(0.05), np.uint8(110))
    x, y = sketch.QuantizeLinear("x", *HOW), sketch.QuantizeLinear("y", *more)
    total = sketch.QLinearAdd(x, *HOW, y, *more, *more, domain="com.microsoft")
    both = sketch.QLinearConcat(*more, total, *more, x, *HOW, domain="com.microsoft", axis=-1)
    half = sketch.QLinearMul(both, *more, np.uint8(127), *HOW, *more, domain="com.microsoft")
    share = sketch.QLinearSoftmax(
        half, *more, np.float32(1 / 256), np.uint8(0), domain="com.microsoft", axis=-1, opset=13
    )
    graph = sketch.graph(sketch.DequantizeLinear(share, np.float32(1 / 256), np.uint8(0)))
    after = simulate(graph)
    rounding = ["FakeQuantize", "FakeQuantize", "Add", "Concat", "FakeQuantize", "Mul"]
    assert operators(after) == [*rounding, "FakeQuantize", "Softmax", "FakeQuantize"]
    assert_same(graph, after, x=X, y=X[::-1])


def test_constants_are_read_in_float32_and_weights_stay_stored() -> None:
    sketch = Sketch(x=HIDDEN)
    how = (np.float32(0.02), np.int8(0))
    bias = sketch.round_trip(sketch.DequantizeLinear(WEIGHT[0], *how), 0.01)
    product = sketch.MatMul("x", sketch.DequantizeLinear(WEIGHT, *how))
    graph = sketch.graph(sketch.Add(product, bias))
    after = simulate(graph)
    assert counts(after) == {"DequantizeLinear": 1, "MatMul": 1, "Add": 1}
    assert_same(graph, after, x=X)


@pytest.mark.parametrize("with_result", [True, False])
def test_qgemm(with_result: bool) -> None:
    sketch = Sketch(x=("float32", ("batch", 8)))
    weight = (np.ascontiguousarray(WEIGHT.T), np.float32(0.01), np.int8(0))
    bias = np.arange(4, dtype=np.int32) * 1000
    result = (np.float32(0.4), np.uint8(100)) if with_result else ()
    x = sketch.QuantizeLinear("x", *HOW)
    y = sketch.QGemm(x, *HOW, *weight, bias, *result, transB=1, domain="com.microsoft")
    graph = sketch.graph(sketch.DequantizeLinear(y, *result) if with_result else y)
    after = simulate(clean(graph))
    assert counts(after)["Gemm"] == 1
    assert_same(graph, after, x=X[0], atol=1e-5)


def dynamic_product(sketch: Sketch, scale: object = np.float32(0.01)) -> str:
    stored, x_scale, zero = sketch.DynamicQuantizeLinear("x", outputs=3)
    product = sketch.MatMulInteger(stored, WEIGHT, zero, np.zeros((), np.int8))
    return str(sketch.Mul(sketch.Cast(product, to="float32"), sketch.Mul(x_scale, scale)))


@pytest.mark.parametrize(
    "scale", [np.float32(0.01), np.linspace(0.01, 0.02, 4)], ids=["one", "four"]
)
def test_dynamic_product(scale: object) -> None:
    sketch = Sketch(x=HIDDEN)
    graph = sketch.graph(dynamic_product(sketch, scale))
    after = simulate(clean(graph))
    assert counts(after) == {"DynamicFakeQuantize": 1, "DequantizeLinear": 1, "MatMul": 1}
    assert_same(graph, after, x=X, atol=1e-4)


def test_integer_product_with_a_fixed_range() -> None:
    sketch = Sketch(x=HIDDEN)
    stored = sketch.QuantizeLinear("x", *HOW)
    product = sketch.MatMulInteger(stored, WEIGHT, HOW[1], np.zeros((), np.int8))
    scales = HOW[0] * np.linspace(0.01, 0.02, 4)
    graph = sketch.graph(sketch.Mul(sketch.Cast(product, to="float32"), scales))
    after = simulate(clean(graph))
    assert counts(after) == {"FakeQuantize": 1, "DequantizeLinear": 1, "MatMul": 1}
    assert_same(graph, after, x=X, atol=1e-4)


def test_another_zero_point_is_refused_with_a_reason() -> None:
    sketch = Sketch(x=HIDDEN)
    stored = sketch.QuantizeLinear("x", *HOW)
    product = sketch.MatMulInteger(stored, WEIGHT, np.uint8(7), np.zeros((), np.int8))
    graph = clean(sketch.graph(sketch.Mul(sketch.Cast(product, to="float32"), 0.01)))
    assert "MatMulInteger" in operators(simulate(graph))
    assert "is not that of" in why(graph, INTEGER_PRODUCTS[0])


def test_weights_transposed_after_dequantising() -> None:
    sketch = Sketch(x=HIDDEN)
    scale = np.linspace(0.01, 0.02, 4).astype(np.float32)
    matrix = sketch.DequantizeLinear(WEIGHT.T.copy(), scale, np.zeros(4, np.int8), axis=0)
    graph = sketch.graph(sketch.MatMul("x", sketch.Transpose(matrix, perm=(1, 0))))
    after = simulate(graph)
    assert operators(after) == ["DequantizeLinear", "MatMul"]
    assert_same(graph, after, x=X)


def test_what_is_moved_is_rounded_once() -> None:
    """Where it is made, if all that is joined is in the same steps; else where it was joined."""
    s = Sketch(x=HIDDEN)
    parts = [s.round_trip("x", 0.1), s.round_trip(s.Neg("x"), 0.1)]
    cut = (np.array([1]), np.array([3]), np.array([-1]))
    both = s.round_trip(s.Concat(*parts, axis=-1), 0.1)
    graph = s.graph(s.Relu(s.Slice(both, *cut)), s.Exp(s.Slice(both, *cut)))
    after = simulate(clean(graph))
    assert operators(after)[:4] == ["FakeQuantize", "Neg", "FakeQuantize", "Concat"]
    assert counts(after)["FakeQuantize"] == 2
    assert_same(graph, after, x=X)
    graph = s.graph(s.Relu(s.round_trip(s.Concat(parts[0], "x", axis=-1), 0.1)))
    assert operators(simulate(clean(graph))) == ["Concat", "FakeQuantize", "Relu"]
    assert_same(graph, simulate(clean(graph)), x=X)
    other = s.graph(s.Relu(s.round_trip(s.Concat(*parts, axis=-1), 0.2)))
    assert counts(simulate(clean(other)))["FakeQuantize"] == 3
