"""Linear: its constants, the type of its result, its operands."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..codegen.isa import Isa
from ..graph import Node
from ..kernels.context import OUTPUTS_OF_ROWS, ROWS
from .elementwise import through_floats
from .memory import Buffer
from .operands import few_rows_params, linear_operands, panel_count, rows_operand
from .planner import Planner
from .product import SIXTEEN_BITS, WIDE, forms_wanted, on_dense_rows, product
from .quantized import (
    OutputConstants,
    dynamic_constants,
    float_constants,
    of_bytes,
    sums_in_range,
)
from .steps import Unplanned

__all__ = ["plan_linear"]

Array = NDArray[Any]
FEW_ROWS = "rows_dot_u8s8_4x1"  # for rows: few of them one by one
OF_FEW_ROWS = ("table", "plain", "bytes")  # epilogues it has
MOST_SUMMED = ((1 << 31) - 1) // (255 * 128)  # inputs of int8 weights: their sums are int32


def plan_linear(planner: Planner, node: Node) -> None:
    """Sparse or dense, bytes or floats, by what x is and what the node's attributes say."""
    x, weight = planner.buffer(node.inputs[0]), planner.array(node.inputs[1])
    inputs = planner.width(node.inputs[0])
    if weight.shape[1] != inputs:
        raise Unplanned(f"weight has {weight.shape[1]} inputs, x {inputs} channels")
    if weight.dtype == np.int8 and inputs > MOST_SUMMED:
        raise Unplanned(f"sums over {inputs} bytes: int32 holds those over {MOST_SUMMED}")
    if node.attributes.get("dynamic"):
        _dynamic(planner, node, x, weight)
    elif weight.dtype == np.int8:
        _bytes(planner, node, x, weight)
    else:
        _floats(planner, node, x, weight)
    if node.inputs[0] in planner.kept_axis:
        planner.kept_axis.add(node.outputs[0])


def _bytes(planner: Planner, node: Node, x: Buffer, weight: Array) -> None:
    source = planner.quantized[x.name]
    if source is None:
        raise Unplanned("int8 weights and x in float32")
    name, scale = node.outputs[0], planner.array(node.inputs[2])
    bias, flip = planner.optional(node.inputs[3]), name in planner.flipped
    if not sums_in_range(node, weight, scale, bias, source):
        through_floats(planner, node, plan_linear)
        return
    constants = of_bytes(node, weight, scale, bias, source, flip=flip)
    y = planner.make(name, x.domain, len(weight), node.attributes.get("output"))
    if flip:
        planner.less_128.add(name)
    _emit(planner, node, x, y, weight, "int8", constants)


def _dynamic(planner: Planner, node: Node, x: Buffer, weight: Array) -> None:
    """Each token of x is quantised by itself."""
    _refuse_quantised_result(node)
    if x.dtype != "f32":
        raise Unplanned("dynamic quantisation of bytes")
    scale, bias = planner.array(node.inputs[2]), planner.optional(node.inputs[3])
    quantized, scales = planner.quantized_tokens(x)
    y = planner.make(node.outputs[0], x.domain, len(weight), None)
    constants = dynamic_constants(weight, scale, bias, _activation(node))
    _emit(planner, node, quantized, y, weight, "int8", constants, (scales, scales.tile_bytes))


def _floats(planner: Planner, node: Node, x: Buffer, weight: Array) -> None:
    _refuse_quantised_result(node)
    bias = planner.optional(node.inputs[3])
    precision = node.attributes.get("precision", "float32")
    if on_dense_rows(node, weight, x.lanes):
        _dense_rows(planner, node, x, weight, bias)
        return
    if x.dtype == "u8":
        raise Unplanned("float32 weights and x in bytes")
    form = _rounded_form(planner, node, x, weight) if precision == "bfloat16" else ""
    y = planner.make(node.outputs[0], x.domain, len(weight), None, form=form)
    constants = float_constants(len(weight), bias, _activation(node))
    _emit(planner, node, x, y, weight, precision, constants)


def _rounded_form(planner: Planner, node: Node, x: Buffer, weight: Array) -> str:
    """The form in which all readers want the result, if the kernel can make it; else ""."""
    how, forms = product(planner, node, weight, "bfloat16", x.lanes), {""}
    if not how.tiles and how.width == x.lanes:
        forms = forms_wanted(planner, node.outputs[0], x.lanes)
    alone = how.packing == "1x4"  # one output after the other
    return forms.pop() if len(forms) == 1 and not (alone and "pairs" in forms) else ""


def _dense_rows(planner: Planner, node: Node, x: Buffer, weight: Array, bias: Array | None) -> None:
    """For a few sentences: outputs in lanes, four sentences at a time; in float32 where x would be
    rounded to bfloat16, too.
    """
    outputs, inputs = weight.shape
    source = planner.quantized[x.name]
    scale, zero = (1.0, 0) if source is None else (source.scale, source.zero_point)
    operand = rows_operand(weight, bias)
    y = planner.make(node.outputs[0], "rows", outputs, None, group=16)
    padded = operand.shape[1]
    params = (x, x.tile_bytes, y, y.tile_bytes, inputs, padded, operand, float(scale), zero)
    variant = (x.dtype, _activation(node))
    units = -(-padded // OUTPUTS_OF_ROWS)
    planner.emit(node, "dense_rows", variant, params, "rows", units=units, macs=weight.size)
    _describe(planner, node, weight, operand.nbytes)


def _emit(
    planner: Planner,
    node: Node,
    x: Buffer,
    y: Buffer,
    weight: Array,
    precision: str,
    constants: OutputConstants,
    more: tuple[Any, ...] = (),
) -> None:
    """The step of a product; more: parameters its epilogue needs besides those of all."""
    few = precision == "int8" and not more and _has_few_rows(planner.isa, y, constants)
    how = product(planner, node, weight, precision, x.lanes, few=few, tokens_have_scales=bool(more))
    kernel, tiles = how.kernel, how.tiles
    lanes = (y.lanes,) if tiles or kernel == WIDE else (y.lanes, how.width)
    source = planner.formed(x, how.form, how.width) if how.form else x
    packed_as = "int16" if kernel == SIXTEEN_BITS else precision
    panels = 1
    if how.packing == "1x4":
        panels = panel_count(weight, precision, how.width)
    some = x.domain == "tokens" and how.packing in ("4x1", "1x4") and not tiles
    read = planner.read_of(y) if some else None
    operands = linear_operands(
        weight, how.packing, packed_as, constants, y, tiles=tiles, panels=panels, read=read
    )
    params = (source, source.tile_bytes, y, y.tile_bytes, operands.parts, operands.rows, *more)
    epilogue = constants.epilogue if precision == "int8" else y.form or y.dtype
    variant = (*lanes, epilogue, constants.activation)
    if kernel == WIDE and few:
        kernel, variant = FEW_ROWS, variant[1:]
        params += few_rows_params(weight, constants, operands, y.lanes)
    planner.emit(
        node,
        kernel,
        variant,
        params,
        x.domain,
        units=operands.parts,
        macs=operands.macs,
        spared=operands.spared,
        keep=operands,
    )
    _describe(planner, node, weight, operands.nbytes)


def _has_few_rows(isa: Isa, y: Buffer, constants: OutputConstants) -> bool:
    """Whether FEW_ROWS can make y."""
    return y.lanes == ROWS and constants.epilogue in OF_FEW_ROWS and isa.has("avx512vbmi")


def _activation(node: Node) -> str:
    return node.attributes.get("activation") or "none"


def _refuse_quantised_result(node: Node) -> None:
    if node.attributes.get("output") is not None or node.attributes.get("product") is not None:
        raise Unplanned("a float32 product with a quantised result")


def _describe(planner: Planner, node: Node, weight: Array, size: int) -> None:
    planner.layer(
        node,
        shape=weight.shape,
        dtype=node.attributes.get("precision") or str(weight.dtype),
        pattern=node.attributes.get("pattern", "dense"),
        zero_ratio=float(np.mean(weight == 0)),
        bytes=size,
    )
