"""Linear layers that were joined, apart again: query, key and value, or what a gate multiplies.

Exporters write one product and take its channels apart behind it, by Split, Slice or Gather, before
or behind the views that make heads of them.  Each selection becomes a Linear of its own, with those
rows of the weight: the same numbers.  Which rows these are, and in what order they come, is found
by moving numbered elements (movement.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineError
from ..graph import Graph, Node
from ..ops.reference import evaluate
from .clean import substitute
from .head_views import View, view_nodes, views_of
from .match import Search
from .movement import MOVEMENTS, VIEWS, known, lengths, moved, size
from .shapes import Fact

__all__ = ["separate"]

Array = NDArray[Any]
SELECTIONS = (MOVEMENTS - VIEWS) | {"Split"}
BETWEEN = VIEWS | {"engine.FakeQuantize"}  # they treat each channel alike, wherever it lies
LEAST_CHANNELS = 16  # of a Linear; fewer are a row of a classifier's, not a layer


@dataclass(frozen=True)
class Piece:
    """One result of a selection: channels of the joined Linear, in a view."""

    value: str
    channels: Array
    view: View


Pieces = list[tuple[list[Node], Piece]]  # and the nodes between the Linear and the selection


def separate(graph: Graph) -> Graph:
    """Every Linear of which others only select channels as one for each selection."""
    while True:
        search = Search(graph)
        linears = [node for node in graph if node.kind == "engine.Linear"]
        found = [(node, pieces) for node in linears if (pieces := pieces_of(node, search))]
        if not found:
            return graph
        graph = taken_apart(graph, found)


# --- which channels ---
def pieces_of(linear: Node, search: Search) -> Pieces | None:
    """For each selection the nodes before it and what it takes; None where the Linear is read in
    any other way, or all of it is taken.
    """
    found: Pieces = []
    for path in selections(linear.outputs[0], [], search):
        pieces = None if path is None else taken(linear, path, search)
        if path is None or not pieces:
            return None
        found += [(path[:-1], piece) for piece in pieces]
    outputs = len(search.graph.constants[linear.weight])
    return found if all(len(piece.channels) < outputs for _, piece in found) else None


def selections(value: str, path: list[Node], search: Search) -> Iterator[list[Node] | None]:
    """The nodes from a value down to each selection of it; None where something else reads it."""
    if value in search.outputs:
        yield None
    for node in search.consumers.get(value, []):
        if node.inputs[0] != value or node.inputs.count(value) > 1:
            yield None
        elif node.kind in SELECTIONS:
            yield [*path, node]
        elif node.kind in BETWEEN:
            yield from selections(node.outputs[0], [*path, node], search)
        else:
            yield None


def taken(linear: Node, path: Sequence[Node], search: Search) -> list[Piece] | None:
    """What each result of the selection at the end of a path is."""
    facts, graph, selection = search.facts, search.graph, path[-1]
    shape = facts[linear.outputs[0]].shape
    names = lengths(facts, [linear.outputs[0]])
    if names is None or shape is None or len(shape) != 3:
        return None
    numbered = np.arange(np.prod(size(shape, names))).reshape(size(shape, names))
    before = moved(path[:-1], numbered, graph, facts, names)
    results = None if before is None else selected(selection, before, graph, facts, names)
    if results is None or len(results) < len(selection.outputs):
        return None
    pieces = [
        piece_of(value, result, numbered)
        for value, result in zip(selection.outputs, results, strict=False)
        if value
    ]
    return [piece for piece in pieces if piece] if all(pieces) else None


def selected(
    node: Node, x: Array, graph: Graph, facts: Mapping[str, Fact], names: Mapping[str, int]
) -> tuple[Array, ...] | None:
    inputs = [x, *(known(name, graph, facts, names) if name else None for name in node.inputs[1:])]
    if any(array is None for array, name in zip(inputs, node.inputs, strict=True) if name):
        return None
    try:
        return evaluate(node, inputs, graph.opset)
    except EngineError:
        return None


def piece_of(value: str, result: Array, numbered: Array) -> Piece | None:
    """What a selection's result is of the numbered elements [batch, tokens, channels]."""
    channels = np.unique(result % numbered.shape[2])
    part = numbered[:, :, channels]
    if len(channels) < LEAST_CHANNELS or result.size != part.size:
        return None
    for view in views_of(result.shape, len(channels)):
        if np.array_equal(view.of(part), result):
            return Piece(value, channels, view)
    return None


# --- rewriting ---
def taken_apart(graph: Graph, found: Sequence[tuple[Node, Pieces]]) -> Graph:
    """Each Linear as one for each set of channels, and behind these what stood there before."""
    constants, replaced = dict(graph.constants), dict[str, list[Node]]()
    for linear, pieces in found:
        made: dict[bytes, str] = {}
        for path, piece in pieces:
            key = piece.channels.tobytes()
            if key not in made:
                made[key] = f"{linear.outputs[0]}.{len(made)}"
                part = part_of(linear, piece.channels, made[key], constants)
                replaced.setdefault(linear.outputs[0], []).append(part)
            fakes = [node for node in path if node.kind == "engine.FakeQuantize"]
            replaced[piece.value] = behind(made[key], fakes, piece, constants, graph.opset)
    nodes: list[Node] = []
    for node in graph.nodes:
        nodes.extend([new for name in node.outputs for new in replaced.get(name, ())] or [node])
    graph = graph.changed(nodes=tuple(nodes), constants=constants).without_dead_nodes()
    same = {node.outputs[0]: node.inputs[0] for node in nodes if node.kind == "Identity"}
    return substitute(graph, same)


def part_of(linear: Node, channels: Array, name: str, constants: dict[str, Array]) -> Node:
    """The Linear of these channels alone."""
    number, inputs = name.rsplit(".", 1)[1], [linear.x]
    for parameter in linear.inputs[1:]:
        part = parameter and f"{parameter}.{number}"
        if part:
            constants[part] = np.ascontiguousarray(constants[parameter][channels])
        inputs.append(part)
    return linear.changed(
        inputs=tuple(inputs), outputs=(name,), name=linear.name and f"{linear.name}.{number}"
    )


def behind(
    x: str, fakes: list[Node], piece: Piece, constants: dict[str, Array], opset: int
) -> list[Node]:
    """Quantisations and views between a Linear and the value that a selection was."""
    nodes: list[Node] = []
    for number, fake in enumerate(fakes):
        nodes.append(fake.changed(inputs=(x,), outputs=(f"{piece.value}.quantised{number}",)))
        x = nodes[-1].outputs[0]
    views = view_nodes(x, piece.view, piece.value, opset, constants)
    return [*nodes, *(views or [Node("Identity", (x,), (piece.value,))])]
