"""LayerNorm: in exact integers where both inputs are bytes, else in float32."""

from __future__ import annotations

from typing import Any

from ..graph import Node
from .choose import NormChoice
from .planner import Planner, float32
from .quantized import float_bias

__all__ = ["emit_layer_norm"]


def emit_layer_norm(planner: Planner, node: Node, choice: NormChoice) -> None:
    """x + bias + residual, normalised and quantised in one kernel."""
    x, y, channels = choice.x.buffer, choice.y.buffer, choice.x.channels
    residual = choice.residual.buffer if choice.residual else None
    rest = (residual, residual.tile_bytes) if residual else (0, 0)
    out: tuple[Any, ...] = (0, 0, y, y.tile_bytes)
    if choice.y.quantization is not None:
        out = (y, y.tile_bytes, 0, 0)
    where = (x, x.tile_bytes, *rest, *out, channels)
    variant: tuple[Any, ...]
    if choice.exact is not None:
        exact = choice.exact
        scales: tuple[Any, ...] = (exact.weights, 0, exact.epsilon, 1 / channels)
        kernel, variant, shift = "layer_norm_bytes", (x.lanes, y.dtype), exact.bias
    else:
        sources = [each.quantization if each else None for each in (choice.x, choice.residual)]
        shift, of_inputs = float_bias(sources, planner.optional(node.bias), channels)
        epsilon = float(node.attributes.get("epsilon", 1e-12))
        scales = (*of_inputs, epsilon, 1 / channels)
        types = (x.dtype, residual.dtype if residual else "none", y.dtype)
        kernel, variant = "layer_norm_floats", (x.lanes, *types)
    params = (*where, shift, float32(choice.norm), *scales)
    planner.emit(node, kernel, variant, params, x.domain)
    planner.layer(node, shape=(channels,), dtype=y.dtype, bytes=8 * channels)
