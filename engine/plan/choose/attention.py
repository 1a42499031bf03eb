"""Which kernel makes an Attention: on bytes where the graph quantises what it needs, else in
float32 or bfloat16.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from ...graph import Node
from ..heads import WHOLE
from ..ranges import attention_is_bytes, softmax_of, why_not_bytes, why_not_rounded
from ..steps import Unplanned
from .facts import Activation, Choice, Facts, ProbabilitiesChoice
from .rows import RenamingChoice

__all__ = [
    "AttentionChoice",
    "MaskChoice",
    "choose_attention",
    "choose_mask",
    "choose_probabilities",
    "forms_read",
]

Array = NDArray[Any]
LEAST_SCALE = 1e-30  # of scores that are to be far below
ROUNDED = ("scores", "scaled", "masked", "probabilities")  # ROUNDINGs of PROBABILITIES
PARTS = ("scores", "scaled", "masked", "probabilities", "product")
TILE_DEPTHS = (16, 32, 64, 128)  # of heads, for kernels/attention/amx.py


@dataclass(frozen=True)
class AttentionChoice(Choice):
    """How an Attention is made."""

    query: Activation
    key: Activation
    value: Activation
    floats: Activation | None  # the float32 that y's bytes are converted from
    mask: str  # the input of the graph that says which keys count, or ""
    depth: int  # channels of a head
    kernel: str
    variant: tuple[Any, ...]
    keys: tuple[str, tuple[Any, ...]] | None  # kernel and variant that prepare keys
    forms: tuple[str, str, str]  # in which query, key and value are read; "": as they lie
    live: Array | None  # bool [heads, depth / 4]: fours of channels of y that are made
    varying: Array | None  # bool [heads, depth / 4]: fours in which scores differ


@dataclass(frozen=True)
class MaskChoice(RenamingChoice):
    """What packs leave out; x lies where it is."""

    mask: str


def choose_mask(facts: Facts, node: Node) -> MaskChoice:
    """Tokens that the mask takes out are in no pack.

    Raises:
        Unplanned: attention goes by another mask.
    """
    x = facts.value(node.x)
    _check_mask(facts, node.mask)
    if x.buffer.domain != "tokens":
        raise Unplanned("not of every token")
    return MaskChoice(x, node.mask)


def choose_attention(facts: Facts, node: Node) -> AttentionChoice:
    """On bytes, or in float32 or bfloat16, by what the graph quantises.

    Raises:
        Unplanned: no kernel does this.
    """
    in_bytes = attention_is_bytes(node)
    query, key = (facts.value(name) for name in (node.query, node.key))
    value = facts.value(node.value, less_128=in_bytes)
    mask = node.mask
    _check_mask(facts, mask)
    depth = query.buffer.channels // node.attributes["heads"]
    if len({each.channels for each in (query, key, value)}) > 1:
        raise Unplanned("query, key and value have different channels")
    if depth % WHOLE or {key.buffer.domain, value.buffer.domain} != {"tokens"}:
        raise Unplanned(f"heads of {depth} channels")
    if node.attributes.get("window") is not None:
        _check_window(facts, node, query)
    choose = _bytes if in_bytes else _floats
    return choose(facts, node, (query, key, value), mask, depth)


def choose_probabilities(facts: Facts, node: Node) -> ProbabilitiesChoice:
    """In float32, whatever the attention beside it computes in.

    Raises:
        Unplanned: no kernel does this.
    """
    query, key = (facts.value(name) for name in (node.query, node.key))
    how, heads = node.attributes, node.attributes["heads"]
    _check_mask(facts, node.mask)
    depth = query.buffer.channels // heads
    if query.channels != key.channels or depth % WHOLE:
        raise Unplanned(f"heads of {depth} channels")
    if {query.buffer.domain, key.buffer.domain} != {"tokens"}:
        raise Unplanned("not of every token")
    rounded = any(how.get(each) is not None for each in ROUNDED)
    if how["scale"] < 0 or (node.bias and (how["scale"] == 0 or rounded)):
        raise Unplanned(f"scores are multiplied by {how['scale']}, or rounded, and have a bias")
    if rounded and not facts.finite:
        raise Unplanned("some constants are not finite")
    facts.optional(node.bias)
    variant = (depth, facts.isa.block_width())
    return ProbabilitiesChoice(node, query, key, node.mask, heads, depth, variant)


def _check_mask(facts: Facts, mask: str) -> None:
    """Packs leave masked tokens out: there is one mask or none, and it is an input of the graph."""
    if facts.mask is not None and mask != facts.mask:
        raise Unplanned(f"mask '{mask}', before it was '{facts.mask}'")
    if mask and mask not in {value.name for value in facts.graph.inputs}:
        raise Unplanned(f"mask '{mask}' is not the graph's input")


def _check_window(facts: Facts, node: Node, query: Activation) -> None:
    """Kernels go by places of queries, and take keys out by scores that are far below."""
    how = {} if facts.embedding is None else facts.embedding.attributes
    if query.buffer.domain == "rows":
        raise Unplanned("a window, of one query a sentence")
    if how.get("padding_id") is not None:
        raise Unplanned("a window, and tokens are numbered by ids")
    if abs(node.attributes["scale"]) < LEAST_SCALE:
        raise Unplanned(f"a window, and scores are multiplied by {node.attributes['scale']}")


def _bytes(
    facts: Facts, node: Node, operands: tuple[Activation, ...], mask: str, depth: int
) -> AttentionChoice:
    query, key, value = operands
    if any(each.buffer.dtype != "u8" for each in operands):
        raise Unplanned("query, key or value in float32")
    facts.optional(node.bias)
    if reason := why_not_bytes(node, depth):
        raise Unplanned(reason)
    in_rows, softmax = query.buffer.domain == "rows", softmax_of(node)
    tiles = not in_rows and facts.isa.has("amx-int8") and depth in TILE_DEPTHS and not node.bias
    tiles = not in_rows and facts.isa.has("amx-int8") and depth in TILE_DEPTHS
    tiles = tiles and node.attributes.get("window") is None  # whose places tiles do not know
    y, varying = _result(facts, node, query), facts.varying.get(node.outputs[0])
    live = None if in_rows or tiles else _live(facts, node, y)
    channels = "all" if varying is None and live is None else "some"
    keys: tuple[str, tuple[Any, ...]] = ("interleave_keys", (depth, channels))
    width = facts.isa.block_width()
    kernel: tuple[str, tuple[Any, ...]] = ("attention_u8", (depth, width, softmax, channels))
    if tiles:
        keys, kernel = ("amx_transpose_keys", (depth,)), ("amx_attention_u8", (depth, softmax))
    elif in_rows:
        kernel = ("attention_u8_rows", (depth, softmax))
    forms = ("", "", "")
    return AttentionChoice(
        y, query, key, value, None, mask, depth, *kernel, keys, forms, live, varying
    )


def _floats(
    facts: Facts, node: Node, operands: tuple[Activation, ...], mask: str, depth: int
) -> AttentionChoice:
    """In float32 or bfloat16; what is stored in bytes is converted before and after."""
    query, key, value = operands
    attributes, name = node.attributes, node.outputs[0]
    rounds = any(attributes.get(each) is not None for each in PARTS)
    if rounds and (reason := why_not_rounded(node)):
        raise Unplanned(reason)
    if attributes["scale"] < 0 or (node.bias and attributes["scale"] == 0):
        # the greatest score would be the least probable, and kernels divide a bias by the scale
        raise Unplanned(f"scores are multiplied by {attributes['scale']}")
    facts.optional(node.bias)
    positions = [facts.array(name) for name in (node.key_positions, node.query_positions) if name]
    if positions and node.bias:
        raise Unplanned("scores with a bias and with positions")
    y, floats, forms = _result(facts, node, query), None, forms_read(facts, node)
    if attributes.get("output") is not None:
        floats = facts.result(f"{name}.float", query.buffer.domain, query.buffer.channels, None)
    kernel = "attention_bf16" if forms[0] else "attention_f32"
    kernel = "attention_positions" if positions else kernel
    variant: tuple[int | bool, ...] = (depth, facts.isa.block_width(query.buffer.lanes))
    if query.buffer.domain == "rows":
        kernel, variant = f"{kernel}_rows", (depth,)
    variant += (rounds,) if positions else ()
    live = _live(facts, node, y) if floats is None else None
    varying = facts.varying.get(name)
    return AttentionChoice(
        y, query, key, value, floats, mask, depth, kernel, variant, None, forms, live, varying
    )


def _result(facts: Facts, node: Node, query: Activation) -> Activation:
    output, source = node.attributes.get("output"), query.buffer
    y = facts.result(node.outputs[0], source.domain, source.channels, output)
    return replace(y, kept_axis=query.kept_axis)


def _live(facts: Facts, node: Node, y: Activation) -> Array | None:
    live = facts.live_of(y)
    return None if live is None else live.reshape(node.attributes["heads"], -1, 4).any(2)


def forms_read(facts: Facts, node: Node) -> tuple[str, str, str]:
    """The forms in which attention_bf16 reads query, key and value; "" where it is another kernel.

    One query a sentence is as fast in float32; so is all of it where dot2_bf16 is emulated.
    """
    low = node.attributes.get("precision") == "bfloat16" and facts.isa.has("avx512bf16")
    low = low and node.attributes.get("window") is None
    if low and node.query not in facts.rows:
        return "pairs", "pairs", "words"
    return "", "", ""
