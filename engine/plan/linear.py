"""Steps of Linear: its constants and its operands."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..graph import Node
from ..kernels import KERNELS
from ..kernels.context import OUTPUTS_OF_ROWS
from ..kernels.linear.records import DYNAMIC_LINEAR
from .choose import LinearChoice
from .choose.linear import DENSE_ROWS, FEW_ROWS, SIXTEEN_BITS, WIDE
from .elementwise import in_floats
from .memory import Buffer
from .operands import few_rows_params, linear_operands, rows_operand
from .planner import Planner
from .quantized import OutputConstants, dynamic_constants, float_constants, of_bytes

__all__ = ["emit_linear"]

Array = NDArray[Any]


def emit_linear(planner: Planner, node: Node, choice: LinearChoice) -> None:
    """The product, after x is prepared for it."""
    weight, bias = planner.array(node.weight), planner.optional(node.bias)
    if choice.how.kernel == DENSE_ROWS:
        _dense_rows(planner, node, choice, weight, bias)
        return
    x = choice.x.buffer
    if choice.precision != "int8" and x.dtype == "u8":
        x = in_floats(planner, node, choice.x)
    scales = None
    if choice.dynamic:
        x, scales = planner.quantized_tokens(x)
    _product(planner, node, choice, x, weight, _constants(planner, node, choice), scales)


def _constants(planner: Planner, node: Node, choice: LinearChoice) -> OutputConstants:
    weight, bias = planner.array(node.weight), planner.optional(node.bias)
    if choice.precision != "int8":
        return float_constants(len(weight), bias, _activation(node))
    scale = planner.array(node.weight_scale)
    if choice.dynamic:
        return dynamic_constants(weight, scale, bias, _activation(node))
    source = choice.x.quantization
    assert source is not None
    return of_bytes(node, weight, scale, bias, source, flip=choice.y.less_128)


def _dense_rows(
    planner: Planner, node: Node, choice: LinearChoice, weight: Array, bias: Array | None
) -> None:
    """For a few sentences: outputs in lanes, four sentences at a time; in float32 where x would be
    rounded to bfloat16, too.
    """
    x, y, source = choice.x.buffer, choice.y.buffer, choice.x.quantization
    scale, zero = (1.0, 0) if source is None else (source.scale, source.zero_point)
    operand = rows_operand(weight, bias)
    inputs, padded = weight.shape[1], operand.shape[1]
    params = {
        "x": x,
        "y": y,
        "inputs": inputs,
        "outputs": padded,
        "weights": operand,
        "x_scale": float(scale),
        "x_zero": zero,
    }
    variant = (x.dtype, _activation(node))
    units = -(-padded // OUTPUTS_OF_ROWS)
    planner.emit(node, DENSE_ROWS, variant, params, "rows", units=units, macs=weight.size)
    _describe(planner, node, weight, operand.nbytes)


def _product(
    planner: Planner,
    node: Node,
    choice: LinearChoice,
    x: Buffer,
    weight: Array,
    constants: OutputConstants,
    scales: Buffer | None,
) -> None:
    """scales: of the tokens of x, where each has its own."""
    how, y, precision = choice.how, choice.y.buffer, choice.precision
    source = planner.formed(x, how.form, how.width) if how.form else x
    packed_as = "int16" if how.kernel == SIXTEEN_BITS else precision
    operands = linear_operands(
        weight,
        how.packing,
        packed_as,
        constants,
        y,
        tiles=how.tiles,
        panels=how.panels,
        read=choice.live,
    )
    params = {"x": source, "y": y, "part_count": operands.part_count, "parts": operands.parts}
    if how.kernel == FEW_ROWS:
        params |= few_rows_params(weight, constants, operands, y.lanes)
    elif KERNELS[how.kernel].params is DYNAMIC_LINEAR:
        params |= {"scales": scales} if scales else {"scales": 0, "scales_tile": 0}
    planner.emit(
        node,
        how.kernel,
        _variant(choice, constants),
        params,
        x.domain,
        units=operands.part_count,
        macs=operands.macs,
        skipped_macs=operands.skipped_macs,
        operands=operands,
    )
    _describe(planner, node, weight, operands.nbytes)


def _variant(choice: LinearChoice, constants: OutputConstants) -> tuple[Any, ...]:
    how, y = choice.how, choice.y.buffer
    epilogue = constants.epilogue if choice.precision == "int8" else y.form or y.dtype
    lanes: tuple[int, ...] = (y.lanes, how.width)
    if how.kernel == FEW_ROWS:
        lanes = ()
    elif how.tiles or how.kernel == WIDE:
        lanes = (y.lanes,)
    return (*lanes, epilogue, constants.activation)


def _activation(node: Node) -> str:
    return node.attributes.get("activation") or "none"


def _describe(planner: Planner, node: Node, weight: Array, size: int) -> None:
    planner.layer(
        node,
        shape=weight.shape,
        dtype=node.attributes.get("precision") or str(weight.dtype),
        pattern=node.attributes.get("pattern", "dense"),
        zero_ratio=float(np.mean(weight == 0)),
        bytes=size,
    )
