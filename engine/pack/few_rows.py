"""4x1 weights in the order in which kernels/linear/few_rows.py reads them: blocks of 4 groups of 4
outputs, steps of 16 inputs for each group.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..kernels.linear.records import FEW_ROWS_PLACES
from .vectors import GROUP, ranks

__all__ = ["PackedRows", "pack_rows"]

Array = NDArray[Any]
STEP = 16  # inputs
WINDOW = 256  # a step's inputs are among as many in a row, from a multiple of it on


@dataclass(frozen=True)
class PackedRows:
    """One layer.  outputs[block, 4 * o + g]: row of the weight that is output o of the block's
    group g; the last block may repeat a group.
    """

    steps: Array  # int32 [blocks]
    places: Array  # FEW_ROWS_PLACES [steps]
    weights: Array  # int8 [steps, 4 groups, 4 outputs, 16 inputs]
    outputs: Array  # int64 [blocks, 16]


def pack_rows(weight: Array) -> PackedRows:
    """weight int8 [N, K], N a multiple of 4.  Groups with about as many steps make a block."""
    groups = weight.reshape(-1, GROUP, weight.shape[1])
    windows = -(-weight.shape[1] // WINDOW)
    steps = _steps(groups.any(axis=1), windows)
    order = np.argsort(steps.sum(axis=1), kind="stable")
    order = np.pad(order, (0, -len(order) % GROUP), mode="edge")
    groups, steps = groups[order], steps[order]
    counts = steps.sum(axis=1).reshape(-1, GROUP).max(axis=1).astype(np.int32)
    places = np.zeros(int(counts.sum()), FEW_ROWS_PLACES.dtype)
    weights = np.zeros((len(places), GROUP, GROUP, STEP), np.int8)
    first = np.repeat(np.cumsum(counts) - counts, GROUP)[:, None] + np.cumsum(steps, axis=1) - steps
    group, inputs = np.nonzero(groups.any(axis=1))
    window = inputs // WINDOW
    rank = ranks(windows * group + window)
    step, slot, in_block = first[group, window] + rank // STEP, rank % STEP, group % GROUP
    places["windows"][step, in_block] = WINDOW * window
    places["inputs"][step, STEP * in_block + slot] = inputs % WINDOW
    weights[step, in_block, :, slot] = groups[group, :, inputs]
    outputs = GROUP * order.reshape(-1, GROUP)[:, None, :] + np.arange(GROUP)[None, :, None]
    return PackedRows(counts, places, weights, outputs.reshape(len(counts), -1))


def _steps(there: Array, windows: int) -> Array:
    """int64 [groups, windows]; there: bool [groups, inputs], those that any of 4 outputs reads."""
    padded = np.pad(there, ((0, 0), (0, -there.shape[1] % WINDOW)))
    return -(-padded.reshape(len(there), windows, WINDOW).sum(axis=2) // STEP)
