"""Channels that are taken out of a value, by Split, Slice or Gather along the last axis: Channels.

A question answerer ends so: logits [batch, sequence, 2] become those of the start and of the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..graph import Graph, Node
from ..ops import Trait, kinds
from .select import squeeze
from .shapes import Fact, infer

__all__ = ["channels"]

MADE = kinds(Trait.EACH | Trait.SAME) | kinds(Trait.ALONG | Trait.SAME) | kinds(Trait.VIEWS)
Part = tuple[str, int, int]  # value, first channel, count


def channels(graph: Graph) -> Graph:
    """Each of them as a Channels for every result, and a Squeeze where Gather drops the axis."""
    facts, producer, constants = infer(graph), graph.producer(), dict(graph.constants)
    nodes: list[Node] = []
    for node in graph.nodes:
        made = producer.get(node.inputs[0])
        parts = None
        if made is not None and (made.domain == "engine" or made.kind in MADE):
            parts = _parts(graph, node, facts)
        if parts is None:
            nodes.append(node)
            continue
        rank = facts[node.inputs[0]].rank or 0
        dropped = node.kind == "Gather" and graph.constants[node.inputs[1]].ndim == 0
        for value, first, count in parts:
            result = f"{value}.channel" if dropped else value
            attributes = {"first": first, "count": count}
            name = node.name if len(parts) == 1 else value
            nodes.append(Node("Channels", node.inputs[:1], (result,), attributes, name, "engine"))
            if dropped:
                axes = f"{value}.axis"
                constants[axes] = np.array([rank - 1], np.int64)
                nodes.append(_squeezed(result, axes, value, rank - 1, graph.opset))
    return graph.changed(nodes=tuple(nodes), constants=constants).without_dead_nodes()


def _squeezed(x: str, axes: str, y: str, axis: int, opset: int) -> Node:
    node = squeeze(x, axes, y, opset)
    return node if len(node.inputs) > 1 else node.changed(attributes={"axes": (axis,)})


def _parts(graph: Graph, node: Node, facts: Mapping[str, Fact]) -> Sequence[Part] | None:
    """What the node takes out of the last axis of [..., channels]; None where it does another
    thing, or what it takes is stored in bytes.
    """
    shape, dtype = facts[node.inputs[0]].shape, facts[node.inputs[0]].dtype
    if (
        dtype not in (None, "float32")
        or shape is None
        or len(shape) < 2
        or not isinstance(shape[-1], int)
        or node.domain
    ):
        return None
    rule = RULES.get(node.kind)
    return None if rule is None else rule(graph, node, facts, len(shape), shape[-1])


def _of_split(
    graph: Graph, node: Node, facts: Mapping[str, Fact], rank: int, most: int
) -> Sequence[Part] | None:
    if node.attributes.get("axis", 0) not in (-1, rank - 1):
        return None
    counts = [(facts[name].shape or ("",))[-1] for name in node.outputs if name]
    whole = [count for count in counts if isinstance(count, int)]
    if len(whole) != len(node.outputs) or sum(whole) != most:
        return None
    firsts = np.cumsum([0, *whole[:-1]]).tolist()
    return list(zip(node.outputs, firsts, whole, strict=True))


def _of_gather(
    graph: Graph, node: Node, facts: Mapping[str, Fact], rank: int, most: int
) -> Sequence[Part] | None:
    index = graph.constants.get(node.inputs[1])
    if node.attributes.get("axis", 0) not in (-1, rank - 1) or index is None or index.size != 1:
        return None
    first = int(index.reshape(()))
    if index.ndim > 1 or not -most <= first < most:
        return None
    return [(node.outputs[0], first % most, 1)]


def _of_slice(
    graph: Graph, node: Node, facts: Mapping[str, Fact], rank: int, most: int
) -> Sequence[Part] | None:
    given = [graph.constants.get(name) for name in node.inputs[1:] if name]
    if len(given) != len(node.inputs) - 1 or len(given) < 3:
        return None
    numbers = [
        int(array.reshape(-1)[0]) for array in given if array is not None and array.shape == (1,)
    ]
    if (
        len(numbers) != len(given)
        or numbers[2] not in (-1, rank - 1)
        or numbers[3:] not in ([], [1])
    ):
        return None
    found = range(most)[numbers[0] : numbers[1]]
    return [(node.outputs[0], found.start, len(found))] if found else None


RULES = {"Gather": _of_gather, "Slice": _of_slice, "Split": _of_split}
