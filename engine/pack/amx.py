"""Weights in the order in which kernels/linear/amx.py reads them: tiles of 16 x 64 bytes.

A tile is 16 outputs times 64 inputs of int8 or 32 of bfloat16, rows of 64 bytes.

           panel       step                          offsets                    weights of a step
    dense  32 outputs  a block of consecutive inputs  number of the block        2 tiles
    16x1   16 outputs  any inputs                     8 * input, each            1 tile

dense leaves out blocks that are zero in all outputs of the panel; 16x1 leaves out inputs that are,
and repeats one with weight 0 where a step is not full.  A group is 4 outputs, as everywhere: its
record stands where `outputs` says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..kernels.linear.records import TILE_HEADER
from .vectors import Packed, _deal, to_bfloat16

__all__ = ["BLOCKS", "PANEL", "PackedTiles", "pack_tiles"]

Array = NDArray[Any]
PANEL = {"dense": 32, "16x1": 16}  # outputs
BLOCKS = {"int8": 64, "bfloat16": 32}  # inputs of a tile
MOST_INPUTS = 8191  # 8 * input has to fit in 16 bits


@dataclass(frozen=True)
class PackedTiles(Packed):
    """A header, TILE_HEADER, a panel; bounds and starts are in panels.

    offsets: uint16 [steps, 1] (dense) or [steps + 1, 64 or 32]; weights: int8 or uint16 (bits of
    bfloat16) [steps, panel, 64 or 32].
    """

    @property
    def groups_before(self) -> Array:
        return np.cumsum([0, *self.headers["groups"]])

    @property
    def products(self) -> int:
        """Tile products for a tile of 64 tokens."""
        return self.steps * (8 if self.pattern == "dense" else 4)


def _blocks(panel: Array, block: int) -> tuple[Array, Array]:
    """Numbers of the blocks that are not empty [steps, 1], weights [steps, 32, block]."""
    blocks = panel.reshape(len(panel), -1, block).transpose(1, 0, 2)
    there = np.flatnonzero(blocks.any(axis=(1, 2)))
    return there[:, None], blocks[there]


def _columns(panel: Array, block: int) -> tuple[Array, Array]:
    """Offsets of the inputs that any output reads [steps, block], weights [steps, 16, block]."""
    inputs = np.flatnonzero(panel.any(axis=0))
    pad = -len(inputs) % block
    values = np.pad(panel[:, inputs], ((0, 0), (0, pad)))
    inputs = np.pad(inputs, (0, pad), mode="edge") if len(inputs) else inputs
    return 8 * inputs.reshape(-1, block), values.reshape(len(panel), -1, block).transpose(1, 0, 2)


def pack_tiles(
    weight: Array,
    pattern: str,
    *,
    precision: str,
    lanes: int = 64,
    parts: int = 1,
    out_bytes: int = 1,
) -> PackedTiles:
    """weight [N, K]: int8, or float32 for bfloat16; pattern "dense" or "16x1"; a row of y is
    lanes * out_bytes.

    Outputs are padded to a multiple of 4: a tile of y has to have room for those rows.
    """
    rows, block = PANEL[pattern], BLOCKS[precision]
    count, inputs = weight.shape
    if pattern == "dense":
        assert inputs % block == 0, f"{inputs} inputs are no whole blocks of {block}"
    else:
        assert inputs <= MOST_INPUTS, f"{inputs} inputs; offsets reach {MOST_INPUTS}"
    padded = np.pad(weight, ((0, -count % rows), (0, -inputs % block)))
    pairs = [
        (_blocks if pattern == "dense" else _columns)(panel, block)
        for panel in padded.reshape(-1, rows, padded.shape[1])
    ]
    steps = np.array([len(offsets) for offsets, _ in pairs])
    dealt = _deal(steps, parts)
    order = np.concatenate(dealt)
    first = np.arange(len(pairs)) * rows  # output of a panel
    headers = np.zeros(len(pairs), TILE_HEADER.dtype)
    headers["steps"] = steps
    headers["output"] = first * lanes * out_bytes
    headers["groups"] = np.minimum(-(-count // 4) - first // 4, rows // 4)
    members = np.arange(len(padded)).reshape(len(pairs), -1, 4)
    weights = np.concatenate([pairs[panel][1] for panel in order])
    offsets = np.concatenate([pairs[panel][0] for panel in order])
    if pattern == "16x1":  # the kernel interleaves a step ahead
        offsets = np.pad(offsets, ((0, 1), (0, 0)))
    return PackedTiles(
        pattern,
        headers[order],
        offsets.astype(np.uint16),
        np.ascontiguousarray(
            weights.astype(np.int8) if precision == "int8" else to_bfloat16(weights)
        ),
        np.concatenate([members[panel][: headers["groups"][panel]] for panel in order]),
        np.cumsum([0, *map(len, dealt)]).astype(np.int64),
        np.concatenate([[0], np.cumsum(steps[order])]).astype(np.int64),
    )
