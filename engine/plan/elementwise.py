"""Steps of conversions and activations that no product took into its epilogue."""

from __future__ import annotations

from ..graph import Node
from .choose import ElementwiseChoice, ThroughFloats
from .planner import Planner
from .quantized import MAGIC

__all__ = ["emit_elementwise", "emit_through_floats"]


def emit_elementwise(planner: Planner, node: Node, choice: ElementwiseChoice) -> None:
    """One operator of choose.elementwise.ELEMENTWISE, or a conversion."""
    x, y = choice.x.buffer, choice.y.buffer
    source, result = choice.x.quantization, choice.y.quantization
    scale, shift, factor, zero = 1.0, 0.0, 1.0, 0.0
    if source is not None:
        scale, shift = source.scale, -source.scale * source.zero_point
    if result is not None:
        factor, zero = 1 / result.scale, result.zero_point + MAGIC
    params = {
        "x": x,
        "y": y,
        "channels": y.channels,
        "x_scale": float(scale),
        "x_shift": float(shift),
        "y_factor": float(factor),
        "y_zero": float(zero),
    }
    variant = (x.lanes, x.dtype, choice.activation, y.dtype)
    planner.emit(node, "elementwise", variant, params, x.domain)


def emit_through_floats(planner: Planner, node: Node, choice: ThroughFloats) -> None:
    """The result in float32, then its bytes."""
    planner.emit_node(choice.wide, choice.made)
    emit_elementwise(planner, node, ElementwiseChoice(choice.y, choice.made.y, "none"))
