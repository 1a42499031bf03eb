"""Channels that are scaled and shifted: MobileBERT's NoNorm."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.ops import reference
from engine.passes.affine import affine
from engine.passes.linear import linear
from engine.runtime import Session
from tests.passes.sketch import Sketch, assert_same, normal, only, operators

HIDDEN = ("float32", ("batch", "sequence", 8))
GAMMA, BETA, WEIGHT = normal(8, seed=1), normal(8, seed=2), normal(8, 8, seed=3)
X, OTHER = normal(2, 3, 8), normal(2, 3, 8, seed=4)


@pytest.mark.parametrize("gamma", [GAMMA, GAMMA.reshape(1, 1, 8)], ids=["vector", "spread"])
@pytest.mark.parametrize("bias", [True, False])
def test_into_the_weights_before(gamma: np.ndarray, bias: bool) -> None:
    s = Sketch(x=HIDDEN)
    layer = s.MatMul("x", WEIGHT)
    layer = s.Add(layer, normal(8, seed=5)) if bias else layer
    graph = linear(s.graph(s.Add(s.Mul(layer, gamma), BETA)))
    after = affine(graph)
    assert operators(after) == ["Linear"]
    assert_same(graph, after, x=X)


def test_with_the_residual_before() -> None:
    s = Sketch(x=HIDDEN, other=HIDDEN)
    graph = s.graph(s.Add(BETA, s.Mul(GAMMA, s.Add("other", "x"))))
    after = affine(graph)
    assert operators(after) == ["Affine"]
    assert only(after, "Affine").inputs[:2] == ("other", "x")
    assert_same(graph, after, x=X, other=OTHER)


def test_a_sum_read_elsewhere_stays() -> None:
    s = Sketch(x=HIDDEN, other=HIDDEN)
    total = s.Add("other", "x")
    graph = s.graph(s.Add(s.Mul(total, GAMMA), BETA), s.Relu(total))
    after = affine(graph)
    assert sorted(operators(after)) == ["Add", "Affine", "Relu"]
    assert_same(graph, after, x=X, other=OTHER)


def test_a_layer_read_elsewhere_keeps_its_weights() -> None:
    s = Sketch(x=HIDDEN)
    layer = s.MatMul("x", WEIGHT)
    graph = linear(s.graph(s.Add(s.Mul(layer, GAMMA), BETA), s.Softmax(layer)))
    assert sorted(operators(affine(graph))) == ["Affine", "Linear", "Softmax"]


def test_weights_of_bfloat16_stay_what_they_are() -> None:
    s = Sketch(x=HIDDEN)
    rounded = np.float32([[1, 0.5], [2, -0.25]]).repeat(4, 0).repeat(4, 1)
    graph = s.graph(s.Add(s.Mul(s.MatMul("x", rounded), GAMMA), BETA))
    graph = linear(graph.changed(has_bfloat16=True))
    assert operators(affine(graph)) == ["Linear", "Affine"]


@pytest.mark.parametrize(
    ("gamma", "beta"),
    [(np.float32(2), BETA), (GAMMA, np.float32(1)), (normal(3, 1), BETA), (normal(3, 8), BETA)],
    ids=["a number", "another", "by token", "by token and channel"],
)
def test_other_constants_stay(gamma: Any, beta: Any) -> None:
    s = Sketch(x=HIDDEN)
    graph = s.graph(s.Add(s.Mul("x", gamma), beta))
    assert operators(affine(graph)) == ["Mul", "Add"]


@pytest.mark.parametrize("rows", [True, False])
def test_a_plan_with_it(rows: bool) -> None:
    """Of 36 channels, which are no whole pieces; of a row a sentence and of all tokens."""
    s = Sketch(input_ids=("int64", ("batch", "sequence")))
    table, places = normal(50, 36), normal(40, 36, seed=1)
    x = s.Embedding(
        "input_ids", "", table, places, "", np.ones(36), np.zeros(36), domain="engine",
        epsilon=1e-6, position_offset=0, padding_id=None, output=None,
    )  # fmt: skip
    x = s.Select(x, domain="engine", index=0) if rows else x
    y = s.Affine(x, x, normal(36, seed=2), normal(36, seed=3), domain="engine")
    y = s.Affine(y, "", normal(36, seed=2), normal(36, seed=3), domain="engine")
    graph = s.graph(y)
    session = Session(graph)
    assert session.plan is not None and session.plan.fallback is None
    ids = np.random.default_rng(0).integers(0, 50, (3, 37))
    wanted = reference.run(graph, {"input_ids": ids})[y]
    np.testing.assert_allclose(session.run({"input_ids": ids})[y], wanted, atol=1e-5)
