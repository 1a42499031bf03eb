"""Rows nobody reads are not computed: a Select is pushed towards the inputs.

Where all readers of an operator are Selects of one row, the operator works on that row alone:
Linear and LayerNorm on the row of each input, Attention on the row of its query (keys and values
stay whole), what is made element by element on the rows of all its operands, Rotary on the row with
a table of that place alone.  Attention that sees a window goes by the query's place, so its Select
stays.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from ..graph import Graph, Node
from ..ops import Trait, kinds
from ..ops.operators import DECLARED, counts_distances
from .clean import merge_twins
from .shapes import infer

__all__ = ["dead_rows"]

Array = NDArray[Any]
ROW_INPUTS = {  # inputs that have a row per token, of which a row of the result is made
    "QuantizeLinear": (0,),
    "DequantizeLinear": (0,),
    **{kind: row.row_inputs for kind, row in DECLARED.items() if row.row_inputs},
}
BY_ELEMENT = kinds(Trait.EACH)


def dead_rows(graph: Graph) -> Graph:
    """The graph with every Select as early as it can be."""
    changed = True
    while changed:
        graph = merge_twins(graph)
        graph, changed = push(graph)
    return graph.without_dead_nodes()


def push(graph: Graph) -> tuple[Graph, bool]:
    """The last Select that can be pushed, pushed by one operator."""
    producer, consumers = graph.producer(), graph.consumers()
    outputs = {value.name for value in graph.outputs}
    for node in reversed(graph.nodes):
        made = producer.get(node.inputs[0]) if node.kind == "engine.Select" else None
        if made is None or made.outputs[0] in outputs or consumers[made.outputs[0]] != [node]:
            continue
        rows = row_inputs(graph, made) if row_is_enough(made, node, graph) else ()
        if rows:
            return exchanged(graph, made, node, rows), True
    return graph, False


def row_inputs(graph: Graph, made: Node) -> tuple[int, ...]:
    """Those of which a row makes the same row of the result; none where that is not known."""
    if made.kind in ROW_INPUTS or made.kind not in BY_ELEMENT:
        return ROW_INPUTS.get(made.kind, ())
    facts, operands = infer(graph), []
    shape = facts[made.outputs[0]].shape
    for i, name in enumerate(made.inputs):
        constant = graph.constants.get(name)
        if name and constant is None:
            operands.append(i)
        whole = constant is None and facts[name].shape == shape
        if name and not whole and (constant is None or varies_by_row(constant)):
            return ()
    return tuple(operands) if shape is not None and len(shape) == 3 else ()


def row_is_enough(made: Node, selected: Node, graph: Graph) -> bool:
    """Whether the row can be made without knowing where it stood."""
    if made.kind == "engine.Rotary":
        return int(selected.attributes["index"]) < len(graph.constants[made.cos])
    if counts_distances(made) and selected.attributes["index"]:
        return False  # a row alone is taken for the first, and distances count from it
    return made.attributes.get("window") is None


def varies_by_row(constant: Array) -> bool:
    return constant.ndim > 1 and constant.shape[-2] > 1


def exchanged(graph: Graph, made: Node, selected: Node, rows: tuple[int, ...]) -> Graph:
    """made -> Select as Select of made's inputs -> made."""
    inputs, selects = list(made.inputs), []
    for i in rows:
        if made.inputs[i]:
            inputs[i] = f"{selected.outputs[0]}.{made.op}{i}"
            selects.append(selected.changed(inputs=(made.inputs[i],), outputs=(inputs[i],)))
    constants = dict(graph.constants)
    if made.kind == "engine.Rotary":
        index = int(selected.attributes["index"])
        inputs[1:] = [row_of(name, index, constants) for name in inputs[1:]]
    new = [*selects, made.changed(inputs=tuple(inputs), outputs=selected.outputs)]
    nodes: list[Node] = []
    for node in graph.nodes:
        nodes.extend(new if node is made else [] if node is selected else [node])
    return graph.changed(nodes=tuple(nodes), constants=constants)


def row_of(table: str, index: int, constants: dict[str, Any]) -> str:
    """A constant of one row of a table."""
    name = f"{table}.row{index}"
    constants[name] = constants[table][index : index + 1]
    return name
