"""Convolutions of kernel 1 as products, and the transpositions around them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engine
from engine.ops import reference
from engine.passes.clean import clean
from engine.passes.convolution import convolution
from tests.passes.sketch import Sketch, assert_same, counts, normal, operators, save
from workflow.scripts.convert import onnx_runtime

HIDDEN = ("float32", ("batch", "sequence", 8))
CHANNELS = ("float32", ("batch", 8, "sequence"))
X = normal(2, 5, 8)
WHOLE = np.random.default_rng(1).integers(-127, 128, (4, 4, 1)).astype(np.int8)
FIRST = (0, 2, 1)


def between(s: Sketch, layer: Callable[[str], str]) -> str:
    """A layer over [batch, channels, tokens] of x [batch, tokens, channels], and back."""
    return str(s.Transpose(layer(s.Transpose("x", perm=FIRST)), perm=FIRST))


def check(sketch: Sketch, result: str, expected: list[str], x: np.ndarray = X) -> None:
    graph = sketch.graph(result)
    after = convolution(clean(graph))
    assert operators(after) == expected
    assert_same(graph, after, atol=2e-5, x=x)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("bias", [True, False])
def test_a_kernel_of_one_is_a_product(groups: int, bias: bool) -> None:
    s = Sketch(x=HIDDEN)
    given = (normal(4, 8 // groups, 1, seed=1), *[normal(4, seed=2)] * bias)
    y = between(s, lambda x: s.Conv(x, *given, group=groups, dilations=(3,)))
    check(s, y, ["MatMul", "Add"] if bias else ["MatMul"])


def test_the_weight_of_groups_is_sparse() -> None:
    s = Sketch(x=HIDDEN)
    graph = s.graph(between(s, lambda x: s.Conv(x, normal(8, 2, 1), group=4)))
    (weight,) = [a for a in convolution(graph).constants.values() if a.ndim == 2]
    assert weight.shape == (8, 8) and (weight == 0).mean() == 0.75


def test_onnx_runtime_means_the_same(tmp_path: Path) -> None:
    s = Sketch(x=CHANNELS)
    graph = s.graph(s.Conv("x", normal(12, 4, 1), normal(12), group=2))
    path, x = save(graph, tmp_path / "conv.onnx"), normal(2, 8, 7)
    theirs = onnx_runtime.session(path, threads=1)
    (wanted,) = theirs.run(None, {"x": x})
    for made in (graph, convolution(graph)):
        (got,) = reference.run(made, {"x": x}).values()
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5)


OTHERS: dict[str, dict[str, Any]] = {
    "a kernel of 3": {"weight": normal(4, 8, 3)},
    "steps of 2": {"strides": (2,)},
    "padding": {"pads": (1, 1)},
}


@pytest.mark.parametrize("name", OTHERS)
def test_others_stay(name: str) -> None:
    how = dict(OTHERS[name])
    weight = how.pop("weight", normal(4, 8, 1))
    s = Sketch(x=HIDDEN)
    check(s, between(s, lambda x: s.Conv(x, weight, **how)), ["Transpose", "Conv", "Transpose"])


def test_a_weight_that_is_no_constant_stays() -> None:
    s = Sketch(x=CHANNELS, w=("float32", (4, 8, 1)))
    assert operators(convolution(s.graph(s.Conv("x", "w")))) == ["Conv"]


def test_many_groups_of_few_weights_make_no_matrix() -> None:
    """A file of a few kB could ask for any memory."""
    s = Sketch(x=("float32", ("batch", 1 << 14, "sequence")))
    graph = s.graph(s.Conv("x", normal(1 << 14, 1, 1), group=1 << 14))
    assert operators(convolution(graph)) == ["Conv"]


# --- between two of them ---
def test_what_computes_element_by_element_lies_between() -> None:
    s = Sketch(x=HIDDEN)

    def layers(x: str) -> str:
        hidden = s.Conv(x, normal(8, 8, 1, seed=1))
        scaled = s.Mul(s.Add(s.Tanh(hidden), x), normal(8, 1, seed=2))
        return str(s.Conv(s.Add(2.0, s.Add(scaled, normal(1, 8, 1, seed=3))), normal(8, 8, 1)))

    check(s, between(s, layers), ["MatMul", "Tanh", "Add", "Mul", "Add", "Add", "MatMul"])


@pytest.mark.parametrize("axes", [(1,), (-2,), (2,), np.array([1])], ids=str)
def test_what_is_reduced_is_reduced_over_the_other_axis(axes: Any) -> None:
    s = Sketch(opset=18 if isinstance(axes, np.ndarray) else 17, x=HIDDEN)

    def centred(x: str) -> str:
        hidden = s.Conv(x, normal(8, 8, 1))
        mean = s.ReduceMean(hidden, axes) if s.opset == 18 else s.ReduceMean(hidden, axes=axes)
        return str(s.Sub(hidden, mean))

    check(s, between(s, centred), ["MatMul", "ReduceMean", "Sub"])


def test_other_readers_have_what_they_had() -> None:
    s = Sketch(x=HIDDEN)
    hidden = s.Conv(s.Transpose("x", perm=FIRST), normal(8, 8, 1))
    active = s.Relu(hidden)
    graph = s.graph(active, s.Softmax(hidden, axis=1), s.Transpose(active, perm=FIRST))
    after = convolution(clean(graph))
    assert counts(after)["Transpose"] == 2
    assert_same(graph, after, x=X)


# --- in 8 bits ---
SCALE = np.linspace(0.01, 0.02, 4).astype(np.float32)
ZERO = np.array([0, 3, -5, 7], np.int8)


@pytest.mark.parametrize("scales", [(np.float32(0.02),), (SCALE, ZERO)], ids=["one", "outputs"])
def test_a_dequantised_weight(scales: tuple[np.ndarray, ...]) -> None:
    s = Sketch(x=HIDDEN)
    weight = s.DequantizeLinear(WHOLE, *scales, axis=0)
    check(s, between(s, lambda x: s.Conv(x, weight, group=2)), ["DequantizeLinear", "MatMul"])


def test_qlinear_conv() -> None:
    s, how, result = (
        Sketch(x=HIDDEN),
        (np.float32(0.02), np.uint8(120)),
        (np.float32(0.1), np.uint8(7)),
    )
    bias = np.array([100, -3, 0, 5000], np.int32)

    def layer(x: str) -> str:
        given = (WHOLE, SCALE, np.zeros(4, np.int8), *result, bias)
        return str(s.QLinearConv(s.QuantizeLinear(x, *how), *how, *given, group=2))

    y = s.DequantizeLinear(between(s, layer), *result)
    read = ["QuantizeLinear", "DequantizeLinear"]
    check(s, y, [read[0], read[1], read[1], "MatMul", "Add", *read])


def test_a_sum_of_bytes_behind_it() -> None:
    """Transpositions go past it as past any sum, once it is one of floats."""
    s, how = Sketch(x=HIDDEN), (np.float32(0.05), np.uint8(120))

    def layer(x: str) -> str:
        stored = s.QuantizeLinear(x, *how)
        y = s.QLinearConv(stored, *how, WHOLE, SCALE, np.zeros(4, np.int8), *how, group=2)
        return str(s.QLinearAdd(y, *how, y, *how, *how, domain="com.microsoft"))

    graph = s.graph(s.DequantizeLinear(between(s, layer), *how))
    after = convolution(clean(graph))
    assert not {"Transpose", "QLinearAdd", "QLinearConv"}.intersection(operators(after))
    assert_same(graph, after, atol=2e-5, x=X)


@pytest.mark.parametrize("before", [True, False])
def test_conv_integer(before: bool) -> None:
    """x is quantised before it is transposed, or after."""
    s = Sketch(x=HIDDEN)
    x = "x" if before else s.Transpose("x", perm=FIRST)
    stored, scale, zero = s.DynamicQuantizeLinear(x, outputs=3)
    stored = s.Transpose(stored, perm=FIRST) if before else stored
    whole = s.Cast(s.ConvInteger(stored, WHOLE, zero, np.int8(0), group=2), to="float32")
    y = s.Mul(whole, s.Mul(scale, 0.02))
    check(
        s, s.Transpose(y, perm=FIRST),
        ["DynamicQuantizeLinear", "MatMulInteger", "Cast", "Mul", "Mul"],
    )  # fmt: skip


def test_conv_integer_of_a_view() -> None:
    """What is quantised is no Transpose: it is transposed before."""
    s = Sketch(x=("float32", ("batch", 8, 5)))
    stored, scale, zero = s.DynamicQuantizeLinear("x", outputs=3)
    whole = s.Cast(s.ConvInteger(stored, WHOLE, zero, group=2), to="float32")
    y = s.Transpose(s.Mul(whole, scale), perm=FIRST)
    expected = ["Transpose", "DynamicQuantizeLinear", "MatMulInteger", "Cast", "Mul"]
    check(s, y, expected, x=normal(2, 8, 5))


# --- whole models ---
@pytest.mark.parametrize("dialect", ["squeezebert", "squeezebert_optimised", "squeezebert_int8"])
def test_squeezebert_runs_wholly_in_kernels(model: Callable[[str], Path], dialect: str) -> None:
    from tests.passes import exported

    path = model(dialect)
    session = engine.load(path, threads=1)
    assert session.plan is not None
    assert session.plan.fallback is None
    for batch, tokens in ((1, 7), (3, 31)):
        given = exported.feeds(path, batch, tokens)
        got, wanted = session.run(given)["logits"], exported.runtime(path, given)["logits"]
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-4 if "int8" not in dialect else 0.1)
