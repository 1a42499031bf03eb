"""What is made of a rounded value by itself, element by element, is a function of one byte: Lookup.

quantize_static rounds after every operator, so a GELU is five of them with a rounding behind each,
no GELU's formula any more; all of it together is a table of 256 numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineError
from ..graph import Graph, Node
from ..ops import Trait, is_quantization, kinds
from ..ops.reference import evaluate
from .shapes import Fact, infer
from .simulate import every_byte, rounded

__all__ = ["lookup"]

Array = NDArray[Any]
POINTWISE = kinds(Trait.EACH) & (kinds(Trait.SAME) | kinds(Trait.BROADCASTS))
FAKE = "engine.FakeQuantize"
MOST_NODES = 32


def lookup(graph: Graph) -> Graph:
    """Every longest run of such operators between two FakeQuantize as one Lookup."""
    facts, constants = infer(graph), dict(graph.constants)
    found: dict[str, Node] = {}
    for node in reversed(graph.nodes):
        run = run_before(node, graph, facts) if node.kind == FAKE else None
        steps = None if run is None else run[0].attributes["quantization"]
        table = None if run is None or not is_quantization(steps) else table_of(run, graph)
        if run is None or table is None:
            continue
        first, value = run[0], node.inputs[0]
        name = f"{value}.table"
        constants[name] = table
        how = {"steps": steps, "input": None, "output": None}
        found[value] = Node("Lookup", (first.outputs[0], name), (value,), how, node.name, "engine")
    nodes = tuple(found.get(node.outputs[0], node) for node in graph.nodes)
    return graph.changed(nodes=nodes, constants=constants).without_dead_nodes()


def run_before(last: Node, graph: Graph, facts: Mapping[str, Fact]) -> list[Node] | None:
    """From a FakeQuantize of which all that `last` rounds is made, with one scalar after another,
    in the order they run; None where there is none.
    """
    producer, consumers = graph.producer(), graph.consumers()
    place = {id(node): i for i, node in enumerate(graph.nodes)}
    outputs = {value.name for value in graph.outputs}
    open_, nodes, best = {last.inputs[0]}, list[Node](), None
    while len(nodes) < MOST_NODES:
        made = [producer[name] for name in open_ if name in producer]
        if len(made) < len(open_):
            return best
        node = max(made, key=lambda each: place[id(each)])
        alone = open_ == {node.outputs[0]}
        if alone and node.kind == FAKE and nodes:
            if facts[node.outputs[0]].shape != facts[last.inputs[0]].shape:
                return best
            best = [node, *reversed(nodes)]
            if node.outputs[0] in outputs or len(consumers[node.outputs[0]]) > readers(best):
                return best
        values = None if node.kind != FAKE and node.kind not in POINTWISE else read(node, graph)
        if values is None:
            return best
        open_ = (open_ - set(node.outputs)) | values
        nodes.append(node)
    return best


def readers(run: list[Node]) -> int:
    """How many nodes of a run read what its first makes."""
    return sum(run[0].outputs[0] in node.inputs for node in run[1:])


def read(node: Node, graph: Graph) -> set[str] | None:
    """The values it reads; None where a constant is more than a number."""
    constants = [graph.constants[name] for name in node.inputs if name in graph.constants]
    if any(array.size != 1 or array.dtype != np.float32 for array in constants):
        return None
    return {name for name in node.inputs if name and name not in graph.constants} or None


def table_of(run: list[Node], graph: Graph) -> Array | None:
    """float32 [256]: what the run makes of every byte; None where it cannot be computed."""
    first, *rest = run
    values = {first.outputs[0]: every_byte(first.attributes["quantization"])}
    for node in rest:
        arrays = [
            values[name] if name in values else graph.constants[name].reshape(()) if name else None
            for name in node.inputs
        ]
        try:
            with np.errstate(all="ignore"):
                made = (
                    rounded(arrays[0], node)
                    if node.kind == FAKE
                    else evaluate(node, arrays, graph.opset)[0]
                )
        except EngineError:
            return None
        values[node.outputs[0]] = made
    table = values[run[-1].outputs[0]]
    return table if table.shape == (256,) and table.dtype == np.float32 else None
