"""Simulated quantisation becomes what is stored: attributes of the fused operators.

Case 1: all readers of a result take it quantised the same way: the operator stores it (`output`).
Case 2: some reader takes the float32 value: a QuantizeLinear stands beside it.
Case 3: a reader with an attribute for it (Linear, LayerNorm, Attention) takes the stored value, any
        other one reads a DequantizeLinear.
Case 4: the quantised product of a Linear whose result goes only to a LayerNorm is stored; the bias
        moves to the LayerNorm.
Case 5: 8-bit weights whose input is float32 are no integer product: they become float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..graph import Graph, Node, Quantization
from ..ops.operators import DECLARED
from .clean import merge_twins
from .simulate import quantization_constants, spelled_out

__all__ = ["quantize"]

STORING = {kind for kind, row in DECLARED.items() if "output" in row.attributes}
PASSING = ("engine.Select", "engine.Mask")  # what they make is stored as what they read


def quantize(graph: Graph) -> Graph:
    """The graph with no simulated quantisation left."""
    graph = twice_quantized(merge_twins(graph))
    graph = dynamic_inputs(moved_bias(graph))
    graph = spelled_out(stored(graph))
    return float_weights(graph).without_dead_nodes()


# --- cases 1 to 3 ---
@dataclass
class Storage:
    """Where the quantised form of a FakeQuantize's result lies, and nodes to add after a node."""

    stored: dict[str, tuple[str, Quantization]] = field(default_factory=dict)
    output: dict[str, tuple[str, Quantization]] = field(
        default_factory=dict
    )  # producer's value -> its new name


def stored(graph: Graph) -> Graph:
    storage, constants = storage_of(graph), dict(graph.constants)
    outputs = {value.name for value in graph.outputs}
    floats = {name for node in graph.nodes for name in read_as_float(node, storage)} | outputs
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.kind == "engine.FakeQuantize":
            nodes.extend(unfolded(node, storage, constants, floats))
        elif node.kind in PASSING and node.outputs[0] in storage.stored:
            nodes.extend(passed_on(node, storage, constants, floats))
        else:
            nodes.append(reading_stored(storing(node, storage), storage))
    return graph.changed(nodes=tuple(nodes), constants=constants).without_dead_nodes()


def storage_of(graph: Graph) -> Storage:
    consumers, producer = graph.consumers(), graph.producer()
    outputs, storage = {value.name for value in graph.outputs}, Storage()
    for node in graph.nodes:
        if node.kind in PASSING and node.x in storage.stored:
            how = storage.stored[node.inputs[0]][1]
            storage.stored[node.outputs[0]] = (f"{node.outputs[0]}.stored", how)
        if node.kind != "engine.FakeQuantize":
            continue
        source, how = node.inputs[0], node.attributes["quantization"]
        name = f"{node.outputs[0]}.stored"
        storage.stored[node.outputs[0]] = (name, how)
        made = producer.get(source)
        if made and made.kind in STORING and source not in outputs and consumers[source] == [node]:
            storage.output[source] = (name, how)
    return storage


def storing(node: Node, storage: Storage) -> Node:
    """A fused operator that stores its result."""
    if node.outputs[0] not in storage.output:
        return node
    name, how = storage.output[node.outputs[0]]
    return node.changed(outputs=(name,), attributes={**node.attributes, "output": how})


def slots(node: Node, storage: Storage) -> list[tuple[int, str]]:
    """The inputs that the node takes stored, with their attributes."""
    if node.kind == "engine.Linear" and node.attributes["dynamic"]:
        return []
    if node.kind == "engine.Select" and node.x in storage.stored:
        return [(0, "")]  # no attribute: a row is stored as the whole is
    declared = DECLARED[node.kind].inputs if node.kind in DECLARED else ()
    stored = (i for i, each in enumerate(declared[: len(node.inputs)]) if each.stored)
    return [(i, declared[i].stored) for i in stored if node.inputs[i] in storage.stored]


def reading_stored(node: Node, storage: Storage) -> Node:
    inputs, attributes = list(node.inputs), dict(node.attributes)
    for i, attribute in slots(node, storage):
        inputs[i], attributes[attribute] = storage.stored[node.inputs[i]]
    return node.changed(inputs=tuple(inputs), attributes=attributes)


def read_as_float(node: Node, storage: Storage) -> set[str]:
    if node.kind == "engine.FakeQuantize" and node.inputs[0] in storage.output:
        return set()
    taken = {i for i, _ in slots(node, storage)}
    return {name for i, name in enumerate(node.inputs) if i not in taken}


def unfolded(
    node: Node, storage: Storage, constants: dict[str, Any], floats: set[str]
) -> list[Node]:
    """QuantizeLinear if the producer does not store, DequantizeLinear if somebody reads float32."""
    name, how = storage.stored[node.outputs[0]]
    parameters = quantization_constants(constants, how)
    nodes = []
    if node.inputs[0] not in storage.output:
        nodes.append(Node("QuantizeLinear", (node.inputs[0], *parameters), (name,), {}, node.name))
    if node.outputs[0] in floats:
        nodes.append(Node("DequantizeLinear", (name, *parameters), node.outputs, {}, node.name))
    return nodes


def passed_on(
    node: Node, storage: Storage, constants: dict[str, Any], floats: set[str]
) -> list[Node]:
    """A Select of what is stored stores its row, a Mask what it leaves."""
    name, how = storage.stored[node.outputs[0]]
    inputs = (storage.stored[node.x][0], *node.inputs[1:])
    more = {attribute: how for _, attribute in slots(node, storage) if attribute}
    row = node.changed(inputs=inputs, outputs=(name,), attributes={**node.attributes, **more})
    if node.outputs[0] not in floats:
        return [row]
    parameters = quantization_constants(constants, how)
    return [row, Node("DequantizeLinear", (name, *parameters), node.outputs, {}, node.name)]


def twice_quantized(graph: Graph) -> Graph:
    """Attention -> FakeQuantize -> FakeQuantize: the first is that of the product p . v; of a
    Linear of bytes without a bias it is that of the product, too.
    """
    producer, consumers = graph.producer(), graph.consumers()
    outputs = {value.name for value in graph.outputs}
    replaced: dict[str, Node | None] = {}
    for node in graph.nodes:
        first = producer.get(node.inputs[0]) if node.kind == "engine.FakeQuantize" else None
        made = (
            producer.get(first.inputs[0])
            if first is not None and first.kind == "engine.FakeQuantize"
            else None
        )
        if first is None or made is None or not makes_a_product(made, producer):
            continue
        if consumers[first.outputs[0]] == [node] and consumers[made.outputs[0]] == [first]:
            if outputs.intersection((*first.outputs, *made.outputs)):
                continue
            product = {**made.attributes, "product": first.attributes["quantization"]}
            replaced[made.outputs[0]] = made.changed(outputs=first.outputs, attributes=product)
            replaced[first.outputs[0]] = None
    nodes = tuple(
        new for node in graph.nodes if (new := replaced.get(node.outputs[0], node)) is not None
    )
    return graph.changed(nodes=nodes)


def makes_a_product(node: Node, producer: Mapping[str, Node]) -> bool:
    """Whether what quantises the node's result quantises its product."""
    if node.kind != "engine.Linear":
        return node.kind == "engine.Attention"
    source, how = producer.get(node.x), node.attributes
    in_bytes = source is not None and source.kind == "engine.FakeQuantize"
    done = node.bias or how["product"] or how["activation"] or how["dynamic"]
    return in_bytes and how["precision"] == "int8" and not done


# --- case 4 ---
def moved_bias(graph: Graph) -> Graph:
    """Linear(product, bias) -> LayerNorm as Linear -> FakeQuantize(product) -> LayerNorm(bias)."""
    consumers = graph.consumers()
    outputs = {value.name for value in graph.outputs}
    biases: dict[str, str] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        value = node.outputs[0]
        readers = consumers.get(value, [])
        if (
            node.kind == "engine.Linear"
            and value not in outputs
            and goes_to_layer_norm(node, readers)
        ):
            inputs, product = (*node.inputs[:3], ""), f"{value}.product"
            attributes = {**node.attributes, "product": None}
            nodes.append(node.changed(inputs=inputs, outputs=(product,), attributes=attributes))
            how = {"quantization": node.attributes["product"]}
            nodes.append(Node("FakeQuantize", (product,), (value,), how, node.name, "engine"))
            biases[value] = node.bias
        elif node.kind == "engine.LayerNorm" and node.x in biases:
            x, skip, _, gamma, beta = node.inputs
            nodes.append(node.changed(inputs=(x, skip, biases[x], gamma, beta)))
        else:
            nodes.append(node)
    return graph.changed(nodes=tuple(nodes))


def goes_to_layer_norm(node: Node, readers: list[Node]) -> bool:
    if node.attributes["product"] is None or node.attributes["activation"] or len(readers) != 1:
        return False
    norm, value = readers[0], node.outputs[0]
    alone = norm.inputs[0] == value and norm.inputs.count(value) == 1
    return norm.kind == "engine.LayerNorm" and alone and not norm.bias


# --- dynamic quantisation, case 5 ---
def dynamic_inputs(graph: Graph) -> Graph:
    """Linear(DynamicFakeQuantize(x)) quantises x itself."""
    producer, nodes = graph.producer(), []
    for node in graph.nodes:
        source = producer.get(node.x) if node.kind == "engine.Linear" else None
        if (
            source is not None
            and source.kind == "engine.DynamicFakeQuantize"
            and node.attributes["precision"] == "int8"
        ):
            attributes = {**node.attributes, "dynamic": source.attributes["dynamic"]}
            node = node.changed(inputs=(source.inputs[0], *node.inputs[1:]), attributes=attributes)
        nodes.append(node)
    return graph.changed(nodes=tuple(nodes)).without_dead_nodes()


def float_weights(graph: Graph) -> Graph:
    constants, nodes = dict(graph.constants), []
    for node in graph.nodes:
        if node.kind == "engine.Linear" and only_weights_stored(node):
            name = f"{node.weight}.float"
            scale = constants[node.weight_scale][:, None]
            constants[name] = (constants[node.weight] * scale).astype(np.float32)
            attributes = {**node.attributes, "precision": "float32"}
            inputs = (node.x, name, "", node.bias)
            node = node.changed(inputs=inputs, attributes=attributes)
        nodes.append(node)
    return graph.changed(nodes=tuple(nodes), constants=constants)


def only_weights_stored(node: Node) -> bool:
    how = node.attributes
    return how["precision"] == "int8" and not (how["input"] or how["dynamic"])
