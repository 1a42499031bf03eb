"""Each Linear's weight: the share of all-zero blocks, and the pattern its kernel will use.

    4x1: 4 outputs x 1 input     1x4: 1 output x 4 inputs     in [outputs, inputs]
Below THRESHOLD a sparse product costs more than a dense one.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from ..graph import BLOCKS, Graph, Node

__all__ = ["THRESHOLD", "sparsity", "zero_ratios"]

Array = NDArray[Any]
THRESHOLD = 0.7


def sparsity(graph: Graph) -> Graph:
    """Every Linear gets `pattern` and `zero_ratio`."""
    return graph.changed(nodes=tuple(judged(node, graph) for node in graph.nodes))


def judged(node: Node, graph: Graph) -> Node:
    if node.kind != "engine.Linear":
        return node
    ratios = zero_ratios(graph.constants[node.weight])
    pattern = max(ratios, key=lambda name: ratios[name])
    ratio = ratios[pattern]
    pattern = pattern if ratio >= THRESHOLD else "dense"
    return node.changed(attributes={**node.attributes, "pattern": pattern, "zero_ratio": ratio})


def zero_ratios(weight: Array) -> dict[str, float]:
    """Pattern -> share of all-zero blocks; 0 where the shape does not divide into blocks."""
    zero = weight == 0
    ratios = {}
    for name, (rows, columns) in BLOCKS.items():
        fits = weight.size and weight.shape[0] % rows == 0 and weight.shape[1] % columns == 0
        blocks = (
            zero.reshape(weight.shape[0] // rows, rows, -1, columns)
            if fits
            else zero[:0, :0, None, None]
        )
        ratios[name] = float(blocks.all(axis=(1, 3)).mean()) if fits else 0.0
    return ratios
