"""Steps of Attention: one for each head and tile of queries, after the keys are interleaved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..graph import Node
from ..kernels.attention.records import NO_WINDOW
from ..kernels.context import TILE
from ..kernels.record import aligned_copy
from .choose import AttentionChoice, ElementwiseChoice, ProbabilitiesChoice
from .choose.attention import ROUNDED
from .dead_channels import constant_scores
from .elementwise import emit_elementwise, in_floats, in_steps
from .memory import Buffer
from .planner import Planner
from .quantized import FLIP, attention_constants, key_factors, roundings, score_roundings

__all__ = [
    "bias_entries",
    "emit_attention",
    "emit_probabilities",
    "fours_of",
    "position_entries",
]

Array = NDArray[Any]
LEAST_BIAS = -1e38  # nothing is left of a probability, and no infinity made


def emit_attention(planner: Planner, node: Node, choice: AttentionChoice) -> None:
    """On bytes, or in floats."""
    heads = node.attributes["heads"]
    made = fours_of(choice.live, heads, choice.depth)
    fours = fours_of(choice.varying, heads, choice.depth)
    emit = _bytes if choice.keys else _floats
    emit(planner, node, choice, made, fours)
    dtype = choice.query.buffer.dtype
    planner.layer(node, shape=(heads, choice.depth), dtype=dtype, bytes=0)


def _bytes(
    planner: Planner, node: Node, choice: AttentionChoice, made: Array, fours: Array
) -> None:
    query, key, value = (each.buffer for each in (choice.query, choice.key, choice.value))
    heads, y = node.attributes["heads"], choice.y.buffer
    keys = Buffer(f"{y.name}.keys", "tokens", key.channels, "u8")
    sums = Buffer(f"{y.name}.sums", "tokens", heads, "i32")
    factor, extra = key_factors(node, 4 * fours[:, 0].astype(np.int64))
    if choice.varying is not None:
        extra = extra + constant_scores(planner.graph, node, choice.varying)
    extra = aligned_copy(extra.astype(np.int32))
    assert choice.keys is not None
    params = {
        "k": key,
        "keys": keys,
        "key_sums": sums,
        "heads": heads,
        "flip": FLIP,
        "factor": factor,
        "extra": extra,
        "fours": fours,
    }
    planner.emit(node, *choice.keys, params, "tokens", units=heads)
    operands = {
        "q": query,
        "keys": keys,
        "key_sums": sums,
        "v": value,
        "y": y,
        "heads": heads,
        "constants": aligned_copy(attention_constants(node)),
        "made": made,
        "fours": fours,
        **bias_entries(planner.optional(node.bias), 1.0, rows=query.domain == "rows"),
        "window": _window(node),
    }
    _emit(planner, node, choice, operands, made, fours)


def _floats(
    planner: Planner, node: Node, choice: AttentionChoice, made: Array, fours: Array
) -> None:
    """In float32 or bfloat16; what is stored in bytes is converted before and after."""
    rounds = node.attributes.get("scores") is not None
    of_floats = in_steps if rounds else in_floats
    query, key, value = (
        planner.formed(each.buffer, form, each.buffer.lanes)
        if form
        else of_floats(planner, node, each)
        for each, form in zip((choice.query, choice.key, choice.value), choice.forms, strict=True)
    )
    y = (choice.floats or choice.y).buffer
    params = {
        "q": query,
        "k": key,
        "v": value,
        "y": y,
        "heads": node.attributes["heads"],
        "scale": float(node.attributes["scale"]),
        "made": made,
        "fours": fours,
        **bias_entries(
            planner.optional(node.bias), node.attributes["scale"], rows=query.domain == "rows"
        ),
        "window": _window(node),
        **position_entries(
            steps_of_positions(planner, node),
            node.attributes["heads"],
            rows=query.domain == "rows",
            roundings=score_roundings(node) if rounds else None,
        ),
    }
    _emit(planner, node, choice, params, made, fours)
    if choice.floats is not None:
        emit_elementwise(planner, node, ElementwiseChoice(choice.y, choice.floats, "none"))


def emit_probabilities(planner: Planner, node: Node, choice: ProbabilitiesChoice) -> None:
    """Where queries and keys are there: these need not stay until the results are handed over."""
    if node.outputs[0] not in planner.results:
        return  # a Cast of it is
    how = choice.node.attributes
    rounded = [how.get(name) for name in ROUNDED]
    params = {
        "q": in_floats(planner, node, choice.query),
        "k": in_floats(planner, node, choice.key),
        "number": planner.results.index(node.outputs[0]),
        "heads": choice.heads,
        "scale": float(how["scale"]),
        "fours": fours_of(None, choice.heads, choice.depth),
        **bias_entries(planner.optional(choice.node.bias), how["scale"], rows=False),
        "roundings": aligned_copy(roundings(rounded)) if any(rounded) else 0,
    }
    channels = choice.query.buffer.channels
    size = {"units": choice.heads, "macs": channels, "own_tiles": False}
    planner.emit(node, "output_probabilities", choice.variant, params, "tokens", **size)
    dtype = choice.query.buffer.dtype
    planner.layer(node, shape=(choice.heads, choice.depth), dtype=dtype, bytes=0)


def bias_entries(table: Array | None, scale: float, *, rows: bool) -> dict[str, Any]:
    """BIAS of [heads, 2 P - 1], divided by the scale of scores: by q - k where queries are in
    lanes; rows: keys are, and it lies by k - q.
    """
    if table is None:
        return {"bias": 0, "reach": 0}
    with np.errstate(over="ignore"):
        entries = np.maximum(table / np.float32(scale), np.float32(LEAST_BIAS))
    entries = np.pad(entries, ((0, 0), (TILE, TILE)), mode="edge")
    return {
        "bias": aligned_copy(entries if rows else entries[:, ::-1]),
        "reach": entries.shape[1] // 2,
    }


def _window(node: Node) -> int:
    window = node.attributes.get("window")
    return NO_WINDOW if window is None else int(window)


def steps_of_positions(planner: Planner, node: Node) -> list[Array | None]:
    """float32 tables for keys and for queries; in steps where they are quantised."""
    tables: list[Array | None] = []
    for name, part in (
        (node.key_positions, "key_positions"),
        (node.query_positions, "query_positions"),
    ):
        table, how = planner.optional(name), node.attributes.get(part)
        if table is not None and how is not None:
            table = table.astype(np.float32) - np.float32(how.zero_point)
        tables.append(table)
    return tables


def position_entries(
    tables: Sequence[Array | None], heads: int, *, rows: bool, roundings: Array | None = None
) -> dict[str, Any]:
    """The rest of ATTENTION_POSITIONS, of [2 P - 1, C] for keys and for queries; nothing without:
    by q - k where queries are in lanes; rows: keys are, and it lies by k - q.
    """
    shape = next((table.shape for table in tables if table is not None), None)
    if shape is None:
        return {}
    lying = []
    for table in tables:
        entries = np.zeros(shape, np.float32) if table is None else table
        entries = np.pad(entries, ((TILE, TILE), (0, 0)), mode="edge")
        entries = entries if rows else entries[::-1]
        lying.append(entries.T.reshape(heads, -1, len(entries)))
    of_keys, of_queries = map(aligned_copy, lying)
    return {
        "of_keys": of_keys,
        "of_queries": of_queries,
        "far": shape[0] // 2 + TILE,
        "roundings": 0 if roundings is None else aligned_copy(roundings),
    }


def _emit(
    planner: Planner, node: Node, choice: AttentionChoice, params: Any, made: Array, fours: Array
) -> None:
    channels = choice.y.buffer.channels
    skipped_macs = 2 * channels - 4 * int(made[:, 0].sum() + fours[:, 0].sum())
    how = {
        "units": node.attributes["heads"],
        "macs": 2 * choice.query.buffer.channels,
        "skipped_macs": skipped_macs,
    }
    domain = choice.query.buffer.domain
    planner.emit(node, choice.kernel, choice.variant, params, domain, own_tiles=False, **how)


def fours_of(there: Array | None, heads: int, depth: int) -> Array:
    """int32 [heads, 1 + depth / 4]: how many fours of a head's channels are there (bool [heads,
    depth / 4]; None: all), and the first channel of each.
    """
    found = np.zeros((heads, 1 + depth // 4), np.int32)  # CHANNELS: a count, the first channels
    there = np.ones((heads, depth // 4)) if there is None else there
    for row, fours in zip(found, there, strict=True):
        places = np.flatnonzero(fours)
        row[0], row[1 : 1 + len(places)] = len(places), 4 * places
    return aligned_copy(found)
