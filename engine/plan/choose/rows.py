"""The rows that are read, one of each sentence: a token or what is made of them all; and what only
changes the shape of it, or the type in which a call returns it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ...graph import Node
from ..steps import Unplanned
from .facts import Activation, Choice, Facts

__all__ = [
    "PoolChoice",
    "RenamingChoice",
    "SelectChoice",
    "choose_cast",
    "choose_pool",
    "choose_renaming",
    "choose_select",
]

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


def choose_select(facts: Facts, node: Node) -> SelectChoice:
    """The first token of each sentence.

    Raises:
        Unplanned: no kernel does this.
    """
    x, index = facts.value(node.inputs[0]), node.attributes.get("index", 0)
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
    """Squeeze, Reshape or Flatten that only drops the axis of the chosen token.

    Raises:
        Unplanned: it does more.
    """
    x = facts.value(node.inputs[0])
    if x.buffer.domain != "rows":
        raise Unplanned("not one row a sentence")
    if not _makes_rows(facts, node, x):
        raise Unplanned("makes something else than [batch, channels]")
    return RenamingChoice(replace(x, kept_axis=False))


def choose_cast(facts: Facts, node: Node) -> RenamingChoice:
    """Cast of a result, which is float32 until the call returns it.

    Raises:
        Unplanned: it is no such Cast.
    """
    x, to = facts.value(node.inputs[0]), node.attributes["to"]
    if x.buffer.dtype != "f32" or to not in RETURNED or node.outputs[0] in facts.graph.consumers():
        raise Unplanned(f"kernels compute with no {to}")
    return RenamingChoice(replace(x, returned=to))


def _makes_rows(facts: Facts, node: Node, x: Activation) -> bool:
    """Whether it makes [batch, channels] of rows."""
    kept = x.kept_axis
    if node.kind == "Flatten":
        return node.attributes.get("axis", 1) in ((1, 2, -1, -2) if kept else (1, -1))
    if node.kind == "Squeeze":  # without axes a batch of one goes too
        axes = node.attributes.get("axes")
        if axes is None and len(node.inputs) > 1 and node.inputs[1]:
            axes = facts.array(node.inputs[1])
        axes = np.array([] if axes is None else axes)
        return kept and axes.dtype.kind == "i" and axes.tolist() in ([1], [-2])
    shape = facts.array(node.inputs[1])
    target = shape.tolist() if shape.dtype.kind == "i" else []
    whole = target in ([-1, x.channels], [0, x.channels], [0, -1])
    return whole and not (node.attributes.get("allowzero") and target[0] == 0)
