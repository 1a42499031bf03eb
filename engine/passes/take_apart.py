"""What ONNX Runtime's optimiser joined (domain com.microsoft), apart again, for the fusions to see.

One row per operator: node -> the nodes of ONNX that mean the same, or none where it cannot be said.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..graph import Graph, Node
from .shapes import UNKNOWN, Fact, infer

__all__ = ["take_apart"]

Array = NDArray[Any]


def take_apart(graph: Graph) -> Graph:
    """The graph in ONNX's own operators where a row of PARTS knows how."""
    if not any(node.kind in PARTS for node in graph.nodes):
        return graph
    facts, constants = infer(graph), dict(graph.constants)
    read = {name for node in graph.nodes for name in node.inputs}
    read.update(value.name for value in graph.outputs)
    nodes: list[Node] = []
    for node in graph.nodes:
        rule = PARTS.get(node.kind)
        parts = (rule(Parts(node, facts, constants)) if rule else None) or [node]
        made = {name for part in parts for name in part.outputs}
        nodes.extend(parts if made.issuperset(read.intersection(node.outputs)) else [node])
    return graph.changed(nodes=tuple(nodes), constants=constants)


class Parts:
    """A node being taken apart: its inputs padded with "", and names for what lies between."""

    def __init__(self, node: Node, facts: Mapping[str, Fact], constants: dict[str, Array]) -> None:
        self.node, self.facts, self.constants = node, facts, constants
        self.inputs = (*node.inputs, *[""] * 8)
        self.out = node.outputs[0]
        self.nodes: list[Node] = []

    def add(self, op: str, *inputs: str, last: bool = False, **attributes: Any) -> str:
        name = self.out if last else f"{self.out}.{op}{len(self.nodes)}"
        self.nodes.append(Node(op, inputs, (name,), attributes, self.node.name))
        return name

    def constant(self, array: Any) -> str:
        name = f"{self.out}.constant{len(self.nodes)}"
        self.constants[name] = np.asarray(array)
        return name


def bias_gelu(p: Parts) -> list[Node] | None:
    p.add("Gelu", p.add("Add", *p.node.inputs), last=True, approximate="none")
    return p.nodes


def fast_gelu(p: Parts) -> list[Node] | None:
    x, bias = p.inputs[:2]
    p.add("Gelu", p.add("Add", x, bias) if bias else x, last=True, approximate="tanh")
    return p.nodes


def gelu(p: Parts) -> list[Node] | None:
    p.add("Gelu", *p.node.inputs, last=True, approximate="none")
    return p.nodes


def same_in_onnx(p: Parts) -> list[Node] | None:
    return [p.node.changed(domain="")]


def fused_matmul(p: Parts) -> list[Node] | None:
    how = p.node.attributes
    if how.get("transBatchA") or how.get("transBatchB"):
        return None
    operands = []
    for name, key in zip(p.inputs, ("transA", "transB"), strict=False):
        rank = p.facts.get(name, UNKNOWN).rank
        if how.get(key):
            if rank is None or rank < 2:
                return None
            order = (*range(rank - 2), rank - 1, rank - 2)
            name = p.add("Transpose", name, perm=order)
        operands.append(name)
    alpha = p.constant(np.float32(how.get("alpha", 1.0)))
    p.add("Mul", p.add("MatMul", *operands), alpha, last=True)
    return p.nodes


def fused_gemm(p: Parts) -> list[Node] | None:
    how = dict(p.node.attributes)
    activation = how.pop("activation", "")
    if activation not in ("Relu", "Tanh"):
        return None
    p.add(activation, p.add("Gemm", *p.node.inputs, **how), last=True)
    return p.nodes


def skip_layer_normalization(p: Parts) -> list[Node] | None:
    x, skip, gamma, beta, bias = p.inputs[:5]
    if not beta:
        return None
    total = p.add("Add", p.add("Add", x, bias) if bias else x, skip)
    epsilon = p.node.attributes.get("epsilon", 1e-12)
    p.add("LayerNormalization", total, gamma, beta, last=True, axis=-1, epsilon=epsilon)
    if len(p.node.outputs) > 3 and p.node.outputs[3]:  # the sum, for the next residual
        p.nodes.append(Node("Identity", (total,), (p.node.outputs[3],)))
    return p.nodes


def dynamic_quantize_matmul(p: Parts) -> list[Node] | None:
    x, weight, scale, zero, bias = p.inputs[:5]
    stored = tuple(f"{p.out}.{part}" for part in ("stored", "scale", "zero"))
    p.nodes.append(Node("DynamicQuantizeLinear", (x,), stored, {}, p.node.name))
    return scaled_product(p, stored, (weight, scale, zero), bias)


def matmul_integer_to_float(p: Parts) -> list[Node] | None:
    x, weight, x_scale, weight_scale, x_zero, weight_zero, bias = p.inputs[:7]
    if not all(is_one_number(p, name) for name in (x_scale, x_zero)):
        return None
    return scaled_product(p, (x, x_scale, x_zero), (weight, weight_scale, weight_zero), bias)


def is_one_number(p: Parts, name: str) -> bool:
    """Of a scale or zero point, which may be left out."""
    return not name or p.facts.get(name, UNKNOWN).shape in ((), (1,))


def scaled_product(
    p: Parts, x: tuple[str, ...], weight: tuple[str, ...], bias: str
) -> list[Node] | None:
    alone = all(is_one_number(p, name) for name in weight[1:])
    if not alone and p.facts.get(weight[0], UNKNOWN).rank != 2:
        return None
    left = p.add("DequantizeLinear", *(name for name in x if name))
    right = p.add("DequantizeLinear", *(name for name in weight if name), axis=1)
    product = p.add("MatMul", left, right, last=not bias)
    if bias:
        p.add("Add", product, bias, last=True)
    return p.nodes


PARTS: dict[str, Callable[[Parts], list[Node] | None]] = {
    "com.microsoft.BiasGelu": bias_gelu,
    "com.microsoft.DequantizeLinear": same_in_onnx,
    "com.microsoft.DynamicQuantizeMatMul": dynamic_quantize_matmul,
    "com.microsoft.FastGelu": fast_gelu,
    "com.microsoft.FusedGemm": fused_gemm,
    "com.microsoft.FusedMatMul": fused_matmul,
    "com.microsoft.Gelu": gelu,
    "com.microsoft.MatMulIntegerToFloat": matmul_integer_to_float,
    "com.microsoft.QuantizeLinear": same_in_onnx,
    "com.microsoft.SkipLayerNormalization": skip_layer_normalization,
}
