"""Embedding: three gathers, LayerNorm, quantise, in one kernel."""

from __future__ import annotations

import numpy as np

from ..graph import Node
from .elementwise import through_floats
from .planner import Planner, float32
from .quantized import norm_in_range, stored
from .steps import Unplanned

__all__ = ["plan_embedding"]

CHANNELS = 64  # the kernel takes rows in pieces of so many


def plan_embedding(planner: Planner, node: Node) -> None:
    """Tables stay where they are, as a mapped model.bin is shared by all processes; those of rows
    that are no whole pieces are copied, with zeros behind them.
    """
    ids, types, words, positions, kinds, gamma, beta = node.inputs
    if planner.embedding is not None:
        raise Unplanned("a second embedding")
    table = planner.array(words)
    channels = table.shape[1]
    rest = -channels % CHANNELS
    kind_table = planner.array(kinds) if kinds else np.zeros((1, channels), np.float32)
    tables = [float32(each) for each in (table, planner.array(positions), kind_table)]
    if rest:
        tables = [np.pad(each, ((0, 0), (0, rest))) for each in tables]
    output = node.attributes.get("output")
    norm = np.stack([np.ones(channels), np.zeros(channels)])
    if gamma:
        norm = np.stack([planner.array(gamma), planner.array(beta)]).astype(np.float64)
    if (result := stored(output)) is not None:
        norm = norm / result.scale + np.array([[0], [result.zero_point]])
        most = sum(float(np.abs(each).max()) for each in tables)
        if not norm_in_range(*norm if gamma else most * norm):
            through_floats(planner, node, plan_embedding)
            return
    y = planner.make(node.outputs[0], "tokens", channels, output, group=CHANNELS)
    planner.embedding = node
    planner.inputs.update(ids=ids, types=types)
    norm = np.pad(norm, ((0, 0), (0, rest)))
    epsilon = float(node.attributes.get("epsilon", 1e-12))
    row = (channels + rest, y, y.tile_bytes, float32(norm), epsilon, 1 / channels, CHANNELS - rest)
    params = (*tables, *row)
    planner.emit(node, "embedding", (y.dtype, bool(gamma)), params, "tokens")
    size = sum(each.nbytes for each in tables)
    planner.layer(node, shape=table.shape, dtype="float32", bytes=size)
