"""Layer normalisation (Ba, Kiros, Hinton 2016) over the last axis, or that of T5, which takes no
mean off (RMSNorm: Zhang, Sennrich 2019), and the residual before it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..graph import Graph, Node
from .fusion import Fusion, Match, fuse, fuse_all, per_channel
from .match import Constant, Missing, Operators, Pattern, Scalar, Tensor, either
from .names import layer_name

__all__ = ["FUSIONS", "RESIDUAL", "ROUNDINGS", "layer_norm", "residual"]


ROUNDINGS = ("variance", "raised", "normalised", "scaled")  # between the operators of a norm


def written_out(
    op: Operators, x: Tensor, gamma: Constant, beta: Constant, epsilon: Scalar
) -> Pattern:
    deviation, root = deviation_and_root(op, x, epsilon)
    return either(
        deviation / root * gamma + beta,
        deviation * op.Reciprocal(root) * gamma + beta,
        deviation * (op.Reciprocal(root) * gamma) + beta,
    )


def without_beta(op: Operators, x: Tensor, gamma: Constant, epsilon: Scalar) -> Pattern:
    deviation, root = deviation_and_root(op, x, epsilon)
    return deviation / root * gamma


def rounded_between(
    op: Operators, x: Tensor, gamma: Constant, beta: Constant, epsilon: Scalar
) -> Pattern:
    """As quantize_static leaves it, which does not know the reductions."""
    mean = either(op.ReduceMean(x), op.ReduceMean(x, Constant().named("axes")).named("mean"))
    deviation = x - mean
    square = either(op.Pow(deviation, 2.0), deviation * deviation)
    variance = either(op.ReduceMean(square), op.ReduceMean(square, Constant().named("axes2")))
    raised = op.engine.FakeQuantize(variance).named("rounded variance") + epsilon
    root = op.Sqrt(op.engine.FakeQuantize(raised).named("rounded raised"))
    normalised = op.engine.FakeQuantize(deviation / root).named("rounded normalised")
    return op.engine.FakeQuantize(normalised * gamma).named("rounded scaled") + beta


def deviation_and_root(op: Operators, x: Pattern, epsilon: Pattern) -> tuple[Pattern, Pattern]:
    """x less its mean, and the root of its variance and epsilon."""
    mean = op.ReduceMean(x)
    mean = either(mean, op.ReduceMean(x, Constant().named("axes")).named("mean"))
    deviation = x - mean
    square = either(op.Pow(deviation, 2.0), deviation * deviation)
    variance = either(op.ReduceMean(square), op.ReduceMean(square, Constant().named("axes2")))
    return deviation, op.Sqrt(variance.named("variance") + epsilon)


def one_operator(op: Operators, x: Tensor, gamma: Constant, beta: Constant) -> Pattern:
    return either(op.LayerNormalization(x, gamma, beta), op.LayerNormalization(x, gamma))


def not_centred(op: Operators, x: Tensor, gamma: Constant, epsilon: Scalar) -> Pattern:
    square = either(op.Pow(x, 2.0), x * x)
    mean = either(op.ReduceMean(square), op.ReduceMean(square, Constant().named("axes")))
    shifted = mean + epsilon
    root = op.Sqrt(shifted)
    inverse = either(op.Reciprocal(root), op.Div(1.0, root), op.Pow(shifted, -0.5))
    return either(x * inverse * gamma, x * (inverse * gamma), x / root * gamma)


def one_operator_not_centred(op: Operators, x: Tensor, gamma: Constant) -> Pattern:
    return scaled(op, x, gamma)


def scaled(op: Operators, x: Pattern, gamma: Pattern) -> Pattern:
    return either(op.RMSNormalization(x, gamma), op.SimplifiedLayerNormalization(x, gamma))


def centred_before(op: Operators, x: Tensor, gamma: Constant, beta: Constant) -> Pattern:
    """As ONNX Runtime's optimiser leaves a norm whose mean is taken off by other operators."""
    return centred_without_beta(op, x, gamma).named("norm") + beta


def centred_without_beta(op: Operators, x: Tensor, gamma: Constant) -> Pattern:
    mean = either(op.ReduceMean(x), op.ReduceMean(x, Constant().named("axes")))
    return scaled(op, x - mean, gamma)


def operator_of(match: Match) -> Node:
    """The norm's, where it is one."""
    return match.node("norm") if "norm" in match else match.root


def last_axis(match: Match) -> str | None:
    """It is the last axis that is normalised, and gamma and beta go along it."""
    node, rank = operator_of(match), match.search.facts[match["x"]].rank
    axis = node.attributes.get("axis", -1)
    if axis != -1 and axis + 1 != rank:
        return f"{node} begins at axis {axis} of {rank}"
    return channels(match)


def reductions(match: Match) -> str | None:
    """The reductions run over the last axis and keep it."""
    rank = match.search.facts[match["x"]].rank or 0
    for node in match.nodes:
        if node.kind != "ReduceMean":
            continue
        axes = node.attributes.get("axes")
        if axes is None and len(node.inputs) > 1 and node.inputs[1]:
            axes = match.graph.constants[node.inputs[1]]
        if axes is None or list(np.reshape(axes, -1)) not in ([-1], [rank - 1]):
            return f"{node} does not reduce the last axis: axes {axes}"
        if not node.attributes.get("keepdims", 1):
            return f"{node} does not keep the axis it reduces"
    return channels(match)


def both(match: Match) -> str | None:
    return reductions(match) or last_axis(match)


def channels(match: Match) -> str | None:
    count = channel_count(match)
    for name in filter(match.get, ("gamma", "beta")):
        array = match.array(name)
        if count is None or per_channel(array, count) is None:
            found = f"{array.dtype}{list(array.shape)}"
            return f"{name} is {found}, not one number for each of {count} channels"
    return None


def channel_count(match: Match) -> int | None:
    """Of x, where it is known."""
    count = (match.search.facts[match["x"]].shape or ("",))[-1]
    return count if isinstance(count, int) else None


def build(match: Match) -> Sequence[Node]:
    epsilon = (
        match.number("epsilon")
        if "epsilon" in match
        else operator_of(match).attributes.get("epsilon", 1e-5)
    )
    roundings = {
        name: match.node(f"rounded {name}").attributes["quantization"]
        for name in ROUNDINGS
        if f"rounded {name}" in match
    }
    attributes = {"epsilon": epsilon, "input": None, "residual": None, **roundings, "output": None}
    count = channel_count(match)
    assert count is not None, "the guard has seen it"
    gamma = match.per_channel("gamma", count)
    if "beta" in match:
        beta = match.per_channel("beta", count)
    else:
        beta = match.constant(f"{match['gamma']}.no_beta", np.zeros(count, np.float32))
    inputs = (match["x"], "", "", gamma, beta)
    name = layer_name([match.root], [match["gamma"], match.get("beta")])
    return [Node("LayerNorm", inputs, match.root.outputs[:1], attributes, name, "engine")]


def build_not_centred(match: Match) -> Sequence[Node]:
    return [node.changed(attributes={**node.attributes, "centred": False}) for node in build(match)]


FUSIONS = [
    Fusion("layer_norm", written_out, build, reductions),
    Fusion("layer_norm_rounded", rounded_between, build, reductions),
    Fusion("layer_normalization", one_operator, build, last_axis),
    Fusion("centred_rms_normalization", centred_before, build, both),
    Fusion("centred_rms_without_beta", centred_without_beta, build, both),
    Fusion("layer_norm_without_beta", without_beta, build, reductions),  # what has one is fused
    Fusion("rms_norm", not_centred, build_not_centred, reductions),
    Fusion("rms_normalization", one_operator_not_centred, build_not_centred, last_axis),
]


def layer_norm(graph: Graph) -> Graph:
    """The operators of a layer normalisation as one LayerNorm."""
    return fuse_all(graph, FUSIONS)


# --- residual ---
def added(op: Operators, x: Tensor, other: Tensor, gamma: Constant, beta: Constant) -> Pattern:
    total = x + other
    total = either(total, op.engine.FakeQuantize(total).named("sum"))
    return op.engine.LayerNorm(total, Missing(), Missing(), gamma, beta)


def not_activations(match: Match) -> str | None:
    for name in ("x", "other"):
        if match[name] in match.graph.constants:
            return f"'{match[name]}' is a constant, not a residual"
    return None


def with_residual(match: Match) -> Sequence[Node]:
    """x is the layer's own result, the residual what went round it."""
    x, other = match["x"], match["other"]
    producers = [match.search.producer.get(name) for name in (x, other)]
    if (
        producers[1] is not None
        and producers[1].kind == "engine.Linear"
        and not (producers[0] and producers[0].kind == "engine.Linear")
    ):
        x, other = other, x
    norm, attributes = match.root, dict(match.root.attributes)
    if "sum" in match:
        attributes["sum"] = match.node("sum").attributes["quantization"]
    inputs = (x, other, "", match["gamma"], match["beta"])
    return [norm.changed(inputs=inputs, attributes=attributes)]


RESIDUAL = Fusion("residual", added, with_residual, not_activations)


def residual(graph: Graph) -> Graph:
    """The sum before a LayerNorm becomes its input `residual`."""
    return fuse(graph, RESIDUAL)
