"""Linear: which product kernel, in which form it reads x, and its operands."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import settings
from ..graph import Node
from ..isa import Isa
from ..kernels import KERNELS
from ..kernels.context import OUTPUTS_OF_ROWS, ROWS
from ..pack import MOST_INPUTS, piece_width
from .choice import Choice, Layer
from .memory import Buffer
from .planner import Planner, Unplanned
from .quantized import OutputConstants, dynamic_constants, float_constants, of_bytes
from .tiles import PACKINGS, TILE_KERNELS, modelled_pattern
from .weights import few_rows_params, linear_operands, panel_count, rows_operand

__all__ = ["LINEAR_KERNELS", "plan_linear"]

Array = NDArray[Any]
LINEAR_KERNELS = {  # precision and pattern -> kernel, and the form in which it reads x
    ("int8", "4x1"): ("sparse_dot_u8s8_4x1", ""),
    ("int8", "1x4"): ("sparse_dot_u8s8_1x4", "quads"),
    ("int8", "dense"): ("dense_dot_u8s8", "quads"),
    ("float32", "4x1"): ("sparse_dot_f32_4x1", ""),
    ("float32", "1x4"): ("sparse_dot_f32_1x4", "pieces"),
    ("float32", "dense"): ("dense_dot_f32", ""),
    ("bfloat16", "4x1"): ("sparse_dot_bf16_4x1", "rows"),
    ("bfloat16", "1x4"): ("sparse_dot_bf16_1x4", "pairs"),
    ("bfloat16", "dense"): ("dense_dot_bf16", "pairs"),
}
WIDE = "sparse_dot_u8s8_4x1"  # the 4x1 kernel for 512 bits, a whole tile at a time
NARROW = "narrow_dot_u8s8_4x1"  # in pieces of a tile: few registers, or scales of tokens
FEW_ROWS = "rows_dot_u8s8_4x1"  # for rows: few of them one by one
OF_FEW_ROWS = ("table", "plain", "bytes")  # epilogues it has
OF_16_BITS = ("4x1", "tiles 16x1")  # patterns whose offsets name MOST_INPUTS inputs
SIXTEEN_BITS = "sparse_dot_u8s16_4x1"  # where no instruction multiplies bytes exactly
MOST_DENSE_ROWS = 1 << 22  # weights of a dense_rows layer: it reads them once for four sentences


def plan_linear(planner: Planner, node: Node) -> None:
    """Sparse or dense, bytes or floats, by what x is and what the node's attributes say."""
    x, weight = planner.buffer(node.inputs[0]), planner.array(node.inputs[1])
    inputs = planner.width(node.inputs[0])
    if weight.shape[1] != inputs:
        raise Unplanned(f"weight has {weight.shape[1]} inputs, x {inputs} channels")
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
    constants = of_bytes(node, weight, scale, bias, source, flip=flip)
    y = planner.make(name, x.domain, len(weight), node.attributes.get("output"))
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
    dense = node.attributes.get("pattern", "dense") == "dense"
    few = x.domain == "rows" and weight.size <= MOST_DENSE_ROWS
    if few and dense and precision == "float32":
        _dense_rows(planner, node, x, weight, bias)
        return
    if x.dtype != "f32":
        raise Unplanned("float32 weights and x in bytes")
    y = planner.make(node.outputs[0], x.domain, len(weight), None)
    constants = float_constants(len(weight), bias, _activation(node))
    _emit(planner, node, x, y, weight, precision, constants)


def _dense_rows(planner: Planner, node: Node, x: Buffer, weight: Array, bias: Array | None) -> None:
    """For a few sentences: outputs in lanes, four sentences at a time."""
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
    isa, choice = planner.isa, _choice(planner, node, x, weight, precision)
    pattern, tiles = choice.pattern, choice.pattern in PACKINGS
    if tiles and more:  # no tile kernel has such an epilogue
        pattern, tiles = node.attributes.get("pattern", "dense"), False
    few = precision == "int8" and not more and _has_few_rows(isa, y, constants)
    if few and pattern == "dense" and len(weight) % 4 == 0:
        pattern = "4x1"  # whose kernel makes a few rows one by one
    if weight.shape[1] > MOST_INPUTS and pattern in OF_16_BITS:
        pattern, tiles = "dense", False
    if tiles:
        kernel, form = TILE_KERNELS[precision, pattern]
        width, packing = y.lanes, PACKINGS[pattern]
    else:
        kernel, form = _kernel(isa, precision, pattern, tokens_have_scales=bool(more))
        width = choice.width or piece_width(isa.width)
        width, packing = min(width, y.lanes), pattern
    lanes = (y.lanes,) if tiles or kernel == WIDE else (y.lanes, width)
    source = planner.formed(x, form, width) if form else x
    packed_as = "int16" if kernel == SIXTEEN_BITS else precision
    panels = 1
    if pattern == "1x4":
        panels = panel_count(weight, precision, y.lanes, width)
    some = x.domain == "tokens" and packing in ("4x1", "1x4") and not tiles
    read = planner.read_of(y) if some else None
    operands = linear_operands(
        weight, packing, packed_as, constants, y, tiles=tiles, panels=panels, read=read
    )
    params = (source, source.tile_bytes, y, y.tile_bytes, operands.parts, operands.rows, *more)
    epilogue = constants.epilogue if precision == "int8" else y.dtype
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


def _choice(planner: Planner, node: Node, x: Buffer, weight: Array, precision: str) -> Choice:
    """How the product runs: as measured on this CPU, else by the graph's pattern, on tiles where
    those are modelled faster."""
    if planner.fixed_choice:
        return planner.fixed_choice
    own, tuned = node.attributes.get("pattern", "dense"), settings.current().tune
    usual = Choice(modelled_pattern(planner.isa, weight, precision, own), 0)
    if planner.choices is None or not (tuned or planner.choices.layers):
        return usual
    zeros = round(100 * float(np.mean(weight == 0)))
    layer = Layer(precision, own, weight.shape[0], weight.shape[1], x.lanes, zeros)
    if not tuned:
        return planner.choices.layers.get(str(layer), usual)
    from .trial import choose  # it plans a layer by itself

    return choose(planner.choices, planner.isa, layer, weight)


def _kernel(isa: Isa, precision: str, pattern: str, *, tokens_have_scales: bool) -> tuple[str, str]:
    kernel, form = LINEAR_KERNELS.get((precision, pattern), ("", ""))
    if kernel not in KERNELS:
        raise Unplanned(f"no kernel for {precision} weights, {pattern}")
    if kernel == WIDE and not (isa.has("avx512vnni") or isa.has("avxvnni")):
        return SIXTEEN_BITS, form
    if kernel == WIDE and (tokens_have_scales or isa.width < 512):
        return NARROW, form
    return kernel, form


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
