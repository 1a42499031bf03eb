"""Attention: on bytes where the graph quantises what its kernel needs, else in float32."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..graph import Node
from ..pack.mapped import aligned
from .elementwise import converted
from .heads import WHOLE
from .memory import Buffer
from .planner import Planner, block_width
from .quantized import (
    FLIP,
    attention_constants,
    attention_is_bytes,
    key_factors,
    softmax_of,
    why_not_bytes,
)
from .steps import Unplanned
from .tiles import TILE_DEPTHS
from .unread import constant_scores

__all__ = ["forms_read", "fours_of", "plan_attention"]

Array = NDArray[Any]


def plan_attention(planner: Planner, node: Node) -> None:
    """One step for each head and tile of queries, after the keys are interleaved."""
    in_bytes = attention_is_bytes(node)
    query, key = (planner.buffer(name) for name in node.inputs[:2])
    value = planner.buffer(node.inputs[2], less_128=in_bytes)
    mask = node.inputs[3] if len(node.inputs) > 3 else ""
    _check_mask(planner, mask)
    depth = query.channels // node.attributes["heads"]
    if len({planner.width(name) for name in node.inputs[:3]}) > 1:
        raise Unplanned("query, key and value have different channels")
    if depth % WHOLE or key.domain != "tokens" or value.domain != "tokens":
        raise Unplanned(f"heads of {depth} channels")
    attend = _bytes if in_bytes else _floats
    attend(planner, node, query, key, value, depth)
    planner.inputs["mask"], planner.attended = mask, True
    if node.inputs[0] in planner.kept_axis:
        planner.kept_axis.add(node.outputs[0])
    planner.layer(node, shape=(node.attributes["heads"], depth), dtype=query.dtype, bytes=0)


def _check_mask(planner: Planner, mask: str) -> None:
    """Packs leave masked tokens out: there is one mask or none, and it is an input of the graph."""
    if planner.attended and mask != planner.inputs["mask"]:
        raise Unplanned(f"mask '{mask}', before it was '{planner.inputs['mask']}'")
    if mask and mask not in {value.name for value in planner.graph.inputs}:
        raise Unplanned(f"mask '{mask}' is not the graph's input")


def _bytes(
    planner: Planner, node: Node, query: Buffer, key: Buffer, value: Buffer, depth: int
) -> None:
    if any(each.dtype != "u8" for each in (query, key, value)):
        raise Unplanned("query, key or value in float32")
    if reason := why_not_bytes(node, depth):
        raise Unplanned(reason)
    heads, name = node.attributes["heads"], node.outputs[0]
    keys = Buffer(f"{name}.keys", "tokens", key.channels, "u8")
    sums = Buffer(f"{name}.sums", "tokens", heads, "i32")
    tiles = query.domain == "tokens" and planner.isa.has("amx-int8") and depth in TILE_DEPTHS
    varying = planner.varying.get(name)
    fours = fours_of(varying, heads, depth)
    factor, extra = key_factors(node, 4 * fours[:, 0].astype(np.int64))
    if varying is not None:
        extra = extra + constant_scores(planner.graph, node, varying)
    extra = aligned(extra.astype(np.int32))
    softmax = softmax_of(node)
    y = planner.make(name, query.domain, query.channels, node.attributes["output"])
    read = planner.read_of(y) if query.domain == "tokens" and not tiles else None
    made = fours_of(None if read is None else read.reshape(heads, -1, 4).any(2), heads, depth)
    channels = "all" if varying is None and read is None else "some"
    turn: tuple[str, tuple[Any, ...]] = ("interleave_keys", (depth, channels))
    kernel: tuple[str, tuple[Any, ...]] = ("attention_u8", (depth, softmax, channels))
    if tiles:
        turn, kernel = ("amx_transpose_keys", (depth,)), ("amx_attention_u8", (depth, softmax))
    elif query.domain == "rows":
        kernel = ("attention_u8_rows", (depth, softmax))
    params = (key, key.tile_bytes, keys, sums, heads, FLIP, factor, extra, fours)
    planner.emit(node, *turn, params, "tokens", units=heads)
    operands = (query, query.tile_bytes, keys, sums, value, value.tile_bytes, y, y.tile_bytes)
    constants = aligned(attention_constants(node, depth))
    block = (*operands, heads, constants, made, fours)
    spared = 2 * y.channels - 4 * int(made[:, 0].sum() + fours[:, 0].sum())
    how = {"units": heads, "macs": 2 * query.channels, "spared": spared}
    planner.emit(node, *kernel, block, query.domain, own_tiles=False, **how)


def fours_of(there: Array | None, heads: int, depth: int) -> Array:
    """int32 [heads, 1 + depth / 4]: how many fours of a head's channels are there (bool [heads,
    depth / 4]; None: all), and the first channel of each.
    """
    found = np.zeros((heads, 1 + depth // 4), np.int32)
    there = np.ones((heads, depth // 4)) if there is None else there
    for row, fours in zip(found, there, strict=True):
        places = np.flatnonzero(fours)
        row[0], row[1 : 1 + len(places)] = len(places), 4 * places
    return aligned(found)


def forms_read(planner: Planner, node: Node) -> tuple[str, str, str]:
    """The forms in which attention_bf16 reads query, key and value; "" where it is another kernel.

    One query a sentence is as fast in float32; so is all of it where dot2_bf16 is emulated.
    """
    low = node.attributes.get("precision") == "bfloat16" and planner.isa.has("avx512bf16")
    if low and node.inputs[0] not in planner.of_rows:
        return "pairs", "pairs", "words"
    return "", "", ""


def _floats(
    planner: Planner, node: Node, query: Buffer, key: Buffer, value: Buffer, depth: int
) -> None:
    """In float32 or bfloat16; what is stored in bytes is converted before and after."""
    attributes = node.attributes
    if any(attributes.get(name) is not None for name in ("scores", "probabilities", "product")):
        raise Unplanned("partly quantised attention")
    if attributes["scale"] < 0:  # the greatest score would be the least probable
        raise Unplanned(f"scores are multiplied by {attributes['scale']}")
    heads, output, name = attributes["heads"], attributes.get("output"), node.outputs[0]
    forms = forms_read(planner, node)
    query, key, value = (
        planner.formed(each, form, each.lanes) if form else converted(planner, node, each, None)
        for each, form in zip((query, key, value), forms, strict=True)
    )
    y = planner.make(
        name if output is None else f"{name}.float", query.domain, query.channels, None
    )
    variant: tuple[int, ...] = (depth, block_width(planner.isa, query.lanes))
    kernel = "attention_bf16" if forms[0] else "attention_f32"
    if query.domain == "rows":
        kernel, variant = "attention_f32_rows", (depth,)
    operands = (query, query.tile_bytes, key, key.tile_bytes, value, value.tile_bytes)
    read = planner.read_of(y)
    made = fours_of(None if read is None else read.reshape(heads, -1, 4).any(2), heads, depth)
    fours = fours_of(planner.varying.get(name), heads, depth)
    params = (*operands, y, y.tile_bytes, heads, float(attributes["scale"]), made, fours)
    spared = 2 * y.channels - 4 * int(made[:, 0].sum() + fours[:, 0].sum())
    how = {"units": heads, "macs": 2 * query.channels, "spared": spared}
    planner.emit(node, kernel, variant, params, query.domain, own_tiles=False, **how)
    if output is not None:
        converted(planner, node, y, output, name)
