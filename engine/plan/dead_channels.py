"""Dead channels: outputs of pruned layers that nobody reads need not be made.

A channel of x is read by a Linear where a column of its weight is not all zero, a channel of V by
those who read that channel of the context; everybody else reads all.  In bytes a channel left
unmade is harmless where it is multiplied by zero.  In floats it could be NaN, so what counts there
is what a kernel multiplies at all: sparse ones whole blocks, others everything.

Where an output of a Linear has no weights it is the same for every token.  Four channels in which
queries and keys both are so add the same number to every score of a head, known beforehand.  In
floats it is enough that keys are: softmax takes out whatever all scores of a query have in common.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..graph import Graph, Node
from ..ops import Trait, kinds
from ..ops.fused import linear
from ..passes.shapes import UNKNOWN, infer
from .ranges import attention_is_bytes

__all__ = ["constant_scores", "live_channels", "varying_fours"]

Array = NDArray[Any]
BY_ELEMENT = kinds(Trait.EACH)


def live_channels(
    graph: Graph, varying: Mapping[str, Array], blocks: Mapping[str, int]
) -> dict[str, Array]:
    """Value -> bool [channels]: which of them are read, for values of which not all are; varying:
    attentions that leave constant channels of queries and keys out, as varying_fours has them;
    blocks: output of a float Linear -> how many inputs it reads together, 0 for all.
    """
    read: dict[str, Array | None] = {value.name: None for value in graph.outputs}  # None: all
    by_channel = _by_channel(graph)
    for node in reversed(graph.nodes):
        for place, name in enumerate(node.inputs):
            if not name or name in graph.constants:
                continue
            result = read.get(node.outputs[0])
            if node.outputs[0] in by_channel:
                mask = result
            else:
                mask = _read_by(graph, node, place, result, varying, blocks)
            before = read.get(name, mask)
            if mask is None or before is None or len(mask) != len(before):
                read[name] = None
            else:
                read[name] = before | mask
    return {name: mask for name, mask in read.items() if mask is not None and not mask.all()}


def _read_by(
    graph: Graph,
    node: Node,
    place: int,
    result: Array | None,
    varying: Mapping[str, Array],
    blocks: Mapping[str, int],
) -> Array | None:
    """What a node reads of an input, if `result` is what is read of its own."""
    if _is_attention(node):
        if place == 2:
            return result
        fours = varying.get(node.outputs[0]) if place < 2 else None
        return None if fours is None else fours.ravel().repeat(4)
    weight, block = _weight(graph, node) if place == 0 else None, 1
    if place == 0 and node.outputs[0] in blocks:
        weight, block, result = graph.constants[node.weight], blocks[node.outputs[0]], None
    if weight is None or not block or (result is not None and len(result) != len(weight)):
        return None
    read = (weight if result is None else weight[result]).any(axis=0)
    in_blocks = np.pad(read, (0, -len(read) % block)).reshape(-1, block).any(axis=1)
    return np.asarray(in_blocks.repeat(block)[: len(read)])


def _by_channel(graph: Graph) -> set[str]:
    """Results whose channels are made of those channels alone, of each operand."""
    facts, found = infer(graph), set[str]()
    for node in graph:
        if node.kind not in BY_ELEMENT:
            continue
        operands = [name for name in node.inputs if name and name not in graph.constants]
        shapes = {facts.get(name, UNKNOWN).shape for name in (*operands, *node.outputs)}
        if len(shapes) == 1 and None not in shapes:
            found.add(node.outputs[0])
    return found


def _is_attention(node: Node) -> bool:
    return node.kind == "engine.Attention"


def _weight(graph: Graph, node: Node | None) -> Array | None:
    """Whole numbers [outputs, inputs] of a Linear that reads bytes."""
    if node is None or node.kind != "engine.Linear":
        return None
    weight = graph.constants.get(node.weight)
    static = node.attributes.get("input") is not None and not node.attributes.get("dynamic")
    return weight if static and weight is not None and weight.dtype.kind == "i" else None


def varying_fours(graph: Graph, *, in_bytes: bool = True) -> dict[str, Array]:
    """Output of an attention -> bool [heads, depth / 4]: fours of channels in which keys (in bytes:
    queries or keys) differ from token to token; for attentions in which not all do, and in which
    they are not multiplied with positions.
    """
    found, producer = {}, graph.producer()
    for node in graph:
        if not _is_attention(node) or (attention_is_bytes(node) and not in_bytes):
            continue
        if node.key_positions or node.query_positions:
            continue
        heads = int(node.attributes["heads"])
        query, key = producer.get(node.query), producer.get(node.key)
        if attention_is_bytes(node):
            varying = _varying_in_bytes(_made_of(graph, query), _made_of(graph, key))
        else:
            varying = _outputs_with_weights(graph, key)
        if varying is None or len(varying) % (4 * heads):
            continue
        fours = varying.reshape(heads, -1, 4).any(axis=2)
        if not fours.all():
            found[node.outputs[0]] = fours
    return found


def _made_of(graph: Graph, node: Node | None) -> Array | None:
    """Whole numbers [outputs, inputs] of a Linear that makes bytes of bytes."""
    output = None if node is None else node.attributes.get("output")
    return None if output is None else _weight(graph, node)


def _varying_in_bytes(query: Array | None, key: Array | None) -> Array | None:
    """bool [channels]: those in which queries or keys have weights; None where it is not known."""
    if query is None or key is None or len(query) != len(key):
        return None
    return np.asarray(query.any(axis=1) | key.any(axis=1))


def _outputs_with_weights(graph: Graph, node: Node | None) -> Array | None:
    """bool [outputs] of a Linear; None where it is not known."""
    if node is None or node.kind != "engine.Linear" or node.weight not in graph.constants:
        return None
    return np.asarray(graph.constants[node.weight].any(axis=1))


def constant_scores(graph: Graph, node: Node, fours: Array) -> Array:
    """int64 [heads]: what the other fours add to every score of a head."""
    producer, parts = graph.producer(), []
    for made, name in zip((node.query, node.key), ("query", "key"), strict=True):
        value = _of_no_weights(graph, producer[made]) - int(node.attributes[name].zero_point)
        parts.append(np.where(fours.ravel().repeat(4), 0, value))
    return np.asarray((parts[0] * parts[1]).reshape(len(fours), -1).sum(axis=1))


def _of_no_weights(graph: Graph, node: Node) -> Array:
    """int64 [outputs]: the bytes a Linear makes where its weights are zero."""
    weight, source = graph.constants[node.weight], node.attributes["input"]
    scale, bias = (
        graph.constants[name] if name else None for name in (node.weight_scale, node.bias)
    )
    x = np.full((1, weight.shape[1]), source.zero_point, source.dtype)
    names = ("input", "product", "output", "activation")
    how: dict[str, Any] = {name: node.attributes.get(name) for name in names}
    made = linear(x, np.zeros_like(weight), scale, bias, **how)
    return made[0].astype(np.int64)
