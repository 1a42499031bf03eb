"""A layer's weights and constants at addresses, in the order its kernel reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..codegen.isa import first_cache
from ..pack.amx import PackedTiles, pack_tiles
from ..pack.few_rows import pack_rows
from ..pack.mapped import aligned, shared
from ..pack.vectors import GROUP, MOST_QUADS, X_BYTES, Packed, pack_linear, pack_panels
from .memory import SIZES, Buffer
from .quantized import OutputConstants

__all__ = [
    "Operands",
    "few_rows_params",
    "linear_operands",
    "panel_count",
    "part_count",
    "rows_operand",
    "table_of",
]

Array = NDArray[Any]
STEPS_A_PART = 64  # parts smaller than this cost more in calls than they bring in balance
MOST_PARTS = 8
OUTPUTS_A_PART = 128
LINE = 64  # bytes
TABLE_BYTES = 256
FIRST_CACHE = 0.85  # of it for x: weights and sums pass through
# Of a miss, for each line of x that is loaded; of a panel, for each group.  With these all
# precisions are within 2 % of the best count (Zen 5, 768 to 3,072 inputs, 70 to 90 % zeros).
CYCLES_A_MISS, CYCLES_A_PANEL = 0.15, 30


@dataclass(frozen=True)
class Operands:
    """One layer, packed; rows is the table of parts that the kernel reads."""

    parts: int
    rows: Array
    macs: int
    skipped_macs: int  # of these, in groups that are left out
    nbytes: int
    keep: tuple[Any, ...]


def _records(packed: Packed | PackedTiles, constants: OutputConstants) -> Array:
    """float32 [groups + 1, 16], as kernels/linear/bytes_4x1.py describes them; padding
    outputs get zeros, and so does the group behind the last, which a kernel begins.
    """
    behind = np.zeros((len(packed.outputs) + 1, 16), np.float32)
    records = behind[:-1]
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
        return behind
    if constants.which is not None:
        whole[:, 12:16] = np.where(there, TABLE_BYTES * constants.which[rows], 0)
        return behind
    records[:, 12], records[:, 13] = constants.a, constants.b
    whole[:, 14] = constants.flip
    return behind


def few_rows_params(
    weight: Array, constants: OutputConstants, operands: Operands, lanes: int
) -> tuple[Any, ...]:
    """Parameters 6 to 12 of kernels/linear/few_rows.py; its tables are those of the operands."""
    packed = pack_rows(weight)
    records = np.zeros((len(packed.outputs), 96), np.float32)
    whole = records.view(np.int32)
    records[:, 0:16] = constants.scale[packed.outputs]
    whole[:, 16:32] = constants.start[packed.outputs]
    records[:, 32:48] = constants.shift[packed.outputs]
    whole[:, 48:64] = packed.outputs * lanes
    if constants.which is not None:
        whole[:, 64:80] = TABLE_BYTES * constants.which[packed.outputs]
    records[:, 80], records[:, 81] = constants.a, constants.b
    whole[:, 82] = constants.flip
    arrays = shared([packed.steps, packed.places, packed.weights, records])
    tables = int(operands.rows[0, 5])
    return (weight.shape[1], len(packed.steps), *arrays, tables)


def panel_count(weight: Array, precision: str, width: int, *, cache: int | None = None) -> int:
    """Panels of a 1x4 layer: where x overflows the first-level cache, loads of it that miss weigh
    against groups begun again and sums put away.  cache: its bytes, those of this CPU if None.
    """
    outputs, inputs = weight.shape
    size = width * inputs * X_BYTES[precision]
    room = FIRST_CACHE * (cache or first_cache())
    lines = np.count_nonzero(weight) / outputs * GROUP * width * X_BYTES[precision] / LINE

    def cycles(panels: int) -> float:
        missing = max(0.0, 1 - panels * room / size)
        return lines * missing * CYCLES_A_MISS + panels * CYCLES_A_PANEL

    fewest = -(-inputs // (4 * MOST_QUADS))
    return min(range(fewest, fewest + int(size // room) + 2), key=cycles)


def part_count(weight: Array, pattern: str) -> int:
    """Parts that workers can share a tile by.  1x4: four outputs with as many blocks are found
    among many only.
    """
    most = MOST_PARTS if pattern != "1x4" else min(MOST_PARTS, len(weight) // OUTPUTS_A_PART)
    return int(np.clip(np.count_nonzero(weight) // 16 // STEPS_A_PART, 1, max(1, most)))


def linear_operands(
    weight: Array,
    pattern: str,
    precision: str,
    constants: OutputConstants,
    y: Buffer,
    *,
    tiles: bool = False,
    panels: int = 1,
    read: Array | None = None,
) -> Operands:
    """Weights packed for y's lanes (or for AMX tiles), every array on a cache line of its own;
    panels: of a 1x4 layer (`panel_count`); read: bool, the outputs of a sparse layer that are read.
    """
    parts = part_count(weight, pattern)
    how: dict[str, Any] = {"precision": precision, "lanes": y.lanes, "parts": parts}
    how["out_bytes"] = SIZES[y.dtype]
    packed: Sequence[Packed | PackedTiles]
    if tiles:
        packed = [pack_tiles(weight, pattern, **how)]
    elif pattern == "1x4":
        packed = pack_panels(weight, panels, read=read, **how)
    else:
        packed = [pack_linear(weight, pattern, read=read, **how)]
    arrays: list[Array] = []
    for each in packed:
        arrays += [each.headers, each.offsets, each.weights, _records(each, constants)]
    if constants.table is not None:
        arrays.append(constants.table)
    held = shared(arrays)
    places = [array.ctypes.data for array in held]
    table = places[-1] if constants.table is not None else 0
    rows = []
    for n, each in enumerate(packed):
        headers, offsets, weights, records = places[4 * n : 4 * n + 4]
        rows.append(each.rows(headers, offsets, weights, records, table))
    stored = sum(array.nbytes for array in held)
    macs = int(np.count_nonzero(weight))
    made = packed[-1].outputs.ravel()
    made = made[made < len(weight)]
    skipped_macs = 0 if read is None else macs - int(np.count_nonzero(weight[made]))
    parts_rows = aligned(table_of(rows, pattern))
    return Operands(parts, parts_rows, macs, skipped_macs, stored, tuple(held))


def table_of(rows: list[Array], pattern: str) -> Array:
    """The table that kernels read: a row for each part; 1x4: first one with the number of panels,
    then for each part a row for each panel.
    """
    if pattern != "1x4":
        return rows[0]
    head = np.zeros((1, rows[0].shape[1]), np.int64)
    head[0, 0] = len(rows)
    return np.concatenate([head, np.stack(rows, axis=1).reshape(-1, rows[0].shape[1])])


def rows_operand(weight: Array, bias: Array | None) -> Array:
    """float32 [inputs + 1, outputs up to a multiple of 16]: the weight transposed, the bias."""
    outputs, inputs = weight.shape
    operand = np.zeros((inputs + 1, -(-outputs // 16) * 16), np.float32)
    operand[:inputs, :outputs] = weight.T
    operand[inputs, :outputs] = 0 if bias is None else bias
    return aligned(operand)
