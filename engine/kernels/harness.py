"""One kernel by itself: an arena, a context and parameter blocks made from NumPy arrays.

What tests and the kernel benchmark call kernels with; the runtime has its own, planned arena.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..codegen.compile import Compiled
from .context import CONTEXT, ROWS, TILE
from .record import aligned

__all__ = ["Harness", "aligned", "from_tiles", "in_order", "to_tiles"]

Array = NDArray[Any]
SCRATCH_BYTES = 32 << 20  # of addresses: what a kernel never writes takes no memory


def to_tiles(x: Array, lanes: int = TILE) -> Array:
    """[tokens, channels] -> [tile][channel][lane]; lanes past the last token are 0."""
    tokens, channels = x.shape
    tiles = -(-tokens // lanes)
    padded = np.zeros((tiles * lanes, channels), x.dtype)
    padded[:tokens] = x
    return padded.reshape(tiles, lanes, channels).transpose(0, 2, 1)


def from_tiles(tiles: Array, tokens: int) -> Array:
    """[tile][channel][lane] -> [tokens, channels]."""
    count, channels, lanes = tiles.shape
    return tiles.transpose(0, 2, 1).reshape(count * lanes, channels)[:tokens]


def in_order(flat: Array, shape: tuple[int, int, int], form: str = "") -> Array:
    """[tile][channel][lane] from a form of linear/floats.py, each tile one piece."""
    tiles, channels, lanes = shape
    if form == "pairs":
        return flat.reshape(tiles, channels // 2, lanes, 2).transpose(0, 1, 3, 2).reshape(shape)
    if form == "rows":  # fours of either half in turn
        fours = flat.reshape(tiles, channels, lanes // 8, 2, 4)
        return fours.transpose(0, 1, 3, 2, 4).reshape(shape)
    return flat.reshape(shape)


class Harness:
    """Memory for a few buffers, and the context of a pack of sentences of the given lengths."""

    def __init__(
        self, arena_bytes: int, lengths: Sequence[int] = (), *, scratch_bytes: int = SCRATCH_BYTES
    ) -> None:
        self.arena = aligned(arena_bytes, np.uint8)
        self.scratch = aligned(scratch_bytes, np.uint8)
        self.context = aligned((), CONTEXT.dtype)
        self.starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        self.rows = np.arange(len(lengths), dtype=np.int32)
        places = [np.arange(length) for length in (*lengths, TILE)]
        self.places = np.concatenate(places).astype(np.int32)  # of tokens in their sentences
        self.kept: list[Array] = [self.starts]
        self.used = 0
        tokens, sentences = int(self.starts[-1]), len(lengths)
        self.context["arena"] = self.arena.ctypes.data
        self.context["scratch"] = self.scratch.ctypes.data
        self.context["starts"] = self.starts.ctypes.data
        self.context["tokens"], self.context["tiles"] = tokens, -(-tokens // TILE)
        self.context["sentences"], self.context["row_tiles"] = sentences, -(-sentences // ROWS)
        self.context["positions"] = self.places.ctypes.data
        self.context["row_sentences"] = self.rows.ctypes.data

    def room(self, shape: Sequence[int], dtype: Any) -> tuple[int, Array]:
        """A buffer in the arena: its offset and its array."""
        count = int(np.prod(shape)) * np.dtype(dtype).itemsize
        offset, self.used = self.used, self.used + -(-count // 64) * 64
        assert self.used <= len(self.arena), "the harness's arena is too small"
        return offset, self.arena[offset : offset + count].view(dtype).reshape(tuple(shape))

    def put(self, x: Array) -> tuple[int, Array]:
        """A buffer in the arena that holds x."""
        offset, buffer = self.room(x.shape, x.dtype)
        buffer[...] = x
        return offset, buffer

    def address(self, x: Array) -> int:
        """Address of an aligned copy of x that lives as long as the harness."""
        copy = aligned(x.shape, x.dtype)
        copy[...] = x
        self.kept.append(copy)
        return int(copy.ctypes.data)

    def params(self, record: Any = None, **named: int | float) -> Array:
        """The parameters of a kernel, by the names of its record; None for one that has none."""
        values = tuple(record.pack(**named).values()) if record is not None else ()
        block = aligned(max(len(values), 1), np.int64)
        for slot, value in enumerate(values):
            if isinstance(value, float | np.floating):
                block[slot : slot + 1].view(np.float32)[0] = value
            else:
                block[slot] = value
        self.kept.append(block)
        return block

    def caller(self, kernel: Compiled, params: Array, begin: int, end: int) -> Any:
        """A function without arguments that runs the kernel."""
        function, place = kernel.function(), self.context.ctypes.data
        return lambda: function(params.ctypes.data, place, begin, end)

    def run(self, kernel: Compiled, params: Array, begin: int, end: int) -> None:
        """Do units begin to end - 1."""
        self.caller(kernel, params, begin, end)()
