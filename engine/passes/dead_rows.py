"""Rows nobody reads are not computed: a Select is pushed towards the inputs.

Where all readers of an operator are Selects of one row, the operator works on that row alone:
Linear and LayerNorm on the row of each input, Attention on the row of its query (keys and values
stay whole).
"""

from __future__ import annotations

from ..graph import Graph, Node
from ..ops.operators import DECLARED
from .clean import merge_twins

__all__ = ["dead_rows"]

ROW_INPUTS = {  # inputs that have a row per token, of which a row of the result is made
    "QuantizeLinear": (0,),
    "DequantizeLinear": (0,),
    **{kind: row.row_inputs for kind, row in DECLARED.items() if row.row_inputs},
}


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
        if made is None or made.kind not in ROW_INPUTS or made.outputs[0] in outputs:
            continue
        if consumers[made.outputs[0]] == [node]:
            return exchanged(graph, made, node), True
    return graph, False


def exchanged(graph: Graph, made: Node, selected: Node) -> Graph:
    """made -> Select as Select of made's inputs -> made."""
    inputs, selects = list(made.inputs), []
    for i in ROW_INPUTS[made.kind]:
        if made.inputs[i]:
            inputs[i] = f"{selected.outputs[0]}.{made.op}{i}"
            selects.append(selected.changed(inputs=(made.inputs[i],), outputs=(inputs[i],)))
    new = [*selects, made.changed(inputs=tuple(inputs), outputs=selected.outputs)]
    nodes: list[Node] = []
    for node in graph.nodes:
        nodes.extend(new if node is made else [] if node is selected else [node])
    return graph.changed(nodes=tuple(nodes))
