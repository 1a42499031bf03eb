"""Steps of what is made of all channels of a token, or of a sentence's row."""

from __future__ import annotations

from ..graph import Node
from .choose import (
    Activation,
    AlongChannelsChoice,
    ConcatChoice,
    ElementwiseChoice,
    L2NormChoice,
)
from .elementwise import emit_elementwise, in_floats
from .planner import Planner

__all__ = ["emit_along_channels", "emit_concat", "emit_l2_norm"]


def emit_l2_norm(planner: Planner, node: Node, choice: L2NormChoice) -> None:
    """x divided by its length."""
    epsilon = float(node.attributes.get("epsilon", 0.0))
    _emit(planner, node, "l2_norm", choice.x, choice.y, epsilon=epsilon)


def emit_along_channels(planner: Planner, node: Node, choice: AlongChannelsChoice) -> None:
    """Softmax, ArgMax."""
    _emit(planner, node, choice.kernel, choice.x, choice.y)


def emit_concat(planner: Planner, node: Node, choice: ConcatChoice) -> None:
    """Each is copied to its channels of the result."""
    first = 0
    for number, x in enumerate(choice.parts):
        to = choice.y.buffer.taken(f"{node.outputs[0]}.{number}", first, x.channels)
        emit_elementwise(planner, node, ElementwiseChoice(Activation(to, x.channels), x, "none"))
        first += x.channels


def _emit(
    planner: Planner, node: Node, kernel: str, given: Activation, y: Activation, **more: float
) -> None:
    x = in_floats(planner, node, given)
    params = {"x": x, "y": y.buffer, "channels": given.channels, **more}
    planner.emit(node, kernel, (x.lanes,), params, x.domain)
    planner.layer(node, shape=(given.channels,), dtype=y.buffer.dtype, bytes=0)
