"""Steps of what is made of all channels of a token, or of a sentence's row."""

from __future__ import annotations

from ..graph import Node
from .choose import L2NormChoice
from .elementwise import in_floats
from .planner import Planner

__all__ = ["emit_l2_norm"]


def emit_l2_norm(planner: Planner, node: Node, choice: L2NormChoice) -> None:
    """x divided by its length."""
    x, y, channels = in_floats(planner, node, choice.x), choice.y.buffer, choice.y.channels
    epsilon = float(node.attributes.get("epsilon", 0.0))
    params = {"x": x, "y": y, "channels": channels, "epsilon": epsilon}
    planner.emit(node, "l2_norm", (x.lanes,), params, x.domain)
    planner.layer(node, shape=(channels,), dtype=y.dtype, bytes=0)
