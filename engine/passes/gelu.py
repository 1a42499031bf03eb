"""GELU (Hendrycks and Gimpel 2016): x times the normal cumulative function, by erf or by tanh; and
Swish, x times the logistic function, which torch calls SiLU.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import pi, sqrt

from ..graph import Graph, Node
from .fusion import Fusion, Match, fuse_all
from .match import Operators, Pattern, Tensor, either
from .names import layer_name

__all__ = ["FUSIONS", "gelu"]

SQRT2 = sqrt(2)


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


FUSIONS = [one_node("none"), one_node("tanh"), Fusion("swish", swish, one_swish)]


def gelu(graph: Graph) -> Graph:
    """The operators of a GELU as one Gelu, those of a Swish as one Swish."""
    return fuse_all(graph, FUSIONS)
