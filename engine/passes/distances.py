"""What is added to scores by how far a key stands behind a query: biases of MPNet, of T5.

    added[h, q, k] = table[h, k - q + P - 1],   P - 1 tokens away and further the same

The spelling (buckets, logarithms, rows looked up) is not matched.  The value in the graph that is
k - q itself, or q - k, is found by running what makes the bias; then it is replaced by all
distances there may be, and what comes out is the table.  That it depends on nothing else is tried:
with the distances in another order, and for sentences of several lengths as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..graph import Graph
from ..ops.fused import by_distance
from ..ops.numbers import Array
from .probe import Part, sentences, values_of
from .shapes import Fact

__all__ = ["MOST_DISTANCE", "Terms", "added_by_distance"]

SQUARE = 256  # tokens of the sentence whose k - q are replaced
MOST_DISTANCE = SQUARE**2 // 2  # either way
LENGTHS = (2, 9, 300)  # of sentences that are tried as they are


@dataclass(frozen=True)
class Terms:
    """Parts of a graph whose results are added to scores [batch, heads, queries, keys]."""

    parts: Sequence[Part]
    graph: Graph
    facts: Mapping[str, Fact]
    heads: int

    def values(
        self, tokens: int, given: Mapping[str, Array] | None = None
    ) -> tuple[dict[str, Array], int]:
        """All values for one sentence of which nothing is masked, and its tokens: those of a model
        that fixes them.
        """
        feeds = sentences(self.graph, 1, tokens, 0, kinds=2)
        ones = {name: np.ones_like(feed) for name, feed in feeds.items()}
        found: dict[str, Array] = {}
        for part in self.parts:
            found |= values_of(part, self.graph, self.facts, ones, given)
        return found, max((feed.shape[1] for feed in feeds.values()), default=0)

    def added(self, values: Mapping[str, Array], tokens: int) -> Array | None:
        """[heads, tokens, tokens]: the parts' sum, float32 or whole numbers; None where it is
        something else.
        """
        total = np.zeros((), np.float32)
        for part in self.parts:
            term = self.graph.constants.get(part.value, values.get(part.value))
            if term is None or term.dtype.name not in ("float32", "int32", "int64"):
                return None
            total = total + term
        shape = (1, self.heads, tokens, tokens)
        try:
            return np.broadcast_to(total[:1] if total.ndim == 4 else total, shape)[0]
        except ValueError:
            return None


def added_by_distance(terms: Terms) -> Array | None:
    """[heads, 2 P - 1]; None where what is added is something else than by distance."""
    values, tokens = terms.values(LENGTHS[1])
    if not tokens:
        return None
    if terms.values(LENGTHS[0])[1] == tokens:  # the model has sentences of one length
        return cut_if_added(terms, of_one_length(terms.added(values, tokens)))
    for name, sign in distances_in(values, tokens):
        found = cut_if_added(terms, of_all_distances(terms, name, sign))
        if found is not None:
            return found
    return None


def of_one_length(added: Array | None) -> Array | None:
    """From the first query and the first key."""
    return None if added is None else np.concatenate([added[:, :0:-1, 0], added[:, 0]], axis=1)


def cut_if_added(terms: Terms, table: Array | None) -> Array | None:
    if table is None or not all(is_added(terms, table, length) for length in LENGTHS):
        return None
    return cut(table)


def distances_in(values: Mapping[str, Array], tokens: int) -> Iterator[tuple[str, int]]:
    """Values that are k - q (1) or q - k (-1), the first made first."""
    distance = np.arange(tokens)[None] - np.arange(tokens)[:, None]
    for name, value in values.items():
        if value.size == distance.size and value.shape[-2:] == distance.shape:
            for sign in (1, -1):
                if np.array_equal(value.reshape(distance.shape), sign * distance):
                    yield name, sign


def of_all_distances(terms: Terms, name: str, sign: int) -> Array | None:
    """The table with MOST_DISTANCE either way, if the value of this name is all it depends on."""
    values, tokens = terms.values(SQUARE)
    if tokens != SQUARE or name not in values:
        return None
    every = np.arange(-MOST_DISTANCE + 1, MOST_DISTANCE + 1).reshape(tokens, tokens)
    found = []
    for distances in (every, every[::-1].T):
        given = (sign * distances).astype(values[name].dtype).reshape(values[name].shape)
        added = terms.added(terms.values(SQUARE, {name: given})[0], tokens)
        if added is None:
            return None
        order = np.argsort(distances, axis=None)
        found.append(added.reshape(terms.heads, -1)[:, order[:-1]])
    return found[0] if np.array_equal(found[0], found[1]) else None


def is_added(terms: Terms, table: Array, length: int) -> bool:
    values, tokens = terms.values(length)
    added = terms.added(values, tokens)
    return added is not None and np.array_equal(by_distance(table, tokens, tokens), added)


def cut(table: Array) -> Array:
    """Without what is the same as nearer to the middle."""
    most = table.shape[1] // 2
    before, behind = table[:, most::-1], table[:, most:]
    differ = (before != before[:, -1:]) | (behind != behind[:, -1:])
    reach = 1 + int(np.flatnonzero(differ.any(axis=0)).max(initial=-1))
    return np.ascontiguousarray(table[:, most - reach : most + reach + 1])
