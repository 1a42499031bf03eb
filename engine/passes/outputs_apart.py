"""Probabilities that the graph gives out are computed apart from those that its attention uses.

A fusion takes only what nobody else reads.  So what makes an output between two products is there
twice: once for the output, once for what follows, which may then become an Attention.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..graph import Graph, Node
from ..ops import Trait, kinds

__all__ = ["outputs_apart"]

HEAVY = kinds(Trait.HEAVY) - {"MatMul", "Softmax"}  # what an attention is made of is not
INSIDE = ".inside"


def outputs_apart(graph: Graph) -> Graph:
    """Every output that a Softmax makes and other nodes read is made a second time for these."""
    producer, consumers = graph.producer(), graph.consumers()
    given = [value.name for value in graph.outputs]
    wanted = [
        name
        for name in given
        if name in producer and producer[name].kind == "Softmax" and name in consumers
    ]
    for name in wanted:
        graph = made_twice(graph, name)
    return graph


def made_twice(graph: Graph, name: str) -> Graph:
    """The value is the graph's output alone; what read it reads another that is the same."""
    copies = {id(node): copied(node) for node in above(graph, name)}
    inside = {made for node in copies.values() for made in node.outputs}
    nodes: list[Node] = []
    for node in graph.nodes:
        reads = tuple(f"{each}{INSIDE}" if each == name else each for each in node.inputs)
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
