"""The product of two constants that are stored in bytes is constant: DeBERTa's vectors of
distances, which quantize_static leaves as products.

It is exact, as that of whole numbers is.  Weights that only a product with an activation reads stay
as they are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..graph import Graph, Node
from ..ops.reference import evaluate

__all__ = ["stored_products"]

Array = NDArray[Any]


def stored_products(graph: Graph) -> Graph:
    """The graph without such products."""
    constants, read, nodes = dict(graph.constants), dict[str, Array](), []
    for node in graph.nodes:
        known = all(name in constants or name in read for name in node.inputs if name)
        arrays = [read.get(name, constants.get(name)) for name in node.inputs]
        if known and node.kind == "DequantizeLinear":
            read[node.outputs[0]] = evaluate(node, arrays, graph.opset)[0]
        if known and node.kind == "MatMul" and read.keys() & set(node.inputs):
            constants[node.outputs[0]] = exact_product(node, arrays, graph.opset)
        else:
            nodes.append(node)
    return graph.changed(nodes=tuple(nodes), constants=constants).without_dead_nodes()


def exact_product(node: Node, arrays: list[Array | None], opset: int) -> Array:
    wide = [None if array is None else array.astype(np.float64) for array in arrays]
    return evaluate(node, wide, opset)[0].astype(np.float32)
