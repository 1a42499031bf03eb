"""Lengths and what is known of values."""

from __future__ import annotations

import numpy as np
import pytest

from engine.passes.lengths import added, broadcast, divided, times
from engine.passes.shapes import infer
from tests.passes.sketch import Sketch

HIDDEN = ("float32", ("batch", "sequence", 8))


@pytest.mark.parametrize(
    ("a", "b", "product"),
    [
        (2, 3, 6),
        ("s", 1, "s"),
        (0, "s", 0),
        ("s", "b", "b*s"),
        ("2*s", 4, "8*s"),
        ("2*s", "b", "2*b*s"),
    ],
)
def test_products_have_one_spelling(a: int | str, b: int | str, product: int | str) -> None:
    assert times(a, b) == times(b, a) == product


def test_quotients_are_exact_or_unknown() -> None:
    assert divided("8*b*s", "s") == "8*b"
    assert divided("8*b", 4) == "2*b"
    assert divided("b", 2) is None
    assert divided("b", "s") is None


def test_sums_of_names_are_unknown() -> None:
    assert added(2, 3) == 5
    assert added("s", 0) == "s"
    assert added("s", "s", -1) == 0
    assert added("s", 1) is None


def test_broadcasting() -> None:
    assert broadcast(("b", 1, "s", 8), (1, "s", 8)) == ("b", 1, "s", 8)
    assert broadcast((1, "s"), ("b", "s")) == ("b", "s")
    assert broadcast(("s",), ("t",)) == ("",)  # one of them is 1, or they are equal: not known
    assert broadcast(("s",), None) is None


def whole(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def shape_of(sketch: Sketch, value: str) -> object:
    return infer(sketch.graph(value))[value].shape


def test_minus_one_stands_for_what_is_left() -> None:
    sketch = Sketch(x=HIDDEN)
    assert shape_of(sketch, sketch.Reshape("x", whole(0, -1, 2, 4))) == ("batch", "sequence", 2, 4)
    assert shape_of(sketch, sketch.Reshape("x", whole(-1, 8))) == ("batch*sequence", 8)


def test_a_table_cut_to_a_length() -> None:
    sketch = Sketch(x=HIDDEN)
    length = sketch.Slice(sketch.Shape("x"), whole(1), whole(2))
    rows = sketch.Slice(np.zeros((1, 40, 8)), whole(0), length, whole(1))
    assert shape_of(sketch, rows) == (1, "sequence", 8)


def test_operators_of_a_transformer() -> None:
    sketch = Sketch(x=HIDDEN)
    heads = sketch.Transpose(sketch.Reshape("x", whole(0, 0, 2, 4)), perm=(0, 2, 1, 3))
    scores = sketch.MatMul(heads, sketch.Transpose(heads, perm=(0, 1, 3, 2)))
    parts = sketch.Split(sketch.Unsqueeze(scores, whole(0)), axis=2, outputs=2)
    assert shape_of(sketch, scores) == ("batch", 2, "sequence", "sequence")
    assert shape_of(sketch, parts[1]) == (1, "batch", 1, "sequence", "sequence")
    assert shape_of(sketch, sketch.Squeeze(parts[1], whole(0, 2))) == (
        "batch",
        "sequence",
        "sequence",
    )
    assert shape_of(sketch, sketch.ReduceMean(scores, axes=(-1,), keepdims=0)) == (
        "batch",
        2,
        "sequence",
    )


def test_places_looked_up_by_several_indices() -> None:
    sketch = Sketch(x=HIDDEN, at=("int64", ("batch", 1, "sequence", 2)))
    assert shape_of(sketch, sketch.GatherND("x", "at")) == ("batch", 1, "sequence", 8)
    assert shape_of(sketch, sketch.GatherND("x", whole(1, 0)[None], batch_dims=0)) == (1, 8)
    within = sketch.GatherND("x", "at", batch_dims=1)
    assert shape_of(sketch, within) == ("batch", 1, "sequence")


def test_what_no_rule_knows_is_unknown() -> None:
    sketch = Sketch(x=HIDDEN)
    assert shape_of(sketch, sketch.NonZero("x")) is None


def test_tiles_and_gathered_elements() -> None:
    sketch = Sketch(x=HIDDEN, index=("int64", ("batch", "sequence", 3)))
    assert shape_of(sketch, sketch.Tile("x", whole(1, 2, 3))) == ("batch", "2*sequence", 24)
    tiled = sketch.Tile("x", sketch.Shape("x"))
    assert shape_of(sketch, tiled) == ("batch*batch", "sequence*sequence", 64)
    gathered = sketch.GatherElements("x", "index", axis=-1)
    assert shape_of(sketch, gathered) == ("batch", "sequence", 3)
