"""Conversions and activations that no product took into its epilogue."""

from __future__ import annotations

import numpy as np

from ..graph import Node, Quantization
from ..ops import is_quantization
from .memory import Buffer
from .planner import Handler, Planner
from .quantized import MAGIC, stored
from .steps import Unplanned

__all__ = ["ELEMENTWISE", "converted", "plan_elementwise", "through_floats"]

ELEMENTWISE = {  # ONNX operator -> activation of the kernel
    "QuantizeLinear": "none",
    "DequantizeLinear": "none",
    "Tanh": "tanh",
    "Relu": "relu",
    "Gelu": "gelu",
}


def plan_elementwise(planner: Planner, node: Node) -> None:
    """One operator of ELEMENTWISE."""
    x = planner.buffer(node.inputs[0])
    if (node.kind == "DequantizeLinear") == (x.dtype == "f32"):
        raise Unplanned(f"x is {x.dtype}")
    if node.attributes.get("approximate", "none") != "none":
        raise Unplanned("an approximation")
    output = _quantization_of(planner, node) if node.kind == "QuantizeLinear" else None
    if node.kind == "DequantizeLinear":
        given = stored(_quantization_of(planner, node))
        if given != planner.quantized[x.name]:
            raise Unplanned(f"x is stored as {planner.quantized[x.name]}, read as {given}")
    _convert(planner, node, x, output, node.outputs[0], ELEMENTWISE[node.kind])
    if node.inputs[0] in planner.kept_axis:
        planner.kept_axis.add(node.outputs[0])


def converted(
    planner: Planner, node: Node, x: Buffer, output: Quantization | None, name: str = ""
) -> Buffer:
    """x as float32 (output None) or as bytes; itself where it is so already."""
    if output is None and x.dtype == "f32":
        return x
    return _convert(planner, node, x, output, name or f"{x.name}.float", "none")


def through_floats(planner: Planner, node: Node, handler: Handler) -> None:
    """The node's result as float32 and then in bytes, by a step that saturates however far it is
    from the zero point (quantized.MOST_STEPS).
    """
    name = node.outputs[0]
    if name in planner.flipped:
        raise Unplanned("values of attention that no 16 bits hold")
    attributes = {**node.attributes, "output": None}
    wide = node.changed(outputs=(f"{name}.wide",), attributes=attributes)
    handler(planner, wide)
    converted(planner, node, planner.buffer(wide.outputs[0]), node.attributes["output"], name)
    if wide.outputs[0] in planner.kept_axis:
        planner.kept_axis.add(name)


def _convert(
    planner: Planner, node: Node, x: Buffer, output: Quantization | None, name: str, activation: str
) -> Buffer:
    if name in planner.buffers:
        return planner.buffers[name]
    source = planner.quantized[x.name]
    y = planner.make(name, x.domain, planner.channels[x.name], output)
    result = planner.quantized[name]
    scale, shift = (
        (1.0, 0.0) if source is None else (source.scale, -source.scale * source.zero_point)
    )
    factor, zero = (1.0, 0.0) if result is None else (1 / result.scale, result.zero_point + MAGIC)
    params = {
        "x": x,
        "y": y,
        "channels": y.channels,
        "x_scale": float(scale),
        "x_shift": float(shift),
        "y_factor": float(factor),
        "y_zero": float(zero),
    }
    planner.emit(node, "elementwise", (x.lanes, x.dtype, activation, y.dtype), params, x.domain)
    return y


def _quantization_of(planner: Planner, node: Node) -> Quantization:
    scale = planner.array(node.inputs[1])
    zero = np.zeros(1, node.attributes.get("output_dtype") or "uint8")
    if len(node.inputs) > 2:
        zero = planner.array(node.inputs[2])
    if np.size(scale) != 1 or np.size(zero) != 1 or zero.dtype not in (np.uint8, np.int8):
        raise Unplanned("not one scale for all, or not 8 bits")
    how = Quantization(float(np.ravel(scale)[0]), int(np.ravel(zero)[0]), str(zero.dtype))
    if not is_quantization(how):
        raise Unplanned(f"a scale of {how.scale}")
    return how
