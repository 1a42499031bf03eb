"""Biases of scores by distance: in whatever spelling, and what only looks like one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from engine.graph import Graph, Node
from engine.ops.fused import by_distance
from engine.passes import distances
from engine.passes.attention import FUSION
from engine.passes.clean import clean
from engine.passes.fusion import why
from tests.passes.sketch import Sketch, assert_same, normal, only, operators
from tests.passes.test_attention import (
    FEEDS,
    HIDDEN,
    MASK,
    additive,
    filled,
    fused,
    heads,
    joined,
    kept,
    whole,
)

TABLE = normal(8, 2, seed=9)  # of a bucket, for each head


def places(s: Sketch) -> tuple[str, str]:
    """0, 1, 2 ... as a column and as a row."""
    length = s.Squeeze(s.Gather(s.Shape("mask"), whole(1)), whole(0))
    count = s.Range(np.int64(0), length, np.int64(1))
    return s.Unsqueeze(count, whole(1)), s.Unsqueeze(count, whole(0))


def buckets(s: Sketch, distance: str) -> str:
    """T5's, of eight: two near ones either way, then two by the logarithm up to 16 tokens."""
    behind = s.Mul(s.Cast(s.Greater(distance, np.int64(0)), to="int64"), np.int64(4))
    away = s.Abs(distance)
    far = s.Log(s.Div(s.Cast(away, to="float32"), 2.0))
    far = s.Add(s.Cast(s.Mul(s.Div(far, float(np.log(8))), 2.0), to="int64"), np.int64(2))
    most = s.ConstantOfShape(s.Shape(far), value=np.array([3]))
    return str(s.Add(behind, s.Where(s.Less(away, np.int64(2)), away, s.Min(far, most))))


def looked_up(s: Sketch, places: str) -> str:
    rows = s.Gather(s.constant(TABLE, "buckets"), places, axis=0)
    return str(s.Unsqueeze(s.Transpose(rows, perm=(2, 0, 1)), whole(0)))


def t5(s: Sketch) -> str:
    column, row = places(s)
    return looked_up(s, buckets(s, s.Sub(row, column)))


def mpnet(s: Sketch) -> str:
    """By q - k, negative ones first, and expanded."""
    column, row = places(s)
    bias = looked_up(s, buckets(s, s.Neg(s.Sub(column, row))))
    length = s.Gather(s.Shape("mask"), whole(1))
    shape = s.Concat(s.Gather(s.Shape("mask"), whole(0)), whole(1), length, length, axis=0)
    return str(s.Expand(bias, shape))


def slopes(s: Sketch) -> str:
    """ALiBi: no end to it."""
    column, row = places(s)
    away = s.Cast(s.Abs(s.Sub(row, column)), to="float32")
    return str(s.Mul(s.Unsqueeze(away, whole(0, 1)), np.array([[[-0.5]], [[-0.25]]])))


def attended(bias: Callable[[Sketch], str], mask: Callable[[Sketch, str], str] | None) -> Graph:
    s = Sketch(q=HIDDEN, k=HIDDEN, v=HIDDEN, mask=MASK)
    scores = s.Div(s.MatMul(heads(s, "q"), heads(s, "k", (0, 2, 3, 1))), 2.0)
    scores = s.Add(scores, bias(s))
    scores = mask(s, scores) if mask else scores
    return s.graph(joined(s, s.MatMul(s.Softmax(scores, axis=-1), heads(s, "v"))))


def attention_of(graph: Graph) -> tuple[Graph, Node]:
    after = fused(graph)
    assert operators(after) == ["Attention"]
    return after, only(after, "Attention")


def longer(length: int) -> dict[str, np.ndarray]:
    feeds = {name: normal(2, length, 8, seed=i) for i, name in enumerate("qkv")}
    return feeds | {"mask": (np.arange(length) < [[length], [length - 3]]).astype(np.int64)}


@pytest.mark.parametrize("mask", [additive, filled, kept, None])
@pytest.mark.parametrize("bias", [t5, mpnet])
def test_buckets(bias: Callable[[Sketch], str], mask: Callable[[Sketch, str], str] | None) -> None:
    graph = attended(bias, mask)
    after, node = attention_of(graph)
    assert node.mask == ("mask" if mask else "")
    assert node.attributes["scale"] == 0.5
    assert after.constants[node.bias].shape == (2, 2 * 6 + 1)  # six tokens away all is the same
    assert_same(graph, after, **FEEDS)
    assert_same(graph, after, **longer(37))


@pytest.mark.parametrize("again", [False, True], ids=["once", "after the sum"])
def test_scores_that_are_quantised(again: bool) -> None:
    """Before the bias is added; after that no kernel rounds them."""
    s = Sketch(q=HIDDEN, k=HIDDEN, v=HIDDEN, mask=MASK)
    scores = s.round_trip(s.MatMul(heads(s, "q"), heads(s, "k", (0, 2, 3, 1))), 0.1)
    scores = additive(s, s.Add(s.Mul(scores, 0.5), t5(s)))
    scores = s.round_trip(scores, 0.5, 255) if again else scores
    graph = s.graph(joined(s, s.MatMul(s.Softmax(scores, axis=-1), heads(s, "v"))))
    after = fused(graph)
    assert ("Attention" in operators(after)) != again
    assert_same(graph, after, **FEEDS)


def test_mask_and_bias_that_are_one_sum() -> None:
    """As T5 has them, for all layers."""
    s = Sketch(q=HIDDEN, k=HIDDEN, v=HIDDEN, mask=MASK)
    term = additive(s, t5(s))
    contexts = []
    for query in "qk":
        scores = s.Add(s.MatMul(heads(s, query), heads(s, "k", (0, 2, 3, 1))), term)
        contexts.append(joined(s, s.MatMul(s.Softmax(scores, axis=-1), heads(s, "v"))))
    graph = s.graph(s.Sub(*contexts))
    after = fused(graph)
    assert operators(after) == ["Attention", "Attention", "Sub"]
    first, second = after.nodes[:2]
    assert first.bias == second.bias  # one constant
    assert_same(graph, after, **FEEDS)


def test_slopes_without_an_end() -> None:
    after, node = attention_of(attended(slopes, additive))
    assert after.constants[node.bias].shape == (2, 2 * distances.MOST_DISTANCE - 1)
    assert_same(attended(slopes, additive), after, **longer(37))


def test_a_constant_of_one_length() -> None:
    hidden, bias = ("float32", ("batch", 5, 8)), by_distance(normal(2, 9, seed=8), 5, 5)
    s = Sketch(q=hidden, k=hidden, v=hidden, mask=("int64", ("batch", 5)))
    scores = s.Add(s.MatMul(heads(s, "q"), heads(s, "k", (0, 2, 3, 1))), bias[None])
    y = joined(s, s.MatMul(s.Softmax(additive(s, scores), axis=-1), heads(s, "v")))
    graph = s.graph(y)
    after, node = attention_of(graph)
    assert after.constants[node.bias].shape == (2, 9)
    assert_same(graph, after, **FEEDS)


def by_query(s: Sketch) -> str:
    """The first query's distances count twice."""
    column, row = places(s)
    twice = s.Sub(np.int64(2), s.Min(column, np.int64(1)))
    return looked_up(s, s.Min(s.Mul(s.Abs(s.Sub(row, column)), twice), np.int64(7)))


def by_length(s: Sketch) -> str:
    """The number of tokens is added to distances."""
    column, row = places(s)
    length = s.Gather(s.Shape("mask"), whole(1))
    away = s.Cast(s.Add(s.Abs(s.Sub(row, column)), length), to="float32")
    return str(s.Unsqueeze(away, whole(0, 1)))


@pytest.mark.parametrize("bias", [by_query, by_length])
def test_what_depends_on_more_is_refused(bias: Callable[[Sketch], str]) -> None:
    graph = attended(bias, additive)
    assert "Attention" not in operators(fused(graph))
    assert "is not the mask of the padded tokens" in why(clean(graph), FUSION)
