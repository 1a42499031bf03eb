"""Probabilities that are outputs, computed apart: attention is one operator all the same."""

from __future__ import annotations

import numpy as np

from engine.graph import Graph
from engine.passes.attention import attention
from engine.passes.clean import clean
from engine.passes.outputs_apart import outputs_apart
from engine.passes.probabilities import probabilities
from engine.passes.simulate import simulate
from tests.passes.sketch import Sketch, assert_same, operators
from tests.passes.test_attention import FEEDS, HIDDEN, MASK, additive, heads, joined


def with_probabilities(*, attends: bool = True) -> Graph:
    s = Sketch(q=HIDDEN, k=HIDDEN, v=HIDDEN, mask=MASK)
    scores = s.Div(s.MatMul(heads(s, "q"), heads(s, "k", (0, 2, 3, 1))), 2.0)
    probabilities = s.Softmax(additive(s, scores), axis=-1)
    if not attends:
        return s.graph(probabilities)
    return s.graph(joined(s, s.MatMul(probabilities, heads(s, "v"))), probabilities)


def test_attention_is_fused_beside_its_probabilities() -> None:
    graph = simulate(clean(with_probabilities()))
    after = attention(graph)
    assert operators(after).count("Attention") == 1
    assert operators(after).count("Softmax") == 1
    assert_same(graph, after, **FEEDS)
    after = probabilities(after)
    assert sorted(operators(after)) == ["Attention", "Probabilities"]
    assert_same(graph, after, **FEEDS)


def test_probabilities_alone() -> None:
    graph = simulate(clean(with_probabilities(attends=False)))
    after = probabilities(graph)
    assert operators(after) == ["Probabilities"]
    assert_same(graph, after, **FEEDS)


def test_turned_heads_are_none() -> None:
    s = Sketch(q=HIDDEN, k=HIDDEN, mask=MASK)
    query = s.Transpose(heads(s, "q"), perm=(0, 1, 2, 3))
    scores = s.MatMul(query, heads(s, "k", (0, 2, 3, 1)))
    turned = s.Transpose(scores, perm=(0, 1, 3, 2))
    graph = s.graph(s.Softmax(additive(s, turned), axis=-1))
    assert "Probabilities" not in operators(probabilities(graph))


def test_a_graph_that_nothing_follows_is_left_as_it_is() -> None:
    graph = with_probabilities(attends=False)
    assert outputs_apart(graph) is graph
    assert operators(attention(graph)) == operators(graph)


def test_what_becomes_no_attention_is_not_computed_twice() -> None:
    s = Sketch(q=HIDDEN)
    p = s.Softmax("q", axis=-1)
    graph = s.graph(p, s.Mul(p, np.float32(2)))
    assert operators(attention(graph)) == ["Softmax", "Mul"]
