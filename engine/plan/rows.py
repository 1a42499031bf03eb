"""The rows that are read: one token of each sentence, and what only changes the shape of it."""

from __future__ import annotations

from ..graph import Node
from .planner import Planner, Unplanned

__all__ = ["plan_renaming", "plan_select"]


def plan_select(planner: Planner, node: Node) -> None:
    """The first token of each sentence."""
    x, index = planner.buffer(node.inputs[0]), node.attributes.get("index", 0)
    if index != 0 or x.domain != "tokens":
        raise Unplanned(f"token {index} is chosen, not the first")
    source = planner.quantized[x.name]
    y = planner.make(node.outputs[0], "rows", planner.width(node.inputs[0]), source)
    planner.kept_axis.add(node.outputs[0])
    params = (x, x.tile_bytes, y, y.tile_bytes, y.channels, index)
    planner.emit(node, "select", (x.dtype,), params, "rows")


def plan_renaming(planner: Planner, node: Node) -> None:
    """Squeeze, Reshape or Flatten that only drops the axis of the chosen token."""
    name = node.inputs[0]
    if planner.buffer(name).domain != "rows":
        raise Unplanned("not one row a sentence")
    if node.kind == "Reshape":
        shape = planner.array(node.inputs[1])
        if len(shape) != 2 or int(shape[1]) not in (-1, planner.width(name)):
            raise Unplanned("changes the channels")
    planner.rename(name, node.outputs[0])
