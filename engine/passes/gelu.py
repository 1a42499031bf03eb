"""GELU (Hendrycks and Gimpel 2016): x times the normal cumulative function, by erf or by tanh; and
Swish, x times the logistic function, which torch calls SiLU.  Where that is of a number times x, as
in QuickGelu (1.702), it is the Swish of so many times x, divided by it:

    x sigmoid(a x) = swish(a x) / a
"""

from __future__ import annotations

from collections.abc import Sequence
from math import pi, sqrt

import numpy as np

from ..graph import Graph, Node
from .fusion import Fusion, Match, fuse_all
from .match import Operators, Pattern, Scalar, Tensor, either
from .names import layer_name

__all__ = ["FUSIONS", "gelu"]

SQRT2 = sqrt(2)
FACTORS = 1 / 64, 64.0  # a Swish is scaled by: with others numbers might leave float32


def by_erf(op: Operators, x: Tensor) -> Pattern:
    normal = op.Erf(either(x / SQRT2, x * (1 / SQRT2))) + 1.0
    return either(
        x * normal * 0.5,
        x * 0.5 * normal,
        x * (normal * 0.5),
        op.Gelu(x),
        op.Gelu(x, approximate="none"),
    )


def by_tanh(op: Operators, x: Tensor) -> Pattern:
    cube = either(op.Pow(x, 3.0), x * (x * x))
    inner = either(
        (x + cube * 0.044715) * sqrt(2 / pi),
        sqrt(2 / pi) * x * (x * x * 0.044715 + 1.0),
        x * sqrt(2 / pi) * (x * (x * 0.044715) + 1.0),
    )
    normal = op.Tanh(inner) + 1.0
    return either(x * normal * 0.5, x * 0.5 * normal, x * (normal * 0.5))


def swish(op: Operators, x: Tensor) -> Pattern:
    return x * op.Sigmoid(x)


def one_swish(match: Match) -> Sequence[Node]:
    return [Node("Swish", (match["x"],), match.root.outputs, {}, layer_name([match.root]))]


def scaled_swish(op: Operators, x: Tensor, factor: Scalar) -> Pattern:
    return x * op.Sigmoid(x * factor)


def no_factor(match: Match) -> str | None:
    factor, (least, most) = match.array("factor"), FACTORS
    if factor.dtype != np.float32 or not least <= match.number("factor") <= most:
        return f"'{match['factor']}' is {factor.dtype} {factor.tolist()}"
    return None


def between_factors(match: Match) -> Sequence[Node]:
    x, y, name = match["x"], match.root.outputs[0], layer_name([match.root])
    number = np.asarray(1 / match.array("factor"), np.float32)
    inverse = match.constant(f"{match['factor']}.inverse", number)
    return [
        Node("Mul", (x, match["factor"]), (f"{y}.scaled",), {}, name),
        Node("Swish", (f"{y}.scaled",), (f"{y}.swish",), {}, name),
        Node("Mul", (f"{y}.swish", inverse), (y,), {}, name),
    ]


def one_node(approximate: str) -> Fusion:
    def build(match: Match) -> Sequence[Node]:
        name = layer_name([match.root])
        attributes = {"approximate": approximate}
        return [Node("Gelu", (match["x"],), match.root.outputs, attributes, name)]

    def already(match: Match) -> str | None:
        done = match.root.kind == "Gelu" and "approximate" in match.root.attributes
        return "it is a Gelu already" if done else None

    patterns = {"none": by_erf, "tanh": by_tanh}
    return Fusion(f"gelu_{approximate}", patterns[approximate], build, already)


FUSIONS = [
    one_node("none"),
    one_node("tanh"),
    Fusion("swish", swish, one_swish),
    Fusion("scaled_swish", scaled_swish, between_factors, no_factor),
]


def gelu(graph: Graph) -> Graph:
    """The operators of a GELU as one Gelu, those of a Swish as one Swish."""
    return fuse_all(graph, FUSIONS)
