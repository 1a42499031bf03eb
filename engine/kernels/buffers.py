"""Where a kernel's buffers lie."""

from ..codegen.lower import routine
from ..codegen.simd import load_i64
from .context import CONTEXT, TILE
from .params import BUFFER


@routine
def tile_of(arena, buffer, tile):
    """Address of a tile; buffer: address of the parameters BUFFER names."""
    return arena + load_i64(buffer + BUFFER.place) + load_i64(buffer + BUFFER.tile_bytes) * tile


def live_lanes(lanes):
    """A routine (context, tile): how many of a tile's lanes hold something; those behind them may
    hold anything, and stay as they are.
    """

    def of_tokens(context, tile):
        return min(TILE, load_i64(context + CONTEXT.tokens) - TILE * tile)

    def of_rows(context, tile):
        return lanes

    return routine(of_tokens if lanes == TILE else of_rows)
