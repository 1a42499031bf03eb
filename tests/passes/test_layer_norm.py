"""Layer normalisation and its residual."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.passes.fusion import fuse, why
from engine.passes.layer_norm import FUSIONS, RESIDUAL, layer_norm, residual
from engine.passes.simulate import simulate
from engine.passes.take_apart import take_apart
from tests.passes.sketch import Sketch, assert_same, normal, only, operators

HIDDEN = ("float32", ("batch", "sequence", 8))
GAMMA, BETA = 1 + 0.1 * normal(8, seed=1), 0.1 * normal(8, seed=2)
X = normal(2, 3, 8)


def written_out(
    s: Sketch,
    x: str = "x",
    *,
    axes: Any = (-1,),
    square: str = "Pow",
    divide: str = "Div",
    gamma: np.ndarray = GAMMA,
    beta: np.ndarray = BETA,
    **mean: Any,
) -> str:
    if isinstance(axes, np.ndarray):  # an input since opset 18
        mean_of = lambda value: s.ReduceMean(value, axes, **mean)  # noqa: E731
    else:
        mean_of = lambda value: s.ReduceMean(value, axes=axes, **mean)  # noqa: E731
    deviation = s.Sub(x, mean_of(x))
    squared = s.Pow(deviation, 2.0) if square == "Pow" else s.Mul(deviation, deviation)
    root = s.Sqrt(s.Add(mean_of(squared), 1e-12))
    normal = {
        "Div": lambda: s.Div(deviation, root),
        "Reciprocal": lambda: s.Mul(deviation, s.Reciprocal(root)),
    }[divide]()
    return str(
        s.Add(s.Mul(normal, s.constant(gamma, "norm.weight")), s.constant(beta, "norm.bias"))
    )


def rounded(s: Sketch, x: str) -> str:
    """As quantize_static leaves it."""
    deviation = s.Sub(x, s.ReduceMean(x, axes=(-1,)))
    variance = s.round_trip(s.ReduceMean(s.Pow(deviation, 2.0), axes=(-1,)), 0.03, 0)
    root = s.Sqrt(s.round_trip(s.Add(variance, 1e-3), 0.03, 0))
    normal = s.round_trip(s.Div(deviation, root), 0.02)
    return str(s.Add(s.round_trip(s.Mul(normal, GAMMA), 0.02), BETA))


def test_roundings_between_its_operators() -> None:
    s = Sketch(x=HIDDEN, y=HIDDEN)
    graph = s.graph(rounded(s, s.round_trip(s.Add("x", "y"), 0.05)))
    after = residual(layer_norm(simulate(graph)))
    assert operators(after) == ["LayerNorm"]
    how = only(after, "LayerNorm").attributes
    assert how["sum"].scale == float(np.float32(0.05)) and how["variance"] == how["raised"]
    assert_same(graph, after, x=X, y=X[::-1])


SPELLINGS: list[dict[str, Any]] = [
    {},
    {"square": "Mul"},
    {"divide": "Reciprocal"},
    {"axes": (2,)},
    {"axes": np.array([-1])},
]


@pytest.mark.parametrize("spelling", SPELLINGS, ids=str)
def test_spellings(spelling: dict[str, Any]) -> None:
    sketch = Sketch(opset=18 if isinstance(spelling.get("axes"), np.ndarray) else 17, x=HIDDEN)
    graph = sketch.graph(written_out(sketch, **spelling))
    after = layer_norm(graph)
    assert operators(after) == ["LayerNorm"]
    assert after.nodes[0].name == "norm"
    assert after.nodes[0].attributes["epsilon"] == pytest.approx(1e-12)
    assert_same(graph, after, x=X)


@pytest.mark.parametrize(("axis", "beta"), [(-1, True), (1, True), (-1, False)])
def test_a_mean_taken_off_before_an_operator_that_takes_none(axis: int, beta: bool) -> None:
    s = Sketch(x=HIDDEN)
    deviation = s.Sub("x", s.ReduceMean("x", axes=(-1,)))
    normal = s.SimplifiedLayerNormalization(deviation, GAMMA, axis=axis, epsilon=1e-12)
    graph = s.graph(s.Add(normal, BETA) if beta else normal)
    after = layer_norm(graph)
    assert ("LayerNorm" in operators(after)) == (axis == -1)
    if axis == -1:
        assert operators(after) == ["LayerNorm"]
        assert after.nodes[0].attributes.get("centred", True)
        assert_same(graph, after, x=X)


def test_onnx_own_operator() -> None:
    sketch = Sketch(x=HIDDEN)
    graph = sketch.graph(sketch.LayerNormalization("x", GAMMA, BETA, axis=-1, epsilon=1e-5))
    after = layer_norm(graph)
    assert operators(after) == ["LayerNorm"]
    assert_same(graph, after, x=X)


def not_centred(s: Sketch, how: str) -> str:
    """As T5 spells it in torch, exported by one way or another, or one operator of it."""
    gamma = s.constant(GAMMA, "norm.weight")
    if how == "RMSNormalization":
        return str(s.RMSNormalization("x", gamma, axis=-1, epsilon=1e-6))
    if how == "SimplifiedLayerNormalization":
        return str(s.SimplifiedLayerNormalization("x", gamma, axis=-1, epsilon=1e-6))
    if how == "SkipSimplifiedLayerNormalization":
        return str(getattr(s, how)("x", "x", gamma, domain="com.microsoft", epsilon=1e-6))
    square = s.Mul("x", "x") if how == "Pow" else s.Pow("x", 2.0)
    shifted = s.Add(s.ReduceMean(square, axes=(-1,)), 1e-6)
    if how == "divided":
        return str(s.Mul(s.Div("x", s.Sqrt(shifted)), gamma))
    inverse = {
        "Reciprocal": lambda: s.Reciprocal(s.Sqrt(shifted)),
        "Div": lambda: s.Div(1.0, s.Sqrt(shifted)),
        "Pow": lambda: s.Pow(shifted, -0.5),
    }[how]()
    return str(s.Mul(gamma, s.Mul("x", inverse)))


@pytest.mark.parametrize(
    "how",
    ["Reciprocal", "Div", "Pow", "divided", "RMSNormalization", "SimplifiedLayerNormalization"],
)
def test_spellings_of_one_that_is_not_centred(how: str) -> None:
    sketch = Sketch(opset=23 if how == "RMSNormalization" else 17, x=HIDDEN)
    graph = sketch.graph(not_centred(sketch, how))
    after = layer_norm(take_apart(graph))
    assert operators(after) == ["LayerNorm"]
    (node,) = after.nodes
    assert (node.name, node.attributes["centred"]) == ("norm", False)
    assert node.attributes["epsilon"] == pytest.approx(1e-6)
    assert_same(graph, after, x=100 + X)


def test_a_sum_before_it_is_its_residual() -> None:
    sketch = Sketch(x=HIDDEN)
    graph = sketch.graph(not_centred(sketch, "SkipSimplifiedLayerNormalization"))
    after = residual(layer_norm(take_apart(graph)))
    assert operators(after) == ["LayerNorm"]
    assert_same(graph, after, x=X)


def test_without_beta() -> None:
    sketch = Sketch(x=HIDDEN)
    graph = sketch.graph(sketch.LayerNormalization("x", GAMMA, axis=-1, epsilon=1e-5))
    after = layer_norm(graph)
    assert operators(after) == ["LayerNorm"] and not after.constants[after.nodes[0].beta].any()
    assert_same(graph, after, x=X)


def test_another_axis_is_refused_with_a_reason() -> None:
    sketch = Sketch(x=HIDDEN)
    graph = sketch.graph(written_out(sketch, axes=(1,)))
    assert "LayerNorm" not in operators(layer_norm(graph))
    assert "does not reduce the last axis: axes (1,)" in why(graph, FUSIONS[0])


SPREAD = [(), (1,), (8,), (1, 8), (1, 1, 8), (1, 1, 1)]  # shapes that go along the channels


@pytest.mark.parametrize("gamma", SPREAD, ids=str)
@pytest.mark.parametrize("beta", [(), (8,), (1, 1, 8)], ids=str)
def test_gamma_and_beta_are_spread_over_the_channels(
    gamma: tuple[int, ...], beta: tuple[int, ...]
) -> None:
    sketch = Sketch(x=HIDDEN)
    arrays = 1 + normal(*gamma, seed=3), normal(*beta, seed=4)
    graph = sketch.graph(written_out(sketch, gamma=arrays[0], beta=arrays[1]))
    after = layer_norm(graph)
    assert operators(after) == ["LayerNorm"]
    assert {after.constants[name].shape for name in after.nodes[0].inputs[3:]} == {(8,)}
    assert_same(graph, after, x=X)


@pytest.mark.parametrize(
    "shape", [(3, 1), (3, 8), (2, 1, 1), (2, 1, 8), (1, 1, 1, 8), (1, 1, 1, 1)], ids=str
)
@pytest.mark.parametrize("which", ["gamma", "beta"])
def test_constants_along_other_axes_are_refused(which: str, shape: tuple[int, ...]) -> None:
    """They broadcast in ONNX, and make the result larger where x has one channel or fewer axes."""
    sketch = Sketch(x=HIDDEN)
    graph = sketch.graph(written_out(sketch, **{which: normal(*shape)}))
    assert operators(fuse(graph, FUSIONS[0])) == operators(graph)
    expected = "not one number for each of 8" if np.prod(shape[:-1]) > 1 else "fused it would be"
    assert expected in why(graph, FUSIONS[0])


def test_one_channel_that_gamma_makes_several_is_refused() -> None:
    sketch = Sketch(x=("float32", ("batch", "sequence", 1)))
    graph = sketch.graph(written_out(sketch))
    assert operators(layer_norm(graph)) == operators(graph)


@pytest.mark.parametrize("axis", [2, -1, None])
def test_the_last_axis_by_any_number(axis: int | None) -> None:
    sketch = Sketch(x=HIDDEN)
    how = {} if axis is None else {"axis": axis}
    graph = sketch.graph(sketch.LayerNormalization("x", GAMMA, BETA, **how))
    assert operators(layer_norm(graph)) == ["LayerNorm"]


@pytest.mark.parametrize("axis", [1, 2, -2])
def test_two_axes_are_refused(axis: int) -> None:
    """Axis 2 is the last one of three, not of four."""
    sketch = Sketch(x=("float32", ("batch", "sequence", 8, 8)))
    graph = sketch.graph(sketch.LayerNormalization("x", GAMMA, BETA, axis=axis))
    assert operators(layer_norm(graph)) == ["LayerNormalization"]


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_types_are_refused(dtype: str) -> None:
    sketch = Sketch(x=(dtype, ("batch", "sequence", 8)))
    graph = sketch.graph(sketch.LayerNormalization("x", *(a.astype(dtype) for a in (GAMMA, BETA))))
    constants = {name: array.astype(dtype) for name, array in graph.constants.items()}
    assert operators(layer_norm(graph.changed(constants=constants))) == ["LayerNormalization"]


def test_a_mean_that_is_read_keeps_the_operator() -> None:
    sketch = Sketch(x=HIDDEN)
    parts = sketch.LayerNormalization("x", GAMMA, BETA, outputs=3)
    graph = sketch.graph(parts[0], parts[1])
    assert operators(layer_norm(graph)) == ["LayerNormalization"]


# --- residual ---
@pytest.mark.parametrize(
    "shape", [("sequence", 8), (1, "sequence", 8), ("batch", 1, 8), ("batch", "sequence", 1), (8,)]
)
def test_a_residual_that_broadcasts_is_no_residual(shape: tuple[int | str, ...]) -> None:
    sketch = Sketch(x=HIDDEN, y=("float32", shape))
    graph = layer_norm(sketch.graph(written_out(sketch, sketch.Add("x", "y"))))
    assert operators(residual(graph)) == ["Add", "LayerNorm"]
    assert "fused it would be" in why(graph, RESIDUAL)


def test_the_sum_before_it_becomes_its_residual() -> None:
    sketch = Sketch(x=HIDDEN, y=HIDDEN)
    graph = sketch.graph(written_out(sketch, sketch.Add("x", "y")))
    after = residual(layer_norm(graph))
    assert operators(after) == ["LayerNorm"]
    assert only(after, "LayerNorm").inputs[:3] == ("x", "y", "")
    assert_same(graph, after, x=X, y=normal(2, 3, 8, seed=5))


def test_the_layer_is_x_and_what_went_round_it_the_residual() -> None:
    from engine.passes.linear import linear

    sketch = Sketch(x=HIDDEN)
    layer = sketch.MatMul("x", normal(8, 8))
    graph = linear(layer_norm(sketch.graph(written_out(sketch, sketch.Add("x", layer)))))
    norm = only(residual(graph), "LayerNorm")
    assert norm.inputs[:2] == (layer, "x")


def test_a_constant_is_no_residual() -> None:
    sketch = Sketch(x=HIDDEN)
    graph = layer_norm(sketch.graph(written_out(sketch, sketch.Add("x", normal(8)))))
    assert operators(residual(graph)) == ["Add", "LayerNorm"]
    assert "is a constant, not a residual" in why(graph, RESIDUAL)


def test_a_sum_read_elsewhere_stays() -> None:
    sketch = Sketch(x=HIDDEN, y=HIDDEN)
    total = sketch.Add("x", "y")
    graph = layer_norm(sketch.graph(written_out(sketch, total), sketch.Neg(total)))
    assert sorted(operators(residual(graph))) == ["Add", "LayerNorm", "Neg"]


def test_written_out_without_beta() -> None:
    """Not one that takes no mean off, of deviations."""
    s = Sketch(x=("float32", ("batch", "sequence", 8)))
    deviation = s.Sub("x", s.ReduceMean("x", axes=(-1,)))
    variance = s.ReduceMean(s.Pow(deviation, 2.0), axes=(-1,))
    graph = s.graph(s.Mul(s.Div(deviation, s.Sqrt(s.Add(variance, 1e-5))), 1 + 0.1 * normal(8)))
    after = layer_norm(graph)
    assert operators(after) == ["LayerNorm"]
    assert only(after, "LayerNorm").attributes.get("centred", True)
    assert_same(graph, after, x=X)
