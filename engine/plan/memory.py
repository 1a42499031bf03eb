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
    sentence).  form: the order of bfloat16 (kernels/linear/floats.py), of a tile as one piece;
    of: the buffer that has this one's channels as its own, from `first` on.
    """

    name: str
    domain: str
    channels: int
    dtype: str
    form: str = ""
    of: Buffer | None = None
    first: int = 0

    @property
    def whole(self) -> Buffer:
        """What lies in the arena."""
        return self if self.of is None else self.of

    def taken(self, name: str, first: int, count: int) -> Buffer:
        """Some of its channels."""
        return Buffer(name, self.domain, count, self.dtype, "", self.whole, self.first + first)

    @property
    def offset(self) -> int:
        """Of its first channel in `whole`, in bytes."""
        return self.first * self.lanes * BYTES[self.dtype]

    @property
    def lanes(self) -> int:
        """Lanes of a tile."""
        return TILE if self.domain == "tokens" else ROWS

    @property
    def tile_bytes(self) -> int:
        """Bytes from a tile to the next."""
        if self.of is not None:
            return self.of.tile_bytes
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
