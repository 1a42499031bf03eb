"""LayerNorm: in exact integers where both inputs are bytes, else in float32."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..graph import Node
from .elementwise import through_floats
from .planner import Planner, float32
from .quantized import float_bias, norm_in_range, norm_of_bytes, stored
from .steps import Unplanned

__all__ = ["plan_layer_norm"]


def plan_layer_norm(planner: Planner, node: Node) -> None:
    """x + bias + residual, normalised and quantised in one kernel."""
    x, residual = planner.buffer(node.inputs[0]), None
    if node.inputs[1]:
        residual = planner.buffer(node.inputs[1])
        if _form(planner, node.inputs[0]) != _form(planner, node.inputs[1]):
            raise Unplanned("the residual has another shape")
    bias = planner.optional(node.inputs[2])
    norm = np.stack([planner.array(name) for name in node.inputs[3:5]], axis=1).astype(np.float64)
    output, channels = stored(node.attributes.get("output")), planner.width(node.inputs[0])
    if output is not None:
        norm = norm / output.scale + np.array([0, output.zero_point])
        if not norm_in_range(*norm.T):
            through_floats(planner, node, plan_layer_norm)
            return
    y = planner.make(node.outputs[0], x.domain, channels, output)
    sources = [planner.quantized[each.name] if each else None for each in (x, residual)]
    epsilon = float(node.attributes.get("epsilon", 1e-12))
    rest = (residual, residual.tile_bytes) if residual else (0, 0)
    out: tuple[Any, ...] = (y, y.tile_bytes, 0, 0) if output else (0, 0, y, y.tile_bytes)
    where = (x, x.tile_bytes, *rest, *out, channels)
    exact = norm_of_bytes(sources, bias, channels, epsilon)
    if exact is not None:
        scales: tuple[Any, ...] = (exact.weights, 0, exact.epsilon, 1 / channels)
        kernel, variant = "layer_norm_bytes", (x.lanes, y.dtype)
        shift = exact.bias
    else:
        shift, of_inputs = float_bias(sources, bias, channels)
        scales = (*of_inputs, epsilon, 1 / channels)
        types = (x.dtype, residual.dtype if residual else "none", y.dtype)
        kernel, variant = "layer_norm_floats", (x.lanes, *types)  # type: ignore[assignment]
    planner.emit(node, kernel, variant, (*where, shift, float32(norm), *scales), x.domain)
    if node.inputs[0] in planner.kept_axis:
        planner.kept_axis.add(node.outputs[0])
    planner.layer(node, shape=(channels,), dtype=y.dtype, bytes=8 * channels)


def _form(planner: Planner, name: str) -> tuple[str, bool, int]:
    """What decides the shape of a value."""
    return planner.buffer(name).domain, name in planner.kept_axis, planner.width(name)
