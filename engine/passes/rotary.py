"""Rotary positions (Su et al. 2021): queries and keys turned by their places, as one Rotary.

How it is spelled (halves or neighbours of a head's channels, before or behind the transposition
that makes heads, all channels or the first ones) is found by running it: what stands between a
Linear, cos and sin and the result is computed on random numbers and compared with what Rotary
makes of them.  cos and sin are whatever follows from places alone, up to MOST_POSITIONS of them:
from the longest table that the graph can make its rows are taken, and shorter sentences have to
have the same rows.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineError
from ..graph import Graph, Node
from ..ops import Trait, kinds
from ..ops.fused import rotary as meaning
from ..ops.reference import evaluate
from .head_views import View, view_nodes, views_of
from .match import Search
from .movement import known
from .names import layer_name
from .probe import HEAVY, Part, lengths_of, number_of, part_above, probe, sentences
from .shapes import Fact

__all__ = ["MOST_POSITIONS", "rotary"]

Array = NDArray[Any]
MOST_POSITIONS = 8192  # rows of tables that the graph could make of any length
BETWEEN = (kinds(Trait.EACH) - HEAVY) | kinds(Trait.MOVES) | {"Concat", "Split"}
LIGHT = HEAVY - {"MatMul"}  # angles may be a product of places and frequencies
MOST_NODES = 40  # between a Linear and what is turned
ENDS = ("Add", "Concat")  # of what turns pairs; neighbours are put in order behind it
SHAPES = ((2, 3), (1, 1), (3, 7))  # batches and lengths that are tried


@dataclass
class Between:
    """What stands between one value, others that follow from places, and the value made of them."""

    value: str
    nodes: list[Node] = field(default_factory=list)  # in the order they run
    sources: list[str] = field(default_factory=list)
    turns: dict[str, Part] = field(default_factory=dict)  # cos and sin, in some order


@dataclass(frozen=True)
class Turned:
    """A Rotary of `source` [batch, tokens, channels], in a view; cos and sin [positions, pairs]."""

    source: str
    cos: Array
    sin: Array
    view: View
    heads: int
    interleaved: int

    def of(self, x: Array) -> Array:
        """What it makes of an array."""
        y = meaning(x, self.cos, self.sin, heads=self.heads, interleaved=self.interleaved)
        return self.view.of(y)


def rotary(graph: Graph) -> Graph:
    """Each place where channels are turned by tokens' places as a Rotary."""
    attempt = Attempt(graph)
    found = {value: turned for value in attempt.ends() if (turned := attempt.turned(value))}
    return rewritten(graph, found) if found else graph


class Attempt:
    """A graph, and the tables that its values were found to be."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.search = graph, Search(graph)
        self.tables: dict[str, Array | None] = {}

    def ends(self) -> Iterator[str]:
        """Values that may be turned ones."""
        for node in self.graph:
            if node.kind in ENDS:
                readers = self.search.consumers.get(node.outputs[0], [])
                yield node.outputs[0]
                yield from (each.outputs[0] for each in readers if each.kind == "Reshape")

    def turned(self, value: str) -> Turned | None:
        """What a value is, if that is a Rotary."""
        between = Between(value)
        if not self.gather(value, between, set()) or len(between.turns) != 2:
            return None
        if len(between.sources) != 1 or self.search.facts[between.sources[0]].rank != 3:
            return None
        tables = {}
        for name, part in between.turns.items():
            if (table := self.table(name, part)) is None:
                return None
            tables[name] = table
        found = candidates(between, tables, self.search.facts)
        return next((each for each in found if self.fits(each, between)), None)

    # --- what stands there ---
    def gather(self, value: str, between: Between, seen: set[str]) -> bool:
        """Whether a value is made of one other, and two that follow from places."""
        if not value or value in seen or self.is_known(value):
            return True
        seen.add(value)
        node, part = self.search.producer.get(value), self.place_part(value)
        if part is not None:
            between.turns[value] = part
            return len(between.turns) <= 2
        if node is None or node.kind not in BETWEEN:
            between.sources.append(value)
            return len(between.sources) == 1
        if len(between.nodes) >= MOST_NODES:
            return False
        fits = all(self.gather(name, between, seen) for name in node.inputs)
        if node not in between.nodes:
            between.nodes.append(node)
        return fits

    def is_known(self, value: str) -> bool:
        facts = self.search.facts[value]
        return value in self.graph.constants or facts.contents is not None

    def place_part(self, value: str) -> Part | None:
        """What makes a value that follows from lengths alone."""
        part = part_above(value, self.search, self.search.facts, LIGHT)
        return part if part is not None and not part.inputs else None

    # --- tables ---
    def table(self, name: str, part: Part) -> Array | None:
        """[positions, numbers] of a value that has a row for each place; None where it has not."""
        if name not in self.tables:
            counts = {len(a) for a in constants_of(part, self.graph) if a.ndim}
            tried = {MOST_POSITIONS, *(n for n in counts if 1 < n < MOST_POSITIONS)}
            tables = (self.rows(part, 1, n) for n in sorted(tried, reverse=True))
            self.tables[name] = next((t for t in tables if self.grows(part, t)), None)
        return self.tables[name]

    def grows(self, part: Part, table: Array | None) -> bool:
        """Whether shorter sentences have its first rows."""
        if table is None or len(table) < 2:
            return False
        shorter = [self.rows(part, 1, min(n, len(table))) for n in (2, 3, 7, len(table) // 2 + 1)]
        return all(
            rows is not None and np.allclose(rows, table[: len(rows)], rtol=0, atol=1e-6)
            for rows in shorter
        )

    def rows(self, part: Part, batch: int, tokens: int) -> Array | None:
        """The value for sentences of so many tokens, [tokens, numbers]."""
        feeds = sentences(self.graph, batch, tokens, seed=0, kinds=2)
        got = probe(part, self.graph, self.search.facts, feeds) if feeds else None
        lengths = {feed.shape[1] for feed in feeds.values()}
        if got is None or got.dtype != np.float32 or len(lengths) != 1:
            return None
        (length,) = lengths
        wide = [n for n in got.shape if n != 1]
        return got.reshape(length, -1) if wide[:1] == [length] and len(wide) == 2 else None

    # --- the proof ---
    def fits(self, turned: Turned, between: Between) -> bool:
        """Whether the nodes compute the same on random numbers."""
        return all(self.same(turned, between, *shape) for shape in SHAPES)

    def same(self, turned: Turned, between: Between, batch: int, tokens: int) -> bool:
        feeds, facts = sentences(self.graph, batch, tokens, 0, 2), self.search.facts
        names = lengths_of(self.graph, feeds)
        known_lengths = [number_of(n, names) for n in facts[turned.source].shape or ()]
        shape = [n for n in known_lengths if n is not None]
        if len(shape) < len(known_lengths) or not feeds:
            return False
        x = np.random.default_rng(tokens).standard_normal(shape).astype(np.float32)
        values: dict[str, Array | None] = {turned.source: x}
        for name, part in between.turns.items():
            values[name] = probe(part, self.graph, facts, feeds)
        got = self.computed(between, values, names)
        if got is None or x.shape[1] > len(turned.cos):
            return False
        wanted = turned.of(x)
        return got.shape == wanted.shape and np.allclose(got, wanted, rtol=0, atol=1e-5)

    def computed(
        self, between: Between, values: dict[str, Array | None], names: Mapping[str, int]
    ) -> Array | None:
        """The value that the nodes make."""
        facts = self.search.facts
        for node in between.nodes:
            arrays = [
                values[name] if name in values else known(name, self.graph, facts, names)
                for name in node.inputs
            ]
            if any(array is None for array, name in zip(arrays, node.inputs, strict=True) if name):
                return None
            try:
                made = evaluate(node, arrays, self.graph.opset)
            except EngineError:
                return None
            values.update(zip(node.outputs, made, strict=False))
        return values.get(between.value)


def constants_of(part: Part, graph: Graph) -> Iterator[Array]:
    for node in part.nodes:
        yield from (graph.constants[name] for name in node.inputs if name in graph.constants)


# --- what it may be ---
def candidates(
    between: Between, tables: Mapping[str, Array], facts: Mapping[str, Fact]
) -> Iterator[Turned]:
    """Every Rotary that the value may be."""
    source, (one, other) = between.sources[0], tables
    channels, shape = (facts[source].shape or ("",))[-1], facts[between.value].shape
    if not isinstance(channels, int) or shape is None:
        return
    for cos, sin, interleaved in itertools.product((one, other), (one, other), (0, 1)):
        pairs = zip(*(halves(tables[name], interleaved) for name in (cos, sin)), strict=True)
        for turns in pairs if cos != sin else ():
            for heads, view in heads_of(shape, channels, turns[0].shape[1]):
                yield Turned(source, turns[0], turns[1], view, heads, interleaved)


def halves(table: Array, interleaved: int) -> list[Array]:
    """[positions, pairs]: the table, and its first half where the other is the same."""
    count = table.shape[1] // 2
    parts = (table[:, ::2], table[:, 1::2]) if interleaved else (table[:, :count], table[:, count:])
    return [table, parts[0]] if np.array_equal(*parts) else [table]


def heads_of(shape: Sequence[int | str], channels: int, pairs: int) -> Iterator[tuple[int, View]]:
    """Numbers of heads, and the view of the value of this shape."""
    for view in views_of(shape, channels):
        if view.heads is not None:
            counts = [view.heads]
        else:
            counts = [channels // (2 * pairs)] if channels % (2 * pairs) == 0 else []
        yield from ((heads, view) for heads in counts if 2 * pairs <= channels // heads)


# --- rewriting ---
def rewritten(graph: Graph, found: Mapping[str, Turned]) -> Graph:
    """Tables of the same numbers are one constant."""
    constants, named = dict(graph.constants), dict[bytes, str]()

    def table(array: Array, name: str) -> str:
        key = hashlib.blake2b(np.ascontiguousarray(array).tobytes()).digest()
        if key not in named:
            named[key] = name
            constants[name] = np.ascontiguousarray(array)
        return named[key]

    nodes: list[Node] = []
    for node in graph.nodes:
        turned = found.get(node.outputs[0])
        if turned is None:
            nodes.append(node)
            continue
        y = node.outputs[0]
        x = y if turned.view.heads is None else f"{y}.rotary"
        inputs = (turned.source, table(turned.cos, f"{y}.cos"), table(turned.sin, f"{y}.sin"))
        how: dict[str, Any] = {"heads": turned.heads, "interleaved": turned.interleaved}
        how |= {"input": None, "output": None}
        nodes.append(Node("Rotary", inputs, (x,), how, layer_name([node]), "engine"))
        nodes += view_nodes(x, turned.view, y, graph.opset, constants)
    return graph.changed(nodes=tuple(nodes), constants=constants).without_dead_nodes()
