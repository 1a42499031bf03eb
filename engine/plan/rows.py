"""Steps of the rows that are read: one token of each sentence."""

from __future__ import annotations

from ..graph import Node
from .choose import SelectChoice
from .planner import Planner

__all__ = ["emit_select"]


def emit_select(planner: Planner, node: Node, choice: SelectChoice) -> None:
    """The first token of each sentence."""
    x, y = choice.x.buffer, choice.y.buffer
    params = {"x": x, "y": y, "channels": y.channels, "index": 0}
    planner.emit(node, "select", (x.dtype,), params, "rows")
