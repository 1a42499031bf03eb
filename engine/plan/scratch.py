"""Bytes of a worker's scratch that a step's kernel uses, as the head of its file lays them out.

What attention keeps of a sentence's keys grows with the longest sentence there may be; the rest
depends on channels alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..codegen.elements import BYTES
from ..kernels import KERNELS
from ..kernels.context import OUTPUTS_OF_ROWS, ROWS, TILE
from .steps import Step

__all__ = ["scratch_bytes"]

FLOATS, LINE = 4, 64  # bytes of a float32 in each lane of ..., of a cache line
WINDOW = 256  # bytes that few_rows.py looks inputs up in
CONFIGURATION = 64  # bytes, of AMX


def scratch_bytes(step: Step, tokens: int) -> int:
    """tokens: of the longest sentence."""
    use = KERNELS[step.kernel].scratch
    return USES[use](step, tokens) if use else 0


def _depth(step: Step) -> int:
    return int(step.variant[0])


def _tiles(tokens: int) -> int:
    """That a sentence may have a part of."""
    return tokens // TILE + 2


def _lanes(step: Step) -> int:
    return step.buffers()[0].lanes


def _bytes_attention(step: Step, tokens: int) -> int:
    """Queries and their sums; of a key exps, and a byte a lane of four keys together."""
    keys = tokens + 6  # with neighbours in the first and the last four
    return TILE * _depth(step) + FLOATS * TILE + (FLOATS + 1) * TILE * keys


def _bytes_rows(step: Step, tokens: int) -> int:
    """Queries, sums, a query's context; exps and probabilities of tiles; totals."""
    fixed = FLOATS * ROWS * (_depth(step) + 1) + 2 * FLOATS * _depth(step)
    return fixed + (FLOATS + 1) * TILE * _tiles(tokens)


def _float_attention(step: Step, tokens: int) -> int:
    """Scores of keys, for the queries of a register block."""
    width = step.variant[1]
    return FLOATS * int(width) * (tokens + 6)


def _probabilities(step: Step, tokens: int) -> int:
    """Three blocks of 16 x 16; scores, and what is read behind the last of them."""
    _, width = step.variant
    return 3 * FLOATS * 16 * 16 + FLOATS * int(width) * (tokens + 6 + 16)


def _float_rows(step: Step, tokens: int) -> int:
    """Scores and masks of tiles."""
    return 2 * FLOATS * TILE * _tiles(tokens)


def _amx_attention(step: Step, tokens: int) -> int:
    """As on bytes, of whole tiles of keys; sums of 16 channels."""
    keys, sums = TILE * _tiles(tokens), FLOATS * 16 * TILE
    fixed = CONFIGURATION + TILE * _depth(step) + FLOATS * TILE + sums
    return fixed + (FLOATS + 1) * TILE * keys


def _amx_transposition(step: Step, tokens: int) -> int:
    return 2 * TILE * _depth(step)


def _amx_product(step: Step, tokens: int) -> int:
    """Configuration, sums of 32 outputs, two steps of 16 rows of interleaved inputs."""
    return CONFIGURATION + FLOATS * _lanes(step) * (32 + 2 * 16)


def _embedding(step: Step, tokens: int) -> int:
    """A row, a tile of rows, two square blocks of lines."""
    (y,) = step.buffers()
    return FLOATS * y.channels + y.tile_bytes + 2 * LINE * LINE // BYTES[y.dtype]


def _rotary(step: Step, tokens: int) -> int:
    """Rows of the table for a tile, the same with tokens in lanes, two square blocks of lines."""
    return 2 * TILE * int(step.params["row_bytes"]) + 2 * LINE * LINE // FLOATS


def _values(step: Step, tokens: int) -> int:
    """A tile of x in float32."""
    x = step.buffers()[0]
    return FLOATS * x.lanes * x.channels


def _sums(step: Step, tokens: int) -> int:
    """A tile of y in 32 bits."""
    y = step.buffers()[1]
    return FLOATS * y.lanes * y.channels


def _few_rows(step: Step, tokens: int) -> int:
    """Results of 16 outputs, then a row of x, of which whole windows are read."""
    return LINE + -(-step.buffers()[0].channels // WINDOW) * WINDOW


def _dense_rows(step: Step, tokens: int) -> int:
    """Outputs of four sentences."""
    return 4 * FLOATS * OUTPUTS_OF_ROWS


def _pool(step: Step, tokens: int) -> int:
    """Mask, what is added and address of each 16 tokens."""
    return 3 * LINE * (tokens // ROWS + 2)


def _output_tokens(step: Step, tokens: int) -> int:
    """A block of 16 x 16, and two to make it in."""
    return 3 * FLOATS * 16 * 16


USES: Mapping[str, Callable[[Step, int], int]] = {  # Kernel.scratch -> what that takes
    "byte_attention": _bytes_attention,
    "byte_rows": _bytes_rows,
    "float_attention": _float_attention,
    "float_rows": _float_rows,
    "probabilities": _probabilities,
    "tile_attention": _amx_attention,
    "turned_keys": _amx_transposition,
    "tile_products": _amx_product,
    "embedding": _embedding,
    "rotary": _rotary,
    "tile_of_x": _values,
    "sums": _sums,
    "few_rows": _few_rows,
    "dense_rows": _dense_rows,
    "output_tokens": _output_tokens,
    "pool": _pool,
}
