"""4x1 weights in the order in which kernels/linear/few_rows.py reads them: blocks of 4 groups of 4
outputs, steps of 16 inputs for each group.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..kernels.linear.records import FEW_ROWS_PLACES
from .vectors import GROUP

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


def _steps_of(group: Array) -> list[tuple[int, Array, Array]]:
    """(window, inputs in it, weights [4, 16]) of the steps of one group, int8 [4, inputs]."""
    steps = []
    inputs = np.flatnonzero(group.any(axis=0))
    for window in np.unique(inputs // WINDOW * WINDOW):
        inside = inputs[(inputs >= window) & (inputs < window + WINDOW)]
        for first in range(0, len(inside), STEP):
            some = inside[first : first + STEP]
            pad = STEP - len(some)
            values = np.pad(group[:, some], ((0, 0), (0, pad)))
            steps.append((int(window), np.pad(some - window, (0, pad)), values))
    return steps


def pack_rows(weight: Array) -> PackedRows:
    """weight int8 [N, K], N a multiple of 4.  Groups with about as many steps make a block."""
    groups = weight.reshape(-1, GROUP, weight.shape[1])
    steps = [_steps_of(group) for group in groups]
    order = sorted(range(len(groups)), key=lambda group: len(steps[group]))
    order += order[-1:] * (-len(order) % GROUP)
    blocks = np.array(order).reshape(-1, GROUP)
    counts = np.array([max(len(steps[group]) for group in block) for block in blocks], np.int32)
    total = int(counts.sum())
    places = np.zeros(total, FEW_ROWS_PLACES.dtype)
    weights = np.zeros((total, GROUP, GROUP, STEP), np.int8)
    for block, first in zip(blocks, np.cumsum(counts) - counts, strict=True):
        for g, group in enumerate(block):
            for step, (window, inputs, values) in enumerate(steps[group], first):
                places["windows"][step, g] = window
                places["inputs"][step, STEP * g : STEP * g + STEP] = inputs
                weights[step, g] = values
    outputs = GROUP * blocks[:, None, :] + np.arange(GROUP)[None, :, None]
    return PackedRows(counts, places, weights, outputs.reshape(len(blocks), -1))
