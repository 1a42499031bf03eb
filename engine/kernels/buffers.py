"""Where a kernel's buffers lie."""

from ..codegen.lower import routine
from ..codegen.simd import load_i64
from .params import BUFFER


@routine
def tile_of(arena, buffer, tile):
    """Address of a tile; buffer: address of the parameters BUFFER names."""
    return arena + load_i64(buffer + BUFFER.place) + load_i64(buffer + BUFFER.tile_bytes) * tile
