"""What is made of constants stored in bytes alone is constant: DeBERTa's vectors of distances,
which quantize_static leaves as products.

The products are exact, as those of whole numbers are; what is made of a product element by element
follows.  Weights that only a product with an activation reads stay as they are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..graph import Graph, Node
from ..ops import Trait, kinds
from ..ops.reference import evaluate

__all__ = ["stored_products"]

Array = NDArray[Any]
FOLLOWING = kinds(Trait.EACH) | {"Reshape", "Transpose"}


def stored_products(graph: Graph) -> Graph:
    """The graph without such products."""
    constants, read, made = dict(graph.constants), dict[str, Array](), set[str]()
    for node in graph.nodes:
        if not all(name in constants or name in read for name in node.inputs if name):
            continue
        arrays = [read.get(name, constants.get(name)) for name in node.inputs]
        if node.kind == "DequantizeLinear":
            read[node.outputs[0]] = evaluate(node, arrays, graph.opset)[0]
        elif node.kind == "MatMul" and read.keys() & set(node.inputs):
            constants[node.outputs[0]] = exact_product(node, arrays, graph.opset)
            made.add(node.outputs[0])
        elif node.kind in FOLLOWING and made & set(node.inputs):
            constants[node.outputs[0]] = evaluate(node, arrays, graph.opset)[0]
            made.add(node.outputs[0])
    if not made:
        return graph
    nodes = tuple(node for node in graph.nodes if node.outputs[0] not in made)
    return graph.changed(nodes=nodes, constants=constants).without_dead_nodes()


def exact_product(node: Node, arrays: list[Array | None], opset: int) -> Array:
    wide = [None if array is None else array.astype(np.float64) for array in arrays]
    return evaluate(node, wide, opset)[0].astype(np.float32)
