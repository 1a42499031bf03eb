"""What a value means, found by running the part of the graph that makes it on small inputs.

Masks and positions are whole numbers spelled in dozens of ways (Range, Slice of a table, Expand,
CumSum, Where, GatherND ...) and cost nothing: the spelling is not matched, its result is compared
with the meaning, on inputs of several shapes.  A part that reads weights or activations is no
candidate (`part_above` answers None).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineError
from ..graph import Graph, Node
from ..ops import OPERATORS, Trait, kinds
from ..ops.reference import evaluate
from .match import Search
from .shapes import Fact
from .simulate import rounded

__all__ = [
    "HEAVY",
    "USUAL",
    "Part",
    "kinds_tried",
    "lengths_of",
    "number_of",
    "part_above",
    "probe",
    "sentences",
    "values_of",
]

Array = NDArray[Any]
LOOKUPS = {str(row) for row in OPERATORS if row.lookups}  # a graph's input that they read is ids
HEAVY = kinds(Trait.HEAVY)
USUAL = ((2, 3), (1, 4), (3, 7))  # batches and lengths that are tried of every mask
OF_IDS, OF_MASKS = 7, 2  # different numbers that are tried
LARGEST = 200  # nodes; a mask is made of a few dozen at most
MOST_TOKENS = 1 << 16


class Part:
    """The nodes that make a value, the graph inputs they read, the values known as lengths."""

    def __init__(self, value: str) -> None:
        self.value = value
        self.nodes: list[Node] = []
        self.inputs: list[str] = []
        self.lengths: list[str] = []


def part_above(
    value: str,
    search: Search,
    facts: Mapping[str, Fact],
    heavy: Collection[str] = HEAVY,
) -> Part | None:
    """Everything above a value, cut where contents follow from lengths; None where it is heavy."""
    part, seen = Part(value), set[str]()
    inputs = {item.name for item in search.graph.inputs}

    def visit(name: str) -> bool:
        if not name or name in seen or name in search.graph.constants:
            return True
        seen.add(name)
        if facts[name].contents is not None:
            part.lengths.append(name)
            return True
        if name in inputs:
            part.inputs.append(name)
            return True
        node = search.producer[name]
        if node.kind in heavy or len(part.nodes) > LARGEST:
            return False
        if node.kind == "Shape":  # its contents are not known: the shape of something heavy
            return False
        if not all(visit(parent) for parent in node.inputs):
            return False
        if node not in part.nodes:
            part.nodes.append(node)
        return True

    return part if visit(value) else None


def kinds_tried(search: Search, names: Iterable[str]) -> int:
    """How many numbers are tried of graph inputs: more than of masks where any are ids, as masks
    may be made of them.
    """
    readers = (node for name in names for node in search.consumers.get(name, ()))
    return OF_IDS if any(node.kind in LOOKUPS for node in readers) else OF_MASKS


def sentences(graph: Graph, batch: int, tokens: int, seed: int, kinds: int) -> dict[str, Array]:
    """Small whole numbers below `kinds` for every input [batch, sequence]; fixed lengths stay, and
    where one is too long to try there are none.
    """
    rng, given = np.random.default_rng(seed), (batch, tokens)
    feeds = {}
    for value in graph.inputs:
        if len(value.shape) == 2:
            lengths = zip(value.shape, given, strict=True)
            shape = [length if isinstance(length, int) else free for length, free in lengths]
            if math.prod(shape) > MOST_TOKENS:
                return {}
            feeds[value.name] = rng.integers(0, kinds, shape).astype(value.dtype)
    return feeds


def probe(
    part: Part, graph: Graph, facts: Mapping[str, Fact], feeds: Mapping[str, Array]
) -> Array | None:
    """The value for these feeds; None where it cannot be computed."""
    if part.value in graph.constants:
        return graph.constants[part.value]
    return values_of(part, graph, facts, feeds).get(part.value)


def values_of(
    part: Part,
    graph: Graph,
    facts: Mapping[str, Fact],
    feeds: Mapping[str, Array],
    given: Mapping[str, Array] | None = None,
) -> dict[str, Array]:
    """All values of the part, some of them given whatever their nodes would make; none where one
    cannot be computed.
    """
    given = given or {}
    names = lengths_of(graph, feeds)
    values: dict[str, Array] = {name: feeds[name] for name in part.inputs if name in feeds}
    for name in part.lengths:
        numbers = [number_of(length, names) for length in facts[name].contents or ()]
        if None in numbers:
            return {}
        shape = () if facts[name].shape == () else (len(numbers),)
        values[name] = np.array(numbers, facts[name].dtype or "int64").reshape(shape)
    try:
        for node in part.nodes:
            arrays = [graph.constants.get(n, values.get(n)) if n else None for n in node.inputs]
            if any(a is None for a, n in zip(arrays, node.inputs, strict=True) if n):
                return {}
            with np.errstate(all="ignore"):
                made = (
                    (rounded(arrays[0], node),)
                    if node.kind == "engine.FakeQuantize"
                    else evaluate(node, arrays, graph.opset)
                )
            values.update(zip(node.outputs, made, strict=False))
            values.update((name, given[name]) for name in node.outputs if name in given)
    except EngineError:
        return {}
    return values


def lengths_of(graph: Graph, feeds: Mapping[str, Array]) -> dict[str, int]:
    return {
        length: number
        for value in graph.inputs
        if value.name in feeds
        for length, number in zip(value.shape, feeds[value.name].shape, strict=True)
        if isinstance(length, str)
    }


def number_of(length: int | str, names: Mapping[str, int]) -> int | None:
    if isinstance(length, int):
        return length
    factors = [int(part) if part.isdigit() else names.get(part) for part in length.split("*")]
    known = [factor for factor in factors if factor is not None]
    return int(np.prod(known)) if len(known) == len(factors) else None
