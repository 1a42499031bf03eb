"""Buffers of activations and where they lie in the arena.

A buffer lives from the first step that names it to the last; two that never live at once may share
memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..codegen.elements import BYTES
from ..kernels import KERNELS
from ..kernels.context import ROWS, TILE

__all__ = ["FORMS", "LINE", "Buffer", "place"]

LINE = 64
FORMS = {  # a form of x -> the kernel that makes it, and its type
    form: (row.name, dtype) for row in KERNELS.values() for form, dtype in row.makes.items()
}


@dataclass(frozen=True, eq=False)
class Buffer:
    """Activations [tile][channel][lane]; domain "tokens" has 64 lanes, "rows" 16 (a lane a
    sentence).  form: the order of bfloat16 (kernels/linear/floats.py), of a tile as one piece.
    """

    name: str
    domain: str
    channels: int
    dtype: str
    form: str = ""

    @property
    def lanes(self) -> int:
        """Lanes of a tile."""
        return TILE if self.domain == "tokens" else ROWS

    @property
    def tile_bytes(self) -> int:
        """Bytes of a tile."""
        return self.channels * self.lanes * BYTES[self.dtype]


def place(
    buffers: dict[Buffer, tuple[int, int]], tiles: dict[str, int]
) -> tuple[dict[Buffer, int], int]:
    """Offset of each buffer and bytes of the arena.  buffers: the first and last step of each;
    tiles: capacity of each domain.

    Largest first, each at the lowest offset that is free for its whole life.
    """
    offsets: dict[Buffer, int] = {}
    sizes = {buffer: _rounded(buffer.tile_bytes * tiles[buffer.domain]) for buffer in buffers}
    for buffer in sorted(buffers, key=lambda each: -sizes[each]):
        first, last = buffers[buffer]
        at = 0
        neighbours = sorted(
            (
                other
                for other in offsets
                if buffers[other][0] <= last and buffers[other][1] >= first
            ),
            key=offsets.__getitem__,
        )
        for other in neighbours:
            if at + sizes[buffer] <= offsets[other]:
                break
            at = max(at, offsets[other] + sizes[other])
        offsets[buffer] = at
    return offsets, max((offsets[buffer] + sizes[buffer] for buffer in offsets), default=0)


def _rounded(size: int) -> int:
    return -(-size // LINE) * LINE
