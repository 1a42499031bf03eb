"""Steps of the rows that are read: one of each sentence."""

from __future__ import annotations

import math

from ..graph import Node
from .choose import PoolChoice, SelectChoice
from .elementwise import in_floats
from .planner import Planner

__all__ = ["emit_pool", "emit_select"]


def emit_select(planner: Planner, node: Node, choice: SelectChoice) -> None:
    """The first token of each sentence."""
    x, y = choice.x.buffer, choice.y.buffer
    params = {"x": x, "y": y, "channels": y.channels, "index": 0}
    planner.emit(node, "select", (x.dtype,), params, "rows")


def emit_pool(planner: Planner, node: Node, choice: PoolChoice) -> None:
    """A row of all tokens of each sentence, in float32."""
    x, y, channels = in_floats(planner, node, choice.x), choice.y.buffer, choice.y.channels
    how, fill = node.attributes.get("how", "mean"), node.attributes.get("fill")
    least = -math.inf if fill is None else fill
    least = least if how == "max" else node.attributes.get("epsilon", 0.0)
    params = {"x": x, "y": y, "channels": channels, "least": float(least)}
    planner.emit(node, "pool", (how,), params, "rows", own_tiles=False)
    planner.layer(node, shape=(channels,), dtype=y.dtype, bytes=0)
