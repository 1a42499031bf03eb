"""Rotary positions in their spellings, cos and sin from wherever."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from engine.passes.clean import clean
from engine.passes.linear import linear
from engine.passes.rotary import rotary
from engine.passes.take_apart import take_apart
from tests.passes.sketch import Sketch, assert_same, counts, normal, only, operators

IDS = ("int64", ("batch", "sequence"))
HIDDEN = ("float32", ("batch", "sequence", 16))
DEPTH, HALF, END = 8, 4, np.iinfo(np.int64).max
FREQUENCIES = np.float32(100.0) ** -(np.arange(HALF, dtype=np.float32) / HALF)
ANGLES = np.arange(64, dtype=np.float32)[:, None] * FREQUENCIES
Turns = tuple[str, str]


def whole(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def feeds(batch: int, tokens: int) -> dict[str, np.ndarray]:
    return {"x": normal(batch, tokens, 16), "ids": np.ones((batch, tokens), np.int64)}


def length(s: Sketch) -> str:
    return str(s.Gather(s.Shape("ids"), whole(1), axis=0))


def computed(s: Sketch) -> Turns:
    """A product of places and frequencies, twice [1, tokens, 1, HALF]."""
    places = s.Range(np.int64(0), s.Squeeze(length(s), whole(0)), np.int64(1))
    row = s.Cast(s.Unsqueeze(places, whole(0, 1)), to="float32")
    angles = s.Transpose(s.MatMul(FREQUENCIES[None, :, None], row), perm=(0, 2, 1))
    doubled = s.Unsqueeze(s.Concat(angles, angles, axis=-1), whole(2))
    return str(s.Cos(doubled)), str(s.Sin(doubled))


def tabled(s: Sketch) -> Turns:
    """Looked up by places [batch, tokens]."""
    places = s.Slice(np.arange(64), whole(0), length(s), whole(0))
    places = s.Expand(s.Unsqueeze(places, whole(0)), s.Shape("ids"))
    tables = (np.concatenate([f(ANGLES)] * 2, axis=1) for f in (np.cos, np.sin))
    cos, sin = (str(s.Unsqueeze(s.Gather(t, places, axis=0), whole(2))) for t in tables)
    return cos, sin


def neighbours(s: Sketch) -> Turns:
    """The same for each two neighbours."""
    tables = (np.repeat(f(ANGLES), 2, axis=1) for f in (np.cos, np.sin))
    cut = (s.Slice(table, whole(0), length(s), whole(0)) for table in tables)
    cos, sin = (str(s.Unsqueeze(table, whole(1))) for table in cut)
    return cos, sin


def heads(s: Sketch) -> str:
    layer = s.MatMul("x", normal(16, 16, seed=1))
    return str(s.Reshape(layer, whole(0, 0, 2, DEPTH)))


def part(s: Sketch, x: str, start: int, end: int, step: int = 1) -> str:
    return str(s.Slice(x, whole(start), whole(end), whole(3), whole(step)))


def halves(s: Sketch, x: str, turns: Turns) -> str:
    half = s.Concat(s.Neg(part(s, x, HALF, END)), part(s, x, 0, HALF), axis=-1)
    return str(s.Add(s.Mul(x, turns[0]), s.Mul(half, turns[1])))


def by_halves(s: Sketch, x: str, turns: Turns) -> str:
    """With half as wide tables."""
    cos, sin = (part(s, table, 0, HALF) for table in turns)
    a, b = part(s, x, 0, HALF), part(s, x, HALF, END)
    first = s.Sub(s.Mul(a, cos), s.Mul(b, sin))
    return str(s.Concat(first, s.Add(s.Mul(a, sin), s.Mul(b, cos)), axis=3))


def pairwise(s: Sketch, x: str, turns: Turns) -> str:
    a, b = part(s, x, 0, END, 2), part(s, x, 1, END, 2)
    both = s.Concat(s.Unsqueeze(s.Neg(b), whole(4)), s.Unsqueeze(a, whole(4)), axis=4)
    turned = s.Reshape(both, whole(0, 0, 2, DEPTH))
    return str(s.Add(s.Mul(turned, turns[1]), s.Mul(x, turns[0])))


def first_channels(s: Sketch, x: str, turns: Turns) -> str:
    """Half of a head's channels are turned, with the tables' first columns."""
    cos, sin = (s.Concat(*[part(s, t, 0, HALF // 2)] * 2, axis=3) for t in turns)
    near, far = part(s, x, 0, HALF), part(s, x, HALF, END)
    half = s.Concat(s.Neg(part(s, near, 2, END)), part(s, near, 0, 2), axis=-1)
    return str(s.Concat(s.Add(s.Mul(near, cos), s.Mul(half, sin)), far, axis=3))


@pytest.mark.parametrize("turns", [computed, tabled])
@pytest.mark.parametrize("spelling", [halves, by_halves, first_channels])
def test_halves_are_turned(spelling: Callable[..., str], turns: Callable[[Sketch], Turns]) -> None:
    s = Sketch(x=HIDDEN, ids=IDS)
    graph = s.graph(spelling(s, heads(s), turns(s)))
    after = rotary(linear(clean(graph)))
    assert set(operators(after)) == {"Linear", "Rotary", "Reshape"}
    node, pairs = only(after, "Rotary"), HALF // 2 if spelling is first_channels else HALF
    rows = 64 if turns is tabled else 8192
    assert after.constants[node.cos].shape == after.constants[node.sin].shape == (rows, pairs)
    assert (node.attributes["heads"], node.attributes["interleaved"]) == (2, 0)
    for shape in ((1, 1), (2, 5), (1, 64)):
        assert_same(graph, after, atol=1e-5, **feeds(*shape))


def test_neighbours_are_turned() -> None:
    s = Sketch(x=HIDDEN, ids=IDS)
    graph = s.graph(pairwise(s, heads(s), neighbours(s)))
    after = rotary(linear(clean(graph)))
    assert set(operators(after)) == {"Linear", "Rotary", "Reshape"}
    assert only(after, "Rotary").attributes["interleaved"] == 1
    assert_same(graph, after, atol=1e-5, **feeds(2, 7))


def test_behind_the_transposition_too() -> None:
    s = Sketch(x=HIDDEN, ids=IDS)
    x = str(s.Transpose(heads(s), perm=(0, 2, 1, 3)))
    turns = tuple(str(s.Transpose(each, perm=(0, 2, 1, 3))) for each in computed(s))
    graph = s.graph(halves(s, x, (turns[0], turns[1])))
    after = rotary(linear(clean(graph)))
    assert operators(after) == ["Linear", "Rotary", "Reshape", "Transpose"]
    assert_same(graph, after, atol=1e-5, **feeds(2, 7))


# --- what is none ---
def turned_back(s: Sketch, x: str, turns: Turns) -> str:
    half = s.Concat(part(s, x, HALF, END), s.Neg(part(s, x, 0, HALF)), axis=-1)
    return str(s.Add(s.Mul(x, turns[0]), s.Mul(half, turns[1])))


def mixed(s: Sketch, x: str, turns: Turns) -> str:
    half = s.Concat(s.Neg(part(s, x, HALF, END)), part(s, x, 0, HALF), axis=-1)
    return str(s.Add(s.Mul(x, turns[0]), s.Mul(half, turns[0])))


def scaled(s: Sketch, x: str, turns: Turns) -> str:
    half = s.Concat(s.Neg(part(s, x, HALF, END)), part(s, x, 0, HALF), axis=-1)
    return str(s.Add(s.Mul(s.Mul(x, 2.0), turns[0]), s.Mul(half, turns[1])))


@pytest.mark.parametrize("spelling", [mixed, scaled])
def test_other_sums_stay(spelling: Callable[..., str]) -> None:
    s = Sketch(x=HIDDEN, ids=IDS)
    graph = s.graph(spelling(s, heads(s), computed(s)))
    after = rotary(linear(clean(graph)))
    assert "Rotary" not in operators(after)


def test_turned_the_other_way_sin_is_negative() -> None:
    """It is a Rotary whose sin is, or none; never one that turns forward."""
    s = Sketch(x=HIDDEN, ids=IDS)
    graph = s.graph(turned_back(s, heads(s), computed(s)))
    assert_same(graph, rotary(linear(clean(graph))), atol=1e-5, **feeds(2, 7))


def test_angles_that_depend_on_the_length_stay() -> None:
    """Dynamic NTK: longer sentences have other frequencies."""
    s = Sketch(x=HIDDEN, ids=IDS)
    count = s.Cast(length(s), to="float32")
    places = s.Range(np.int64(0), s.Squeeze(length(s), whole(0)), np.int64(1))
    column = s.Div(s.Cast(s.Unsqueeze(places, whole(1)), to="float32"), count)
    angles = s.Mul(column, FREQUENCIES)
    doubled = s.Unsqueeze(s.Concat(angles, angles, axis=-1), whole(1))
    graph = s.graph(halves(s, heads(s), (s.Cos(doubled), s.Sin(doubled))))
    assert "Rotary" not in operators(rotary(linear(clean(graph))))


def test_angles_that_depend_on_ids_stay() -> None:
    s = Sketch(x=HIDDEN, ids=IDS)
    angles = s.Mul(s.Cast(s.Unsqueeze("ids", whole(2)), to="float32"), FREQUENCIES)
    doubled = s.Unsqueeze(s.Concat(angles, angles, axis=-1), whole(2))
    graph = s.graph(halves(s, heads(s), (s.Cos(doubled), s.Sin(doubled))))
    assert "Rotary" not in operators(rotary(linear(clean(graph))))


def test_tables_of_the_same_numbers_are_one() -> None:
    s = Sketch(x=HIDDEN, ids=IDS)
    graph = s.graph(*(halves(s, heads(s), computed(s)) for _ in range(2)))
    after = rotary(linear(graph))
    assert counts(after)["Rotary"] == 2
    assert len({node.cos for node in after if node.op == "Rotary"}) == 1


# --- one operator ---
@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("operator", ["com.microsoft", "", "first place"])
def test_one_operator_is_taken_apart(operator: str, interleaved: int) -> None:
    s = Sketch(x=HIDDEN, ids=IDS, opset=23)
    layer = s.MatMul("x", normal(16, 16, seed=1))
    places = s.Slice(np.arange(64)[None], whole(0), length(s), whole(1))
    places = s.Expand(places, s.Shape("ids"))
    how = {"num_heads": 2, "interleaved": interleaved}
    tables = (np.cos(ANGLES), np.sin(ANGLES))
    if operator == "":
        y = s.RotaryEmbedding(layer, *tables, places, **how)
    else:
        places = whole(0) if operator == "first place" else places
        y = s.RotaryEmbedding(layer, places, *tables, domain="com.microsoft", **how)
    graph = s.graph(y)
    after = rotary(linear(take_apart(clean(graph))))
    assert only(after, "Rotary").attributes["interleaved"] == interleaved
    assert_same(graph, after, atol=1e-5, **feeds(2, 7))
