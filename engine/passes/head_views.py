"""The views between [batch, tokens, channels] and heads: which of them a value is, and their nodes.

(0, 1, 2, 3)  [batch, tokens, heads, depth]
(0, 2, 1, 3)  [batch, heads, tokens, depth]
(0, 2, 3, 1)  [batch, heads, depth, tokens]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..graph import Node
from .lengths import Length

__all__ = ["ORDERS", "View", "view_nodes", "views_of", "with_axis"]

Array = NDArray[Any]
ORDERS = ((0, 1, 2, 3), (0, 2, 1, 3), (0, 2, 3, 1))  # of the axes [batch, tokens, heads, depth]


@dataclass(frozen=True)
class View:
    """Channels as they are, or split into heads and turned; one: an axis of length 1 besides."""

    heads: int | None = None
    order: tuple[int, ...] = ORDERS[0]
    one: int | None = None

    def of(self, x: Array) -> Array:
        """What the view makes of an array [batch, tokens, channels]."""
        if self.heads is None:
            return x
        split = x.reshape(*x.shape[:2], self.heads, -1).transpose(self.order)
        return split if self.one is None else np.expand_dims(split, self.one)


def views_of(shape: Sequence[Length], channels: int) -> list[View]:
    """The views that may have made a value of this shape of so many channels."""
    if len(shape) == 3:
        return [View()]
    ones = [axis for axis, length in enumerate(shape) if length == 1]
    one = ones[0] if len(shape) == 5 and len(ones) == 1 else None
    kept = [length for axis, length in enumerate(shape) if axis != one]
    if len(kept) != 4:
        return []
    counts = ((kept[order.index(2)], order) for order in ORDERS)
    return [
        View(heads, order, one)
        for heads, order in counts
        if isinstance(heads, int) and heads and channels % heads == 0
    ]


def view_nodes(x: str, view: View, y: str, opset: int, constants: dict[str, Array]) -> list[Node]:
    """Nodes that make the view y of x; none where it is x itself."""
    if view.heads is None:
        return []
    constants[f"{y}.heads"] = np.array([0, 0, view.heads, -1])
    nodes = [Node("Reshape", (x, f"{y}.heads"), (f"{y}.split",))]
    if view.order != ORDERS[0]:
        attributes = {"perm": view.order}
        nodes.append(Node("Transpose", nodes[-1].outputs, (f"{y}.turned",), attributes))
    if view.one is not None:
        nodes.append(with_axis("Unsqueeze", nodes[-1].outputs[0], view.one, y, opset, constants))
    return [*nodes[:-1], nodes[-1].changed(outputs=(y,))]


def with_axis(op: str, x: str, axis: int, y: str, opset: int, constants: dict[str, Array]) -> Node:
    """Squeeze or Unsqueeze of one axis; a new constant where the opset wants one."""
    if opset < 13:  # the axes were an attribute
        return Node(op, (x,), (y,), {"axes": (axis,)})
    constants[f"{y}.axis"] = np.array([axis])
    return Node(op, (x, f"{y}.axis"), (y,))
