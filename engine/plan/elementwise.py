"""Steps of conversions, activations and sums that no product took into its epilogue."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..codegen.elements import MAGIC
from ..graph import Node
from ..kernels.record import aligned_copy
from .choose import (
    Activation,
    AffineChoice,
    CombineChoice,
    ElementwiseChoice,
    LookupChoice,
)
from .memory import Buffer
from .planner import Planner, float32
from .quantized import FLIP

__all__ = [
    "emit_affine",
    "emit_combine",
    "emit_elementwise",
    "emit_lookup",
    "in_floats",
    "in_steps",
]


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
        "flip": FLIP if choice.y.less_128 else 0,
    }
    variant = (x.lanes, x.dtype, choice.activation, y.dtype)
    planner.emit(node, "elementwise", variant, params, x.domain)


def emit_combine(planner: Planner, node: Node, choice: CombineChoice) -> None:
    """A sum or a product of two activations, in float32."""
    x, other = (in_floats(planner, node, each) for each in (choice.x, choice.other))
    y = choice.y.buffer
    params = {"x": x, "other": other, "y": y, "channels": y.channels}
    planner.emit(node, "combine", (x.lanes, choice.operation), params, x.domain)


def emit_affine(planner: Planner, node: Node, choice: AffineChoice) -> None:
    """In float32, with a number for each channel of the buffer."""
    x, y = in_floats(planner, node, choice.x), choice.y.buffer
    other = x if choice.other is None else in_floats(planner, node, choice.other)
    norm = float32(np.pad(choice.norm, ((0, y.channels - len(choice.norm)), (0, 0))))
    params = {"x": x, "other": other, "y": y, "channels": y.channels, "norm": norm}
    planner.emit(node, "affine", (x.lanes, choice.other is not None), params, x.domain)


def emit_lookup(planner: Planner, node: Node, choice: LookupChoice) -> None:
    """A table of bytes."""
    x, y = choice.x.buffer, choice.y.buffer
    params = {"x": x, "y": y, "channels": y.channels, "table": aligned_copy(choice.table)}
    planner.emit(node, "look_up", (x.lanes,), params, x.domain)
    planner.layer(node, shape=(choice.y.channels,), dtype=y.dtype, bytes=choice.table.nbytes)


def in_floats(planner: Planner, node: Node, x: Activation) -> Buffer:
    """x as float32 for a node; itself where it is so already.  Made once."""
    return x.buffer if x.buffer.dtype == "f32" else _converted(planner, node, x, "float")


def in_steps(planner: Planner, node: Node, x: Activation) -> Buffer:
    """Bytes as whole numbers in float32, their zero point taken off.  Made once."""
    assert x.quantization is not None, "it is bytes"
    return _converted(
        planner, node, replace(x, quantization=replace(x.quantization, scale=1.0)), "steps"
    )


def _converted(planner: Planner, node: Node, x: Activation, kind: str) -> Buffer:
    name, domain = f"{x.buffer.name}.{kind}", x.buffer.domain
    if name not in planner.made:
        y = Buffer(name, domain, -(-x.channels // 4) * 4, "f32")
        planner.made[name] = y
        emit_elementwise(planner, node, ElementwiseChoice(Activation(y, x.channels), x, "none"))
    return planner.made[name]
