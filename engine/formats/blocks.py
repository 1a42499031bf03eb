"""A pruned weight as its non-zero blocks, and back.

weight [N, K], pattern "4x1": block = 4 outputs x 1 input, a line is 4 rows, N / 4 lines
               pattern "1x4": block = 1 output x 4 inputs, a line is 1 row,  N lines
starts [lines + 1]: blocks of line i are starts[i] .. starts[i + 1]
columns [blocks]:   place of the block in its line, ascending
values [blocks, 4]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..graph import BLOCKS

__all__ = ["Blocks", "count_lines", "expand", "extract", "fits"]

Array = NDArray[Any]


@dataclass(frozen=True)
class Blocks:
    """Non-zero blocks of one weight."""

    starts: Array  # int32
    columns: Array  # uint16, or uint32 where a line is longer
    values: Array


def fits(shape: tuple[int, ...], pattern: str) -> bool:
    """A weight of this shape divides into the pattern's blocks."""
    return (
        pattern in BLOCKS
        and len(shape) == 2
        and all(n > 0 and n % b == 0 for n, b in zip(shape, BLOCKS[pattern], strict=True))
    )


def count_lines(shape: tuple[int, ...], pattern: str) -> tuple[int, int]:
    """Lines, and places for a block in each."""
    outputs, inputs = BLOCKS[pattern]
    return shape[0] // outputs, shape[1] // inputs


def column_type(places: int) -> np.dtype[Any]:
    return np.dtype(np.uint16 if places <= 1 << 16 else np.uint32)


def extract(weight: Array, pattern: str) -> Blocks:
    """The blocks that are not all zero; -0.0, which a mask leaves of a negative weight, is zero."""
    lines, places = count_lines(weight.shape, pattern)
    outputs, inputs = BLOCKS[pattern]
    blocks = weight.reshape(lines, outputs, places, inputs).transpose(0, 2, 1, 3)
    blocks = np.ascontiguousarray(blocks).reshape(lines, places, 4)
    kept = blocks.any(axis=2)
    starts = np.concatenate([[0], np.cumsum(kept.sum(axis=1))]).astype(np.int32)
    columns = np.nonzero(kept)[1].astype(column_type(places))
    return Blocks(starts, columns, blocks[kept])


def expand(blocks: Blocks, shape: tuple[int, ...], pattern: str) -> Array:
    """The dense weight."""
    lines, places = count_lines(shape, pattern)
    outputs, inputs = BLOCKS[pattern]
    dense = np.zeros((lines, outputs, places, inputs), blocks.values.dtype)
    line = np.repeat(np.arange(lines), np.diff(blocks.starts))
    dense[line, :, blocks.columns] = blocks.values.reshape(-1, outputs, inputs)
    return dense.reshape(shape)
