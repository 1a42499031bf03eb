"""The parameters of every kernel, as the plan fills them in and the kernel reads them.

Activations lie [tile][channel][lane] (context.py); a buffer is given by its offset in the worker's
arena and the bytes of one of its tiles.
"""

from __future__ import annotations

from typing import Any

from .record import ADDRESS, FLOAT, OFFSET, WHOLE, Field, record

__all__ = [
    "AFFINE",
    "ALONG_CHANNELS",
    "BUFFER",
    "CLOCK",
    "COMBINE",
    "DENSE_ROWS",
    "ELEMENTWISE",
    "EMBEDDING",
    "L2_NORM",
    "LAYER_NORM_BYTES",
    "LAYER_NORM_FLOATS",
    "OUTPUT",
    "PEAK",
    "POOL",
    "QUANTIZE_TOKENS",
    "ROTARY",
    "SELECT",
    "TRIGRAM",
    "buffer",
]

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
    Field("flip", WHOLE, "int32: bits of four bytes of y that are changed"),
)
COMBINE = record(
    "COMBINE",
    *X,
    *buffer("other", "activations that are added to x, or multiply it"),
    *Y,
    Field("channels", WHOLE, "of all three"),
)
AFFINE = record(
    "AFFINE",
    *X,
    *buffer("other", "activations that are added to x"),
    *Y,
    Field("channels", WHOLE, "of all three"),
    Field("norm", ADDRESS, "of float32 (gamma, beta) pairs"),
)
LOOK_UP = record(
    "LOOK_UP",
    *X,
    *Y,
    Field("channels", WHOLE, "of x and of y"),
    Field("table", ADDRESS, "of uint8 [256]"),
)
SELECT = record(
    "SELECT",
    *X,
    *Y,
    Field("channels", WHOLE, "of x and of y"),
    Field("index", WHOLE, "of the token in its sentence"),
    Field("behind", WHOLE, "1: counted from behind the sentence's last, else 0"),
)
POOL = record(
    "POOL",
    *X,
    *Y,
    Field("channels", WHOLE, "of x and of y"),
    Field("least", FLOAT, "divisor of a mean; maximum of a sentence that has masked tokens"),
    Field("root", WHOLE, "1: a mean is divided by the root of its divisor, else 0"),
)
L2_NORM = record(
    "L2_NORM",
    *X,
    *Y,
    Field("channels", WHOLE, "of x and of y"),
    Field("epsilon", FLOAT, "least length that x is divided by"),
)
ALONG_CHANNELS = record("ALONG_CHANNELS", *X, *Y, Field("channels", WHOLE, "of x"))
DENSE_ROWS = record(
    "DENSE_ROWS",
    *X,
    *Y,
    Field("inputs", WHOLE, "channels of x"),
    Field("outputs", WHOLE, "channels of y, rounded up to 16"),
    Field("weights", ADDRESS, "of float32 [inputs][outputs], then of the bias [outputs]"),
    Field("x_scale", FLOAT, "of x, where it is bytes"),
    Field("x_zero", WHOLE, "zero point of x, where it is bytes"),
)
OUTPUT = record(
    "OUTPUT",
    *X,
    Field("number", WHOLE, "of the call's result"),
    Field("channels", WHOLE, "of the result"),
)
ROTARY = record(
    "ROTARY",
    *X,
    *Y,
    Field("heads", WHOLE, "that the channels are split into"),
    Field("depth", WHOLE, "channels of a head"),
    Field("pairs", WHOLE, "of its channels that are turned; those behind them stay"),
    Field("step", WHOLE, "from a pair's first channel to the next one's"),
    Field("gap", WHOLE, "from a pair's first channel to its second"),
    Field("table", ADDRESS, "of float32 [positions][cos [pairs], sin [pairs], up to whole lines]"),
    Field("row_bytes", WHOLE, "of a row of the table, whole lines"),
)
QUANTIZE_TOKENS = record(
    "QUANTIZE_TOKENS",
    *X,
    *Y,
    Field("channels", WHOLE, "of x and of y"),
    *buffer("scales", "float32 scale[lanes], then int32 zero point[lanes]"),
)
ROUNDING = record(  # to bytes, and back
    "ROUNDING",
    Field("factor", "float32", "1 / scale"),
    Field("zero", "float32", "zero point + MAGIC"),
    Field("scale", "float32", "of a step"),
    Field("unused", "float32", ""),
)
EMBEDDING = record(
    "EMBEDDING",
    Field("words", ADDRESS, "of float32 [words][channels]"),
    Field("positions", ADDRESS, "of float32 [positions][channels], or 0"),
    Field("types", ADDRESS, "of float32 [types][channels], or 0"),
    Field("channels", WHOLE, "of a row of all tables, a multiple of 64"),
    *Y,
    Field("norm", ADDRESS, "of float32 gamma [channels], then beta; scale and zero of bytes in it"),
    Field("epsilon", FLOAT, "of LayerNorm"),
    Field("share", FLOAT, "1 / channels that count"),
    Field("last", WHOLE, "channels of the last 64 that count; the others are 0 in all tables"),
    Field("rounding", ADDRESS, "of ROUNDING, or 0 where the first sum is not rounded"),
    Field("positions_first", WHOLE, "whether a word's position is added before its type"),
)


TRIGRAM = record(
    "TRIGRAM",
    Field("words", ADDRESS, "of float32 [words][width]"),
    Field("positions", ADDRESS, "of float32 [positions][rest]"),
    Field("types", ADDRESS, "of float32 [types][rest], or 0"),
    Field("vocabulary", WHOLE, "words"),
    Field("width", WHOLE, "of a word, a multiple of 16"),
    Field("rest", WHOLE, "of a position, a multiple of 16"),
    *Y,
)


def _layer_norm(name: str, *scales: Field) -> Any:
    """The record of a LayerNorm; scales: how x and the residual are read."""
    return record(
        name,
        *X,
        *buffer("residual", "activations that are added to x"),
        *buffer("y", "the result, where it is bytes"),
        *buffer("floats", "the result, where it is float32"),
        Field("channels", WHOLE, "of x and of the result"),
        Field("bias", ADDRESS, "of a number for each channel, with zero points taken off"),
        Field("norm", ADDRESS, "of float32 (gamma, beta) pairs; scale and zero of bytes in them"),
        *scales,
        Field("epsilon", FLOAT, "of LayerNorm"),
        Field("share", FLOAT, "1 / channels"),
    )


LAYER_NORM_BYTES = _layer_norm(
    "LAYER_NORM_BYTES",
    Field("weights", WHOLE, "A | B << 16 of x and the residual, int16 each"),
)
LAYER_NORM_FLOATS = _layer_norm(
    "LAYER_NORM_FLOATS",
    Field("x_scale", FLOAT, "of x, where it is bytes"),
    Field("residual_scale", FLOAT, "of the residual, where it is bytes"),
    Field("sum", ADDRESS, "of ROUNDING, or 0 where x + residual + bias is not rounded"),
)
LAYER_NORM_ROUNDED = record(
    "LAYER_NORM_ROUNDED",
    *LAYER_NORM_FLOATS.declared,
    Field("roundings", ADDRESS, "of ROUNDING [5]: variance, raised, normalised, scaled, y"),
)
PEAK = record("PEAK", Field("memory", ADDRESS, "of at least peak.BYTES bytes"))
CLOCK = record("CLOCK", Field("cycles", WHOLE, "of the time stamp counter, when the kernel ran"))
