"""What a value holds at masked tokens, and operators that only move its elements.

Kernels leave masked tokens out, so at those places values hold something else than in ONNX
(`mixing.py` says what may be done with them).  Axes are counted from the end, as broadcasting does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from numpy.typing import NDArray

from ..graph import Graph, Node
from ..passes.attention_mask import HOPELESS
from ..passes.shape_rules import Fact, axes_of

__all__ = ["CLEAN", "MOVES", "NONE", "Axes", "MixedError", "Place", "Rows", "without"]

Array = NDArray[Any]
Axes = frozenset[int]  # counted from the end, as broadcasting does
NONE: Axes = frozenset()


@dataclass(frozen=True)
class Rows:
    """What a value holds at masked tokens."""

    batch: int = 0  # the axis of sentences; 0: none is known
    stale: Axes = NONE  # axes of tokens where masked ones hold something else than in ONNX
    at: Mapping[int, Array] = field(
        default_factory=dict
    )  # axis -> the number they hold in ONNX too
    low: Axes = NONE  # axes where they are HOPELESS or less
    wild: bool = False  # what is stale may be infinite or NaN: 0 times it is not 0

    def moved(self, place: Callable[[int], int | None]) -> Rows:
        """With its axes elsewhere; None: the axis is gone, and what stale it held was checked."""
        at = {new: n for axis, n in self.at.items() if (new := place(axis)) is not None}
        stale, low = (
            frozenset(new for axis in axes if (new := place(axis)) is not None)
            for axes in (self.stale, self.low)
        )
        return Rows((place(self.batch) or 0) if self.batch else 0, stale, at, low, self.wild)

    def zero(self, axis: int) -> bool:
        return axis in self.at and not self.at[axis].any()

    def hopeless(self, axis: int) -> bool:
        known = axis in self.at and bool((self.at[axis] <= HOPELESS).all())
        return (known or axis in self.low) and not self.wild


CLEAN = Rows()


class MixedError(Exception):
    """A masked token's value reaches something that is read; says how."""


@dataclass(frozen=True)
class Place:
    """A node of the fallback subgraph with the Rows of its inputs."""

    node: Node
    inputs: list[Rows]
    facts: Mapping[str, Fact]
    graph: Graph

    def rank(self, name: str) -> int:
        rank = self.facts[name].rank
        if rank is None:
            raise MixedError(f"the rank of '{name}' is not known")
        return rank

    def axis(self, default: int) -> int:
        """The attribute `axis`, from the end."""
        axis, rank = int(self.node.attributes.get("axis", default)), self.rank(self.node.inputs[0])
        if not -rank <= axis < rank:
            raise MixedError(f"axis {axis} is none of {rank}")
        return axis if axis < 0 else axis - rank

    def constant(self, place: int) -> Array | None:
        given = self.node.inputs
        return self.graph.constants.get(given[place]) if len(given) > place else None

    def axes(self) -> Axes:
        """Those that are reduced, taken out or put in: attribute `axes` or the second input."""
        node, facts = self.node, [self.facts.get(name, Fact()) for name in self.node.inputs]
        rank = self.rank(node.outputs[0] if node.kind == "Unsqueeze" else node.inputs[0])
        found = axes_of(node, facts, rank)
        if found is None:
            raise MixedError("its axes are not known")
        return frozenset(
            axis - rank for axis in found or (range(rank) if "Reduce" in node.kind else ())
        )

    def untouched(self, axes: Iterable[int], *, over_low: bool = False) -> Rows:
        """The first input's Rows, if tokens along these axes are all as in ONNX.  over_low: what
        is hopelessly low counts nothing.
        """
        x = self.inputs[0]
        hit = x.stale.intersection(axes)
        if over_low and all(map(x.hopeless, hit)):
            x, hit = replace(x, stale=x.stale - hit), NONE
        if hit or (x.stale and x.batch in axes):
            raise MixedError("masked tokens would count")
        return x


def without(axes: Axes) -> Callable[[int], int | None]:
    """Where an axis comes when these are taken out."""
    return lambda axis: None if axis in axes else axis + sum(out > axis for out in axes)


# --- what only moves ---
def transposed(p: Place) -> Rows:
    rank = p.rank(p.node.inputs[0])
    order = list(p.node.attributes.get("perm") or reversed(range(rank)))
    return p.inputs[0].moved(lambda axis: order.index(axis + rank) - rank)


def unsqueezed(p: Place) -> Rows:
    rank, added = p.rank(p.node.outputs[0]), p.axes()
    left = [axis for axis in range(-rank, 0) if axis not in added]
    return p.inputs[0].moved(lambda axis: left[axis])


def squeezed(p: Place) -> Rows:
    axes = p.axes()
    if not axes:
        raise MixedError("its axes are not named")
    return p.untouched(axes).moved(without(axes))


def reshaped(p: Place) -> Rows:
    """Axes up to the last of tokens and sentences must stay."""
    x, before, after = (
        p.inputs[0],
        *(p.facts[n].shape for n in (p.node.inputs[0], p.node.outputs[0])),
    )
    if before is None or after is None:
        raise MixedError("its shape is not known")
    named = [axis + len(before) for axis in (*x.stale, *x.at, *x.low, x.batch) if axis]
    kept = max(named, default=-1) + 1
    if before[:kept] != after[:kept]:
        raise MixedError(f"tokens are rearranged: {before} to {after}")
    return x.moved(lambda axis: axis + len(before) - len(after))


def gathered(p: Place) -> Rows:
    axis, index = p.axis(0), p.constant(1)
    if p.inputs[1].stale:
        raise MixedError("what is gathered depends on masked tokens")
    first = index is not None and not index.any()  # a sentence's first token is no masked one
    x = p.inputs[0]
    x = replace(x, stale=x.stale - {axis}) if first else x
    x = replace(p, inputs=[x]).untouched([axis])
    more = p.rank(p.node.inputs[1]) - 1
    return x.moved(lambda a: None if a == axis else a - more if a < axis else a)


def cut(p: Place) -> Rows:
    """Slice: of tokens only the first, which is none that is masked."""
    x, (start, end, axes) = p.inputs[0], (p.constant(i) for i in (1, 2, 3))
    if axes is None:
        raise MixedError("its axes are not known")
    rank = p.rank(p.node.inputs[0])
    touched = [int(axis) - rank if axis >= 0 else int(axis) for axis in axes]
    if len(touched) == 1 and start is not None and end is not None and (start[0], end[0]) == (0, 1):
        x = replace(x, stale=x.stale - set(touched))
    x = replace(p, inputs=[x]).untouched(touched)
    return x.moved(lambda axis: None if axis in touched else axis)


def split(p: Place) -> Rows:
    axis = p.axis(0)
    return p.untouched([axis]).moved(lambda a: None if a == axis else a)


def selected(p: Place) -> Rows:
    x = p.untouched([-2]) if p.node.attributes.get("index", 0) else p.inputs[0]
    return replace(x, stale=x.stale - {-2}, at={}, low=NONE)


def spread(p: Place) -> Rows:
    """Expand: the shape is no operand."""
    if p.rank(p.node.outputs[0]) < p.rank(p.node.inputs[0]):
        raise MixedError("its rank is not known")
    return p.inputs[0]


def lengths(p: Place) -> Rows:
    del p  # the shape of a value does not depend on its numbers
    return CLEAN


MOVES: dict[str, Callable[[Place], Rows]] = {
    **dict.fromkeys(["Flatten", "Reshape"], reshaped),
    **dict.fromkeys(["Shape", "Size"], lengths),
    "Expand": spread,
    "Gather": gathered,
    "Slice": cut,
    "Split": split,
    "Squeeze": squeezed,
    "Transpose": transposed,
    "Unsqueeze": unsqueezed,
    "engine.Select": selected,
}
