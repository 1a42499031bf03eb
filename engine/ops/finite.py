"""Constants that hold NaN or infinity: most often of a checkpoint that is broken.

Every number of the operators of engine counts; in others' constants -inf does not: masks are made
of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..graph import Graph, Node
from .numbers import Array

__all__ = ["NotFinite", "not_finite"]


@dataclass(frozen=True)
class NotFinite:
    """A constant, a node that reads it, how many of its numbers are none, the first of them."""

    name: str
    node: str
    count: int
    size: int
    first: tuple[int, ...]
    value: float

    def __str__(self) -> str:
        return (
            f"{self.node}, constant '{self.name}': {self.count} of {self.size} numbers are not"
            f" finite, the first at {list(self.first)}: {self.value}"
        )


def not_finite(graph: Graph) -> list[NotFinite]:
    """The constants that nodes read, in their order."""
    found: dict[str, NotFinite | None] = {}
    for node in graph.nodes:
        for name in node.inputs:
            if name in graph.constants and name not in found:
                finite = _are_finite(graph.numbers(name))
                found[name] = None if finite else _judged(graph, name, node)
    return [each for each in found.values() if each is not None]


def _judged(graph: Graph, name: str, node: Node) -> NotFinite | None:
    array = graph.constants[name]
    own = node.domain == "engine"
    odd = ~np.isfinite(array) if own else np.isnan(array) | np.isposinf(array)
    if not odd.any():
        return None
    place = np.unravel_index(int(odd.argmax()), array.shape)
    first = tuple(map(int, place))
    return NotFinite(name, str(node), int(odd.sum()), array.size, first, float(array[first]))


def _are_finite(array: Array) -> bool:
    """One pass, after which few arrays need another; a sum may overflow, but not hide anything."""
    if array.dtype.kind != "f":
        return True
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(array.sum(dtype=np.result_type(array.dtype, np.float32))))
