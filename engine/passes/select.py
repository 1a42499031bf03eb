"""One token's row: x[:, index] as Select and Squeeze, and the Squeeze behind all row-wise work."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..graph import Graph, Node
from ..ops import Trait, kinds
from .fusion import Fusion, Match, fuse_all
from .match import Constant, Maybe, Operators, Pattern, Scalar, Tensor, either
from .names import layer_name
from .shapes import FAKE

__all__ = ["FUSIONS", "select"]


def one_row(op: Operators, x: Tensor, index: Scalar) -> Pattern:
    return op.Gather(x, index, axis=1)


def sliced_row(op: Operators, x: Tensor, start: Scalar, end: Scalar, axis: Scalar, step: Scalar,
               squeezed: Constant) -> Pattern:  # fmt: skip
    rows = either(op.Slice(x, start, end, axis, step), op.Slice(x, start, end, axis)).named("rows")
    return either(op.Squeeze(rows, squeezed), op.Squeeze(rows, axes=(1,)))


def not_a_row(match: Match) -> str | None:
    fact = match.search.facts[match["x"]]
    if fact.rank != 3 or match["x"] in match.graph.constants:
        return f"'{match['x']}' is not [batch, sequence, channels]: {fact.shape}"
    if "index" in match:
        index = match.array("index")
        if index.ndim > 0 or int(index) < 0:
            return f"index {index.tolist()} is not one row counted from the start"
        return None
    start, end, axis = (int(match.number(name)) for name in ("start", "end", "axis"))
    if (
        axis != 1
        or start < 0
        or end != start + 1
        or ("step" in match and match.number("step") != 1)
    ):
        return f"[{start}:{end}] of axis {axis} is not one token"
    if "squeezed" in match and match.array("squeezed").tolist() != [1]:
        return "another axis is squeezed"
    return None


def build(match: Match) -> Sequence[Node]:
    index = int(match.number("index" if "index" in match else "start"))
    out = match.root.outputs[0]
    axes = match.constant("axis_of_tokens", np.array([1], np.int64))
    name = layer_name([match.root])
    return [
        Node("Select", (match["x"],), (f"{out}.rows",), {"index": index}, name, "engine"),
        squeeze(f"{out}.rows", axes, out, match.graph.opset),
    ]


def squeeze(x: str, axes: str, y: str, opset: int) -> Node:
    if opset < 13:  # the axes were an attribute
        return Node("Squeeze", (x,), (y,), {"axes": (1,)})
    return Node("Squeeze", (x, axes), (y,))


# --- the Squeeze sinks ---
def row_by_row(op: Operators, x: Tensor, axes: Constant) -> Pattern:
    flat = either(op.Squeeze(x, axes), op.Squeeze(x, axes=(1,))).named("flat")
    return either(
        op.engine.Linear(flat, Tensor().named("a"), Maybe().named("b"), Maybe().named("c")),
        *(make(flat) for make in (op.Tanh, op.Relu, op.Gelu, op.engine.FakeQuantize)),
        op.engine.DynamicFakeQuantize(flat),
        op.engine.Lookup(flat, Constant().named("table")),
    )


ROW_BY_ROW = {"engine.Select", "engine.Linear"} | {"engine.Lookup", *FAKE, *kinds(Trait.ACTIVATES)}


def not_tokens(match: Match) -> str | None:
    if "axes" in match and match.array("axes").tolist() != [1]:
        return "it is not the tokens' axis that is squeezed"
    source = match.search.producer.get(match["x"])
    if source is None or source.kind not in ROW_BY_ROW:
        return f"'{match['x']}' is not a selected row"
    return None


def exchange(match: Match) -> Sequence[Node]:
    out, root = match.root.outputs[0], match.root
    axes = match.get("axes") or match.constant("axis_of_tokens", np.array([1], np.int64))
    return [
        root.changed(inputs=(match["x"], *root.inputs[1:]), outputs=(f"{out}.rows",)),
        squeeze(f"{out}.rows", axes, out, match.graph.opset),
    ]


FUSIONS = [
    Fusion("select", one_row, build, not_a_row),
    Fusion("select_slice", sliced_row, build, not_a_row),
    Fusion("squeeze_last", row_by_row, exchange, not_tokens),
]


def select(graph: Graph) -> Graph:
    """Rows taken by Gather or Slice as Select; their Squeeze last."""
    return fuse_all(graph, FUSIONS)
