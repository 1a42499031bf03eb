"""A layer's weights and constants at addresses, in the order its kernel reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..codegen.elements import BYTES
from ..codegen.isa import first_cache
from ..kernels.linear.records import (
    DYNAMIC_OUTPUT,
    FEW_ROWS_OUTPUT,
    FLOAT_OUTPUT,
    OUTPUT,
    PANELS,
    PART,
    TABLE_OUTPUT,
)
from ..kernels.record import aligned_copy
from ..pack.amx import pack_tiles
from ..pack.few_rows import pack_rows
from ..pack.vectors import GROUP, MOST_QUADS, X_BYTES, Packed, pack_linear, pack_panels
from .memory import Buffer
from .quantized import OutputConstants

__all__ = [
    "Operands",
    "few_rows_params",
    "linear_operands",
    "panel_count",
    "part_count",
    "placed",
    "rows_operand",
]

Array = NDArray[Any]
STEPS_A_PART = 64  # parts smaller than this cost more in calls than they bring in balance
MOST_PARTS = 8
OUTPUTS_A_PART = 128
LINE = 64  # bytes
TABLE_BYTES = 256
_OUTPUTS = {"table": TABLE_OUTPUT, "dynamic": DYNAMIC_OUTPUT, "sums": FLOAT_OUTPUT}
FIRST_CACHE = 0.85  # of it for x: weights and sums pass through
# Of a miss, for each line of x that is loaded; of a panel, for each group.  With these all
# precisions are within 2 % of the best count (Zen 5, 768 to 3,072 inputs, 70 to 90 % zeros).
CYCLES_A_MISS, CYCLES_A_PANEL = 0.15, 30


@dataclass(frozen=True)
class Operands:
    """One layer, packed."""

    part_count: int
    parts: Array  # PART [part_count], for 1x4 behind PANELS one for each panel
    macs: int
    skipped_macs: int  # of these, in groups that are left out
    nbytes: int
    keep: tuple[Any, ...]


def _records(packed: Packed, constants: OutputConstants) -> Array:
    """A record a group, as the epilogue reads it, and one for the group behind the last, which a
    kernel begins; that and outputs that pad a group are zeros.
    """
    record = _OUTPUTS.get(constants.epilogue, OUTPUT)
    behind = np.zeros(len(packed.outputs) + 1, record.dtype)
    records = behind[:-1]
    there = packed.outputs < len(constants.scale)
    rows = np.minimum(packed.outputs, len(constants.scale) - 1)

    def of_outputs(values: Array) -> Array:
        return np.where(there, values[rows], 0)

    records["scale"], records["shift"] = of_outputs(constants.scale), of_outputs(constants.shift)
    # products in float32 start from the bias
    records["start"] = records["shift"] if record is FLOAT_OUTPUT else of_outputs(constants.start)
    if constants.total is not None:
        records["total"] = of_outputs(constants.total)
    elif constants.which is not None:
        records["table"] = of_outputs(TABLE_BYTES * constants.which)
    else:
        records["a"], records["b"], records["flip"] = constants.a, constants.b, constants.flip
    return behind


def few_rows_params(
    weight: Array, constants: OutputConstants, operands: Operands, lanes: int
) -> dict[str, Any]:
    """What FEW_ROWS has more than LINEAR; tables are those of the operands."""
    packed = pack_rows(weight)
    records = np.zeros(len(packed.outputs), FEW_ROWS_OUTPUT.dtype)
    for name in ("scale", "start", "shift"):
        records[name] = getattr(constants, name)[packed.outputs]
    records["place"] = packed.outputs * lanes
    if constants.which is not None:
        records["table"] = TABLE_BYTES * constants.which[packed.outputs]
    records["a"], records["b"], records["flip"] = constants.a, constants.b, constants.flip
    arrays = map(aligned_copy, (packed.steps, packed.places, packed.weights, records))
    return {
        "inputs": weight.shape[1],
        "blocks": len(packed.steps),
        **dict(zip(("steps", "places", "weights", "records"), arrays, strict=True)),
        "tables": 0 if constants.table is None else operands.keep[-1],
    }


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
    how["out_bytes"] = BYTES[y.dtype]
    packed: Sequence[Packed]
    if tiles:
        packed = [pack_tiles(weight, pattern, **how)]
    elif pattern == "1x4":
        packed = pack_panels(weight, panels, read=read, **how)
    else:
        packed = [pack_linear(weight, pattern, read=read, **how)]
    table, held = placed(packed, [_records(each, constants) for each in packed], constants.table)
    stored = sum(array.nbytes for array in held)
    macs = int(np.count_nonzero(weight))
    made = packed[-1].outputs.ravel()
    made = made[made < len(weight)]
    skipped_macs = 0 if read is None else macs - int(np.count_nonzero(weight[made]))
    return Operands(parts, table, macs, skipped_macs, stored, tuple(held))


def placed(
    packed: Sequence[Packed], records: Sequence[Array], table: Array | None
) -> tuple[Array, list[Array]]:
    """PART for each part, of 1x4 behind PANELS for each panel of it; and the arrays that these
    point to, each on a cache line of its own.
    """
    arrays: list[Array] = []
    for panel, of_panel in zip(packed, records, strict=True):
        arrays += [panel.headers, panel.offsets, panel.weights, of_panel]
    held = [aligned_copy(each) for each in (arrays if table is None else [*arrays, table])]
    places = [array.ctypes.data for array in held]
    tables = 0 if table is None else places[-1]
    parts = [panel.parts(places[4 * n : 4 * n + 4], tables) for n, panel in enumerate(packed)]
    if packed[0].pattern != "1x4":
        return aligned_copy(parts[0]), held
    head = np.zeros(1, PANELS.dtype)
    head["count"] = len(packed)
    table_of_panels = np.concatenate([head.view(PART.dtype), np.stack(parts, axis=1).ravel()])
    return aligned_copy(table_of_panels), held


def rows_operand(weight: Array, bias: Array | None) -> Array:
    """float32 [inputs + 1, outputs up to a multiple of 16]: the weight transposed, the bias."""
    outputs, inputs = weight.shape
    operand = np.zeros((inputs + 1, -(-outputs // 16) * 16), np.float32)
    operand[:inputs, :outputs] = weight.T
    operand[inputs, :outputs] = 0 if bias is None else bias
    return aligned_copy(operand)
