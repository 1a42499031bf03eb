"""Quantised products whose scales have odd shapes: the same numbers after the passes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.errors import EngineError
from engine.graph import Graph
from engine.ops import reference
from engine.passes import optimize
from engine.passes.simulate import spelled_out
from tests.passes.sketch import Sketch, normal

INPUTS, OUTPUTS, TOKENS = 8, 4, 4  # as many tokens as outputs: a scale per row fits both ways
HIDDEN = ("float32", ("batch", TOKENS, INPUTS))
MATRIX = ("float32", (TOKENS, INPUTS))
WEIGHT = np.random.default_rng(1).integers(-127, 128, (INPUTS, OUTPUTS)).astype(np.int8)
MICROSOFT = {"domain": "com.microsoft"}


def scales(*shape: int) -> np.ndarray:
    return np.linspace(0.01, 0.02, int(np.prod(shape, dtype=int))).reshape(shape).astype(np.float32)


def zeros(*shape: int, dtype: str = "int8") -> np.ndarray:
    return np.arange(int(np.prod(shape, dtype=int))).reshape(shape).astype(dtype)


def assert_same_as_read(graph: Graph, **feeds: np.ndarray) -> None:
    """The passes' graph makes what the file means; where that is an error, it is one too."""
    try:
        wanted = reference.run(graph, feeds)
    except EngineError:
        with pytest.raises(EngineError):
            reference.run(spelled_out(optimize(graph)), feeds)
        return
    got = reference.run(spelled_out(optimize(graph)), feeds)
    for name, array in wanted.items():
        assert (got[name].shape, got[name].dtype) == (array.shape, array.dtype)
        np.testing.assert_allclose(got[name].astype(float), array.astype(float), atol=1e-4)


def asks_for_limits(s: Sketch, y: str, dtype: str) -> list[str]:
    """What keeps a graph in float16: without it all passes see float32."""
    return [s.IsInf(y)] if dtype == "float16" else []


SHAPES = [
    (),
    (1,),
    (OUTPUTS,),
    (1, OUTPUTS),
    (1, 1, OUTPUTS),
    (TOKENS, 1),
    (TOKENS, OUTPUTS),
    (1, 1),
]


@pytest.mark.parametrize("scale", SHAPES, ids=str)
@pytest.mark.parametrize("zero", [None, (), (1,), (OUTPUTS,)], ids=str)
@pytest.mark.parametrize("how", ["dynamic", "fixed"])
def test_integer_products(scale: tuple[int, ...], zero: tuple[int, ...] | None, how: str) -> None:
    s = Sketch(x=HIDDEN)
    if how == "dynamic":
        stored, x_scale, x_zero = s.DynamicQuantizeLinear("x", outputs=3)
        factors = s.Mul(x_scale, scales(*scale))
    else:
        x_zero = s.constant(np.uint8(120))
        stored, factors = s.QuantizeLinear("x", np.float32(0.02), x_zero), scales(*scale)
    weight_zero = [] if zero is None else [zeros(*zero)]
    product = s.MatMulInteger(stored, WEIGHT, x_zero, *weight_zero)
    graph = s.graph(s.Mul(s.Cast(product, to="float32"), factors))
    assert_same_as_read(graph, x=normal(2, TOKENS, INPUTS))


@pytest.mark.parametrize("to", ["float16", "float64", "int64"])
def test_integer_products_in_another_type(to: str) -> None:
    s = Sketch(x=HIDDEN)
    stored = s.QuantizeLinear("x", np.float32(0.02), np.uint8(120))
    product = s.Cast(s.MatMulInteger(stored, WEIGHT, np.uint8(120)), to=to)
    s.constants["factor"] = np.array(3, to)
    y = s.Mul(product, "factor")
    assert_same_as_read(s.graph(y, *asks_for_limits(s, y, to)), x=normal(2, TOKENS, INPUTS))


A = [(), (1,), (TOKENS,)]
B = [(), (1,), (OUTPUTS,)]


@pytest.mark.parametrize("of_x", A, ids=str)
@pytest.mark.parametrize("of_weight", B, ids=str)
@pytest.mark.parametrize("of_result", [(), (1,)], ids=str)
def test_products_of_stored_numbers(
    of_x: tuple[int, ...], of_weight: tuple[int, ...], of_result: tuple[int, ...]
) -> None:
    """QLinearMatMul; a scale of x may go by rows."""
    s = Sketch(x=("uint8", (TOKENS, INPUTS)))
    y = s.QLinearMatMul(
        "x", scales(*of_x), zeros(*of_x, dtype="uint8"), WEIGHT, scales(*of_weight),
        zeros(*of_weight), scales(*of_result), zeros(*of_result, dtype="uint8"),
    )  # fmt: skip
    x = np.random.default_rng(2).integers(0, 256, (TOKENS, INPUTS)).astype(np.uint8)
    assert_same_as_read(s.graph(y), x=x)


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("alpha", [1.0, 0.5])
@pytest.mark.parametrize("of_weight", B, ids=str)
@pytest.mark.parametrize("bias", [None, (OUTPUTS,), (1, OUTPUTS), (TOKENS, 1)], ids=str)
def test_gemm_of_stored_numbers(
    transposed: int, alpha: float, of_weight: tuple[int, ...], bias: tuple[int, ...] | None
) -> None:
    s = Sketch(x=("uint8", (TOKENS, INPUTS)))
    weight = np.ascontiguousarray(WEIGHT.T) if transposed else WEIGHT
    inputs: list[Any] = [
        "x", scales(), np.uint8(3), weight, scales(*of_weight), zeros(*of_weight),
    ]  # fmt: skip
    inputs.append("" if bias is None else 100 * zeros(*bias, dtype="int32"))
    y = s.QGemm(*inputs, transB=transposed, alpha=alpha, **MICROSOFT)
    x = np.random.default_rng(2).integers(0, 256, (TOKENS, INPUTS)).astype(np.uint8)
    assert_same_as_read(s.graph(y), x=x)


@pytest.mark.parametrize("scale", [(), (1,), (OUTPUTS,), (INPUTS,)], ids=str)
@pytest.mark.parametrize("zero", [(), (1,), (OUTPUTS,), (INPUTS,)], ids=str)
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("turned", [False, True])
def test_weights_in_8_bits(
    scale: tuple[int, ...], zero: tuple[int, ...], axis: int, turned: bool
) -> None:
    """With scales for inputs, outputs or all; zero points of other lengths are ONNX's error."""
    s = Sketch(x=HIDDEN)
    stored = np.ascontiguousarray(WEIGHT.T) if turned else WEIGHT
    weight = s.DequantizeLinear(stored, scales(*scale), zeros(*zero), axis=axis)
    weight = s.Transpose(weight, perm=(1, 0)) if turned else weight
    assert_same_as_read(s.graph(s.MatMul("x", weight)), x=normal(2, TOKENS, INPUTS))


@pytest.mark.parametrize(
    "bias", [(), (1,), (OUTPUTS,), (1, OUTPUTS), (TOKENS, 1), (TOKENS, OUTPUTS)], ids=str
)
@pytest.mark.parametrize("how", ["Gemm", "transposed Gemm", "MatMul and Add"])
def test_biases(bias: tuple[int, ...], how: str) -> None:
    s = Sketch(x=MATRIX)
    weight, vector = normal(INPUTS, OUTPUTS, seed=3), normal(*bias, seed=4)
    if how == "Gemm":
        y = s.Gemm("x", weight, vector)
    elif how == "transposed Gemm":
        y = s.Gemm("x", np.ascontiguousarray(weight.T), vector, transB=1)
    else:
        y = s.Add(s.MatMul("x", weight), vector)
    assert_same_as_read(s.graph(y), x=normal(TOKENS, INPUTS))


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_scales_of_another_type(dtype: str) -> None:
    """What is dequantised then is no float32."""
    s = Sketch(x=(dtype, ("batch", TOKENS, INPUTS)), opset=19)
    s.constants["scale"] = np.array(0.02, dtype)
    how = ("scale", s.constant(np.uint8(120)))
    value = s.DequantizeLinear(s.QuantizeLinear("x", *how), *how)
    y = s.MatMul(value, s.DequantizeLinear(WEIGHT, "scale"))
    graph = s.graph(y, *asks_for_limits(s, y, dtype))
    assert_same_as_read(graph, x=normal(2, TOKENS, INPUTS).astype(dtype))
