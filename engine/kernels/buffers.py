"""Where a kernel's buffers lie, and the tokens and rows of sentences in them."""

from ..codegen.lower import routine
from ..codegen.simd import load_i64, load_int
from .context import CONTEXT, ROWS, TILE
from .params import BUFFER

FEW, SOME = 16, 32  # lanes


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


def of_widths(made, width):
    """made(n) for up to FEW, for up to SOME and for `width` lanes."""
    narrowed = {n: made(n) for n in {min(FEW, width), min(SOME, width), width}}
    return narrowed[min(FEW, width)], narrowed[min(SOME, width)], narrowed[width]


@routine
def rows_of_tile(context, tile):
    """The rows of this pack that are in a tile: the first and behind the last."""
    first, sentences = load_i64(context + CONTEXT.first_row), load_i64(context + CONTEXT.sentences)
    return max(first, ROWS * tile), min(first + sentences, ROWS * tile + ROWS)


@routine
def tokens_of_row(context, row):
    """A row's sentence: its first token in the pack and behind its last."""
    at = load_i64(context + CONTEXT.starts) + 4 * (row - load_i64(context + CONTEXT.first_row))
    return load_int(at), load_int(at + 4)
