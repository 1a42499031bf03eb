"""Detours of exporters, made short: what is put together only to be taken apart again.

Case 1: Gather of one place of a Concat: of the part that it comes from (torch's stack, indexed).
Case 2: Gather of the only place of an axis: Squeeze, and of an Unsqueeze nothing at all.
Case 3: parts of a Concat without elements are left out.
Case 4: Einsum of two vectors, every product of two elements: Mul.
Case 5: Split of a Concat into its parts, Squeeze of an Unsqueeze: nothing at all.
Case 6: a Range of whole numbers in floats is counted in whole numbers, whose count is followed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..graph import Graph, Node
from .head_views import with_axis
from .shapes import UNKNOWN, Fact, infer

__all__ = ["shorten"]

Array = NDArray[Any]
EXACT = {"float32", "float64"}  # types that hold every whole number a Range can reach


class Place:
    """A graph while its nodes are gone through; `constants` grows."""

    def __init__(self, graph: Graph) -> None:
        self.opset, self.facts = graph.opset, infer(graph)
        self.producer, self.constants = graph.producer(), dict(graph.constants)

    def fact(self, name: str) -> Fact:
        return self.facts.get(name, UNKNOWN)

    def constant(self, name: str, array: Array) -> str:
        while name in self.constants or name in self.producer:
            name += "_"
        self.constants[name] = array
        return name


def shorten(graph: Graph) -> Graph:
    """The graph without detours that RULES know; the very same where there are none."""
    place = Place(graph)
    parts: dict[int, list[Node]] = {}
    for node in graph.nodes:
        rule = RULES.get(node.kind)
        found = rule(node, place) if rule else None
        if found:
            parts[id(node)] = found
    if not parts:
        return graph
    nodes = [new for node in graph.nodes for new in parts.get(id(node), [node])]
    return graph.changed(nodes=tuple(nodes), constants=place.constants).without_dead_nodes()


# --- cases 1 and 2 ---
def gather(node: Node, place: Place) -> list[Node] | None:
    index, shape = place.constants.get(node.inputs[1]), place.fact(node.inputs[0]).shape
    if index is None or index.ndim or index.dtype.kind not in "iu" or shape is None:
        return None
    axis = node.attributes.get("axis", 0) % max(len(shape), 1)
    length = shape[axis] if shape else ""
    if not isinstance(length, int) or not -length <= index < length:
        return None
    if length == 1:
        return only_place(node, axis, place)
    source = place.producer.get(node.inputs[0])
    if source is None or source.kind != "Concat" or source.attributes["axis"] % len(shape) != axis:
        return None
    return part_of(node, source, axis, int(index) % length, place)


def only_place(node: Node, axis: int, place: Place) -> list[Node]:
    source = place.producer.get(node.inputs[0])
    if source is not None and source.kind == "Unsqueeze" and axes_of(source, place) == [axis]:
        return [node.changed(op="Identity", inputs=source.inputs[:1], attributes={})]
    x, y = node.inputs[0], node.outputs[0]
    return [with_axis("Squeeze", x, axis, y, place.opset, place.constants)]


def axes_of(node: Node, place: Place) -> list[int] | None:
    """Of an Unsqueeze or Squeeze, where they are known and count from the start."""
    given = node.attributes.get("axes")
    if given is None and len(node.inputs) > 1:
        given = place.constants.get(node.inputs[1])
    axes = None if given is None else [int(axis) for axis in np.ravel(given)]
    return axes if axes is not None and min(axes, default=-1) >= 0 else None


def part_of(node: Node, source: Node, axis: int, index: int, place: Place) -> list[Node] | None:
    for part in source.inputs:
        shape = place.fact(part).shape
        length = None if shape is None else shape[axis]
        if not isinstance(length, int):
            return None
        if index < length:
            name = place.constant(f"{node.outputs[0]}.place", np.array(index))
            return [node.changed(inputs=(part, name), attributes={"axis": axis})]
        index -= length
    return None


# --- case 3 ---
def concat(node: Node, place: Place) -> list[Node] | None:
    shapes = [place.fact(name).shape for name in node.inputs]
    axis = node.attributes["axis"]
    if any(shape is None or not shape for shape in shapes):
        return None
    kept = [
        name
        for name, shape in zip(node.inputs, shapes, strict=True)
        if shape and shape[axis % len(shape)] != 0
    ]
    return [node.changed(inputs=tuple(kept))] if 0 < len(kept) < len(node.inputs) else None


# --- case 4 ---
def einsum(node: Node, place: Place) -> list[Node] | None:
    equation = str(node.attributes["equation"]).replace(" ", "")
    letters = set("".join(equation[::2])) if len(equation) == 7 else set()
    a, b = equation[:1], equation[2:3]
    ranks = [place.fact(name).rank for name in node.inputs]
    if equation != f"{a},{b}->{a}{b}" or a == b or not letters or ranks != [1, 1]:
        return None
    column = f"{node.outputs[0]}.column"
    return [
        with_axis("Unsqueeze", node.inputs[0], 1, column, place.opset, place.constants),
        Node("Mul", (column, node.inputs[1]), node.outputs, {}, node.name),
    ]


# --- case 5 ---
def split(node: Node, place: Place) -> list[Node] | None:
    source, shape = place.producer.get(node.inputs[0]), place.fact(node.inputs[0]).shape
    if source is None or source.kind != "Concat" or not shape:
        return None
    axis = node.attributes.get("axis", 0) % len(shape)
    if source.attributes["axis"] % len(shape) != axis:
        return None
    parts, made = (
        [place.fact(name).shape for name in names] for names in (source.inputs, node.outputs)
    )
    if None in made or parts != made or not all(isinstance(s[axis], int) for s in made if s):
        return None
    pairs = zip(source.inputs, node.outputs, strict=True)
    return [Node("Identity", (part,), (name,), {}, node.name) for part, name in pairs]


def squeeze(node: Node, place: Place) -> list[Node] | None:
    source = place.producer.get(node.inputs[0])
    if source is None or source.kind != "Unsqueeze":
        return None
    axes = axes_of(node, place)
    if axes is None or len(axes) != 1 or axes_of(source, place) != axes:
        return None
    return [Node("Identity", source.inputs[:1], node.outputs, {}, node.name)]


# --- case 6 ---
def ranged(node: Node, place: Place) -> list[Node] | None:
    start, step = (place.constants.get(node.inputs[i]) for i in (0, 2))
    source, dtype = place.producer.get(node.inputs[1]), place.fact(node.inputs[1]).dtype
    if start is None or step is None or source is None or source.kind != "Cast":
        return None
    counted = place.fact(source.inputs[0]).dtype
    if start != 0 or step != 1 or dtype not in EXACT or counted not in ("int32", "int64"):
        return None
    whole = [
        place.constant(f"{node.outputs[0]}.{name}", np.array(number, counted))
        for name, number in (("first", 0), ("step", 1))
    ]
    inputs, name = (whole[0], source.inputs[0], whole[1]), f"{node.outputs[0]}.whole"
    return [
        Node("Range", inputs, (name,), {}, node.name),
        Node("Cast", (name,), node.outputs, {"to": dtype}, node.name),
    ]


RULES: Mapping[str, Callable[[Node, Place], list[Node] | None]] = {
    "Gather": gather,
    "Concat": concat,
    "Einsum": einsum,
    "Split": split,
    "Squeeze": squeeze,
    "Range": ranged,
}
