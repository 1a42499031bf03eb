"""What products read, by name: parameters, and the packed weights of pack/ that they point to.

A layer's outputs are dealt to parts, so that workers can share a tile: a unit is (tile, part).  A
part is a run of groups of 4 outputs; each group has a header, the steps' offsets and weights
(pack/vectors.py, pack/amx.py) and an output record, which holds what its epilogue needs.
"""

from __future__ import annotations

from typing import Any

from ..params import X, Y
from ..record import ADDRESS, OFFSET, WHOLE, Field, record

__all__ = [
    "DYNAMIC_LINEAR",
    "DYNAMIC_OUTPUT",
    "FEW_ROWS",
    "FEW_ROWS_OUTPUT",
    "FEW_ROWS_PLACES",
    "FLOAT_OUTPUT",
    "HEADER",
    "HEADER_BYTES",
    "LINEAR",
    "OUTPUT",
    "OUTPUT_BYTES",
    "PANELS",
    "PANEL_HEADER",
    "PANEL_HEADER_BYTES",
    "PART",
    "PART_BYTES",
    "REARRANGE",
    "TABLE_OUTPUT",
    "TILE_HEADER",
    "TILE_HEADER_BYTES",
]

# --- parameters
LINEAR = record(
    "LINEAR",
    *X,
    *Y,
    Field("part_count", WHOLE, "parts of the layer"),
    Field("parts", ADDRESS, "PART [part_count]; 1x4: PANELS, then PART [part_count][panels]"),
)
DYNAMIC_LINEAR = record(
    "DYNAMIC_LINEAR",
    *LINEAR.declared,
    Field("scales", OFFSET, "of tokens, if the epilogue is dynamic: float32, int32 zero [lanes]"),
    Field("scales_tile", WHOLE, "bytes of a tile of scales"),
)
FEW_ROWS = record(
    "FEW_ROWS",
    *LINEAR.declared,
    Field("inputs", WHOLE, "of the layer"),
    Field("blocks", WHOLE, "of 16 outputs"),
    Field("steps", ADDRESS, "int32 [blocks]: steps of each"),
    Field("places", ADDRESS, "FEW_ROWS_PLACES [steps]"),
    Field("weights", ADDRESS, "int8 [steps][4 groups][4 outputs][16 inputs]"),
    Field("records", ADDRESS, "FEW_ROWS_OUTPUT [blocks]"),
    Field("tables", ADDRESS, "uint8 [tables][256], of the epilogue table"),
)
REARRANGE = record(  # interleave_rows, round_rows
    "REARRANGE",
    *X,
    *Y,
    Field("inputs", WHOLE, "channels of x"),
)

# --- packed weights
PART = record(
    "PART",
    Field("groups", WHOLE, "of 4 outputs; on AMX tiles: panels"),
    Field("headers", ADDRESS, "HEADER, PANEL_HEADER or TILE_HEADER [groups]"),
    Field("offsets", ADDRESS, "of the steps' inputs"),
    Field("weights", ADDRESS, "of the steps"),
    Field("records", ADDRESS, "OUTPUT, or what else the epilogue reads, [groups]"),
    Field("tables", ADDRESS, "uint8 [tables][256], of the epilogue table"),
)
PANELS = record(
    "PANELS",
    Field("count", WHOLE, "panels of inputs"),
    Field("unused", "int64", "", PART.size // 8 - 1),
)
HEADER = record(
    "HEADER",
    Field("steps", "int32", "at least 1 where the layer is 4x1"),
    Field("output", "int32", "offset of the first output in a tile of y, bytes"),
)
PANEL_HEADER = record(
    "PANEL_HEADER",
    Field("steps", "int32", "4 blocks each"),
    Field("quad", "int32", "the panel's first input / 4"),
    Field("unused", "int32", "", 2),
    Field("outputs", "int32", "offset of output n in a tile of y, less n rows, bytes", 4),
)
TILE_HEADER = record(
    "TILE_HEADER",
    Field("steps", "int32", "one or two AMX tiles of weights each"),
    Field("output", "int32", "offset of the first output in a tile of y, bytes"),
    Field("groups", "int32", "of 4 outputs"),
    Field("unused", "int32", ""),
)
FEW_ROWS_PLACES = record(
    "FEW_ROWS_PLACES",
    Field("inputs", "uint8", "[4 groups][16], counted from the group's window", 64),
    Field("windows", "int32", "of each group: where the 256 bytes of x begin", 4),
)


# --- what epilogues read
def _output(name: str, sums: str, *rest: Field, count: int = 4) -> Any:
    """The record of `count` outputs whose sums have this type."""
    return record(
        name,
        Field("scale", "float32", "of a sum of products", count),
        Field("start", sums, "of the sum: bias, zero points of x", count),
        Field("shift", "float32", "added to a scaled sum", count),
        *rest,
    )


_BYTES = (
    Field("a", "float32", "1 / scale of y; of the product, where that is quantised"),
    Field("b", "float32", "zero point, of y or of the product, + MAGIC"),
    Field("flip", "int32", "bits of four bytes of y that are changed"),
)
OUTPUT = _output("OUTPUT", "int32", *_BYTES, Field("unused", "int32", ""))
FLOAT_OUTPUT = _output("FLOAT_OUTPUT", "float32", *_BYTES, Field("unused", "int32", ""))
TABLE_OUTPUT = _output(
    "TABLE_OUTPUT", "int32", Field("table", "int32", "offset of its 256 bytes in tables", 4)
)
DYNAMIC_OUTPUT = _output(
    "DYNAMIC_OUTPUT", "int32", Field("total", "int32", "sum of an output's weights", 4)
)
FEW_ROWS_OUTPUT = _output(  # of output o of group g at 4 * o + g
    "FEW_ROWS_OUTPUT",
    "int32",
    Field("place", "int32", "offset of the output in a tile of y, bytes", 16),
    Field("table", "int32", "offset of its 256 bytes in tables", 16),
    *_BYTES,
    Field("unused", "int32", "", 13),
    count=16,
)

# Numba takes a record's offsets as constants, not its size.
PART_BYTES, HEADER_BYTES, PANEL_HEADER_BYTES = PART.size, HEADER.size, PANEL_HEADER.size
TILE_HEADER_BYTES = TILE_HEADER.size
OUTPUT_BYTES = OUTPUT.size  # as many as of the records for other epilogues
