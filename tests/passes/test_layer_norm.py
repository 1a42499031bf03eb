"""Layer normalisation and its residual."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.passes.fusion import why
from engine.passes.layer_norm import FUSIONS, RESIDUAL, layer_norm, residual
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
        s.Add(s.Mul(normal, s.constant(GAMMA, "norm.weight")), s.constant(BETA, "norm.bias"))
    )


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


def test_onnx_own_operator() -> None:
    sketch = Sketch(x=HIDDEN)
    graph = sketch.graph(sketch.LayerNormalization("x", GAMMA, BETA, axis=-1, epsilon=1e-5))
    after = layer_norm(graph)
    assert operators(after) == ["LayerNorm"]
    assert_same(graph, after, x=X)


def test_another_axis_is_refused_with_a_reason() -> None:
    sketch = Sketch(x=HIDDEN)
    graph = sketch.graph(written_out(sketch, axes=(1,)))
    assert "LayerNorm" not in operators(layer_norm(graph))
    assert "does not reduce the last axis: axes (1,)" in why(graph, FUSIONS[0])


def test_a_scalar_gamma_is_refused_with_a_reason() -> None:
    sketch = Sketch(x=HIDDEN)
    graph = sketch.graph(sketch.LayerNormalization("x", np.ones((1, 8)), BETA, axis=-1))
    assert operators(layer_norm(graph)) == ["LayerNormalization"]


# --- residual ---
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
