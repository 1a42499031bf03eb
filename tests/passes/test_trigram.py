"""MobileBERT's embeddings: a layer over the words behind, at and before each token."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engine
from engine.graph import Graph
from engine.passes.clean import clean
from engine.passes.linear import linear
from engine.passes.simulate import simulate
from engine.passes.trigram import trigram
from tests.passes.sketch import Sketch, assert_same, normal, only, operators

IDS: Any = ("int64", ("batch", "sequence"))
WORDS, WEIGHT = normal(50, 4), normal(12, 8, seed=1)
POSITIONS, TYPES = normal(20, 8, seed=2), normal(2, 8, seed=3)
AFTER, BEFORE = ((1, 1 << 62), (0, 0, 0, 0, 1, 0)), ((0, -1), (0, 1, 0, 0, 0, 0))


def whole(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def beside(s: Sketch, own: str, cut: tuple[int, int], pads: tuple[int, ...], **how: Any) -> str:
    start, end = (whole(each) for each in cut)
    return str(s.Pad(s.Slice(own, start, end, whole(1), whole(1)), whole(*pads), **how))


def embedded(
    s: Sketch,
    *,
    after: Any = AFTER,
    before: Any = BEFORE,
    types: bool = True,
    axis: int = 2,
    bias: bool = True,
    steps: float = 0.0,
    **how: Any,
) -> Graph:
    """steps: of roundings between all operators."""

    def rounded(x: Any) -> Any:
        return s.round_trip(x, steps) if steps else x

    own = s.Gather(s.constant(WORDS), "ids")
    sides = [rounded(beside(s, own, *side, **how)) for side in (after, before)]
    near = rounded(s.Concat(sides[0], own, sides[1], axis=axis))
    weight = s.round_trip(s.constant(WEIGHT), 0.02) if steps else WEIGHT
    layer = s.MatMul(near, weight)
    total = rounded(s.Add(layer, normal(8, seed=4)) if bias else layer)
    length = s.Gather(s.Shape("ids"), np.int64(1), axis=0)
    places = s.Slice(whole(*range(20)), whole(0), s.Unsqueeze(length, whole(0)), whole(0))
    total = rounded(s.Add(total, s.Gather(s.constant(POSITIONS), places)))
    total = rounded(s.Add(total, s.Gather(s.constant(TYPES), "kinds"))) if types else total
    return linear(simulate(clean(s.graph(s.Relu(total)))))


def sentences(batch: int, tokens: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(tokens)
    return {
        "ids": random.integers(0, 50, (batch, tokens)),
        "kinds": random.integers(0, 2, (batch, tokens)),
    }


@pytest.mark.parametrize("how", [{}, {"types": False}, {"axis": -1}, {"bias": False}], ids=str)
def test_spellings(how: dict[str, Any]) -> None:
    graph = embedded(Sketch(ids=IDS, kinds=IDS), **how)
    after = trigram(graph)
    assert operators(after) == ["Trigram", "Channels", "Linear", "Channels", "Add", "Relu"]
    assert only(after, "Trigram").token_type_ids == ("kinds" if how.get("types", True) else "")
    for shape in ((1, 1), (3, 2), (2, 20)):
        assert_same(graph, after, atol=1e-5, **sentences(*shape))


def test_everything_is_rounded() -> None:
    """The rows beside a token are rounded with the token's own, and nothing is added beforehand."""
    graph = embedded(Sketch(ids=IDS, kinds=IDS), steps=0.0417)
    after = trigram(graph)
    first = ["Trigram", "Channels", "FakeQuantize", "DequantizeLinear", "Linear", "FakeQuantize"]
    added = ["Channels", "Add", "FakeQuantize"]
    assert sorted(operators(after)) == sorted([*first[:3], *first[4:], *added, *added, "Relu"])
    for shape in ((1, 1), (3, 2), (2, 20)):
        assert_same(graph, after, atol=1e-5, **sentences(*shape))


OTHERS: dict[str, dict[str, Any]] = {
    "the other order": {"after": BEFORE, "before": AFTER},
    "two tokens further": {"after": ((2, 1 << 62), (0, 0, 0, 0, 2, 0))},
    "the last token again": {"mode": "edge"},
    "the other end": {"after": (AFTER[0], BEFORE[1])},
}


@pytest.mark.parametrize("name", OTHERS)
def test_others_stay(name: str) -> None:
    assert "Trigram" not in operators(trigram(embedded(Sketch(ids=IDS, kinds=IDS), **OTHERS[name])))


@pytest.mark.parametrize("dialect", ["mobilebert", "mobilebert_hidden", "mobilebert_int8"])
def test_mobilebert_runs_wholly_in_kernels(model: Callable[[str], Path], dialect: str) -> None:
    """Masks have holes: what stands beside a token counts though it is masked."""
    from tests.passes import exported

    path = model(dialect)
    session = engine.load(path, threads=1)
    assert session.plan is not None
    assert session.plan.fallback is None
    for batch, tokens in ((1, 1), (1, 31), (3, 37)):
        given = exported.feeds(path, batch, tokens)
        mask = given["attention_mask"]
        mask[:, 2::3] = 0
        got, wanted = session.run(given), exported.runtime(path, given)
        for name, array in wanted.items():
            real = mask == 1 if array.ndim == 3 else ...
            apart = np.abs(got[name][real] - array[real]).max()
            assert apart <= (0.1 if "int8" in dialect else 1e-4) * np.abs(array).max()
