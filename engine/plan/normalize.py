"""LayerNorm: in exact integers where both inputs are bytes, else in float32."""

from __future__ import annotations

from typing import Any

from ..graph import Node
from .choose import NormChoice, RoundedNormChoice
from .planner import Planner, float32
from .quantized import float_bias, roundings

__all__ = ["emit_layer_norm", "emit_rounded_norm"]


def emit_layer_norm(planner: Planner, node: Node, choice: NormChoice) -> None:
    """x + bias + residual, normalised and quantised in one kernel."""
    x, y, channels = choice.x.buffer, choice.y.buffer, choice.x.channels
    residual = choice.residual.buffer if choice.residual else None
    params: dict[str, Any] = {"x": x, "channels": channels, "share": 1 / channels}
    params["norm"] = float32(choice.norm)
    params |= {"residual": residual} if residual else _no_buffer("residual")
    made, other = ("floats", "y") if choice.y.quantization is None else ("y", "floats")
    params |= {made: y, **_no_buffer(other)}
    variant: tuple[Any, ...]
    if choice.exact is not None:
        exact = choice.exact
        params |= {"bias": exact.bias, "weights": exact.weights, "epsilon": exact.epsilon}
        kernel, variant = "layer_norm_bytes", (x.lanes, y.dtype)
    else:
        sources = [each.quantization if each else None for each in (choice.x, choice.residual)]
        bias, scales = float_bias(sources, planner.optional(node.bias), channels)
        params |= zip(("x_scale", "residual_scale"), scales, strict=True)
        params |= {"bias": bias, "epsilon": float(node.attributes.get("epsilon", 1e-12))}
        params["sum"] = roundings([choice.sum]) if choice.sum else 0
        types = (x.dtype, residual.dtype if residual else "none", y.dtype)
        centred = bool(node.attributes.get("centred", True))
        kernel, variant = "layer_norm_floats", (x.lanes, *types, centred)
    planner.emit(node, kernel, variant, params, x.domain)
    planner.layer(node, shape=(channels,), dtype=y.dtype, bytes=8 * channels)


def emit_rounded_norm(planner: Planner, node: Node, choice: RoundedNormChoice) -> None:
    """Rounded to bytes after every operator."""
    x, y, channels = choice.x.buffer, choice.y.buffer, choice.x.channels
    residual = choice.residual.buffer if choice.residual else None
    sources = [each.quantization if each else None for each in (choice.x, choice.residual)]
    bias, scales = float_bias(sources, planner.optional(node.bias), channels)
    params: dict[str, Any] = {"x": x, "y": y, "channels": channels, "share": 1 / channels}
    params |= {"residual": residual} if residual else _no_buffer("residual")
    params |= zip(("x_scale", "residual_scale"), scales, strict=True)
    params |= {"bias": bias, "norm": choice.norm, "roundings": choice.roundings}
    params["sum"] = roundings([choice.sum]) if choice.sum else 0
    params |= {"epsilon": float(node.attributes.get("epsilon", 1e-12)), **_no_buffer("floats")}
    variant = (x.lanes, residual.dtype if residual else "none")
    planner.emit(node, "layer_norm_rounded", variant, params, x.domain)
    planner.layer(node, shape=(channels,), dtype=y.dtype, bytes=8 * channels)


def _no_buffer(name: str) -> dict[str, int]:
    return {name: 0, f"{name}_tile": 0}
