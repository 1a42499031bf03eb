"""Patterns of zeros."""

from __future__ import annotations

import numpy as np
import pytest

from engine.graph import BLOCKS, Graph
from engine.passes.linear import linear
from engine.passes.sparsity import sparsity, zero_ratios
from tests.passes.sketch import Array, Sketch, normal, only


def pruned(pattern: str, ratio: float, shape: tuple[int, int] = (16, 32)) -> Array:
    """A random weight [outputs, inputs] of which a share of the blocks is zero."""
    rows, columns = BLOCKS[pattern]
    rng = np.random.default_rng(0)
    blocks = rng.permutation(shape[0] * shape[1] // 4) >= round(ratio * shape[0] * shape[1] / 4)
    mask = blocks.reshape(shape[0] // rows, shape[1] // columns).repeat(rows, 0).repeat(columns, 1)
    return normal(*shape) * mask


def graph_with(weight: Array) -> Graph:
    sketch = Sketch(x=("float32", ("batch", weight.shape[1])))
    return linear(sketch.graph(sketch.MatMul("x", np.ascontiguousarray(weight.T))))


@pytest.mark.parametrize("pattern", ["4x1", "1x4"])
def test_patterns_are_told_apart(pattern: str) -> None:
    attributes = only(sparsity(graph_with(pruned(pattern, 0.75))), "Linear").attributes
    assert (attributes["pattern"], attributes["zero_ratio"]) == (pattern, 0.75)


def test_too_few_zeros_are_dense() -> None:
    attributes = only(sparsity(graph_with(pruned("4x1", 0.5))), "Linear").attributes
    assert (attributes["pattern"], attributes["zero_ratio"]) == ("dense", 0.5)


def test_scattered_zeros_are_no_blocks() -> None:
    weight = normal(16, 32) * (np.random.default_rng(0).random((16, 32)) < 0.2)
    assert only(sparsity(graph_with(weight)), "Linear").attributes["pattern"] == "dense"


def test_ratios_are_what_a_loop_counts() -> None:
    weight = pruned("1x4", 0.6)
    blocks = [weight[i : i + 4, j] for i in range(0, 16, 4) for j in range(32)]
    other = [weight[i, j : j + 4] for i in range(16) for j in range(0, 32, 4)]
    expected = [np.mean([not b.any() for b in found]) for found in (blocks, other)]
    assert list(zero_ratios(weight).values()) == pytest.approx(expected)


def test_shapes_that_do_not_divide_have_no_pattern() -> None:
    assert zero_ratios(np.zeros((6, 7), np.int8)) == {"4x1": 0.0, "1x4": 0.0}
    assert zero_ratios(np.zeros((6, 8), np.int8)) == {"4x1": 0.0, "1x4": 1.0}
