"""Every spelling of quantised arithmetic becomes float arithmetic on simulated quantisation.

    FakeQuantize(x; quantization)            x quantised and dequantised again
    DynamicFakeQuantize(x; dynamic)          the same with the range found at run time
    DequantizeLinear(constant, scale, zero)  a weight stored in 8 bits

QDQ pairs, QLinearMatMul, QGemm and MatMulInteger all come here, so the fusions after this pass see
one form.  Both operators live between passes only: the pass `quantize` turns them into attributes,
or QuantizeLinear and DequantizeLinear again (`spelled_out`, also used where such a graph must run).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..graph import Graph, Node, Quantization
from ..ops.numbers import dequantized, quantized
from ..ops.reference import evaluate
from .clean import clean, fold, merge_twins
from .fusion import Fusion, Match, fuse, per_channel
from .match import Constant, Operators, Pattern, Tensor, either
from .movement import MOVEMENTS
from .repeated import drop_repeated, quantization_of
from .stored_products import stored_products

Array = NDArray[Any]
STORED_OPERANDS = {"MatMul", "Gemm"} | MOVEMENTS

__all__ = [
    "between_floats",
    "every_byte",
    "fake_quantize",
    "quantization_of",
    "rounded",
    "simulate",
    "spelled_out",
]


def simulate(graph: Graph) -> Graph:
    """The graph in terms of FakeQuantize."""
    graph = transposed_weights(with_float_operators(between_floats(graph)))
    for fusion in INTEGER_PRODUCTS:
        graph = fuse(graph, fusion)
    before: tuple[Node, ...] = ()
    while before != graph.nodes:
        before = graph.nodes
        graph = stored_constants(raised(joined(raised_dequantize(graph))))
        graph = merge_twins(drop_repeated(graph))
        graph = fold(stored_products(computed(graph)))
    return graph.without_dead_nodes()


def fake_quantize(x: str, y: str, how: Quantization, name: str = "") -> Node:
    return Node("FakeQuantize", (x,), (y,), {"quantization": how}, name, "engine")


# --- QOperator and MatMulInteger ---
def between_floats(graph: Graph) -> Graph:
    """The same as with_float_operators where it has sums and the like of bytes, of which no shapes
    are known.
    """
    some = any(node.kind in BETWEEN_BYTES for node in graph.nodes)
    return clean(with_float_operators(graph)) if some else graph


def with_float_operators(graph: Graph) -> Graph:
    """QLinearMatMul and its like as DequantizeLinear, the float operator, QuantizeLinear."""
    constants = dict(graph.constants)
    nodes = tuple(part for node in graph.nodes for part in opened(node, constants))
    return graph.changed(nodes=nodes, constants=constants)


def between_bytes(op: str, count: int, node: Node) -> list[Node]:
    """An operator on so many stored values that has nothing more to it."""
    if len(node.inputs) < 3 * count + 2 or node.attributes.get("opset", 13) < 13:
        return [node]
    return between(op, node, node.inputs[: 3 * count], node.inputs[3 * count :])


def joined_bytes(node: Node) -> list[Node]:
    """A Concat of stored values, whose result comes first."""
    parts = node.inputs[2:]
    return (
        [node] if not parts or len(parts) % 3 else between("Concat", node, parts, node.inputs[:2])
    )


def between(op: str, node: Node, stored: Sequence[str], result: Sequence[str]) -> list[Node]:
    """DequantizeLinear of each three of `stored`, the operator, QuantizeLinear."""
    if not all(result):
        return [node]
    attributes = {name: value for name, value in node.attributes.items() if name != "opset"}
    operands = [tuple(stored[i : i + 3]) for i in range(0, len(stored), 3)]
    out, names, nodes = node.outputs[0], [], []
    for i, operand in enumerate(operands):
        names.append(f"{out}.operand{i}")
        nodes.append(Node("DequantizeLinear", operand, (names[-1],), {}, node.name))
    nodes.append(Node(op, tuple(names), (f"{out}.float",), attributes, node.name))
    return [*nodes, Node("QuantizeLinear", (f"{out}.float", *result), (out,), {}, node.name)]


BETWEEN_BYTES: dict[str, Callable[[Node], list[Node]]] = {
    "com.microsoft.QLinearAdd": partial(between_bytes, "Add", 2),
    "com.microsoft.QLinearConcat": joined_bytes,
    "com.microsoft.QLinearMul": partial(between_bytes, "Mul", 2),
    "com.microsoft.QLinearSigmoid": partial(between_bytes, "Sigmoid", 1),
    "com.microsoft.QLinearSoftmax": partial(between_bytes, "Softmax", 1),
}


def opened(node: Node, constants: dict[str, Array]) -> list[Node]:
    if node.kind in BETWEEN_BYTES:
        return BETWEEN_BYTES[node.kind](node)
    if node.kind == "QLinearMatMul":
        a, b, y = node.inputs[:3], node.inputs[3:6], node.inputs[6:8]
        if not scaled_by_outputs(constants, (*a[1:], *y), b, 1):
            return [node]
        return around(node, constants, "MatMul", [a, b], y, 1)
    if node.kind == "com.microsoft.QGemm":
        a, b, rest = node.inputs[:3], node.inputs[3:6], (*node.inputs[6:], "", "", "")
        axis = 0 if node.attributes.get("transB") else 1
        alone = (*a[1:], *(name for name in rest[1:3] if name))
        if rest[0] and (rest[0] not in constants or node.attributes.get("alpha", 1.0) != 1.0):
            return [node]
        if not scaled_by_outputs(constants, alone, b, axis):
            return [node]
        return around(node, constants, "Gemm", [a, b], rest[1:3], axis, rest[0])
    return [node]


def scaled_by_outputs(
    constants: dict[str, Array], alone: Sequence[str], weight: Sequence[str], axis: int
) -> bool:
    """Constants `alone` are one number each, the weight's one, or one per output of a matrix."""
    if any(name not in constants for name in (*alone, *weight[1:])):
        return False
    if any(constants[name].size != 1 for name in alone):
        return False
    shapes, values = {constants[name].shape for name in weight[1:]}, constants.get(weight[0])
    if shapes <= {(), (1,)}:
        return True
    return values is not None and values.ndim == 2 and shapes <= {(), (1,), (values.shape[axis],)}


def around(
    node: Node,
    constants: dict[str, Array],
    op: str,
    operands: Sequence[Sequence[str]],
    result: Sequence[str],
    axis: int,
    bias: str = "",
) -> list[Node]:
    out, names, nodes = node.outputs[0], [], []
    for i, operand in enumerate(operands):
        names.append(f"{out}.operand{i}")
        given, attributes = tuple(operand), {"axis": axis} if i else {}
        nodes.append(Node("DequantizeLinear", given, (names[-1],), attributes, node.name))
    if bias:  # int32, in steps of the product of both scales, which the constant holds already
        names.append(float_bias(constants, bias, operands[0][1], operands[1][1]))
    floating = f"{out}.float" if result[0] else out
    nodes.append(Node(op, tuple(names), (floating,), node.attributes, node.name))
    if result[0]:
        nodes.append(Node("QuantizeLinear", (floating, *result), (out,), {}, node.name))
    return nodes


def float_bias(constants: dict[str, Array], bias: str, a_scale: str, b_scale: str) -> str:
    name = f"{bias}.float"
    scale = constants[a_scale].astype(np.float64) * constants[b_scale]
    constants[name] = (constants[bias] * scale).astype(np.float32)
    return name


def integer_product(
    op: Operators,
    x: Tensor, x_scale: Tensor, x_zero: Tensor,
    weight: Constant, weight_scale: Constant, weight_zero: Constant, scales: Constant,
) -> Pattern:  # fmt: skip
    product = op.Cast(
        either(
            op.MatMulInteger(x, weight, x_zero, weight_zero), op.MatMulInteger(x, weight, x_zero)
        )
    )
    return either(
        product * scales, product * (x_scale * weight_scale), product * x_scale * weight_scale
    )


def unlike_quantized(match: Match) -> str | None:
    reason = unlike_outputs(match)
    if reason:
        return reason
    source = match.search.producer.get(match["x"])
    if source is None or source.kind not in ("DynamicQuantizeLinear", "QuantizeLinear"):
        return f"'{match['x']}' is not made by QuantizeLinear or DynamicQuantizeLinear"
    if source.kind == "QuantizeLinear":
        how = quantization_of(match.graph, source)
        if how is None:
            return f"{source} does not have one constant scale"
        zero = match.graph.constants.get(match["x_zero"])
        if zero is None or int(np.reshape(zero, ())) != how.zero_point:
            return f"zero point '{match['x_zero']}' is not that of {source}"
        return None if "scales" in match else f"the scale of {source} is not constant"
    if "x_scale" not in match or (match["x_scale"], match["x_zero"]) != source.outputs[1:]:
        return f"scale and zero point are not those of {source}"
    return None


def unlike_outputs(match: Match) -> str | None:
    """A sentence where scales or zero points of the weight are not those of its outputs."""
    cast = next(node for node in match.nodes if node.kind == "Cast")
    if cast.attributes["to"] != "float32":
        return f"{cast} makes {cast.attributes['to']}, expected float32"
    weight, name = match.array("weight"), "scales" if "scales" in match else "weight_scale"
    outputs = weight.shape[-1]
    if weight.ndim != 2 or per_channel(match.array(name), outputs) is None:
        return f"'{match[name]}' is not one scale per output of {weight.shape}"
    if "weight_zero" in match and match.array("weight_zero").shape not in ((), (1,), (outputs,)):
        return f"'{match['weight_zero']}' is not one zero point per output"
    return None


def float_product(match: Match) -> Sequence[Node]:
    source, out = match.search.producer[match["x"]], match.root.outputs[0]
    node = next(node for node in match.nodes if node.kind == "MatMulInteger")
    name, x = node.name, f"{out}.x"
    if source.kind == "QuantizeLinear":
        how = quantization_of(match.graph, source)
        assert how is not None, "the guard has seen it"
        first = fake_quantize(source.inputs[0], x, how)
        scale = match.array("scales").astype(np.float32) / np.float32(how.scale)
    else:
        attributes = {"dynamic": "tensor"}
        first = Node("DynamicFakeQuantize", (source.inputs[0],), (x,), attributes, "", "engine")
        scale = match.array("weight_scale")
    weight = match.array("weight")
    zero = match.array("weight_zero") if "weight_zero" in match else np.zeros((), weight.dtype)
    outputs = weight.shape[1]
    inputs = (
        match["weight"],
        match.constant(f"{match['weight']}.scale", np.full(outputs, scale.ravel(), np.float32)),
        match.constant(f"{match['weight']}.zero", np.full(outputs, zero.ravel(), weight.dtype)),
    )
    return [
        first,
        Node("DequantizeLinear", inputs, (f"{out}.weight",), {"axis": 1}, name),
        Node("MatMul", (x, f"{out}.weight"), (out,), {}, name),
    ]


INTEGER_PRODUCTS = [Fusion("integer_product", integer_product, float_product, unlike_quantized)]


# --- QDQ ---
def joined(graph: Graph) -> Graph:
    """DequantizeLinear(QuantizeLinear(x)) is FakeQuantize(x)."""
    producer, nodes = graph.producer(), []
    for node in graph.nodes:
        source = producer.get(node.inputs[0]) if node.kind == "DequantizeLinear" else None
        if source is not None and source.kind == "QuantizeLinear":
            how = quantization_of(graph, node)
            if how is not None and how == quantization_of(graph, source):
                node = fake_quantize(source.inputs[0], node.outputs[0], how, node.name)
        elif (
            source is not None
            and source.kind == "DynamicQuantizeLinear"
            and node.inputs == source.outputs
        ):
            attributes = {"dynamic": "tensor"}
            node = Node(
                "DynamicFakeQuantize",
                source.inputs[:1],
                node.outputs,
                attributes,
                node.name,
                "engine",
            )
        nodes.append(node)
    return graph.changed(nodes=tuple(nodes)).without_dead_nodes()


def raised_dequantize(graph: Graph) -> Graph:
    """DequantizeLinear after an operator that only moves numbers goes before it."""
    return exchanged(
        graph, "DequantizeLinear", lambda node: quantization_of(graph, node) is not None
    )


def raised(graph: Graph) -> Graph:
    """FakeQuantize after an operator that only moves numbers goes before it."""
    return exchanged(graph, "engine.FakeQuantize", lambda node: True)


def exchanged(graph: Graph, kind: str, fits: Callable[[Node], bool]) -> Graph:
    producer, consumers = graph.producer(), graph.consumers()
    outputs = {value.name for value in graph.outputs}
    nodes: list[Node] = []
    for node in graph.nodes:
        move = producer.get(node.inputs[0]) if node.kind == kind and fits(node) else None
        alone = (
            move is not None
            and move.outputs[0] not in outputs
            and len(consumers[move.outputs[0]]) == 1
        )
        if (
            move is None
            or not alone
            or move.kind not in MOVEMENTS
            or (move.inputs[0] in graph.constants and move.kind != "Gather")
        ):
            nodes.append(node)
            continue
        between = f"{node.outputs[0]}.before"
        nodes.append(node.changed(inputs=(move.inputs[0], *node.inputs[1:]), outputs=(between,)))
        nodes.append(move.changed(inputs=(between, *move.inputs[1:]), outputs=node.outputs))
    return graph.changed(nodes=tuple(nodes)).without_dead_nodes()


def stored_constants(graph: Graph) -> Graph:
    """FakeQuantize of a constant is DequantizeLinear of the 8 bits it becomes.

    Where layers share weights, as ALBERT's, exporters write Identity for all but the first, and
    quantize_static takes its results for activations.
    """
    producer, constants, nodes = graph.producer(), dict(graph.constants), []
    for node in graph.nodes:
        if node.kind == "engine.FakeQuantize":
            array = constant_behind(node.inputs[0], producer, graph)
            if array is not None:
                how, stored = node.attributes["quantization"], f"{node.outputs[0]}.stored"
                constants[stored] = quantized(array, how)
                reads = (stored, *quantization_constants(constants, how))
                node = Node("DequantizeLinear", reads, node.outputs, {}, node.name)
        nodes.append(node)
    return graph.changed(nodes=tuple(nodes), constants=constants).without_dead_nodes()


def constant_behind(name: str, producer: Mapping[str, Node], graph: Graph) -> Array | None:
    """A float constant, or what a DequantizeLinear makes of constants."""
    array, node = graph.constants.get(name), producer.get(name)
    if node is not None and node.kind == "DequantizeLinear":
        parts = [graph.constants.get(each) for each in node.inputs]
        if all(part is not None for part in parts):
            array = evaluate(node, parts, graph.opset)[0]
    return array if array is not None and array.dtype == np.float32 else None


def computed(graph: Graph) -> Graph:
    """What is read in float32 of stored constants; the weights of products and the tables of
    embeddings stay stored.
    """
    constants, nodes, replaced = dict(graph.constants), list(graph.nodes), dict[str, str]()
    for node in nodes:
        if node.kind == "DequantizeLinear" and all(name in constants for name in node.inputs):
            name = replaced[node.outputs[0]] = f"{node.outputs[0]}.computed"
            constants[name] = evaluate(
                node, [constants[each] for each in node.inputs], graph.opset
            )[0]
    for i, node in enumerate(nodes):
        if node.kind not in STORED_OPERANDS and replaced.keys() & set(node.inputs):
            nodes[i] = node.changed(inputs=tuple(replaced.get(x, x) for x in node.inputs))
        elif node.kind == "Gemm" and node.inputs[2:3] and node.inputs[2] in replaced:
            nodes[i] = node.changed(inputs=(*node.inputs[:2], replaced[node.inputs[2]]))
    used = {name for node in nodes for name in node.inputs}
    for name in set(replaced.values()) - used:
        del constants[name]
    return graph.changed(nodes=tuple(nodes), constants=constants).without_dead_nodes()


def rounded(x: Array | None, node: Node) -> Array:
    """What a FakeQuantize makes of its input."""
    assert x is not None, "it has an input"
    how = node.attributes["quantization"]
    return dequantized(quantized(x, how), how)


def every_byte(how: Quantization) -> Array:
    """float32 [256]: what the bytes stand for, from the least."""
    least = int(np.iinfo(how.dtype).min)
    return dequantized(np.arange(least, least + 256).astype(how.dtype), how)


def transposed_weights(graph: Graph) -> Graph:
    """Transpose(DequantizeLinear(weight)) is DequantizeLinear(transposed weight)."""
    producer, constants, nodes = graph.producer(), dict(graph.constants), []
    for node in graph.nodes:
        source = producer.get(node.inputs[0]) if node.kind == "Transpose" else None
        is_stored = source is not None and source.kind == "DequantizeLinear"
        weight = constants.get(source.inputs[0]) if source and is_stored else None
        plain = source is not None and not set(source.attributes) - {"axis"}
        turned = tuple(node.attributes.get("perm") or (1, 0)) == (1, 0)
        if source is not None and weight is not None and weight.ndim == 2 and plain and turned:
            name = f"{source.inputs[0]}.transposed"
            constants[name] = np.ascontiguousarray(weight.T)
            axis = 1 - source.attributes.get("axis", 1) % 2
            node = source.changed(
                inputs=(name, *source.inputs[1:]), outputs=node.outputs, attributes={"axis": axis}
            )
        nodes.append(node)
    return graph.changed(nodes=tuple(nodes), constants=constants).without_dead_nodes()


# --- back to ONNX ---
def spelled_out(graph: Graph) -> Graph:
    """The same graph in operators that can run: no FakeQuantize, no DynamicFakeQuantize."""
    constants = dict(graph.constants)
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.kind == "engine.FakeQuantize":
            how, stored = node.attributes["quantization"], f"{node.outputs[0]}.stored"
            names = quantization_constants(constants, how)
            nodes.append(Node("QuantizeLinear", (*node.inputs, *names), (stored,), {}, node.name))
            nodes.append(Node("DequantizeLinear", (stored, *names), node.outputs, {}, node.name))
        elif node.kind == "engine.DynamicFakeQuantize":
            parts = tuple(f"{node.outputs[0]}.{part}" for part in ("stored", "scale", "zero"))
            nodes.append(Node("DynamicQuantizeLinear", node.inputs, parts, {}, node.name))
            nodes.append(Node("DequantizeLinear", parts, node.outputs, {}, node.name))
        else:
            nodes.append(node)
    return graph.changed(nodes=tuple(nodes), constants=constants)


def quantization_constants(constants: dict[str, Array], how: Quantization) -> tuple[str, str]:
    """Names of a scale and a zero point, put among the constants."""
    name = f"{how.dtype}:{how.scale!r}:{how.zero_point}"
    constants[f"{name}.scale"] = np.array(how.scale, np.float32)
    constants[f"{name}.zero"] = np.array(how.zero_point, how.dtype)
    return f"{name}.scale", f"{name}.zero"
