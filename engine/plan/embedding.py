"""Embedding: up to three gathers, LayerNorm, quantise, in one kernel."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..graph import Node
from .choose import EmbeddingChoice, TrigramChoice
from .choose.normalize import CHANNELS
from .planner import Planner, float32
from .quantized import roundings

__all__ = ["emit_embedding", "emit_trigram"]


def emit_embedding(planner: Planner, node: Node, choice: EmbeddingChoice) -> None:
    """Tables stay where they are, as a mapped model.bin is shared by all processes; those of rows
    that are no whole pieces are copied, with zeros behind them.
    """
    y, channels = choice.y.buffer, choice.y.channels
    rest, table = y.channels - channels, planner.array(node.words)
    kind_table = planner.array(node.types) if node.types else np.zeros((1, channels), np.float32)
    given = {"words": table, "positions": planner.optional(node.positions), "types": kind_table}
    tables = {name: float32(each) for name, each in given.items() if each is not None}
    if rest:
        tables = {name: np.pad(each, ((0, 0), (0, rest))) for name, each in tables.items()}
    norm = float32(np.pad(choice.norm, ((0, 0), (0, rest))))
    epsilon = float(node.attributes.get("epsilon", 1e-12))
    params: dict[str, Any] = {
        "positions": 0,
        **tables,
        "channels": y.channels,
        "y": y,
        "norm": norm,
        "epsilon": epsilon,
        "share": 1 / channels,
        "last": CHANNELS - rest,
        "positions_first": node.attributes.get("first") == "positions",
    }
    how = node.attributes.get("sum")
    params["rounding"] = roundings([how]) if how else 0
    planner.emit(node, "embedding", (y.dtype, bool(node.gamma)), params, "tokens")
    size = sum(each.nbytes for each in tables.values())
    planner.layer(node, shape=table.shape, dtype="float32", bytes=size)


def emit_trigram(planner: Planner, node: Node, choice: TrigramChoice) -> None:
    """Tables stay where they are."""
    names = {"words": node.words, "positions": node.positions, "types": node.types}
    tables = {name: float32(planner.array(value)) for name, value in names.items() if value}
    vocabulary, width = tables["words"].shape
    params = {
        "types": 0,
        **tables,
        "vocabulary": vocabulary,
        "width": width,
        "rest": tables["positions"].shape[1],
        "y": choice.y.buffer,
    }
    planner.emit(node, "trigram", (), params, "tokens")
    size = sum(each.nbytes for each in tables.values())
    planner.layer(node, shape=(vocabulary, width), dtype="float32", bytes=size)
