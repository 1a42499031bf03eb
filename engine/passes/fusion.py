"""A fusion: a pattern, a guard that says why not, and what to put in place of a match.

ONNX broadcasts anything; the engine's operators take what docs/design.md says.  So a fusion counts
only where what it builds is known to have the very shape and type that the graph had there, and
constants are spread over the channels they stand for (`Match.per_channel`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..graph import Graph, Node
from .match import Found, Pattern, Search, names_in, pattern_of
from .shapes import fact_of, facts_after

__all__ = ["Fusion", "Match", "fuse", "fuse_all", "per_channel", "why"]

Array = NDArray[Any]


class Match:
    """One place where a pattern fits: values by the pattern's names."""

    def __init__(
        self, search: Search, root: Node, found: Found, names: dict[str, list[Pattern]]
    ) -> None:
        self.search = search
        self.graph = search.graph
        self.root = root
        self.nodes = found.nodes
        self.added: dict[str, Array] = {}
        self.built: Sequence[Node] = ()
        self._values = {
            name: found.values[pattern]
            for name, patterns in names.items()
            for pattern in patterns
            if pattern in found.values
        }

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def __getitem__(self, name: str) -> str:
        return self._values[name]

    def get(self, name: str) -> str:
        """The value, or "" where this spelling does not have it."""
        return self._values.get(name, "")

    def array(self, name: str) -> Array:
        """A constant's array."""
        return self.graph.constants[self[name]]

    def number(self, name: str) -> float:
        """A constant scalar."""
        return float(np.reshape(self.array(name), ()))

    def node(self, name: str) -> Node:
        """The node that makes a named value."""
        return self.search.producer[self[name]]

    def only_reader(self, value: str) -> Node | None:
        """The one node that reads a value; None for a graph output and for several readers."""
        readers = self.search.consumers.get(value, [])
        return readers[0] if len(readers) == 1 and value not in self.search.outputs else None

    def constant(self, name: str, array: Array) -> str:
        """A new constant of the graph."""
        taken = self.graph.constants
        fresh = name
        while fresh in taken or fresh in self.search.producer or fresh in self.added:
            fresh += "_"
        self.added[fresh] = array
        return fresh

    def per_channel(self, name: str, count: int) -> str:
        """A constant as float32 [count]; its guard has asked `per_channel` of this module."""
        array = self.array(name)
        if array.shape == (count,):
            return self[name]
        spread = per_channel(array, count)
        assert spread is not None, "the guard has seen it"
        return self.constant(f"{self[name]}.channels", spread)


def per_channel(array: Array, count: int) -> Array | None:
    """float32 [count] of an array that broadcasts along the last axis alone; None of any other."""
    last = array.shape[-1] if array.ndim else 1
    if array.dtype != np.float32 or last != array.size or last not in (1, count):
        return None
    return np.full(count, array.reshape(-1), np.float32)


def no_objection(match: Match) -> str | None:
    return None


@dataclass
class Fusion:
    """build returns the nodes that replace the match; the last one makes the root's output."""

    name: str
    pattern: Callable[..., Pattern]
    build: Callable[[Match], Sequence[Node]]
    guard: Callable[[Match], str | None] = no_objection

    @cached_property
    def root(self) -> Pattern:
        return pattern_of(self.pattern)

    @cached_property
    def names(self) -> dict[str, list[Pattern]]:
        return names_in(self.root, {})

    def match(self, node: Node, search: Search) -> Match | None:
        """The first way in which the pattern fits with its result at this node."""
        for found in self.root.find(node.outputs[0], Found(), search):
            if not found.nodes or found.nodes[0] is not node:
                continue
            reason = escapes(found, search)
            match = Match(search, node, found, self.names)
            reason = reason or self.guard(match)
            if reason is None:
                match.built = self.build(match)
                reason = another_result(match)
            if reason is None:
                return match
            search.miss(Found(nodes=(*found.nodes, node)), reason, node=node)
        return None


def escapes(found: Found, search: Search) -> str | None:
    """A value inside the match that something else reads."""
    inside = {id(node) for node in found.nodes}
    for node in found.nodes[1:]:
        for value in node.outputs:
            if value in search.outputs:
                return f"'{value}' inside the match is an output of the graph"
            for reader in search.consumers.get(value, ()):
                if id(reader) not in inside:
                    return f"'{value}' inside the match is also read by {reader}"
    return None


def another_result(match: Match) -> str | None:
    """A sentence where what is built is not known to have the shape and type of what was there."""
    facts = dict(match.search.facts)
    before = {name: facts[name] for name in match.root.outputs if name}
    facts.update((name, fact_of(array)) for name, array in match.added.items())
    facts = facts_after(match.built, facts)
    made = {name for node in match.built for name in node.outputs}
    for name, old in before.items():
        if name not in made:
            if name in match.search.outputs or match.search.consumers.get(name):
                return f"'{name}' is read too"
            continue
        new = facts[name]
        if old.shape is None or new.shape != old.shape:
            return f"'{name}' is {old.shape}, fused it would be {new.shape}"
        if None not in (old.dtype, new.dtype) and new.dtype != old.dtype:
            return f"'{name}' is {old.dtype}, fused it would be {new.dtype}"
    return None


def sweep(graph: Graph, fusion: Fusion) -> tuple[Graph, int]:
    """Every match that overlaps no earlier one replaced, and their number."""
    search, taken = Search(graph), set[int]()
    built: dict[int, Sequence[Node]] = {}
    constants = dict(graph.constants)
    for node in graph.nodes:
        match = fusion.match(node, search)
        if match is None or taken.intersection(map(id, match.nodes)):
            continue
        built[id(node)] = match.built
        taken.update(map(id, match.nodes))
        constants.update(match.added)
    if not built:
        return graph, 0
    kept = (() if id(node) in taken else (node,) for node in graph.nodes)
    new = (built.get(id(node), old) for node, old in zip(graph.nodes, kept, strict=True))
    nodes = [node for each in new for node in each]
    return graph.changed(nodes=tuple(nodes), constants=constants).without_dead_nodes(), len(built)


def fuse(graph: Graph, fusion: Fusion) -> Graph:
    """The graph with every match of the fusion replaced."""
    count = 1
    while count:
        graph, count = sweep(graph, fusion)
    return graph


def fuse_all(graph: Graph, fusions: Sequence[Fusion]) -> Graph:
    """Each fusion in turn, until none of them finds anything more."""
    count = 1
    while count:
        count = 0
        for fusion in fusions:
            graph, changed = sweep(graph, fusion)
            count += changed
    return graph


def why(graph: Graph, fusion: Fusion) -> str:
    """A sentence: where the fusion came nearest to a match, and what was in the way."""
    search, best, sentence = Search(graph), 1, "nothing in the graph looks like it"
    for node in graph.nodes:
        search.reached = -1
        if fusion.match(node, search) is None and search.reached > best:
            best = search.reached
            place = f" at {search.place}" if search.place else ""
            sentence = f"{best} operators fit{place}, but {search.reason}"
    return f"{fusion.name}: {sentence}"
