"""What ONNX Runtime's optimiser joined (domain com.microsoft), apart again, for the fusions to see.

One row per operator: node -> the nodes of ONNX that mean the same, or none where it cannot be said.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineError
from ..graph import Graph, Node
from ..ops.quantized import dequantize_linear, weight_of_blocks
from .clean import clean
from .lengths import Shape, alike
from .names import path_of
from .shapes import UNKNOWN, Fact, fact_of, facts_after, infer

__all__ = ["take_apart"]

Array = NDArray[Any]
LEAST = np.float32(np.finfo(np.float32).min)


def take_apart(graph: Graph) -> Graph:
    """The graph in ONNX's own operators where a row of PARTS knows how."""
    if not any(node.kind in PARTS for node in graph.nodes):
        return graph
    facts, constants = infer(graph), dict(graph.constants)
    read = {name for node in graph.nodes for name in node.inputs if name}
    read.update(value.name for value in graph.outputs)
    nodes: list[Node] = []
    for node in graph.nodes:
        rule = PARTS.get(node.kind)
        parts = (rule(Parts(node, graph, facts, constants)) if rule else None) or [node]
        made = {name for part in parts for name in part.outputs}
        parts = parts if made.issuperset(read.intersection(node.outputs)) else [node]
        facts = facts_after(parts, facts)
        nodes.extend(parts)
    # shapes were not known behind what was joined
    return clean(graph.changed(nodes=tuple(nodes), constants=constants))


class Parts:
    """A node being taken apart: its inputs padded with "", and names for what lies between."""

    def __init__(
        self, node: Node, graph: Graph, facts: dict[str, Fact], constants: dict[str, Array]
    ) -> None:
        self.node, self.graph, self.facts, self.constants = node, graph, facts, constants
        self.inputs = (*node.inputs, *[""] * 12)
        self.out = node.outputs[0]
        self.nodes: list[Node] = []

    def add(self, op: str, *inputs: str, last: bool = False, **attributes: Any) -> str:
        name = self.out if last else f"{self.out}.{op}{len(self.nodes)}"
        self.nodes.append(Node(op, inputs, (name,), attributes, self.node.name))
        return name

    def constant(self, array: Any, name: str = "") -> str:
        if not name or name in self.constants:
            name = f"{self.out}.constant{len(self.constants)}"
        self.constants[name] = np.asarray(array)
        self.facts[name] = fact_of(array)
        return name

    def shape(self, name: str) -> Shape:
        """() where it is not known."""
        return self.facts.get(name, UNKNOWN).shape or ()

    def given(self, name: str) -> str:
        """The graph's input where a value is that, cast to another width."""
        node = self.graph.producer().get(name)
        if node is None or node.kind != "Cast" or node.inputs[0] not in self.facts:
            return name
        types = {self.facts[each].dtype for each in (name, node.inputs[0])}
        return node.inputs[0] if types <= {"int32", "int64"} else name

    def places(self, x: str) -> str:
        """0, 1, 2 ... for each token of x [batch, tokens, ...]."""
        length = self.add("Gather", self.add("Shape", x), self.constant(np.int64(1)))
        return self.add("Range", self.constant(np.int64(0)), length, self.constant(np.int64(1)))


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


def quick_gelu(p: Parts) -> list[Node] | None:
    x, alpha = p.node.inputs[0], np.float32(p.node.attributes.get("alpha", 1.702))
    scaled = x if alpha == 1 else p.add("Mul", x, p.constant(alpha))
    p.add("Mul", x, p.add("Sigmoid", scaled), last=True)
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
    alpha = np.float32(how.get("alpha", 1.0))
    product = p.add("MatMul", *operands, last=bool(alpha == 1))
    if alpha != 1:
        p.add("Mul", product, p.constant(alpha), last=True)
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


def skip_simplified_layer_normalization(p: Parts) -> list[Node] | None:
    x, skip, gamma, bias = p.inputs[:4]
    total = p.add("Add", p.add("Add", x, bias) if bias else x, skip)
    epsilon = p.node.attributes.get("epsilon", 1e-12)
    p.add("SimplifiedLayerNormalization", total, gamma, last=True, axis=-1, epsilon=epsilon)
    if len(p.node.outputs) > 3 and p.node.outputs[3]:  # the sum, for the next residual
        p.nodes.append(Node("Identity", (total,), (p.node.outputs[3],)))
    return p.nodes


# --- layers ---
def embed_layer_normalization(p: Parts) -> list[Node] | None:
    tables, places = p.inputs[2:7], p.inputs[8]
    floats = {p.facts.get(name, UNKNOWN).dtype for name in tables[:2]} == {"float32"}
    return embedded(p, tables, places) if floats else None


def q_embed_layer_normalization(p: Parts) -> list[Node] | None:
    """EmbedLayerNormalization of stored tables."""
    stored = zip(p.inputs[2:7], p.inputs[8:13], p.inputs[13:18], strict=True)
    if not {"", *p.constants}.issuperset((*p.inputs[2:7], *p.inputs[8:18])):
        return None
    tables = []
    for names in stored:
        arrays: list[Any] = [p.constants.get(name) for name in names]
        tables.append(p.constant(dequantize_linear(*arrays)) if names[0] else "")
    return embedded(p, tables, "")


def embedded(p: Parts, tables: Sequence[str], places: str) -> list[Node] | None:
    """tables: of words, positions, types or "", gamma and beta; places: numbers of tokens or ""."""
    ids, kinds, mask = p.given(p.inputs[0]), p.given(p.inputs[1]), p.inputs[7]
    words, positions, types, gamma, beta = tables
    if p.node.attributes.get("mask_index_type"):
        return None
    rows = p.add("Gather", positions, places or p.places(ids), axis=0)
    total = p.add("Add", p.add("Gather", words, ids, axis=0), rows)
    if kinds and types:
        total = p.add("Add", total, p.add("Gather", types, kinds, axis=0))
    epsilon = p.node.attributes.get("epsilon", 1e-12)
    p.add("LayerNormalization", total, gamma, beta, last=True, axis=-1, epsilon=epsilon)
    lengths, summed = (*p.node.outputs, "", "")[1:3]
    if lengths and mask:
        p.nodes.append(number_of_ones(p, mask, lengths))
    if summed:
        p.nodes.append(Node("Identity", (total,), (summed,)))
    return p.nodes


def number_of_ones(p: Parts, mask: str, lengths: str) -> Node:
    """int32 [batch]"""
    one = p.constant(np.array(1, p.facts[mask].dtype or "int32"))
    ones = p.add("Cast", p.add("Equal", mask, one), to="int32")
    if p.graph.opset < 13:  # the axes were an attribute
        return Node("ReduceSum", (ones,), (lengths,), {"axes": (1,), "keepdims": 0})
    axes = p.constant(np.array([1]))
    return Node("ReduceSum", (ones, axes), (lengths,), {"keepdims": 0})


def attention(p: Parts) -> list[Node] | None:
    x, weights, bias, mask = p.inputs[:4]
    weight = p.constants.get(weights)
    channels = channels_of(weight)
    if weight is None or not channels or weight.dtype != np.float32 or any(p.inputs[4:]):
        return None
    parts = zip(thirds(weight), parameters(p, "weight"), strict=True)
    products = [p.add("MatMul", x, p.constant(part, name)) for part, name in parts]
    return attended(p, products, bias, mask, channels)


def q_attention(p: Parts) -> list[Node] | None:
    """Attention of stored values and weights."""
    x, _, bias, x_scale, _, mask, x_zero, _ = p.inputs[:8]
    stored = [p.constants.get(p.inputs[i]) for i in (1, 4, 7) if p.inputs[i]]
    weights, channels = [array for array in stored if array is not None], channels_of(stored[0])
    if len(weights) < len(stored) or not channels or any(p.inputs[8:]):
        return None
    if any(array.shape not in ((), (1,), (3 * channels,)) for array in weights[1:]):
        return None
    if not all(is_one_number(p, name) for name in (x_scale, x_zero)):
        return None
    left = p.add("DequantizeLinear", *(name for name in (x, x_scale, x_zero) if name))
    products = []
    for parts in zip(*map(thirds, weights), strict=True):
        right = p.add("DequantizeLinear", *map(p.constant, parts), axis=1)
        products.append(p.add("MatMul", left, right))
    return attended(p, products, bias, mask, channels)


def channels_of(weight: Array | None) -> int:
    """Of query, key and value [K, 3 * channels], 0 where they are something else."""
    if weight is None or weight.ndim != 2 or weight.shape[1] % 3:
        return 0
    return int(weight.shape[1] // 3)


def thirds(array: Array) -> list[Array]:
    """Of query, key and value, which are side by side; a single number is that of all."""
    parts = np.split(array, 3, axis=-1) if array.size > 1 else [array] * 3
    return [np.ascontiguousarray(part) for part in parts]


def parameters(p: Parts, kind: str) -> list[str]:
    """Names, as the layers had that were joined."""
    stem = path_of(p.out) or p.node.name or p.out
    return [f"{stem}.{layer}.{kind}" for layer in ("query", "key", "value")]


def multi_head_attention(p: Parts) -> list[Node] | None:
    layers, bias, mask = list(p.inputs[:3]), p.inputs[3], p.inputs[4]
    shapes = [p.shape(layer) for layer in layers]
    channels = shapes[0][2] if len(shapes[0]) == 3 else ""
    if any(p.inputs[5:]) or shapes.count(shapes[0]) < 3 or not isinstance(channels, int):
        return None
    return attended(p, layers, bias, mask, channels)


ATTENDS = {"num_heads", "scale", "mask_filter_value"}  # attributes that are said in ONNX


def attended(p: Parts, layers: list[str], bias: str, mask: str, channels: int) -> list[Node] | None:
    """Of query, key and value [batch, tokens, channels]; bias [3 * channels], mask: or ""."""
    heads, how = p.node.attributes["num_heads"], p.node.attributes
    if how.keys() - ATTENDS or heads < 1 or channels < 1 or channels % heads:
        return None
    if bias and p.shape(bias) != (3 * channels,) or bias not in {"", *p.constants}:
        return None
    if bias:
        biases = map(p.constant, thirds(p.constants[bias]), parameters(p, "bias"))
        layers = [p.add("Add", x, name) for x, name in zip(layers, biases, strict=True)]
    kept = kept_keys(p, mask, layers[0])
    scale = how.get("scale") or (channels // heads) ** -0.5
    return None if kept is None else dot_products(p, layers, kept, scale, (heads, channels))


def dot_products(
    p: Parts, layers: list[str], kept: str, scale: float, lengths: tuple[int, int]
) -> list[Node]:
    """kept: bool, of keys, or ""; lengths: heads and channels."""
    heads, channels = lengths
    split = p.constant(np.array([0, 0, heads, channels // heads]))
    query, key, value = (
        p.add("Transpose", p.add("Reshape", layer, split), perm=order)
        for layer, order in zip(layers, ((0, 2, 1, 3), (0, 2, 3, 1), (0, 2, 1, 3)), strict=True)
    )
    scores = p.add("Mul", p.add("MatMul", query, key), p.constant(np.float32(scale)))
    if kept:
        scores = p.add("Where", kept, scores, p.constant(LEAST))
    context = p.add("MatMul", p.add("Softmax", scores, axis=-1), value)
    context = p.add("Transpose", context, perm=(0, 2, 1, 3))
    p.add("Reshape", context, p.constant(np.array([0, 0, channels])), last=True)
    return p.nodes


def kept_keys(p: Parts, mask: str, query: str) -> str | None:
    """bool [batch, 1, 1, tokens] of a mask: lengths [batch], or [batch, tokens]; "" without one.

    The node's first input is [batch, tokens, channels], as is the query.
    """
    if not mask:
        return ""
    shape = p.shape(mask)
    if len(shape) not in (1, 2) or not alike(shape, p.shape(p.inputs[0])[: len(shape)]):
        return None
    if len(shape) == 1:
        lengths = p.add("Cast", mask, to="int64")
        lengths = p.add("Reshape", lengths, p.constant(np.array([-1, 1, 1, 1])))
        return p.add("Less", p.places(query), lengths)
    ones = p.add("Cast", mask, to="bool")
    return p.add("Reshape", ones, p.constant(np.array([0, 1, 1, -1])))


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


def matmul_nbits(p: Parts) -> list[Node] | None:
    """A product with float32 weights, which take more memory than those of few bits."""
    x, stored, scales, zeros, groups, bias = p.inputs[:6]
    how = p.node.attributes
    names = [name for name in (stored, scales, zeros, groups) if name]
    parts = {name: p.constants[name] for name in names if name in p.constants}
    if len(parts) < len(names) or parts[scales].dtype != np.float32:
        return None
    shape, bits = (how["N"], how["K"]), how.get("bits", 4)
    given = (parts[stored], parts[scales], parts.get(zeros), parts.get(groups))
    try:
        weight = weight_of_blocks(*given, shape=shape, bits=bits, block=how["block_size"])
    except (EngineError, IndexError, ValueError):
        return None  # the run reports what does not fit
    if weight.shape != shape:
        return None
    name = p.constant(np.ascontiguousarray(weight.T), f"{stored}.weight")
    product = p.add("MatMul", x, name, last=not bias)
    if bias:
        p.add("Add", product, bias, last=True)
    return p.nodes


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


# --- rotary positions ---
def microsofts_rotary_embedding(p: Parts) -> list[Node] | None:
    x, places, cos, sin = p.inputs[:4]
    how = p.node.attributes
    if how.get("scale", 1.0) != 1.0 or how.get("is_packed_batching"):
        return None
    if len(p.shape(places)) < 2:  # the place of the first token
        if len(p.shape(x)) != 3:
            return None
        places = p.add("Add", p.places(x), places)
        places = p.add("Reshape", places, p.constant(np.array([1, -1])))
    return turned(p, x, [p.add("Gather", table, places, axis=0) for table in (cos, sin)])


def rotary_embedding(p: Parts) -> list[Node] | None:
    x, cos, sin, places = p.inputs[:4]
    tables = [p.add("Gather", table, places, axis=0) if places else table for table in (cos, sin)]
    return turned(p, x, tables)


def turned(p: Parts, x: str, tables: Sequence[str]) -> list[Node] | None:
    """tables: cos and sin [batch or 1, tokens, pairs]."""
    shape, how = p.shape(x), p.node.attributes
    pairs = (p.shape(p.inputs[2]) or ("",))[-1]  # of a table, in either operator
    whole = len(shape) == 3
    if len(shape) not in (3, 4) or not isinstance(pairs, int) or p.graph.opset < 13:
        return None
    if how.get("rotary_embedding_dim", 0) not in (0, 2 * pairs):
        return None
    if whole:
        heads = how.get("num_heads") or (int(shape[2]) // (2 * pairs) if shape[2] else 0)
        x = p.add("Reshape", x, p.constant(np.array([0, 0, heads, -1])))
    axis = p.constant(np.array([2 if whole else 1]))
    cos, sin = (p.add("Unsqueeze", table, axis) for table in tables)
    last, step = p.constant(np.array([3])), p.constant(np.array([1 + how.get("interleaved", 0)]))
    ends = ((0, 2 * pairs), (1, 2 * pairs)) if how.get("interleaved") else _halves(pairs)
    a, b = (
        p.add("Slice", x, *(p.constant(np.array([n])) for n in end), last, step) for end in ends
    )
    first = p.add("Sub", p.add("Mul", a, cos), p.add("Mul", b, sin))
    second = p.add("Add", p.add("Mul", b, cos), p.add("Mul", a, sin))
    if how.get("interleaved"):
        deep = p.constant(np.array([4]))
        both = (p.add("Unsqueeze", each, deep) for each in (first, second))
        near = p.add("Reshape", p.add("Concat", *both, axis=4), p.constant(np.array([0, 0, 0, -1])))
    else:
        near = p.add("Concat", first, second, axis=3)
    beyond = (np.array([2 * pairs]), np.array([np.iinfo(np.int64).max]))
    far = p.add("Slice", x, *map(p.constant, beyond), last)
    end = p.constant(np.array([0, 0, -1] if whole else [0, 0, 0, -1]))
    p.add("Reshape", p.add("Concat", near, far, axis=3), end, last=True)
    return p.nodes


def _halves(pairs: int) -> tuple[tuple[int, int], tuple[int, int]]:
    return (0, pairs), (pairs, 2 * pairs)


PARTS: dict[str, Callable[[Parts], list[Node] | None]] = {
    "com.microsoft.Attention": attention,
    "com.microsoft.BiasGelu": bias_gelu,
    "com.microsoft.DequantizeLinear": same_in_onnx,
    "com.microsoft.DynamicQuantizeMatMul": dynamic_quantize_matmul,
    "com.microsoft.EmbedLayerNormalization": embed_layer_normalization,
    "com.microsoft.FastGelu": fast_gelu,
    "com.microsoft.FusedGemm": fused_gemm,
    "com.microsoft.FusedMatMul": fused_matmul,
    "com.microsoft.Gelu": gelu,
    "com.microsoft.MatMulIntegerToFloat": matmul_integer_to_float,
    "com.microsoft.MatMulNBits": matmul_nbits,
    "com.microsoft.MultiHeadAttention": multi_head_attention,
    "com.microsoft.QAttention": q_attention,
    "com.microsoft.QEmbedLayerNormalization": q_embed_layer_normalization,
    "com.microsoft.QuantizeLinear": same_in_onnx,
    "com.microsoft.QuickGelu": quick_gelu,
    "com.microsoft.RotaryEmbedding": microsofts_rotary_embedding,
    "RotaryEmbedding": rotary_embedding,
    "com.microsoft.SkipLayerNormalization": skip_layer_normalization,
    "com.microsoft.SkipSimplifiedLayerNormalization": skip_simplified_layer_normalization,
}
