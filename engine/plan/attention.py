"""Attention: on bytes where the graph quantises what its kernel needs, else in float32."""

from __future__ import annotations

from ..graph import Node
from .elementwise import converted
from .memory import Buffer
from .planner import Planner, Unplanned, block_width
from .quantized import FLIP, attention_constants, attention_is_bytes, key_factors
from .shared import aligned
from .tiles import TILE_DEPTHS

__all__ = ["plan_attention"]

DEPTH = 16  # channels of a head come in multiples of it


def plan_attention(planner: Planner, node: Node) -> None:
    """One step for each head and tile of queries, after the keys are interleaved."""
    query, key, value = (planner.buffer(name) for name in node.inputs[:3])
    _take_mask(planner, node.inputs[3] if len(node.inputs) > 3 else "")
    depth = query.channels // node.attributes["heads"]
    if depth % DEPTH or key.domain != "tokens" or value.domain != "tokens":
        raise Unplanned(f"heads of {depth} channels")
    attend = _bytes if attention_is_bytes(node) else _floats
    attend(planner, node, query, key, value, depth)
    if node.inputs[0] in planner.kept_axis:
        planner.kept_axis.add(node.outputs[0])
    planner.layer(node, shape=(node.attributes["heads"], depth), dtype=query.dtype, bytes=0)


def _take_mask(planner: Planner, mask: str) -> None:
    """Packs leave masked tokens out: there is one mask, and it is an input of the graph."""
    if not mask:
        return
    known = {value.name for value in planner.graph.inputs}
    if mask not in known or planner.inputs["mask"] not in ("", mask):
        raise Unplanned(f"mask '{mask}' is not the graph's input")
    planner.inputs["mask"] = mask


def _bytes(
    planner: Planner, node: Node, query: Buffer, key: Buffer, value: Buffer, depth: int
) -> None:
    if any(each.dtype != "u8" for each in (query, key, value)):
        raise Unplanned("query, key or value in float32")
    heads, name = node.attributes["heads"], node.outputs[0]
    keys = Buffer(f"{name}.keys", "tokens", key.channels, "u8")
    sums = Buffer(f"{name}.sums", "tokens", heads, "i32")
    factor, extra = key_factors(node, depth)
    tiles = query.domain == "tokens" and planner.isa.has("amx-int8") and depth in TILE_DEPTHS
    turn = "amx_transpose_keys" if tiles else "interleave_keys"
    params = (key, key.tile_bytes, keys, sums, heads, FLIP, factor, extra)
    planner.emit(node, turn, (depth,), params, "tokens", units=heads)
    y = planner.make(name, query.domain, query.channels, node.attributes["output"])
    kernel = "attention_u8" if query.domain == "tokens" else "attention_u8_rows"
    softmax = "floats" if node.attributes["scores"] is None else "bytes"
    operands = (query, query.tile_bytes, keys, sums, value, value.tile_bytes, y, y.tile_bytes)
    constants = aligned(attention_constants(node, depth))
    variant = ("amx_attention_u8" if tiles else kernel, (depth, softmax))
    block = (*operands, heads, constants)
    planner.emit(node, *variant, block, query.domain, units=heads, own_tiles=False)


def _floats(
    planner: Planner, node: Node, query: Buffer, key: Buffer, value: Buffer, depth: int
) -> None:
    """In float32 throughout; what is stored in bytes is converted before and after."""
    attributes = node.attributes
    if any(attributes.get(name) is not None for name in ("scores", "probabilities", "product")):
        raise Unplanned("partly quantised attention")
    heads, output, name = attributes["heads"], attributes.get("output"), node.outputs[0]
    query, key, value = (converted(planner, node, each, None) for each in (query, key, value))
    y = planner.make(
        name if output is None else f"{name}.float", query.domain, query.channels, None
    )
    operands = (query, query.tile_bytes, key, key.tile_bytes, value, value.tile_bytes)
    params = (*operands, y, y.tile_bytes, heads, float(attributes["scale"]))
    if query.domain == "tokens":
        variant: tuple[int, ...] = (depth, block_width(planner.isa, query.lanes))
        kernel = "attention_f32"
    else:
        kernel, variant = "attention_f32_rows", (depth,)
    planner.emit(node, kernel, variant, params, query.domain, units=heads, own_tiles=False)
    if output is not None:
        converted(planner, node, y, output, name)
