"""x divided by its length along the last axis."""

from __future__ import annotations

from collections.abc import Sequence

from ..graph import Graph, Node
from .fusion import Fusion, Match, fuse
from .match import Constant, Operators, Pattern, Scalar, Tensor, either
from .names import layer_name
from .shape_rules import axes_of

__all__ = ["FUSION", "l2_norm"]


def written_out(op: Operators, x: Tensor, epsilon: Scalar) -> Pattern:
    def reduced(kind: str, value: Pattern) -> Pattern:
        reduce = getattr(op, kind)
        return either(reduce(value), reduce(value, Constant().named("axes"))).named("reduced")

    squares = either(
        reduced("ReduceSumSquare", x),
        reduced("ReduceSum", x * x),
        reduced("ReduceSum", op.Pow(x, 2.0)),
    )
    length = either(reduced("ReduceL2", x), op.Sqrt(squares), op.Pow(squares, 0.5))
    least = either(op.Clip(length, epsilon), op.Max(length, epsilon), length)
    spread = either(op.Expand(least, Tensor()), least)
    return either(x / spread, x * op.Reciprocal(spread))


def objection(match: Match) -> str | None:
    """The length is that of the last axis, which stays."""
    facts, node = match.search.facts, match.node("reduced")
    rank = facts[match["x"]].rank
    if rank is None or match["x"] in match.graph.constants:
        return f"the rank of '{match['x']}' is not known"
    if axes_of(node, [facts[name] for name in node.inputs if name], rank) != [rank - 1]:
        return f"{node} is not the length along the last axis"
    if not node.attributes.get("keepdims", 1):
        return f"{node} does not keep the axis it reduces"
    if "epsilon" in match and not match.number("epsilon") >= 0:
        return f"the least length is {match.number('epsilon')}"
    return None


def build(match: Match) -> Sequence[Node]:
    epsilon = match.number("epsilon") if "epsilon" in match else 0.0
    name = layer_name([match.root])
    outputs = match.root.outputs[:1]
    return [Node("L2Norm", (match["x"],), outputs, {"epsilon": epsilon}, name, "engine")]


FUSION = Fusion("l2_norm", written_out, build, objection)


def l2_norm(graph: Graph) -> Graph:
    """A value divided by its length as L2Norm."""
    return fuse(graph, FUSION)
