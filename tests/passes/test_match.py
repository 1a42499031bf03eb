"""The matcher: what fits, in which orders, and why not."""

from __future__ import annotations

import numpy as np
import pytest

from engine.graph import Graph, Node
from engine.passes.fusion import Fusion, Match, fuse, why
from engine.passes.match import (
    Constant,
    Missing,
    Operators,
    Pattern,
    Scalar,
    Tensor,
    either,
    sum_of,
)
from tests.passes.sketch import Sketch, only, operators

FLOATS = ("float32", ("batch", 4))


def found(build: Match) -> list[Node]:
    return [Node("Identity", (build["x"],), build.root.outputs, {})]


def fused(pattern: object, graph: Graph) -> Graph:
    return fuse(graph, Fusion("test", pattern, found))  # type: ignore[arg-type]


def scaled(op: Operators, x: Tensor, factor: Scalar) -> Pattern:
    return op.Tanh(x * factor)


@pytest.mark.parametrize("order", [("x", 3.0), (3.0, "x")])
def test_products_fit_in_either_order(order: tuple[object, object]) -> None:
    sketch = Sketch(x=FLOATS)
    assert operators(fused(scaled, sketch.graph(sketch.Tanh(sketch.Mul(*order))))) == ["Identity"]


def test_quotients_fit_in_one_order_only() -> None:
    def pattern(op: Operators, x: Tensor) -> Pattern:
        return x / 2.0

    sketch = Sketch(x=FLOATS)
    there, back = sketch.Div("x", 2.0), sketch.Div(2.0, "x")
    assert operators(fused(pattern, sketch.graph(there, back))) == ["Identity", "Div"]


def test_a_pattern_that_occurs_twice_is_one_value() -> None:
    def square(op: Operators, x: Tensor) -> Pattern:
        return x * x

    sketch = Sketch(x=FLOATS, y=FLOATS)
    own, mixed = sketch.Mul("x", "x"), sketch.Mul("x", "y")
    assert operators(fused(square, sketch.graph(own, mixed))) == ["Identity", "Mul"]


def test_either_takes_any_spelling() -> None:
    def pattern(op: Operators, x: Tensor) -> Pattern:
        return either(op.Pow(x, 2.0), x * x)

    sketch = Sketch(x=FLOATS)
    graph = sketch.graph(sketch.Pow("x", 2.0), sketch.Mul("x", "x"))
    assert operators(fused(pattern, graph)) == ["Identity", "Identity"]


def test_a_sum_fits_in_any_grouping() -> None:
    def pattern(op: Operators, x: Tensor, y: Tensor, z: Tensor) -> Pattern:
        return sum_of(op.Exp(x), op.Tanh(y), z)

    for grouping in ("left", "right"):
        sketch = Sketch(x=FLOATS, y=FLOATS, z=FLOATS)
        a, b = sketch.Exp("x"), sketch.Tanh("y")
        if grouping == "left":
            total = sketch.Add(sketch.Add("z", b), a)
        else:
            total = sketch.Add(b, sketch.Add(a, "z"))
        assert operators(fused(pattern, sketch.graph(total))) == ["Identity"]


def test_numbers_are_compared_as_float32() -> None:
    def pattern(op: Operators, x: Tensor) -> Pattern:
        return x * 0.7071067811865476

    sketch = Sketch(x=FLOATS)
    graph = sketch.graph(sketch.Mul("x", np.float32(0.70710677)), sketch.Mul("x", 0.7072))
    assert operators(fused(pattern, graph)) == ["Identity", "Mul"]


def test_inputs_left_out_are_not_values() -> None:
    def pattern(op: Operators, x: Tensor, low: Constant) -> Pattern:
        return op.Clip(x, low, Missing())

    sketch = Sketch(x=FLOATS)
    graph = sketch.graph(sketch.Clip("x", 0.0), sketch.Clip("x", 0.0, 6.0))
    assert operators(fused(pattern, graph)) == ["Identity", "Clip"]


def test_further_outputs_of_one_node() -> None:
    def pattern(op: Operators, x: Tensor) -> Pattern:
        stored, scale, zero = op.DynamicQuantizeLinear(x, outputs=3)
        return op.DequantizeLinear(stored, scale, zero)

    sketch = Sketch(x=FLOATS)
    parts = sketch.DynamicQuantizeLinear("x", outputs=3)
    other = sketch.DynamicQuantizeLinear("x", outputs=3)
    right = sketch.DequantizeLinear(*parts)
    assert operators(fused(pattern, sketch.graph(right))) == ["Identity"]
    sketch.nodes.pop()
    mixed = sketch.DequantizeLinear(parts[0], other[1], parts[2])
    assert "Identity" not in operators(fused(pattern, sketch.graph(mixed)))


def test_a_value_read_elsewhere_stays() -> None:
    sketch = Sketch(x=FLOATS)
    product = sketch.Mul("x", 3.0)
    graph = sketch.graph(sketch.Tanh(product), sketch.Exp(product))
    assert operators(fused(scaled, graph)) == ["Mul", "Tanh", "Exp"]
    assert "is also read by" in why(graph, Fusion("scaled", scaled, found))


def test_an_output_of_the_graph_stays() -> None:
    sketch = Sketch(x=FLOATS)
    product = sketch.Mul("x", 3.0)
    graph = sketch.graph(sketch.Tanh(product), product)
    assert operators(fused(scaled, graph)) == ["Mul", "Tanh"]
    assert "is an output of the graph" in why(graph, Fusion("scaled", scaled, found))


def test_chains_of_matches_are_replaced_one_by_one() -> None:
    sketch = Sketch(x=FLOATS)
    y = sketch.Tanh(sketch.Mul(sketch.Tanh(sketch.Mul("x", 2.0)), 3.0))
    assert operators(fused(scaled, sketch.graph(y))) == ["Identity", "Identity"]


# --- why not ---
def test_the_nearest_miss_is_told_with_its_place() -> None:
    sketch = Sketch(x=FLOATS, y=FLOATS)
    graph = sketch.graph(sketch.Tanh(sketch.Mul("x", "y"), name="here"))
    sentence = why(graph, Fusion("scaled", scaled, found))
    assert sentence.startswith("scaled: 2 operators fit")
    assert "is not a constant scalar" in sentence


def test_a_guard_answers_with_its_reason() -> None:
    def refuse(match: Match) -> str | None:
        return f"{match.number('factor')} is too large"

    sketch = Sketch(x=FLOATS)
    graph = sketch.graph(sketch.Tanh(sketch.Mul("x", 3.0)))
    fusion = Fusion("scaled", scaled, found, refuse)
    assert fuse(graph, fusion) is graph
    assert "3.0 is too large" in why(graph, fusion)


def test_names_of_added_constants_are_fresh() -> None:
    def build(match: Match) -> list[Node]:
        name = match.constant("constant0", np.zeros(4, np.float32))
        return [Node("Identity", (match["x"], name), match.root.outputs, {})]

    sketch = Sketch(x=FLOATS)
    graph = sketch.graph(sketch.Add(sketch.Tanh(sketch.Mul("x", 3.0)), sketch.constant(1.0)))
    after = fuse(graph, Fusion("scaled", scaled, build)).check()
    assert only(after, "Identity").inputs[1] != "constant0"
