"""What is made of all channels of a token, or of a sentence's row."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...graph import Node
from .facts import Activation, Choice, Facts

__all__ = ["L2NormChoice", "choose_l2_norm"]


@dataclass(frozen=True)
class L2NormChoice(Choice):
    """x divided by its length."""

    x: Activation


def choose_l2_norm(facts: Facts, node: Node) -> L2NormChoice:
    """In float32, whatever x is.

    Raises:
        Unplanned: no kernel does this.
    """
    x = facts.value(node.x)
    y = facts.result(node.outputs[0], x.buffer.domain, x.channels, None)
    return L2NormChoice(replace(y, kept_axis=x.kept_axis), x)
