"""A Select goes as far up as its rows are the only ones read."""

from __future__ import annotations

import pytest

from engine.graph import Graph
from engine.passes.dead_rows import dead_rows
from engine.passes.layer_norm import layer_norm, residual
from engine.passes.linear import linear
from engine.passes.select import select
from tests.passes.sketch import Sketch, assert_same, normal, operators

HIDDEN = ("float32", ("batch", "sequence", 8))
X = normal(2, 3, 8)
HOW = {"heads": 2, "scale": 0.5}


def layer(sketch: Sketch, x: str) -> str:
    """Attention and residual, normalised."""
    parts = [sketch.MatMul(x, normal(8, 8, seed=i)) for i in range(3)]
    context = sketch.Attention(*parts, domain="engine", **HOW)
    total = sketch.Add(sketch.MatMul(context, normal(8, 8, seed=4)), x)
    return str(sketch.LayerNormalization(total, normal(8), normal(8), axis=-1))


def fused(sketch: Sketch, *outputs: str) -> Graph:
    return select(residual(linear(layer_norm(sketch.graph(*outputs)))))


def test_only_keys_and_values_are_computed_for_all_rows() -> None:
    sketch = Sketch(x=HIDDEN)
    graph = fused(sketch, sketch.Gather(layer(sketch, sketch.Exp("x")), 0, axis=1))
    after = dead_rows(graph)
    assert operators(after).count("Select") == 1
    selected = next(node for node in after.nodes if node.op == "Select")
    readers = [node.op for node in after.consumers()[selected.outputs[0]]]
    assert sorted(readers) == ["LayerNorm", "Linear"]  # residual and query
    assert [node.op for node in after.consumers()[selected.inputs[0]]].count("Linear") == 2
    assert_same(graph, after, x=X)


def test_it_stops_where_another_row_is_read() -> None:
    sketch = Sketch(x=HIDDEN)
    whole = layer(sketch, "x")
    graph = fused(sketch, sketch.Gather(whole, 0, axis=1), sketch.Neg(whole))
    after = dead_rows(graph)
    position = operators(after).index("Select")
    assert after.producer()[after.nodes[position].inputs[0]].op == "LayerNorm"
    assert_same(graph, after, x=X)


def test_it_stops_at_an_output_of_the_graph() -> None:
    sketch = Sketch(x=HIDDEN)
    whole = layer(sketch, "x")
    graph = fused(sketch, whole, sketch.Gather(whole, 0, axis=1))
    assert operators(dead_rows(graph)) == operators(graph)


def test_it_passes_through_two_layers_no_further_than_the_last() -> None:
    sketch = Sketch(x=HIDDEN)
    graph = fused(sketch, sketch.Gather(layer(sketch, layer(sketch, "x")), 0, axis=1))
    after = dead_rows(graph)
    selected = next(node for node in after.nodes if node.op == "Select")
    assert after.producer()[selected.inputs[0]].op == "LayerNorm"
    assert_same(graph, after, x=X)


def test_two_different_rows_stay_where_they_are() -> None:
    sketch = Sketch(x=HIDDEN)
    whole = layer(sketch, "x")
    graph = fused(sketch, *(sketch.Gather(whole, index, axis=1) for index in (0, 1)))
    assert operators(dead_rows(graph)) == operators(graph)


def test_it_passes_through_sums_and_products_of_two_activations() -> None:
    """A layer normalised before it, gated: the residual is a plain sum."""
    sketch = Sketch(x=HIDDEN)
    norm = sketch.LayerNormalization("x", normal(8), normal(8), axis=-1)
    gate, up = (sketch.MatMul(norm, normal(8, 8, seed=i)) for i in range(2))
    total = sketch.Add("x", sketch.MatMul(sketch.Mul(gate, up), normal(8, 8, seed=2)))
    graph = fused(sketch, sketch.Gather(total, 0, axis=1))
    after = dead_rows(graph)
    assert operators(after)[0] == "Select" and operators(after).count("Select") == 1
    assert_same(graph, after, atol=1e-4, x=X)


def test_it_stops_where_an_operand_is_spread() -> None:
    sketch = Sketch(x=HIDDEN, y=("float32", ("batch", 1, 8)))
    graph = fused(sketch, sketch.Gather(sketch.Mul("x", "y"), 0, axis=1))
    assert operators(dead_rows(graph)) == operators(graph)


@pytest.mark.parametrize(
    ("index", "kinds"), [(0, ["Select", "Attention"]), (2, ["Attention", "Select"])]
)
def test_distances_count_from_the_first_row(index: int, kinds: list[str]) -> None:
    sketch = Sketch(x=HIDDEN)
    how = {**HOW, "domain": "engine"}
    context = sketch.Attention("x", "x", "x", "", normal(2, 5, seed=1), **how)
    graph = fused(sketch, sketch.Gather(context, index, axis=1))
    after = dead_rows(graph)
    assert [op for op in operators(after) if op != "Squeeze"] == kinds
    assert_same(graph, after, x=X)
