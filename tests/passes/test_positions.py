"""Scores by the places of queries and keys (DeBERTa): in one Attention, or not taken for them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from engine.graph import Graph
from engine.passes.attention import FUSION
from engine.passes.clean import clean
from engine.passes.dead_rows import dead_rows
from engine.passes.fusion import why
from engine.passes.simulate import simulate
from tests.passes.sketch import Sketch, assert_same, normal, only, operators
from tests.passes.test_attention import FEEDS, HIDDEN, LOWEST, MASK, fused, heads, joined, whole
from tests.passes.test_distances import longer, places

KEYS, QUERIES = normal(2, 7, 4, seed=8), normal(2, 7, 4, seed=9)  # vectors of seven distances


class Sentences(Sketch):
    """Queries, keys and values; scores of batch and heads together."""

    def __init__(self) -> None:
        super().__init__(q=HIDDEN, k=HIDDEN, v=HIDDEN, mask=MASK)
        self.batch = self.Gather(self.Shape("mask"), whole(0))
        self.length = self.Gather(self.Shape("mask"), whole(1))

    def split(self, x: str) -> str:
        shape = self.Concat(whole(-1), self.length, whole(4), axis=0)
        return str(self.Reshape(heads(self, x), shape))

    def pairs(self, x: str) -> str:
        """Whole numbers for every query and key, for all sentences and heads."""
        both = self.Mul(self.batch, whole(2))
        return str(self.Expand(x, self.Concat(both, self.length, self.length, axis=0)))


def behind(s: Sentences) -> str:
    """How far a query stands behind a key."""
    column, row = places(s)
    return str(s.Sub(column, row))


def clipped(s: Sentences, distance: str) -> str:
    return str(s.Clip(s.Add(distance, np.int64(3)), np.int64(0), np.int64(6)))


def from_the_end(s: Sentences, distance: str) -> str:
    return str(s.Sub(clipped(s, distance), np.int64(7)))


def by_length(s: Sentences, distance: str) -> str:
    return str(s.Mod(s.Add(s.Abs(distance), s.length), np.int64(7)))


def by_query(s: Sentences, distance: str) -> str:
    return clipped(s, s.Mul(distance, s.Min(places(s)[0], np.int64(1))))


def outside(s: Sentences, distance: str) -> str:
    return str(s.Mul(clipped(s, distance), np.int64(2)))


Index = Callable[[Sentences, str], str]


def of_keys(s: Sentences, index: Index = clipped, x: str = "q", scale: float = 2.0) -> str:
    """Queries times the vectors of keys."""
    vectors = s.Tile(s.constant(KEYS), s.Concat(s.batch, whole(1, 1), axis=0))
    products = s.MatMul(s.split(x), s.Transpose(vectors, perm=(0, 2, 1)))
    return str(s.Div(s.GatherElements(products, s.pairs(index(s, behind(s))), axis=-1), scale))


def of_queries(s: Sentences, index: Index = clipped, x: str = "k") -> str:
    vectors = s.Tile(s.constant(QUERIES), s.Concat(s.batch, whole(1, 1), axis=0))
    products = s.MatMul(s.split(x), s.Transpose(vectors, perm=(0, 2, 1)))
    places = s.pairs(index(s, s.Neg(behind(s))))
    return str(s.Mul(s.Transpose(s.GatherElements(products, places, axis=2), perm=(0, 2, 1)), 0.5))


def both(s: Sentences) -> str:
    return str(s.Add(of_keys(s), of_queries(s)))


def taken_out(s: Sentences, *, queries: bool) -> str:
    """Where a key, or its query, is masked."""
    kept = s.Unsqueeze("mask", whole(1, 2))
    kept = s.Mul(kept, s.Unsqueeze("mask", whole(1, 3))) if queries else kept
    return str(s.Cast(s.Sub(np.int64(1), kept), to="bool"))


def attended(
    added: Callable[[Sentences], str],
    *,
    queries: bool = True,
    emptied: str = "masked",
    rounded: bool = False,
    steps: float = 0.0,
) -> Graph:
    """added: to scores; rounded: they are all of it; steps: of a rounding of scores with their
    mask, behind which probabilities are rounded before and after they are set to 0.
    """
    s = Sentences()

    def round_trip(x: str, scale: float, zero: int) -> str:
        return s.round_trip(x, scale, zero) if steps else x

    keys = s.Div(s.Transpose(s.split("k"), perm=(0, 2, 1)), 2.0)
    scores = added(s) if rounded else s.Add(s.MatMul(s.split("q"), keys), added(s))
    apart = s.Concat(whole(-1, 2), s.length, s.length, axis=0)
    absent = taken_out(s, queries=queries)
    scores = s.Reshape(round_trip(scores, 0.1, 140), apart)
    chosen = (scores, LOWEST) if emptied == "kept" else (LOWEST, scores)
    p = s.Softmax(round_trip(s.Where(absent, *chosen), steps, 255), axis=3)
    p = round_trip(p, 1 / 255, 0)
    p = round_trip(s.Where(absent, np.float32(0), p), 1 / 255, 0) if emptied else p
    together = s.Concat(whole(-1), s.length, s.length, axis=0)
    context = s.MatMul(s.Reshape(p, together), s.split("v"))
    apart = s.Concat(whole(-1, 2), s.length, whole(4), axis=0)
    return s.graph(joined(s, s.Reshape(context, apart)))


SPELLINGS: dict[str, tuple[Callable[[Sentences], str], tuple[bool, bool]]] = {
    "keys and queries": (both, (True, True)),
    "queries and keys": (lambda s: str(s.Add(of_queries(s), of_keys(s))), (True, True)),
    "keys": (of_keys, (True, False)),
    "queries": (of_queries, (False, True)),
    "another scale": (lambda s: of_keys(s, scale=3.0), (True, False)),
    "counted from the end": (lambda s: of_keys(s, from_the_end), (True, False)),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_positions(name: str) -> None:
    added, there = SPELLINGS[name]
    graph = attended(added)
    after = fused(graph)
    node = only(after, "Attention")
    assert operators(after) == ["Attention", "Mask"]
    tables = (node.key_positions, node.query_positions)
    assert tuple(map(bool, tables)) == there
    assert {after.constants[table].shape for table in tables if table} == {(7, 8)}
    assert node.attributes["scale"] == 0.5
    assert_same(graph, after, **FEEDS)
    assert_same(graph, after, **longer(37))


def rounded_sums(s: Sentences, products: float | None = 0.0613) -> str:
    """Scores of a key that is rounded twice, and of queries and keys with vectors that are stored;
    products: the steps of the latter, None where they are not rounded.
    """

    def added(x: str, vectors: str, of: str, scale: float) -> str:
        vectors = s.Tile(vectors, s.Concat(s.batch, whole(1, 1), axis=0))
        found = s.MatMul(x, s.round_trip(s.Transpose(vectors, perm=(0, 2, 1)), 0.03))
        found = found if products is None else s.round_trip(found, products, 120)
        return str(s.Mul(s.GatherElements(found, s.pairs(clipped(s, of)), axis=-1), scale))

    q, k = s.round_trip(s.split("q"), 0.0207), s.round_trip(s.split("k"), 0.03, 120)
    keys = s.round_trip(s.Div(s.Transpose(k, perm=(0, 2, 1)), 2.0), 0.01501, 120)
    scores = s.round_trip(s.MatMul(q, keys), 0.0417, 110)
    weight = s.round_trip(s.constant(normal(4, 4, seed=3)), 0.02)  # as the vectors' own layer
    vectors = s.Add(s.MatMul(s.round_trip(s.constant(KEYS), 0.02), weight), s.constant(normal(4)))
    of_keys = added(q, vectors, behind(s), 0.5)
    of_queries = added(k, s.constant(QUERIES), s.Neg(behind(s)), 0.25)
    return str(s.Add(scores, s.Add(of_keys, s.Transpose(of_queries, perm=(0, 2, 1)))))


def test_all_is_quantised() -> None:
    graph = attended(rounded_sums, rounded=True)
    after = fused(graph)
    how = only(after, "Attention").attributes
    steps = {name: how[name] and round(how[name].scale, 3) for name in how if "score" in name}
    assert steps == {"scores": 0.083, "query_scores": 0.061, "key_scores": 0.031}
    assert after.constants[only(after, "Attention").key_positions].dtype == np.uint8
    assert_same(graph, after, **FEEDS)
    assert_same(graph, after, **longer(37))


def test_some_is_quantised() -> None:
    graph = attended(lambda s: rounded_sums(s, None), rounded=True)
    assert "Attention" not in operators(fused(graph))
    assert "partly" in why(simulate(clean(graph)), FUSION)


@pytest.mark.parametrize(("steps", "fits"), [(1.334e36, True), (0.3, False)])
def test_scores_that_their_mask_rounds_to_nothing(steps: float, fits: bool) -> None:
    """All tokens that count are attended to alike."""
    graph = attended(rounded_sums, rounded=True, steps=steps)
    after = fused(graph)
    assert ("Attention" in operators(after)) == fits
    if fits:
        assert not only(after, "Attention").key_positions
        assert_same(graph, after, **FEEDS)


REFUSED: dict[str, Callable[[Sentences], str]] = {
    "places by length": lambda s: of_keys(s, by_length),
    "places by query": lambda s: of_queries(s, by_query),
    "places outside": lambda s: of_keys(s, outside),
    "keys of keys": lambda s: of_keys(s, x="k"),
    "of others": lambda s: of_keys(s, x="v"),
    "twice": lambda s: str(s.Add(of_keys(s), of_keys(s, scale=3.0))),
    "something else": lambda s: str(s.Sub(of_keys(s), of_queries(s))),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_depends_on_more_is_refused(name: str) -> None:
    graph = attended(REFUSED[name])
    assert "Attention" not in operators(fused(graph))
    assert "is" in why(clean(graph), FUSION)


@pytest.mark.parametrize(
    ("queries", "emptied"), [(False, "masked"), (False, "kept"), (True, "kept"), (True, "")]
)
def test_what_masked_queries_attend_to_is_as_it_was(queries: bool, emptied: str) -> None:
    graph = attended(both, queries=queries, emptied=emptied)
    assert "Attention" not in operators(fused(graph))


def test_a_row_alone_is_the_first() -> None:
    """Distances are counted from it."""
    for index in (0, 1):
        s = Sketch(q=HIDDEN, k=HIDDEN, v=HIDDEN)
        tables = [s.constant(normal(9, 8, seed=i), f"table{i}") for i in range(2)]
        how = {"heads": 2, "scale": 0.5, "domain": "engine"}
        y = s.Attention("q", "k", "v", "", "", *tables, **how)
        graph = s.graph(s.Select(y, domain="engine", index=index))
        after = dead_rows(graph)
        assert operators(after)[0] == ("Attention" if index else "Select")
        assert_same(graph, after, **{name: FEEDS[name] for name in "qkv"})
