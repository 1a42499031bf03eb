"""Shapes of all values of a graph, with free lengths, and the contents of small integer tensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..graph import Graph, Node
from ..ops import Trait, kinds
from . import shape_rules
from .lengths import Length, Shape, added, broadcast, times
from .shape_rules import LARGEST, UNKNOWN, Fact, Rule, axes_of, whole

__all__ = ["UNKNOWN", "Fact", "fact_of", "facts_after", "infer"]


def infer(graph: Graph) -> dict[str, Fact]:
    """Value name -> fact, for every value of the graph."""
    facts = {value.name: Fact(value.shape, None, value.dtype) for value in graph.inputs}
    facts.update((name, _of_constant(graph, name)) for name in graph.constants)
    return facts_after(graph.nodes, facts)


def facts_after(nodes: Iterable[Node], facts: dict[str, Fact]) -> dict[str, Fact]:
    """The facts, and those of what the nodes make of them."""
    for node in nodes:
        inputs = [facts.get(name, UNKNOWN) if name else UNKNOWN for name in node.inputs]
        rule = RULES.get(node.kind)
        results = rule(node, inputs) if rule else UNKNOWN
        listed = results if isinstance(results, list) else [results]
        for i, name in enumerate(node.outputs):
            fact = listed[i] if i < len(listed) else UNKNOWN
            facts[name] = with_names(fact, name)
    return facts


def fact_of(array: Any) -> Fact:
    array = np.asarray(array)
    known = array.ndim <= 1 and array.size <= LARGEST and array.dtype.kind in "iub"
    contents = tuple(int(x) for x in array.reshape(-1)) if known else None
    return Fact(array.shape, contents, str(array.dtype))


def _of_constant(graph: Graph, name: str) -> Fact:
    """Of what has more axes nothing but its shape is asked: blocks on disk are not expanded."""
    value = graph.constant(name)
    if len(value.shape) <= 1:
        return fact_of(graph.constants[name])
    return Fact(value.shape, None, value.dtype)


def with_names(fact: Fact, name: str) -> Fact:
    """Lengths that a rule left open ("") get a name of their own."""
    if fact.shape is None or "" not in fact.shape:
        return fact
    shape = tuple(f"?{name}.{i}" if d == "" else d for i, d in enumerate(fact.shape))
    return Fact(shape, fact.contents, fact.dtype)


# --- rules of operators that compute with activations ---
def same_as_input(node: Node, inputs: list[Fact]) -> Fact:
    return Fact(inputs[0].shape, None, inputs[0].dtype)


def truth(node: Node, inputs: list[Fact]) -> Fact:
    return Fact(inputs[0].shape, None, "bool")


def quantize(node: Node, inputs: list[Fact]) -> Fact:
    return Fact(inputs[0].shape, None, inputs[2].dtype if len(inputs) > 2 else None)


def dequantize(node: Node, inputs: list[Fact]) -> Fact:
    return Fact(inputs[0].shape, None, node.attributes.get("output_dtype") or inputs[1].dtype)


def matmul(node: Node, inputs: list[Fact]) -> Fact:
    a, b = inputs[0].shape, inputs[1].shape
    dtype = "int32" if node.kind == "MatMulInteger" else inputs[0].dtype
    if a is None or b is None or len(a) < 1 or len(b) < 2:
        return Fact(None, None, dtype)
    if len(a) == 1:
        return Fact((*b[:-2], b[-1]), None, dtype)
    batch = broadcast(a[:-2], b[:-2])
    return Fact(None if batch is None else (*batch, a[-2], b[-1]), None, dtype)


def convolved(node: Node, inputs: list[Fact]) -> Fact:
    """Of Conv and ConvInteger; a kernel of 1 that goes step by step keeps all lengths."""
    x, weight = inputs[0].shape, inputs[1].shape
    dtype = "int32" if node.kind == "ConvInteger" else inputs[0].dtype
    if x is None or weight is None or len(x) != len(weight):
        return Fact(None, None, dtype)
    return Fact((x[0], weight[0], *kept_lengths(node, x[2:], weight[2:])), None, dtype)


def kept_lengths(node: Node, lengths: Shape, kernel: Shape) -> Shape:
    """Those of a convolution's result, where it has the input's."""
    moved = set(node.attributes.get("strides") or [1]) != {1} or any(
        node.attributes.get("pads") or []
    )
    return ("",) * len(lengths) if moved or set(kernel) != {1} else lengths


def qlinear_convolved(node: Node, inputs: list[Fact]) -> Fact:
    fact = convolved(node, [inputs[0], inputs[3]])
    return Fact(fact.shape, None, inputs[7].dtype)


def gemm(node: Node, inputs: list[Fact]) -> Fact:
    a, b = inputs[0].shape, inputs[1].shape
    if a is None or b is None:
        return Fact(None, None, inputs[0].dtype)
    rows = a[-1] if node.attributes.get("transA") else a[0]
    return Fact((rows, b[0] if node.attributes.get("transB") else b[-1]), None, inputs[0].dtype)


def reduced(node: Node, inputs: list[Fact]) -> Fact:
    x = inputs[0]
    axes = axes_of(node, inputs, len(x.shape)) if x.shape else None
    if x.shape is None or axes is None:
        return Fact(None, None, x.dtype)
    axes = axes or list(range(len(x.shape)))
    if node.attributes.get("keepdims", 1):
        return Fact(tuple(1 if i in axes else d for i, d in enumerate(x.shape)), None, x.dtype)
    return Fact(tuple(d for i, d in enumerate(x.shape) if i not in axes), None, x.dtype)


def place_of_one(node: Node, inputs: list[Fact]) -> Fact:
    """ArgMax and ArgMin."""
    axis = node.attributes.get("axis", 0)
    return Fact(
        reduced(node.changed(attributes={**node.attributes, "axes": (axis,)}), inputs).shape,
        None,
        "int64",
    )


def split(node: Node, inputs: list[Fact]) -> list[Fact]:
    x, count = inputs[0], len(node.outputs)
    if x.shape is None:
        return [Fact(None, None, x.dtype)] * count
    axis = node.attributes.get("axis", 0) % len(x.shape)
    sizes = node.attributes.get("split") or (whole(inputs[1].contents) if len(inputs) > 1 else None)
    length = x.shape[axis]
    if sizes is None and isinstance(length, int) and length % count == 0:
        sizes = [length // count] * count
    lengths: Sequence[Length] = sizes or [""] * count
    return [Fact((*x.shape[:axis], d, *x.shape[axis + 1 :]), None, x.dtype) for d in lengths]


def dynamic_quantize(node: Node, inputs: list[Fact]) -> list[Fact]:
    return [
        Fact(inputs[0].shape, None, "uint8"),
        Fact((), None, "float32"),
        Fact((), None, "uint8"),
    ]


def result_type(node: Node) -> str | None:
    """Of the engine's operators: stored in 8 bits or float32."""
    how = node.attributes.get("output")
    return "float32" if how is None else str(how.dtype)


def layer_norm(node: Node, inputs: list[Fact]) -> Fact:
    x, residual = inputs[0].shape, inputs[1].shape if node.inputs[1] else inputs[0].shape
    return Fact(x if x == residual else None, None, result_type(node))


def attention(node: Node, inputs: list[Fact]) -> Fact:
    query, key, value = (fact.shape for fact in inputs[:3])
    if query is None or key is None or key != value or query[2:] != key[2:]:
        return Fact(None, None, result_type(node))
    return Fact(query, None, result_type(node))


def probabilities(node: Node, inputs: list[Fact]) -> Fact:
    query, key = (fact.shape for fact in inputs[:2])
    if query is None or key is None or query[2:] != key[2:] or query[0] != key[0]:
        return Fact(None, None, "float32")
    return Fact((query[0], node.attributes["heads"], query[1], key[1]), None, "float32")


def linear(node: Node, inputs: list[Fact]) -> Fact:
    x, weight = inputs[0].shape, inputs[1].shape
    if x is None or weight is None:
        return UNKNOWN
    return Fact((*x[:-1], weight[0]), None, result_type(node))


def embedding(node: Node, inputs: list[Fact]) -> Fact:
    ids, words = inputs[0].shape, inputs[2].shape
    if ids is None or words is None:
        return UNKNOWN
    return Fact((*ids, words[1]), None, result_type(node))


def rotary(node: Node, inputs: list[Fact]) -> Fact:
    return Fact(inputs[0].shape, None, result_type(node))


def trigram(node: Node, inputs: list[Fact]) -> Fact:
    ids, words, rest = (inputs[i].shape for i in (0, 2, 3))
    if ids is None or words is None or rest is None:
        return UNKNOWN
    return Fact((*ids, added(times(3, words[1]), rest[1]) or ""), None, "float32")


def select(node: Node, inputs: list[Fact]) -> Fact:
    """Also of Pool: one row of each sentence."""
    x = inputs[0]
    return UNKNOWN if x.shape is None else Fact((x.shape[0], 1, x.shape[2]), None, x.dtype)


def some_channels(node: Node, inputs: list[Fact]) -> Fact:
    x = inputs[0]
    shape = None if x.shape is None else (*x.shape[:-1], node.attributes["count"])
    return Fact(shape, None, x.dtype)


def quantized_product(node: Node, inputs: list[Fact]) -> Fact:
    return matmul(node, [inputs[0], inputs[3]])


FAKE = ("engine.FakeQuantize", "engine.DynamicFakeQuantize")  # between passes only
RULES: dict[str, Rule] = {
    **shape_rules.RULES,
    **dict.fromkeys(kinds(Trait.SAME), same_as_input),
    **dict.fromkeys(FAKE, same_as_input),
    **dict.fromkeys(kinds(Trait.REDUCES), reduced),
    **dict.fromkeys(["ArgMax", "ArgMin"], place_of_one),
    **dict.fromkeys(["DequantizeLinear", "com.microsoft.DequantizeLinear"], dequantize),
    **dict.fromkeys(["QuantizeLinear", "com.microsoft.QuantizeLinear"], quantize),
    "Conv": convolved,
    "ConvInteger": convolved,
    "DynamicQuantizeLinear": dynamic_quantize,
    "Gemm": gemm,
    "com.microsoft.FusedGemm": gemm,
    "IsNaN": truth,
    "MatMul": matmul,
    "MatMulInteger": matmul,
    "Not": truth,
    "QLinearConv": qlinear_convolved,
    "QLinearMatMul": quantized_product,
    "Split": split,
    "engine.Affine": layer_norm,
    "engine.Attention": attention,
    "engine.Embedding": embedding,
    "engine.LayerNorm": layer_norm,
    "engine.Linear": linear,
    "engine.Channels": some_channels,
    "engine.L2Norm": same_as_input,
    "engine.Mask": same_as_input,
    "engine.Pool": select,
    "engine.Rotary": rotary,
    "engine.Probabilities": probabilities,
    "engine.Select": select,
    "engine.Trigram": trigram,
}
