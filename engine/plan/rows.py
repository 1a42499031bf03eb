"""The rows that are read: one token of each sentence, and what only changes the shape of it."""

from __future__ import annotations

import numpy as np

from ..graph import Node
from .planner import Planner
from .steps import Unplanned

__all__ = ["plan_renaming", "plan_select"]


def plan_select(planner: Planner, node: Node) -> None:
    """The first token of each sentence."""
    x, index = planner.buffer(node.inputs[0]), node.attributes.get("index", 0)
    if index != 0 or x.domain != "tokens":
        raise Unplanned(f"token {index} is chosen, not the first")
    source = planner.quantized[x.name]
    y = planner.make(node.outputs[0], "rows", planner.width(node.inputs[0]), source)
    planner.kept_axis.add(node.outputs[0])
    params = {"x": x, "y": y, "channels": y.channels, "index": index}
    planner.emit(node, "select", (x.dtype,), params, "rows")


def plan_renaming(planner: Planner, node: Node) -> None:
    """Squeeze, Reshape or Flatten that only drops the axis of the chosen token."""
    name = node.inputs[0]
    if planner.buffer(name).domain != "rows":
        raise Unplanned("not one row a sentence")
    if not _makes_rows(planner, node, kept=name in planner.kept_axis):
        raise Unplanned("makes something else than [batch, channels]")
    planner.rename(name, node.outputs[0])


def _makes_rows(planner: Planner, node: Node, *, kept: bool) -> bool:
    """Whether it makes [batch, channels] of rows; kept: they are [batch, 1, channels]."""
    if node.kind == "Flatten":
        return node.attributes.get("axis", 1) in ((1, 2, -1, -2) if kept else (1, -1))
    if node.kind == "Squeeze":  # without axes a batch of one goes too
        axes = node.attributes.get("axes")
        if axes is None and len(node.inputs) > 1 and node.inputs[1]:
            axes = planner.array(node.inputs[1])
        axes = np.array([] if axes is None else axes)
        return kept and axes.dtype.kind == "i" and axes.tolist() in ([1], [-2])
    channels, shape = planner.width(node.inputs[0]), planner.array(node.inputs[1])
    target = shape.tolist() if shape.dtype.kind == "i" else []
    whole = target in ([-1, channels], [0, channels], [0, -1])
    return whole and not (node.attributes.get("allowzero") and target[0] == 0)
