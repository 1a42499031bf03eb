"""What is made of all channels of a token, or of a sentence's row."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...graph import Node
from ..steps import Unplanned
from .facts import Activation, Choice, Facts
from .rows import without_channels

__all__ = [
    "AlongChannelsChoice",
    "ConcatChoice",
    "L2NormChoice",
    "choose_argmax",
    "choose_concat",
    "choose_l2_norm",
    "choose_softmax",
]


@dataclass(frozen=True)
class L2NormChoice(Choice):
    """x divided by its length."""

    x: Activation


@dataclass(frozen=True)
class ConcatChoice(Choice):
    """Activations side by side, in float32."""

    parts: tuple[Activation, ...]


@dataclass(frozen=True)
class AlongChannelsChoice(Choice):
    """x, in float32, through a kernel that has no more parameters."""

    x: Activation
    kernel: str


def choose_l2_norm(facts: Facts, node: Node) -> L2NormChoice:
    """In float32, whatever x is.

    Raises:
        Unplanned: no kernel does this.
    """
    x = _of_channels(facts, node)
    return L2NormChoice(_made(facts, node, x, x.channels), x)


def choose_softmax(facts: Facts, node: Node) -> AlongChannelsChoice:
    """Softmax or LogSoftmax along the channels.

    Raises:
        Unplanned: no kernel does this.
    """
    x = _of_channels(facts, node)
    _check_axis(node, x, -1 if facts.graph.opset >= 13 else 1)
    kernel = "softmax" if node.kind == "Softmax" else "log_softmax"
    return AlongChannelsChoice(_made(facts, node, x, x.channels), x, kernel)


def choose_argmax(facts: Facts, node: Node) -> AlongChannelsChoice:
    """The channel's number is float32 until the call returns it.

    Raises:
        Unplanned: no kernel does this.
    """
    x = _of_channels(facts, node)
    _check_axis(node, x, 0)
    if node.attributes.get("select_last_index"):
        raise Unplanned("the last of equals")
    y = replace(_made(facts, node, x, 1), returned="int64")
    y = y if node.attributes.get("keepdims", 1) else without_channels(y)
    return AlongChannelsChoice(y, x, "argmax")


def choose_concat(facts: Facts, node: Node) -> ConcatChoice:
    """Along the channels.

    Raises:
        Unplanned: no kernel does this.
    """
    parts = tuple(facts.value(name, plain=False) for name in node.inputs)
    first = parts[0]
    _check_axis(node, first, 0)
    for each in parts:
        if each.flat or each.returned != "float32" or each.shape[:2] != first.shape[:2]:
            raise Unplanned("not all of them are channels of the same tokens")
    return ConcatChoice(_made(facts, node, first, sum(each.channels for each in parts)), parts)


def _of_channels(facts: Facts, node: Node) -> Activation:
    x = facts.value(node.inputs[0], plain=False)
    if x.flat or x.returned != "float32":
        raise Unplanned("the last axis is not that of channels")
    return x


def _made(facts: Facts, node: Node, x: Activation, channels: int) -> Activation:
    y = facts.result(node.outputs[0], x.buffer.domain, channels, None)
    return replace(y, kept_axis=x.kept_axis)


def _check_axis(node: Node, x: Activation, default: int) -> None:
    rank = 3 if x.kept_axis or x.buffer.domain == "tokens" else 2
    axis = node.attributes.get("axis", default)
    if axis not in (-1, rank - 1):
        raise Unplanned(f"along axis {axis}, not along channels")
