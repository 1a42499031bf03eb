"""Rows a classifier reads, and where the Squeeze goes."""

from __future__ import annotations

import numpy as np
import pytest

from engine.passes.fusion import why
from engine.passes.linear import linear
from engine.passes.select import FUSIONS, select
from engine.passes.simulate import simulate
from tests.passes.sketch import Sketch, assert_same, normal, only, operators

HIDDEN = ("float32", ("batch", "sequence", 8))
X = normal(2, 3, 8)


def whole(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def gathered(s: Sketch, index: int = 0) -> str:
    return str(s.Gather("x", np.array(index), axis=1))


def sliced(s: Sketch, index: int = 0) -> str:
    rows = s.Slice("x", whole(index), whole(index + 1), whole(1), whole(1))
    return str(s.Squeeze(rows, whole(1)))


@pytest.mark.parametrize("spelling", [gathered, sliced])
@pytest.mark.parametrize("index", [0, 2])
def test_one_row(spelling: object, index: int) -> None:
    sketch = Sketch(x=HIDDEN)
    graph = sketch.graph(sketch.Exp(spelling(sketch, index)))  # type: ignore[operator]
    after = select(graph)
    assert operators(after) == ["Select", "Squeeze", "Exp"]
    assert only(after, "Select").attributes == {"index": index}
    assert_same(graph, after, x=X)


def test_the_squeeze_goes_behind_the_layers() -> None:
    sketch = Sketch(x=HIDDEN)
    pooled = sketch.Tanh(sketch.Gemm(gathered(sketch), normal(8, 8), normal(8)))
    rounded = sketch.round_trip(pooled, 0.02)
    graph = sketch.graph(sketch.Gemm(rounded, normal(8, 2), normal(2)))
    after = select(linear(simulate(graph)))
    assert operators(after) == ["Select", "Linear", "FakeQuantize", "Linear", "Squeeze"]
    assert_same(graph, after, x=X)


def test_a_row_counted_from_the_end_is_refused() -> None:
    """In a padded sentence the last row is another one."""
    sketch = Sketch(x=HIDDEN)
    graph = sketch.graph(gathered(sketch, -1))
    assert operators(select(graph)) == ["Gather"]
    assert "index -1 is not one row counted from the start" in why(graph, FUSIONS[0])


def test_several_rows_are_refused() -> None:
    sketch = Sketch(x=HIDDEN)
    rows = sketch.Slice("x", whole(0), whole(2), whole(1))
    assert operators(select(sketch.graph(rows))) == ["Slice"]


def test_a_row_of_a_table_is_no_token() -> None:
    sketch = Sketch(x=("float32", ("batch", 8)))
    graph = sketch.graph(sketch.Gather("x", np.array(0), axis=1))
    assert operators(select(graph)) == ["Gather"]
    assert "is not [batch, sequence, channels]" in why(graph, FUSIONS[0])
