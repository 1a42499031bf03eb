"""A number times and one plus each channel, as MobileBERT's NoNorm has them: in the weights of the
Linear before it, where only that reads these, else an Affine with the residual before it.

    (x weight.T + bias) gamma + beta = x (gamma weight).T + (gamma bias + beta)
"""

from __future__ import annotations

from collections.abc import Sequence

from ..graph import Graph, Node
from .fusion import Fusion, Match, fuse, per_channel
from .match import Constant, Operators, Pattern, Tensor, either
from .names import layer_name

__all__ = ["FUSIONS", "affine"]


def scaled(op: Operators, x: Tensor, gamma: Constant, beta: Constant) -> Pattern:
    return x * gamma + beta


def scaled_sum(op: Operators, x: Tensor, other: Tensor, gamma: Constant, beta: Constant) -> Pattern:
    return either((x + other) * gamma + beta, x * gamma + beta)


def no_channels(match: Match) -> str | None:
    """A sentence where gamma and beta are not a number for each of many channels."""
    for name in filter(match.get, ("x", "other")):
        if match[name] in match.graph.constants:
            return f"'{match[name]}' is a constant"
    count = (match.search.facts[match["x"]].shape or ("",))[-1]
    if not isinstance(count, int) or count == 1:
        return f"'{match['x']}' has {count or 'an unknown number of'} channels"
    for name in ("gamma", "beta"):
        array = match.array(name)
        if array.size != count or per_channel(array, count) is None:
            found = f"{array.dtype}{list(array.shape)}"
            return f"{name} is {found}, not one number for each of {count} channels"
    return None


def no_float_linear(match: Match) -> str | None:
    node = match.search.producer.get(match["x"])
    if node is None or node.kind != "engine.Linear" or match.only_reader(match["x"]) is None:
        return f"'{match['x']}' is not a linear layer's alone"
    how = node.attributes
    if how["precision"] != "float32" or how["product"] or how["activation"] or how["output"]:
        return f"{node} is no float32 product with a bias"
    return no_channels(match)


def into_linear(match: Match) -> Sequence[Node]:
    node = match.node("x")
    gamma, beta = (match.array(name).reshape(-1) for name in ("gamma", "beta"))
    weight = match.graph.constants[node.weight] * gamma[:, None]
    bias = beta if not node.bias else match.graph.constants[node.bias] * gamma + beta
    inputs = (
        node.x,
        match.constant(f"{node.weight}.scaled", weight),
        "",
        match.constant(f"{node.bias or node.weight}.shifted", bias),
    )
    return [node.changed(inputs=inputs, outputs=match.root.outputs)]


def as_affine(match: Match) -> Sequence[Node]:
    gamma, beta = (match.array(name).reshape(-1) for name in ("gamma", "beta"))
    names = (
        match.constant(f"{match['gamma']}.channels", gamma),
        match.constant(f"{match['beta']}.channels", beta),
    )
    name = layer_name([match.root], [match["gamma"], match["beta"]])
    inputs = (match["x"], match.get("other"), *names)
    return [Node("Affine", inputs, match.root.outputs, {}, name, "engine")]


FUSIONS = [
    Fusion("scaled_linear", scaled, into_linear, no_float_linear),
    Fusion("affine", scaled_sum, as_affine, no_channels),
]


def affine(graph: Graph) -> Graph:
    """What is left of scaled and shifted channels behind layers."""
    for fusion in FUSIONS:
        graph = fuse(graph, fusion)
    return graph
