"""Values that reach further than 16 bits of steps: packs would take the low ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.formats import store
from engine.graph import Graph, Node, Quantization
from engine.ops import reference
from engine.plan.ranges import norm_in_range, sums_in_range
from engine.runtime import Session
from tests import tiny
from tests.fuzz import bases

STEPS, WEIGHT, SCALE = (
    Quantization(0.05, 128),
    np.full((2, 4), 100, np.int8),
    np.float32([0.01] * 2),
)


def linear(**how: Quantization | None) -> Node:
    return Node("Linear", ("x", "w", "s", "b"), ("y",), {"input": STEPS, **how}, domain="engine")


@pytest.mark.parametrize(
    ("node", "scale", "bias", "fits"),
    [
        (linear(output=STEPS), SCALE, None, True),
        (linear(output=STEPS), SCALE, np.float32([1600, -1600]), True),
        (linear(output=STEPS), SCALE, np.float32([0, 1605]), False),
        (linear(output=STEPS), SCALE, np.float32([0, np.nan]), False),
        (linear(output=STEPS, product=STEPS), SCALE, np.float32([0, 1e30]), True),  # in a table
        (linear(), SCALE, np.float32([0, 1e30]), True),  # the result is float32
        (linear(output=STEPS), 60 * SCALE, None, True),
        (linear(output=STEPS), 64 * SCALE, None, False),
        (linear(product=STEPS), 64 * SCALE, None, True),  # clipped as floats
        (linear(output=Quantization(1e-9, 0)), SCALE, None, False),
    ],
)
def test_sums_and_biases(
    node: Node, scale: np.ndarray, bias: np.ndarray | None, fits: bool
) -> None:
    assert sums_in_range(node, WEIGHT, scale, bias, STEPS) == fits


def test_normalised_values_are_at_most_the_root_of_their_number() -> None:
    ones = np.ones(64)
    assert norm_in_range(4000 * ones, 700 * ones)
    assert not norm_in_range(4000 * ones, 800 * ones)
    assert not norm_in_range(np.nan * ones, ones)


def changed(graph: Graph, name: str, value: float) -> Graph:
    array = graph.constants[name].copy()
    array[3] = value
    return graph.changed(constants={**graph.constants, name: array})


@pytest.mark.parametrize("name", ["value.bias", "normed.beta"])
def test_a_model_with_a_bias_out_of_reach_has_the_references_numbers(
    tmp_path: Path, name: str
) -> None:
    for file, content in bases.ir_files("int8").items():
        (tmp_path / file).write_bytes(content)
    graph = changed(store.read(tmp_path), name, 1e8)
    feeds = tiny.feeds([8, 5, 1], 8)
    feeds["input_ids"] %= bases.WORDS
    got, wanted = Session(graph).run(feeds)["logits"], reference.run(graph, feeds)["logits"]
    np.testing.assert_allclose(got, wanted, rtol=0, atol=0.02)  # as without: a byte on a tie


@pytest.mark.parametrize("scale", [-129.0, 0.0, 1e30])
def test_scores_times_any_number(scale: float) -> None:
    """A factor below 0 makes the greatest score the least probable: no kernel's."""
    graph = tiny.tiny_graph()
    nodes = tuple(
        node.changed(attributes={**node.attributes, "scale": scale})
        if node.kind == "engine.Attention"
        else node
        for node in graph.nodes
    )
    graph, given = graph.changed(nodes=nodes), tiny.feeds([8, 5, 1], 8)
    session = Session(graph)
    kernels = [] if session.plan is None else [step.kernel for step in session.plan.steps]
    assert any("attention" in name for name in kernels) == (scale >= 0)
    wanted = reference.run(graph, given)["logits"]
    np.testing.assert_allclose(session.run(given)["logits"], wanted, rtol=0, atol=2e-3)
