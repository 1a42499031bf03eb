"""The rows that are read, one of each sentence: a token or what is made of them all; and what only
changes the shape of it, or the type in which a call returns it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...graph import Node
from ..steps import Unplanned
from .facts import Activation, Choice, Facts, ProbabilitiesChoice

__all__ = [
    "PoolChoice",
    "RenamingChoice",
    "SelectChoice",
    "choose_cast",
    "choose_channels",
    "choose_pool",
    "choose_renaming",
    "choose_select",
    "without_channels",
]

Array = NDArray[Any]
RETURNED = ("float16", "float64")


@dataclass(frozen=True)
class SelectChoice(Choice):
    """The first token of each sentence."""

    x: Activation


@dataclass(frozen=True)
class PoolChoice(Choice):
    """A row of all tokens of a sentence; masked: of those that its mask keeps."""

    x: Activation
    masked: bool


@dataclass(frozen=True)
class RenamingChoice(Choice):
    """Another value in the same buffer."""


def choose_select(facts: Facts, node: Node) -> SelectChoice | RenamingChoice:
    """The first token of each sentence; of rows themselves.

    Raises:
        Unplanned: no kernel does this.
    """
    x, index = facts.value(node.inputs[0]), node.attributes.get("index", 0)
    if index == 0 and x.kept_axis:
        return RenamingChoice(x)
    if index != 0 or x.buffer.domain != "tokens":
        raise Unplanned(f"token {index} is chosen, not the first")
    y = facts.result(node.outputs[0], "rows", x.channels, x.quantization)
    return SelectChoice(replace(y, kept_axis=True), x)


def choose_pool(facts: Facts, node: Node) -> PoolChoice:
    """Over the tokens that kernels make: those that the mask of attention keeps.

    Raises:
        Unplanned: no kernel does this.
    """
    x = facts.value(node.x)
    if x.buffer.domain != "tokens":
        raise Unplanned("not of every token")
    if node.mask and node.mask != facts.mask:
        raise Unplanned(f"no attention goes by the mask '{node.mask}'")
    y = facts.result(node.outputs[0], "rows", x.channels, None)
    return PoolChoice(replace(y, kept_axis=True), x, bool(node.mask))


def choose_renaming(facts: Facts, node: Node) -> RenamingChoice:
    """Squeeze, Reshape or Flatten that only drops the axis of the chosen token, or that of the only
    channel.

    Raises:
        Unplanned: it does more.
    """
    x = facts.value(node.inputs[0], plain=False)
    if x.buffer.domain == "rows" and not x.flat and _makes_rows(facts, node, x):
        return RenamingChoice(replace(x, kept_axis=False))
    if x.channels > 1 or x.flat or not _drops_channels(facts, node, x):
        raise Unplanned("makes something else than [batch, channels], or of one channel [batch]")
    return RenamingChoice(without_channels(x))


def choose_channels(facts: Facts, node: Node) -> RenamingChoice:
    """Some adjacent channels of an activation, where they lie.

    Raises:
        Unplanned: it is none, or in another form.
    """
    x, count = facts.value(node.x, plain=False), node.attributes["count"]
    if x.buffer.form or x.flat or x.returned != "float32":
        raise Unplanned("its channels lie in another order")
    buffer = x.buffer.taken(node.outputs[0], node.attributes.get("first", 0), count)
    return RenamingChoice(replace(x, buffer=buffer, channels=count))


def choose_cast(facts: Facts, node: Node) -> RenamingChoice | ProbabilitiesChoice:
    """Cast of a result, which is float32 until the call returns it.

    Raises:
        Unplanned: it is no such Cast.
    """
    made, to = facts.probabilities.get(node.inputs[0]), node.attributes["to"]
    is_last = node.outputs[0] not in facts.graph.consumers()
    if made is not None and to in RETURNED and is_last and made.returned == "float32":
        return replace(made, returned=to)
    x = facts.value(node.inputs[0], plain=False)
    if x.buffer.dtype != "f32" or to not in RETURNED or not is_last or x.returned != "float32":
        raise Unplanned(f"kernels compute with no {to}")
    return RenamingChoice(replace(x, returned=to))


def without_channels(x: Activation) -> Activation:
    """The same without its last axis, which has one channel."""
    return replace(x, kept_axis=False) if x.kept_axis else replace(x, flat=True)


def _makes_rows(facts: Facts, node: Node, x: Activation) -> bool:
    """Whether it makes [batch, channels] of rows."""
    kept = x.kept_axis
    if node.kind == "Flatten":
        return node.attributes.get("axis", 1) in ((1, 2, -1, -2) if kept else (1, -1))
    if node.kind == "Squeeze":
        return kept and _squeezed(facts, node) in ([1], [-2])
    target = _target(facts, node)
    return target in ([-1, x.channels], [0, x.channels], [0, -1])


def _drops_channels(facts: Facts, node: Node, x: Activation) -> bool:
    """Whether it drops the last axis, of one channel."""
    rank = 3 if x.kept_axis or x.buffer.domain == "tokens" else 2
    if node.kind == "Squeeze":
        return _squeezed(facts, node) in ([-1], [rank - 1])
    return node.kind == "Reshape" and _target(facts, node) in (
        [0] * (rank - 1),
        [0] * (rank - 2) + [-1],
    )


def _squeezed(facts: Facts, node: Node) -> list[int]:
    """The axes; none where they are not named: a batch of one goes too."""
    axes = node.attributes.get("axes")
    if axes is None and len(node.inputs) > 1 and node.inputs[1]:
        axes = facts.array(node.inputs[1])
    return _whole(np.array([] if axes is None else axes))


def _target(facts: Facts, node: Node) -> list[int]:
    """Of a Reshape; nothing where a 0 in it would be a length."""
    target = _whole(facts.array(node.inputs[1]))
    return [] if node.attributes.get("allowzero") and 0 in target else target


def _whole(numbers: Array) -> list[int]:
    """Those of a row of whole numbers; of anything else none."""
    return numbers.tolist() if numbers.dtype.kind == "i" and numbers.ndim == 1 else []
