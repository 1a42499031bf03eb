"""A layer's weights and constants at addresses, in the order its kernel reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..pack import Packed, pack_linear
from ..pack_amx import PackedTiles, pack_tiles
from .memory import SIZES, Buffer
from .quantized import OutputConstants
from .shared import aligned, shared

__all__ = ["Operands", "linear_operands", "rows_operand"]

Array = NDArray[Any]
STEPS_A_PART = 64  # parts smaller than this cost more in calls than they bring in balance
MOST_PARTS = 8


@dataclass(frozen=True)
class Operands:
    """One layer, packed; rows is the table of parts that the kernel reads."""

    parts: int
    rows: Array
    macs: int
    nbytes: int
    keep: tuple[Any, ...]


def _records(packed: Packed | PackedTiles, constants: OutputConstants) -> Array:
    """float32 [groups, 16], as kernels/linear.py describes them; padding outputs get zeros."""
    records = np.zeros((len(packed.outputs), 16), np.float32)
    whole = records.view(np.int32)
    there = packed.outputs < len(constants.scale)
    rows = np.minimum(packed.outputs, len(constants.scale) - 1)
    records[:, 0:4] = np.where(there, constants.scale[rows], 0)
    whole[:, 4:8] = np.where(there, constants.start[rows], 0)
    records[:, 8:12] = np.where(there, constants.shift[rows], 0)
    if constants.epilogue == "sums":  # products in float32 start from the bias
        records[:, 4:8] = records[:, 8:12]
    if constants.total is not None:
        whole[:, 12:16] = np.where(there, constants.total[rows], 0)
        return records
    records[:, 12], records[:, 13] = constants.a, constants.b
    whole[:, 14] = constants.flip
    return records


def linear_operands(
    weight: Array,
    pattern: str,
    precision: str,
    constants: OutputConstants,
    y: Buffer,
    *,
    tiles: bool = False,
) -> Operands:
    """Weights packed for y's lanes (or for AMX tiles), every array on a cache line of its own."""
    steps = max(1, np.count_nonzero(weight) // 16)
    parts = int(np.clip(steps // STEPS_A_PART, 1, MOST_PARTS))
    pack = pack_tiles if tiles else pack_linear
    packed = pack(
        weight, pattern, precision=precision, lanes=y.lanes, parts=parts, out_bytes=SIZES[y.dtype]
    )
    arrays = [packed.headers, packed.offsets, packed.weights, _records(packed, constants)]
    if constants.table is not None:
        arrays.append(constants.table[np.minimum(packed.outputs, len(weight) - 1)])
    held = shared(arrays)
    headers, offsets, weights, records, tables = (*(a.ctypes.data for a in held), 0)[:5]
    rows = packed.rows(headers, offsets, weights, records, tables)
    stored = sum(array.nbytes for array in held)
    return Operands(parts, aligned(rows), int(np.count_nonzero(weight)), stored, tuple(held))


def rows_operand(weight: Array, bias: Array | None) -> Array:
    """float32 [inputs + 1, outputs up to a multiple of 16]: the weight transposed, the bias."""
    outputs, inputs = weight.shape
    operand = np.zeros((inputs + 1, -(-outputs // 16) * 16), np.float32)
    operand[:inputs, :outputs] = weight.T
    operand[inputs, :outputs] = 0 if bias is None else bias
    return aligned(operand)
