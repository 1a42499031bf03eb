"""Linear layers: a product with a constant matrix, its quantisation, its bias, its activation.

Weights come as [inputs, outputs] (MatMul, Gemm) or [outputs, inputs] (Gemm with transB) and are
kept [outputs, inputs].
8-bit weights keep their 8 bits and one scale per output.  A zero point is subtracted; where the
result does not fit int8 it is int16.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..graph import Graph, Node
from ..ops.numbers import exact_in_bfloat16
from .fusion import Fusion, Match, fuse_all, per_channel
from .match import Constant, Missing, Operators, Pattern, Scalar, Search, Tensor, either
from .names import layer_name
from .separate import separate

__all__ = ["FUSIONS", "linear"]

Array = NDArray[Any]


# --- weights ---
@dataclass(frozen=True)
class Weight:
    """[outputs, inputs]; scale [outputs] where the values are whole numbers: int8, or int16 less
    than 256 from 0."""

    values: Array
    scale: Array | None
    source: str  # the constant it was
    may_be_bfloat16: bool = False  # the file has such tensors

    @property
    def precision(self) -> str:
        """bfloat16 only where the file stores it: float32 weights may be exact in it by chance."""
        if self.scale is not None:
            return "int8"
        stored_so = self.may_be_bfloat16 and exact_in_bfloat16(self.values)
        return "bfloat16" if stored_so else "float32"


def weight_of(value: str, search: Search, *, transposed: bool) -> Weight | str:
    """The weight a value stands for, or a sentence why it is none.

    transposed: it is [outputs, inputs] already.
    """
    constants = search.graph.constants
    if value in constants:
        array = constants[value]
        if array.ndim != 2 or array.dtype != np.float32:
            found = f"{array.dtype}{list(array.shape)}"
            return f"the weight '{value}' is {found}, expected a float32 matrix"
        matrix = np.ascontiguousarray(array if transposed else array.T)
        return Weight(matrix, None, value, search.graph.has_bfloat16)
    node = search.producer.get(value)
    if node is None or node.kind != "DequantizeLinear" or node.inputs[0] not in constants:
        return f"the weight '{value}' is not constant"
    return stored_weight(node, search.graph, transposed=transposed)


def stored_weight(node: Node, graph: Graph, *, transposed: bool) -> Weight | str:
    array, scale = (graph.constants.get(name) for name in node.inputs[:2])
    zero = (
        graph.constants.get(node.inputs[2])
        if len(node.inputs) > 2 and node.inputs[2]
        else np.zeros(())
    )
    if array is None or scale is None or zero is None or array.ndim != 2:
        return f"{node} is not a matrix with constant scale and zero point"
    if array.dtype not in (np.int8, np.uint8) or node.attributes.get("block_size"):
        return f"{node} holds {array.dtype}, expected 8 bits and one scale per output"
    outputs = 0 if transposed else 1
    if scale.dtype != np.float32 or node.attributes.get("output_dtype") not in (None, "float32"):
        return f"{node} makes no float32"
    if max(scale.size, zero.size) > 1 and node.attributes.get("axis", 1) % 2 != outputs:
        return f"{node} has a scale per input, expected one per output"
    if any(p.ndim > 1 or p.size not in (1, array.shape[outputs]) for p in (scale, zero)):
        return f"{node} has scale {scale.shape} and zero point {zero.shape} for {array.shape}"
    aligned = (-1, 1) if outputs == 0 else (1, -1)
    offset = zero.astype(np.int16).reshape(aligned if zero.size > 1 else (1, 1))
    values = array.astype(np.int16) - offset
    if values.min(initial=0) >= -128 and values.max(initial=0) <= 127:
        values = values.astype(np.int8)
    matrix = np.ascontiguousarray(values if transposed else values.T)
    factors = np.broadcast_to(scale.reshape(-1), len(matrix)).astype(np.float32)
    return Weight(matrix, factors, node.inputs[0])


# --- product ---
def product(op: Operators, x: Tensor, weight: Tensor) -> Pattern:
    return op.MatMul(x, weight)


def gemm(op: Operators, x: Tensor, weight: Tensor, bias: Constant) -> Pattern:
    return either(op.Gemm(x, weight, bias), op.Gemm(x, weight))


def no_weight(match: Match) -> str | None:
    root = match.root
    if root.kind == "Gemm" and (
        root.attributes.get("transA") or root.attributes.get("alpha", 1.0) != 1.0
    ):
        return f"{root} scales or transposes its input"
    if match["x"] in match.graph.constants:
        return f"'{match['x']}' is constant too"
    weight = weight_of(
        match["weight"], match.search, transposed=bool(root.attributes.get("transB"))
    )
    if isinstance(weight, str):
        return weight
    if "bias" in match:
        if root.attributes.get("beta", 1.0) != 1.0:
            return f"{root} scales its bias"
        return no_vector(match, len(weight.values))
    return None


def no_vector(match: Match, outputs: int) -> str | None:
    bias = match.array("bias")
    if per_channel(bias, outputs) is None:
        found = f"{bias.dtype}{list(bias.shape)}"
        return f"the bias '{match['bias']}' {found} is not one number per output"
    return None


def build(match: Match) -> Sequence[Node]:
    root = match.root
    weight = weight_of(
        match["weight"], match.search, transposed=bool(root.attributes.get("transB"))
    )
    assert isinstance(weight, Weight), "the guard has seen it"
    stem = layer_name([], [weight.source]) or layer_name([root], [match.get("bias")])
    values = match.constant(f"{weight.source}.linear", weight.values)
    scale = (
        ""
        if weight.scale is None
        else match.constant(f"{weight.source}.linear.scale", weight.scale)
    )
    attributes = {
        "input": None,
        "dynamic": None,
        "product": None,
        "activation": None,
        "output": None,
        "precision": weight.precision,
    }
    bias = match.per_channel("bias", len(weight.values)) if "bias" in match else ""
    inputs = (match["x"], values, scale, bias)
    return [Node("Linear", inputs, root.outputs, attributes, stem, "engine")]


# --- what follows the product ---
def biased(op: Operators, layer: Tensor, bias: Constant) -> Pattern:
    return either(layer + bias, op.engine.FakeQuantize(layer).named("rounded") + bias)


def no_bias(match: Match) -> str | None:
    node = match.search.producer.get(match["layer"])
    if node is None or node.kind != "engine.Linear":
        return f"'{match['layer']}' is not a linear layer's"
    if match.only_reader(match["layer"]) is None:
        return f"'{match['layer']}' is read by others too"
    if node.inputs[3] or node.attributes["activation"] or node.attributes["output"]:
        return f"{node} is complete already"
    return no_vector(match, len(match.graph.constants[node.inputs[1]]))


def with_bias(match: Match) -> Sequence[Node]:
    node = match.node("layer")
    quantization = match.node("rounded").attributes["quantization"] if "rounded" in match else None
    count = len(match.graph.constants[node.inputs[1]])
    attributes = {**node.attributes, "product": quantization}
    name = layer_name([], [match["bias"]]) or node.name
    inputs = (*node.inputs[:3], match.per_channel("bias", count))
    return [
        node.changed(inputs=inputs, outputs=match.root.outputs, attributes=attributes, name=name)
    ]


def activated(op: Operators, layer: Tensor) -> Pattern:
    x = either(layer, op.engine.FakeQuantize(layer).named("rounded"))
    return either(op.Gelu(x), op.Tanh(x), op.Relu(x), op.Swish(x))


ACTIVATIONS = {
    ("Gelu", "none"): "gelu",
    ("Gelu", "tanh"): "gelu_tanh",
    ("Tanh", None): "tanh",
    ("Relu", None): "relu",
    ("Swish", None): "swish",
}


def no_activation(match: Match) -> str | None:
    node = match.search.producer.get(match["layer"])
    if node is None or node.kind != "engine.Linear":
        return f"'{match['layer']}' is not a linear layer's"
    if node.attributes["activation"]:
        return f"{node} has an activation already"
    if "rounded" in match and (node.inputs[3] or node.attributes["product"]):
        return f"'{match['layer']}' is quantised between its bias and the activation"
    if match.only_reader(match["layer"]) is None:
        return f"'{match['layer']}' is read by others too"
    if match.root.attributes.get("alpha", 1.0) != 1.0:
        return f"{match.root} scales its input"
    return None


def with_activation(match: Match) -> Sequence[Node]:
    node, root = match.node("layer"), match.root
    approximate = root.attributes.get("approximate", "none") if root.kind == "Gelu" else None
    attributes = {**node.attributes, "activation": ACTIVATIONS[root.kind, approximate]}
    if "rounded" in match:
        attributes["product"] = match.node("rounded").attributes["quantization"]
    return [node.changed(outputs=root.outputs, attributes=attributes)]


# --- factors around an activation ---
def scaled_swish(op: Operators, layer: Tensor, factor: Scalar) -> Pattern:
    return op.Swish(layer * factor)


def no_scaled_layer(match: Match) -> str | None:
    if reason := no_activation(match):
        return reason
    node = match.node("layer")
    if node.attributes["product"] or node.attributes["precision"] == "bfloat16":
        return f"{node} is rounded before it is scaled"
    return None


def with_scaled_swish(match: Match) -> Sequence[Node]:
    """The factor is in the weights, or in their scales, and in the bias."""
    node, factor = match.node("layer"), np.float32(match.number("factor"))
    inputs, scales = list(node.inputs), 2 if node.weight_scale else 1
    for place in filter(lambda place: inputs[place], (scales, 3)):
        array = match.graph.constants[inputs[place]] * factor
        inputs[place] = match.constant(f"{inputs[place]}.scaled", array)
    attributes = {**node.attributes, "activation": "swish"}
    return [node.changed(inputs=tuple(inputs), outputs=match.root.outputs, attributes=attributes)]


def of_scaled(op: Operators, x: Tensor, factor: Scalar, weight: Constant) -> Pattern:
    bias = either(Missing(), Constant().named("bias"))
    return op.engine.Linear(x * factor, weight, Missing(), bias)


def no_scaled_input(match: Match) -> str | None:
    if match.root.attributes["precision"] != "float32":
        return f"{match.root} is no float32 product"
    node = match.search.producer.get(match["x"])
    if node is None or node.attributes.get("activation") != "swish":
        return f"'{match['x']}' is no Swish"
    return None


def with_scaled_weight(match: Match) -> Sequence[Node]:
    weight = match.array("weight") * np.float32(match.number("factor"))
    name = match.constant(f"{match['weight']}.scaled", weight)
    return [match.root.changed(inputs=(match["x"], name, *match.root.inputs[2:]))]


FUSIONS = [
    Fusion("product", product, build, no_weight),
    Fusion("gemm", gemm, build, no_weight),
    Fusion("bias", biased, with_bias, no_bias),
    Fusion("activation", activated, with_activation, no_activation),
    Fusion("scaled_swish_of_linear", scaled_swish, with_scaled_swish, no_scaled_layer),
    Fusion("scaled_input", of_scaled, with_scaled_weight, no_scaled_input),
]


def linear(graph: Graph) -> Graph:
    """Products with constant matrices as Linear, with what follows them; joined ones apart."""
    return fuse_all(separate(fuse_all(graph, FUSIONS)), FUSIONS)
