"""The parameters of every kernel, as the plan fills them in and the kernel reads them.

Activations lie [tile][channel][lane] (context.py); a buffer is given by its offset in the worker's
arena and the bytes of one of its tiles.
"""

from __future__ import annotations

from .record import FLOAT, OFFSET, WHOLE, Field, record

__all__ = ["BUFFER", "ELEMENTWISE", "SELECT", "buffer"]


BUFFER = record(
    "BUFFER",
    Field("place", OFFSET, "of the first tile"),
    Field("tile_bytes", WHOLE, "from one tile to the next"),
)


def buffer(name: str, meaning: str) -> tuple[Field, Field]:
    """Two fields: its place, the bytes of a tile; kernels find a tile by `buffers.tile_of`."""
    return Field(name, OFFSET, meaning), Field(f"{name}_tile", WHOLE, f"bytes of a tile of {name}")


X = buffer("x", "activations that are read")
Y = buffer("y", "activations that are made")

ELEMENTWISE = record(
    "ELEMENTWISE",
    *X,
    *Y,
    Field("channels", WHOLE, "of x and of y"),
    Field("x_scale", FLOAT, "of x, where it is bytes"),
    Field("x_shift", FLOAT, "-zero point * scale of x"),
    Field("y_factor", FLOAT, "1 / scale of y, where it is bytes"),
    Field("y_zero", FLOAT, "zero point of y + MAGIC"),
)
SELECT = record(
    "SELECT",
    *X,
    *Y,
    Field("channels", WHOLE, "of x and of y"),
    Field("index", WHOLE, "of the token in its sentence"),
)
