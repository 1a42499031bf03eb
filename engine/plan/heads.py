"""Heads in whole sixteens of channels, as kernels take them: a TinyBERT's 26 channels become 32.

The added channels of query, key and value are zero, those of the context are not read: nothing of
what an attention means changes.  Kernels on bytes leave most of them out again (dead_channels.py).
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, MutableMapping, Sequence
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from ..graph import Graph, Node
from ..passes.sparsity import judged

__all__ = ["WHOLE", "with_whole_heads"]

Array = NDArray[Any]
WHOLE = 16  # channels of a head come in multiples of it


def with_whole_heads(graph: Graph) -> tuple[Graph, dict[str, Array]]:
    """The graph, and for each value that has more channels now where the old ones are: int64
    [channels].  Attentions between anything but Linears stay as they are.
    """
    added: dict[str, Array] = {}
    constants = ChainMap(added, graph.constants)  # type: ignore[arg-type]  # blocks stay as they are
    changed = {node.outputs[0]: node for node in graph}
    places: dict[str, Array] = {}
    for node in graph:
        parts = _around(graph, node)
        if parts is None:
            continue
        makers, readers = parts
        outputs, heads = len(graph.constants[makers[0].weight]), node.attributes["heads"]
        depth = outputs // heads
        whole = -(-depth // WHOLE) * WHOLE
        where = (whole * np.arange(heads)[:, None] + np.arange(depth)).ravel()
        for name in (maker.outputs[0] for maker in makers):
            changed[name] = _with_outputs(changed[name], constants, where, heads * whole)
        for name in (reader.outputs[0] for reader in readers):
            changed[name] = _with_inputs(changed[name], constants, where, heads * whole)
        wider = (*_operands(node), node.outputs[0], *(maker.outputs[0] for maker in makers))
        places.update(dict.fromkeys(wider, where))
    if not places:
        return graph, {}
    nodes = tuple(changed[node.outputs[0]] for node in graph)
    whole_graph = graph.changed(nodes=nodes, constants=dict(constants))
    judged_nodes = (judged(n, whole_graph) if set(added) & set(n.inputs) else n for n in nodes)
    return whole_graph.changed(nodes=tuple(judged_nodes)), places


def _around(graph: Graph, node: Node) -> tuple[list[Node], list[Node]] | None:
    """The Linears that make query, key and value of an attention whose heads are not whole, and
    those that read its result; None where there is nothing to do or others take part.
    """
    if node.kind != "engine.Attention" or node.key_positions or node.query_positions:
        return None
    producer, wanted = graph.producer(), {value.name for value in graph.outputs}
    rows = [each for name in _operands(node) if _is_select(each := producer.get(name))]
    of_rows = {row.outputs[0]: row.x for row in rows}
    made = list(dict.fromkeys(of_rows.get(name, name) for name in _operands(node)))
    makers, result = [producer.get(name) for name in made], node.outputs[0]
    readers = [other for other in graph if result in other.inputs]
    known = set(map(id, (node, *rows, *(each for each in graph if _shares(each, made, node)))))
    read = {name for other in graph if id(other) not in known for name in other.inputs}
    if (
        read & {*made, *of_rows}
        or wanted & {*made, *of_rows, result}
        or not all(map(_is_linear(graph), (*makers, *readers)))
    ):
        return None
    linears = [maker for maker in makers if maker is not None]
    outputs = {len(graph.constants[maker.weight]) for maker in linears}
    heads = node.attributes["heads"]
    if len(outputs) > 1 or min(outputs) % heads or min(outputs) // heads % WHOLE == 0:
        return None
    return linears, readers


def _operands(node: Node) -> tuple[str, ...]:
    return node.query, node.key, node.value


def _is_select(node: Node | None) -> TypeGuard[Node]:
    return node is not None and node.kind == "engine.Select"


def _shares(other: Node, made: Sequence[str], node: Node) -> bool:
    """Whether it is of queries and keys that are made so, for which more channels of 0 change
    nothing.
    """
    if other.kind != "engine.Probabilities" or not {other.query, other.key}.issubset(made):
        return False
    return bool(other.attributes["heads"] == node.attributes["heads"])


def _is_linear(graph: Graph) -> Callable[[Node | None], bool]:
    def check(node: Node | None) -> bool:
        return (
            node is not None
            and node.kind == "engine.Linear"
            and all(name in graph.constants for name in node.inputs[1:] if name)
        )

    return check


def _with_outputs(
    node: Node, constants: MutableMapping[str, Array], where: Array, count: int
) -> Node:
    """A Linear with zeros for the other outputs."""
    weight = constants[node.weight]
    rows = np.zeros((count, weight.shape[1]), weight.dtype)
    rows[where] = weight
    names = [node.x, _added(constants, f"{node.weight}.more_outputs", rows)]
    for name, rest in zip(node.inputs[2:], (1, 0), strict=False):
        if name:
            spread = np.full(count, rest, constants[name].dtype)
            spread[where] = constants[name]
            name = _added(constants, f"{name}.more_outputs", spread)
        names.append(name)
    return node.changed(inputs=tuple(names))


def _with_inputs(
    node: Node, constants: MutableMapping[str, Array], where: Array, count: int
) -> Node:
    """A Linear that reads only the old inputs."""
    weight = constants[node.weight]
    columns = np.zeros((len(weight), count), weight.dtype)
    columns[:, where] = weight
    name = _added(constants, f"{node.weight}.more_inputs", columns)
    return node.changed(inputs=(node.x, name, *node.inputs[2:]))


def _added(constants: MutableMapping[str, Array], name: str, array: Array) -> str:
    """The name; layers that share a constant share what it becomes."""
    constants[name] = array
    return name
