"""A convolution of kernel 1 over [batch, channels, tokens] is a product (SqueezeBERT's layers are):

    Conv(x) = Transpose(MatMul(Transpose(x), weight) + bias)

The weight of several groups becomes one matrix with zeros outside its blocks: sparse, as a pruned
one.  Each Transpose then goes down past what computes element by element until it meets another,
and both vanish.  ConvInteger and QLinearConv become the products that `simulate` knows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..graph import Graph, Node
from ..ops import Trait, kinds
from ..ops.reference import MOST_ELEMENTS
from .clean import MOST_FOLDED, substitute
from .shapes import UNKNOWN, infer
from .simulate import around, between_floats

__all__ = ["convolution"]

Array = NDArray[Any]
PRODUCTS = {"Conv": "MatMul", "ConvInteger": "MatMulInteger"}
PERMUTED = (0, 2, 1)  # [batch, channels, tokens] <-> [batch, tokens, channels]
EACH = kinds(Trait.EACH)
SPREAD = kinds(Trait.EACH | Trait.BROADCASTS) | kinds(Trait.EACH | Trait.COMPARES)


def convolution(graph: Graph) -> Graph:
    """The graph with such convolutions as products."""
    if not any(node.kind in {*PRODUCTS, "QLinearConv"} for node in graph.nodes):
        return graph
    given, graph = graph, between_floats(graph)  # which transpositions go past
    weights = Weights(graph)
    opened = [part for node in graph.nodes for part in float_convolution(node, weights)]
    weights.producer = graph.changed(nodes=tuple(opened)).producer()
    nodes = tuple(part for node in opened for part in product_of(node, weights))
    if nodes == graph.nodes:
        return given
    return Turning(graph.changed(nodes=nodes, constants=weights.constants)).result()


# --- products ---
class Weights:
    """Constants of a graph, and its convolutions' as matrices [inputs, outputs]."""

    def __init__(self, graph: Graph) -> None:
        self.producer, self.constants = graph.producer(), dict(graph.constants)
        self.left = MOST_FOLDED * graph.constant_elements + MOST_ELEMENTS  # that may be added

    def matrix(self, name: str, groups: int, zero: Array | None = None) -> str:
        """The name of the matrix of a constant [outputs, inputs / groups, 1]; zero: what stands
        outside its blocks, one number, or one for each output; "" where it is no such weight.
        """
        weight, made = self.constants.get(name), f"{name}.of_{groups}_groups"
        if weight is None or weight.ndim != 3 or weight.shape[2] != 1 or len(weight) % groups:
            return ""
        outside = np.zeros(1, weight.dtype) if zero is None else zero.reshape(-1)
        self.left -= weight.size * groups
        if self.left < 0 or len(outside) not in (1, len(weight)):
            return ""
        self.constants.setdefault(made, spread(weight[:, :, 0], groups, outside))
        return made

    def has_scales(self, names: tuple[str, ...], count: int) -> bool:
        """Constants of one number, or of so many."""
        given = [self.constants.get(name) for name in names if name]
        return all(a is not None and a.ndim < 2 and a.size in (1, count) for a in given)


def spread(weight: Array, groups: int, outside: Array) -> Array:
    """[inputs, outputs] of [outputs, inputs / groups]: a block for each group."""
    outputs, depth = weight.shape
    matrix = np.empty((depth * groups, outputs), weight.dtype)
    matrix[:] = outside
    for group, block in enumerate(np.split(weight, groups)):
        row, column = group * depth, group * len(block)
        matrix[row : row + depth, column : column + len(block)] = block.T
    return matrix


def float_convolution(node: Node, weights: Weights) -> list[Node]:
    """QLinearConv of kernel 1 as DequantizeLinear, Conv, QuantizeLinear."""
    if node.kind != "QLinearConv" or not of_single_tokens(node):
        return [node]
    x, weight, y, bias = node.inputs[:3], node.inputs[3:6], node.inputs[6:8], node.inputs[8:]
    stored = weights.constants.get(weight[0])
    known = stored is not None and stored.ndim == 3 and stored.shape[2] == 1
    if stored is None or not known or not weights.has_scales(weight[1:], len(stored)):
        return [node]
    if not weights.has_scales((*x[1:], *y), 1) or not all(b in weights.constants for b in bias):
        return [node]
    return around(node, weights.constants, "Conv", [x, weight], y, 0, *bias)


def product_of(node: Node, weights: Weights) -> list[Node]:
    """Transpose, product, bias, Transpose; the node itself where it is something else."""
    if node.kind not in PRODUCTS or not of_single_tokens(node):
        return [node]
    out, rest = node.outputs[0], node.inputs[2:]
    x, total, y = (f"{out}.{part}" for part in ("tokens", "product", "biased"))
    before, matrix = matrix_of(node, weights)
    if not matrix:
        return [node]
    bias = rest if node.kind == "Conv" and any(rest) else ()
    zeros = rest if node.kind == "ConvInteger" else ()
    return [
        turning(node.inputs[0], x, node.name),
        *before,
        Node(PRODUCTS[node.kind], (x, matrix, *zeros), (total,), {}, node.name),
        *(Node("Add", (total, name), (y,), {}, node.name) for name in bias),
        turning(y if bias else total, out, node.name),
    ]


def of_single_tokens(node: Node) -> bool:
    """Whether a kernel of 1 makes a result for each token, of that token alone."""
    padded = node.attributes.get("auto_pad", "NOTSET") == "NOTSET" and node.attributes.get("pads")
    return not any(padded or ()) and set(node.attributes.get("strides") or [1]) == {1}


def matrix_of(node: Node, weights: Weights) -> tuple[list[Node], str]:
    """What dequantises the matrix, and its name; "" where the weight is none."""
    name, groups = node.inputs[1], node.attributes.get("group", 1)
    if node.kind == "ConvInteger" or name in weights.constants:
        zero = node.inputs[3] if node.kind == "ConvInteger" and len(node.inputs) > 3 else ""
        known = not zero or zero in weights.constants
        return [], weights.matrix(name, groups, weights.constants.get(zero)) if known else ""
    source = weights.producer.get(name)
    if source is None or source.kind != "DequantizeLinear" or set(source.attributes) - {"axis"}:
        return [], ""
    stored = weights.constants.get(source.inputs[0])
    if stored is None or not weights.has_scales(source.inputs[1:], len(stored)):
        return [], ""
    scales = [weights.constants[each] for each in source.inputs[1:] if each]
    if source.attributes.get("axis", 1) % 3 and any(each.size > 1 for each in scales):
        return [], ""
    matrix = weights.matrix(source.inputs[0], groups, scales[1] if len(scales) > 1 else None)
    made, inputs = f"{node.outputs[0]}.weight", (matrix, *source.inputs[1:])
    again = source.changed(inputs=inputs, outputs=(made,), attributes={"axis": 1})
    return [again], made if matrix else ""


# --- their transpositions ---
class Turning:
    """Walks down a graph: what is made of turned values element by element is made of those before
    they were turned, and turned then; what is turned twice is read as it was.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph, self.facts, self.constants = graph, infer(graph), dict(graph.constants)
        self.consumers = graph.consumers()
        self.nodes: list[Node] = []
        self.source: dict[str, str] = {}  # of a turned value: what it was made of
        self.idle: dict[str, str] = {}  # turned twice -> what that is

    def result(self) -> Graph:
        for node in self.graph.nodes:
            self.take(node)
        graph = self.graph.changed(nodes=tuple(self.nodes), constants=self.constants)
        return substitute(graph, self.idle).without_dead_nodes()

    def take(self, node: Node) -> None:
        out = node.outputs[0]
        if is_turning(node):
            if node.inputs[0] in self.source:
                self.idle[out] = self.source[node.inputs[0]]
            else:
                self.source[out] = node.inputs[0]
            self.nodes.append(node)
            return
        before = BEFORE.get(node.kind, same_before)(self, node)
        if before is None:
            self.nodes.append(node)
            return
        self.source[out] = f"{out}.before"
        self.nodes.append(before.changed(outputs=(self.source[out], *node.outputs[1:])))
        self.nodes.append(turning(self.source[out], out, node.name))

    def is_turned_once(self, value: str) -> bool:
        """By all that read it."""
        readers = self.consumers.get(value, [])
        again = [node for each in readers for node in self.consumers.get(each.outputs[0], [])]
        return bool(readers) and all(map(is_turning, readers)) and not any(map(is_turning, again))

    def before(self, name: str, kind: str) -> str | None:
        """The value, a constant, or a number, before it is turned; kind: of what reads it."""
        if name in self.source or not name:
            return self.source.get(name, name)
        if self.facts.get(name, UNKNOWN).shape in ((), (1,)):
            return name
        array = self.constants.get(name)
        if array is None or array.ndim > 3 or kind not in SPREAD:
            return None
        self.constants[f"{name}.before"] = np.swapaxes(np.atleast_2d(array), -1, -2)
        return f"{name}.before"


def turning(x: str, y: str, name: str) -> Node:
    return Node("Transpose", (x,), (y,), {"perm": PERMUTED}, name)


def is_turning(node: Node) -> bool:
    return node.kind == "Transpose" and tuple(node.attributes.get("perm") or ()) == PERMUTED


# node -> the same on what its inputs were before they were turned
def same_before(found: Turning, node: Node) -> Node | None:
    """What computes element by element."""
    if not any(name in found.source for name in node.inputs):
        return None
    if node.domain or node.kind not in EACH or len(node.outputs) > 1:
        return None
    inputs = [found.before(name, node.kind) for name in node.inputs]
    known = tuple(name for name in inputs if name is not None)
    return node.changed(inputs=known) if len(known) == len(inputs) else None


def quantised_before(found: Turning, node: Node) -> Node | None:
    """DynamicQuantizeLinear, of all elements one scale; also where what reads it turns it."""
    x = node.inputs[0]
    if x not in found.source and found.is_turned_once(node.outputs[0]):
        found.nodes.append(turning(x, f"{node.outputs[0]}.tokens", node.name))
        return node.changed(inputs=(f"{node.outputs[0]}.tokens",))
    return node.changed(inputs=(found.source[x],)) if x in found.source else None


def reduced_before(found: Turning, node: Node) -> Node | None:
    """A reduction that keeps its axis."""
    x, rest = node.inputs[0], node.inputs[1:]
    axes = node.attributes.get("axes")
    if any(rest):
        axes = found.constants.get(rest[0])
    if x not in found.source or axes is None or not node.attributes.get("keepdims", 1):
        return None
    others = [PERMUTED[axis] for axis in np.reshape(axes, -1) if -3 <= axis < 3]
    if not any(rest):
        attributes = {**node.attributes, "axes": others}
        return node.changed(inputs=(found.source[x],), attributes=attributes)
    name = f"{node.outputs[0]}.axes"
    found.constants[name] = np.array(others, np.int64)
    return node.changed(inputs=(found.source[x], name))


BEFORE: dict[str, Callable[[Turning, Node], Node | None]] = {
    "DynamicQuantizeLinear": quantised_before,
    **dict.fromkeys(kinds(Trait.REDUCES), reduced_before),
}
