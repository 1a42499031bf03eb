"""Steps of the rows that are read: one of each sentence."""

from __future__ import annotations

import math

from ..graph import Node
from .choose import PoolChoice, SelectChoice
from .elementwise import in_floats
from .memory import Buffer
from .planner import Planner

__all__ = ["emit_pool", "emit_select"]

KERNEL_OF = {"mean_sqrt_len": "mean"}  # where one makes two rows


def emit_select(planner: Planner, node: Node, choice: SelectChoice) -> None:
    """The first token of each sentence."""
    x, y = choice.x.buffer, choice.y.buffer
    _emit_token(planner, node, x, y, index=0, behind=0)


def emit_pool(planner: Planner, node: Node, choice: PoolChoice) -> None:
    """A row of all tokens of each sentence, in float32."""
    x, y, channels = in_floats(planner, node, choice.x), choice.y.buffer, choice.y.channels
    how, fill = node.attributes.get("how", "mean"), node.attributes.get("fill")
    if how == "last":
        _emit_token(planner, node, x, y, index=-1, behind=1)
    else:
        least = -math.inf if fill is None else fill
        least = least if how == "max" else node.attributes.get("epsilon", 0.0)
        params = {"x": x, "y": y, "channels": channels, "least": float(least)}
        params["root"] = int(how == "mean_sqrt_len")
        planner.emit(node, "pool", (KERNEL_OF.get(how, how),), params, "rows")
    planner.layer(node, shape=(channels,), dtype=y.dtype, bytes=0)


def _emit_token(
    planner: Planner, node: Node, x: Buffer, y: Buffer, *, index: int, behind: int
) -> None:
    params = {"x": x, "y": y, "channels": y.channels, "index": index, "behind": behind}
    planner.emit(node, "select", (x.dtype,), params, "rows")
