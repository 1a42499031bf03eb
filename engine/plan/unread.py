"""Channels that need not be made: pruned models have many.

A channel of x is read by a Linear on bytes where a column of its weight is not all zero, a channel
of V by those who read that channel of the context; everybody else reads all.  In bytes a channel
left unmade is harmless where it is multiplied by zero; in floats it could be NaN.

Where an output of a Linear has no weights it is the same for every token.  Four channels in which
queries and keys both are so add the same number to every score of a head, known beforehand.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..graph import Graph, Node
from ..ops.fused import linear
from .quantized import attention_is_bytes

__all__ = ["channels_read", "constant_scores", "varying_fours"]

Array = NDArray[Any]


def channels_read(graph: Graph, varying: Mapping[str, Array]) -> dict[str, Array]:
    """Value -> bool [channels]: which of them are read, for values of which not all are; varying:
    attentions that leave constant channels of queries and keys out, as varying_fours has them.
    """
    read: dict[str, Array | None] = {value.name: None for value in graph.outputs}  # None: all
    for node in reversed(graph.nodes):
        for place, name in enumerate(node.inputs):
            if not name or name in graph.constants:
                continue
            mask = _read_by(graph, node, place, read.get(node.outputs[0]), varying)
            before = read.get(name, mask)
            read[name] = None if mask is None or before is None else before | mask
    return {name: mask for name, mask in read.items() if mask is not None and not mask.all()}


def _read_by(
    graph: Graph, node: Node, place: int, result: Array | None, varying: Mapping[str, Array]
) -> Array | None:
    """What a node reads of an input, if `result` is what is read of its own."""
    if _is_attention(node):
        if place == 2:
            return result
        fours = varying.get(node.outputs[0]) if place < 2 else None
        return None if fours is None else fours.ravel().repeat(4)
    weight = _weight(graph, node) if place == 0 else None
    if weight is None:
        return None
    return np.asarray((weight if result is None else weight[result]).any(axis=0))


def _is_attention(node: Node) -> bool:
    return (node.domain, node.op) == ("engine", "Attention") and attention_is_bytes(node)


def _weight(graph: Graph, node: Node | None) -> Array | None:
    """int8 [outputs, inputs] of a Linear from bytes to bytes."""
    if node is None or (node.domain, node.op) != ("engine", "Linear"):
        return None
    weight = graph.constants.get(node.inputs[1])
    static = node.attributes.get("input") is not None and not node.attributes.get("dynamic")
    return weight if static and weight is not None and weight.dtype == np.int8 else None


def varying_fours(graph: Graph) -> dict[str, Array]:
    """Output of an attention -> bool [heads, depth / 4]: fours of channels in which queries or keys
    differ from token to token; for attentions in which not all do.
    """
    found, producer = {}, graph.producer()
    for node in graph:
        if not _is_attention(node):
            continue
        query, key = (
            None if maker is None or maker.attributes.get("output") is None
            else _weight(graph, maker)
            for maker in (producer.get(name) for name in node.inputs[:2])
        )  # fmt: skip
        heads = int(node.attributes["heads"])
        if query is None or key is None or len(query) != len(key) or len(query) % (4 * heads):
            continue
        varying = query.any(axis=1) | key.any(axis=1)
        fours = varying.reshape(heads, -1, 4).any(axis=2)
        if not fours.all():
            found[node.outputs[0]] = fours
    return found


def constant_scores(graph: Graph, node: Node, fours: Array) -> Array:
    """int64 [heads]: what the other fours add to every score of a head."""
    producer, parts = graph.producer(), []
    for made, name in zip(node.inputs[:2], ("query", "key"), strict=True):
        value = _of_no_weights(graph, producer[made]) - int(node.attributes[name].zero_point)
        parts.append(np.where(fours.ravel().repeat(4), 0, value))
    return np.asarray((parts[0] * parts[1]).reshape(len(fours), -1).sum(axis=1))


def _of_no_weights(graph: Graph, node: Node) -> Array:
    """int64 [outputs]: the bytes a Linear makes where its weights are zero."""
    weight, scale, bias = (
        graph.constants[name] if name else None for name in (*node.inputs[1:3], node.inputs[3])
    )
    assert weight is not None
    a = node.attributes
    x = np.full((1, weight.shape[1]), a["input"].zero_point, a["input"].dtype)
    made = linear(
        x, np.zeros_like(weight), scale, bias,
        input=a["input"], product=a.get("product"), output=a["output"],
        activation=a.get("activation"),
    )  # fmt: skip
    return made[0].astype(np.int64)
