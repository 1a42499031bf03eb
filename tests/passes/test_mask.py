"""Tokens multiplied by the mask: Mask, which kernels need no step for."""

from __future__ import annotations

import numpy as np
import pytest

from engine.graph import Graph, Node, Quantization, Value
from engine.passes.clean import clean
from engine.passes.dead_rows import dead_rows
from engine.passes.mask import mask
from engine.passes.pool import pool
from tests.passes.sketch import assert_same, normal, only, operators
from tests.passes.test_pool import FEEDS, expanded, ones, sketch
from tests.plan.test_shapes import assert_like_reference
from tests.tiny import tiny_graph


@pytest.mark.parametrize("name", ["mask first", "expanded"])
def test_tokens_times_the_mask(name: str) -> None:
    s, x = sketch()
    before = s.graph(s.Mul(ones(s), x) if name == "mask first" else s.Mul(x, expanded(s, x)))
    after = mask(clean(before))
    assert operators(after) == ["LayerNorm", "Mask"] and only(after, "Mask").mask == "mask"
    assert_same(before, after, **FEEDS)


@pytest.mark.parametrize("name", ["what is masked", "twos", "an activation", "not [B, S, C]"])
def test_other_products_stay(name: str) -> None:
    s, x = sketch()
    if name == "an activation":
        factor = x
    elif name == "not [B, S, C]":
        x, factor = s.Unsqueeze(x, np.array([0])), s.Unsqueeze(ones(s), np.array([0]))
    else:
        factor = ones(s)
        factor = s.Sub(1.0, factor) if name == "what is masked" else s.Add(factor, factor)
    assert "Mask" not in operators(mask(clean(s.graph(s.Mul(x, factor)))))


def masked(*, attention: str = "attention_mask") -> Graph:
    """The tiny model with a Mask behind its embedding; attention: the mask that it goes by."""
    graph, nodes = tiny_graph(), []
    for node in graph:
        if node.op == "Embedding":
            node = node.changed(outputs=("plain",))
            nodes += [node, Node("Mask", ("plain", "attention_mask"), ("x",), domain="engine")]
        elif node.op == "Attention":
            nodes.append(node.changed(inputs=("x", "x", "x", attention)))
        else:
            nodes.append(node)
    graph = graph.changed(nodes=tuple(nodes))
    return graph.changed(outputs=(*graph.outputs, Value("z", "float32", ("?",))))


def test_kernels_leave_masked_tokens_out_anyway() -> None:
    session = assert_like_reference(masked(), [8, 3, 5])
    assert session.plan is not None and session.plan.fallback is None


def test_attention_by_another_mask_is_the_references() -> None:
    session = assert_like_reference(masked(attention=""), [8, 3, 5])
    assert session.plan is not None and session.plan.fallback is not None


def test_the_mask_has_a_number_for_every_row() -> None:
    s, x = sketch()
    kept = s.Mask(x, "mask", domain="engine")
    graph = s.graph(s.Select(kept, domain="engine", index=0))
    after = dead_rows(graph)
    assert operators(after) == ["LayerNorm", "Mask", "Select"]
    assert_same(graph, after, h=normal(3, 7, 8), mask=FEEDS["mask"])


@pytest.mark.parametrize("before", [True, False], ids=["rounded before", "as it is"])
def test_rounding_comes_first(before: bool) -> None:
    """As quantize_static leaves it; what is rounded so already is not rounded again."""
    s, x = sketch()
    how = {"domain": "engine", "quantization": Quantization(0.02, 120)}
    x = s.FakeQuantize(x, **how) if before else x
    graph = s.graph(s.FakeQuantize(s.Mul(x, ones(s)), **how))
    after = mask(clean(graph))
    assert operators(after) == ["LayerNorm", "FakeQuantize", "Mask"]
    assert_same(graph, after, **FEEDS)


def test_numbers_of_tokens_are_no_rows_of_them() -> None:
    """The mask, rounded, is no operator's of the engine."""
    s, x = sketch()
    rounded = s.FakeQuantize(expanded(s, x), domain="engine", quantization=Quantization(1 / 255, 0))
    count = s.Clip(s.ReduceSum(rounded, np.array([1]), keepdims=0), np.float32(1e-9), "")
    total = s.ReduceSum(s.Mul(x, rounded), np.array([1]), keepdims=0)
    before = s.graph(s.Div(total, count))
    after = pool(mask(clean(before)))
    assert operators(after) == ["LayerNorm", "Pool", "Squeeze"]
    assert_same(before, after, **FEEDS)
