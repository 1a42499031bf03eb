"""The step of a Rotary, and its table: cos and sin of a position side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..graph import Node
from ..kernels.record import aligned_copy
from .choose import ElementwiseChoice, RotaryChoice
from .elementwise import emit_elementwise, in_floats
from .planner import Planner

__all__ = ["emit_rotary"]

Array = NDArray[Any]
LINE = 16  # floats


def emit_rotary(planner: Planner, node: Node, choice: RotaryChoice) -> None:
    """In float32, between conversions where x or y is stored in bytes."""
    table = _table(planner, node.cos, node.sin)
    pairs, heads = planner.array(node.cos).shape[1], node.attributes["heads"]
    step, gap = (2, 1) if node.attributes.get("interleaved") else (1, pairs)
    x, y = in_floats(planner, node, choice.x), (choice.floats or choice.y).buffer
    params = {
        "x": x,
        "y": y,
        "heads": heads,
        "depth": y.channels // heads,
        "pairs": pairs,
        "step": step,
        "gap": gap,
        "table": table,
        "row_bytes": table.shape[1] * table.itemsize,
    }
    planner.emit(node, "rotary", (y.lanes,), params, y.domain)
    planner.layer(node, shape=table.shape, dtype="f32", bytes=table.nbytes)
    if choice.floats is not None:
        emit_elementwise(planner, node, ElementwiseChoice(choice.y, choice.floats, "none"))


def _table(planner: Planner, *names: str) -> Array:
    """Constants [positions, pairs] side by side, rows of whole lines; made once."""
    if names not in planner.tables:
        rows = np.concatenate([planner.array(name) for name in names], axis=1)
        padded = np.pad(rows, ((0, 0), (0, -rows.shape[1] % LINE)))
        planner.tables[names] = aligned_copy(padded)
    return planner.tables[names]
