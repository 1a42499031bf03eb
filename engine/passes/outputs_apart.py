"""Probabilities that the graph gives out are computed apart from those that its attention uses.

A fusion takes only what nobody else reads.  So what makes an output between two products is there
twice: once for the output, once for what follows, which may then become an Attention.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ..graph import Graph, Node
from ..ops import Trait, kinds

__all__ = ["outputs_apart"]

HEAVY = kinds(Trait.HEAVY) - {"MatMul", "Softmax"}  # what an attention is made of is not
INSIDE = ".inside"


def outputs_apart(graph: Graph) -> Graph:
    """Every output that a Softmax makes, rounded or not, and other nodes read is made a second time
    for these; so is one that goes out in another type.
    """
    producer, consumers = graph.producer(), graph.consumers()
    given = [value.name for value in graph.outputs]
    casts = (producer[name] for name in given if name in producer)
    given += [node.inputs[0] for node in casts if node.kind == "Cast"]
    for name in given:
        others = [node for node in consumers.get(name, ()) if node.outputs[0] not in given]
        if others and is_softmax(name, producer):
            graph = made_twice(graph, name, given)
    return graph


def is_softmax(name: str, producer: Mapping[str, Node]) -> bool:
    node = producer.get(name)
    if node is not None and node.kind == "engine.FakeQuantize":
        node = producer.get(node.inputs[0])
    return node is not None and node.kind == "Softmax"


def made_twice(graph: Graph, name: str, given: Sequence[str]) -> Graph:
    """The value is the graph's output alone, or what that is cast from, `given`; what else read it
    reads another that is the same.
    """
    copies = {id(node): copied(node) for node in above(graph, name)}
    inside = {made for node in copies.values() for made in node.outputs}
    nodes: list[Node] = []
    for node in graph.nodes:
        goes_out = node.kind == "Cast" and node.outputs[0] in given
        reads = tuple(f"{n}{INSIDE}" if n == name and not goes_out else n for n in node.inputs)
        nodes.append(node.changed(inputs=reads))
        if id(node) in copies:
            copy = copies[id(node)]
            reads = tuple(i if (i := f"{each}{INSIDE}") in inside else each for each in node.inputs)
            nodes.append(copy.changed(inputs=reads))
    return graph.changed(nodes=tuple(nodes))


def above(graph: Graph, name: str) -> Iterator[Node]:
    """What makes a value of the results of heavy operators, constants and inputs."""
    producer, open_names, seen = graph.producer(), [name], set[str]()
    while open_names:
        node = producer.get(open_names.pop())
        if node is None or node.kind in HEAVY or node.outputs[0] in seen:
            continue
        seen.add(node.outputs[0])
        open_names += node.inputs
        yield node


def copied(node: Node) -> Node:
    return node.changed(outputs=tuple(f"{each}{INSIDE}" for each in node.outputs))
