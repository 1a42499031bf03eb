"""GELU in its spellings."""

from __future__ import annotations

from collections.abc import Callable
from math import pi, sqrt

import numpy as np
import pytest

from engine.passes.fusion import why
from engine.passes.gelu import FUSIONS, gelu
from tests.passes.sketch import Sketch, assert_same, normal, only, operators

ROOT = np.float32(sqrt(2))
X = normal(3, 8)


def sketch_of_x() -> Sketch:
    return Sketch(x=("float32", ("batch", 8)))


def torch_spelling(s: Sketch) -> str:
    return str(s.Mul(s.Mul("x", s.Add(s.Erf(s.Div("x", ROOT)), 1.0)), 0.5))


def half_first(s: Sketch) -> str:
    return str(s.Mul(s.Mul(0.5, "x"), s.Add(1.0, s.Erf(s.Mul("x", 1 / ROOT)))))


def half_inside(s: Sketch) -> str:
    return str(s.Mul("x", s.Mul(0.5, s.Add(s.Erf(s.Div("x", ROOT)), 1.0))))


@pytest.mark.parametrize("spelling", [torch_spelling, half_first, half_inside])
def test_spellings_with_erf(spelling: Callable[[Sketch], str]) -> None:
    sketch = sketch_of_x()
    graph = sketch.graph(spelling(sketch))
    after = gelu(graph)
    assert operators(after) == ["Gelu"]
    assert only(after, "Gelu").attributes["approximate"] == "none"
    assert_same(graph, after, x=X)


def cube_by_pow(s: Sketch) -> str:
    inner = s.Mul(s.Add("x", s.Mul(s.Pow("x", 3.0), 0.044715)), sqrt(2 / pi))
    return str(s.Mul(s.Mul("x", 0.5), s.Add(s.Tanh(inner), 1.0)))


def factored(s: Sketch) -> str:
    inner = s.Mul(s.Mul("x", sqrt(2 / pi)), s.Add(s.Mul("x", s.Mul("x", 0.044715)), 1.0))
    return str(s.Mul("x", s.Mul(0.5, s.Add(1.0, s.Tanh(inner)))))


@pytest.mark.parametrize("spelling", [cube_by_pow, factored])
def test_spellings_with_tanh(spelling: Callable[[Sketch], str]) -> None:
    sketch = sketch_of_x()
    graph = sketch.graph(spelling(sketch))
    after = gelu(graph)
    assert only(after, "Gelu").attributes["approximate"] == "tanh"
    assert_same(graph, after, x=X)


def test_another_factor_is_no_gelu() -> None:
    sketch = sketch_of_x()
    y = sketch.Mul(sketch.Mul("x", sketch.Add(sketch.Erf(sketch.Div("x", 1.5)), 1.0)), 0.5)
    graph = sketch.graph(y)
    assert operators(gelu(graph)) == operators(graph)
    assert "expected 1.41421" in why(graph, FUSIONS[0])


def test_two_different_inputs_are_no_gelu() -> None:
    sketch = Sketch(x=("float32", ("batch", 8)), y=("float32", ("batch", 8)))
    y = sketch.Mul(sketch.Mul("y", sketch.Add(sketch.Erf(sketch.Div("x", ROOT)), 1.0)), 0.5)
    graph = sketch.graph(y)
    assert "Gelu" not in operators(gelu(graph))
    assert "expected 'y' again" in why(graph, FUSIONS[0])


def quick(s: Sketch, factor: float) -> str:
    return str(s.Mul("x", s.Sigmoid(s.Mul("x", np.float32(factor)))))


def test_a_scaled_swish_is_one_between_factors() -> None:
    sketch = sketch_of_x()
    graph = sketch.graph(quick(sketch, 1.702))
    after = gelu(graph)
    assert operators(after) == ["Mul", "Swish", "Mul"]
    assert {array.dtype for array in after.constants.values()} == {np.dtype(np.float32)}
    assert_same(graph, after, x=X)


@pytest.mark.parametrize("factor", [0.0, -1.702, 1e-30, float("nan")])
def test_a_factor_that_is_not_taken_out_again_stays(factor: float) -> None:
    sketch = sketch_of_x()
    graph = sketch.graph(quick(sketch, factor))
    assert "Swish" not in operators(gelu(graph))
