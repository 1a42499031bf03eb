"""Roundings that change nothing, as what they round is in the same steps, or is rounded so later.

    FakeQuantize(FakeQuantize(x))               the second is idle
    FakeQuantize(Concat(FakeQuantize(x), ...))  so is the first, behind what moves numbers
    Slice(FakeQuantize(Gather(table)))          and this one, of rows that are in its steps

Before a product the last one stays: it says that the product is one of bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..graph import Graph, Node, Quantization
from .clean import substitute
from .movement import MOVEMENTS, VIEWS

__all__ = ["drop_repeated", "quantization_of"]

Array = NDArray[Any]
FAKE = "engine.FakeQuantize"
MOVERS = (MOVEMENTS - VIEWS) | {"Concat", "Pad"}  # views stand before products, too
Producer = Mapping[str, Node]
Consumers = Mapping[str, Sequence[Node]]


def drop_repeated(graph: Graph) -> Graph:
    """The graph without them: first those that follow, else those that others follow."""
    producer, consumers = graph.producer(), graph.consumers()
    fakes = [node for node in graph.nodes if node.kind == FAKE]
    outputs = {value.name for value in graph.outputs}
    idle = [node for node in fakes if in_its_steps(graph, node, producer, consumers)]
    if not idle:
        idle = [node for node in fakes if moved_and_rounded(node, consumers, outputs)]
    names = {node.outputs[0]: node.inputs[0] for node in idle}
    return substitute(graph, names).without_dead_nodes() if names else graph


def in_its_steps(graph: Graph, node: Node, producer: Producer, consumers: Consumers) -> bool:
    """Whether what it rounds is in its steps already; moved there only where it moves on."""
    source, readers = producer.get(node.inputs[0]), consumers.get(node.outputs[0], [])
    if source is None:
        return False
    moves_on = bool(readers) and all(reader.kind in MOVERS for reader in readers)
    known = steps_of(graph, source, producer) if moves_on else rounding_of(graph, source)
    return known is not None and known == node.attributes["quantization"]


def steps_of(graph: Graph, node: Node, producer: Producer) -> Quantization | None:
    """The one scale in steps of which a node's result is, moved, joined and filled with 0."""
    if node.kind not in MOVERS:
        return rounding_of(graph, node)
    makers = [producer.get(name) for name in node.inputs[: None if node.kind == "Concat" else 1]]
    found = {None if each is None else steps_of(graph, each, producer) for each in makers}
    fill = node.inputs[2] if node.kind == "Pad" and len(node.inputs) > 2 else ""
    filled = bool(fill) and (fill not in graph.constants or bool(graph.constants[fill].any()))
    return found.pop() if len(found) == 1 and not filled else None


def moved_and_rounded(node: Node, consumers: Consumers, outputs: set[str]) -> bool:
    """Whether all that reads it only moves it, to where it is rounded the same."""
    how = node.attributes["quantization"]

    def rounded_behind(value: str) -> bool:
        readers = consumers.get(value, [])
        return value not in outputs and bool(readers) and all(map(rounds, readers))

    def rounds(reader: Node) -> bool:
        if reader.kind == FAKE:
            return bool(reader.attributes["quantization"] == how)
        return reader.kind in MOVERS and rounded_behind(reader.outputs[0])

    readers = consumers.get(node.outputs[0], [])
    direct = any(reader.kind == FAKE for reader in readers)
    return not direct and rounded_behind(node.outputs[0])


def rounding_of(graph: Graph, node: Node) -> Quantization | None:
    """The one scale in steps of which a node's result is."""
    if node.kind == FAKE:
        how: Quantization | None = node.attributes["quantization"]
        return how
    return quantization_of(graph, node) if node.kind == "DequantizeLinear" else None


def quantization_of(graph: Graph, node: Node) -> Quantization | None:
    """Of a QuantizeLinear or DequantizeLinear with one constant scale, in 8 bits."""
    reads, made = node.kind == "DequantizeLinear", node.attributes.get("output_dtype")
    scale = graph.constants.get(node.inputs[1])
    zero: Array | None = np.zeros((), "uint8" if reads else made or "uint8")
    if len(node.inputs) > 2 and node.inputs[2]:
        zero = graph.constants.get(node.inputs[2])
    if scale is None or zero is None or np.size(scale) != 1 or np.size(zero) != 1:
        return None
    if scale.dtype != np.float32 or (reads and made not in (None, "float32")):
        return None
    if zero.dtype not in (np.uint8, np.int8) or node.attributes.get("block_size"):
        return None
    return Quantization(float(np.reshape(scale, ())), int(zero.reshape(())), str(zero.dtype))
