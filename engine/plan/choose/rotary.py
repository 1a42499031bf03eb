"""Rotary positions: whether the kernel's numbers of tokens are those that the graph means."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...graph import Node
from ..steps import Unplanned
from .facts import Activation, Choice, Facts

__all__ = ["RotaryChoice", "choose_rotary"]


@dataclass(frozen=True)
class RotaryChoice(Choice):
    """How a Rotary is made; floats: the float32 that y's bytes are converted from."""

    x: Activation
    floats: Activation | None


def choose_rotary(facts: Facts, node: Node) -> RotaryChoice:
    """In float32; bytes are converted before and after.

    Raises:
        Unplanned: no kernel does this.
    """
    x, cos = facts.value(node.x), facts.array(node.cos)
    facts.array(node.sin)
    if x.channels != x.buffer.channels:
        raise Unplanned(f"{x.channels} channels lie among {x.buffer.channels}")
    if x.buffer.domain == "rows":
        if len(cos) != 1:
            raise Unplanned("one token a sentence, of any place")
    elif (embedding := facts.embedding) is not None:
        how = embedding.attributes
        if how.get("position_offset") or how.get("padding_id") is not None:
            raise Unplanned("tokens are numbered in another way, too")
    name, output, source = node.outputs[0], node.attributes.get("output"), x.buffer
    y = replace(facts.result(name, source.domain, x.channels, output), kept_axis=x.kept_axis)
    floats = None
    if output is not None:
        floats = facts.result(f"{name}.float", source.domain, x.channels, None)
    return RotaryChoice(y, x, floats)
