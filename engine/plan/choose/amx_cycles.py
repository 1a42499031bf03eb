"""Which layers run on AMX tiles: a model of the cycles each kernel takes for a tile of 64 tokens.

Modelled, not measured: throughputs per instruction on Sapphire Rapids, everything in the first
level of cache, no dependence, whichever port has most to do decides.  Sources: Intel 64 and IA-32
Architectures Optimization Reference Manual, chapter on AMX (tile product 16 cycles, tile load 8,
tile store 16); uops.info (512 bits: two vpdpbusd, one vdpbf16ps, one shuffle, two loads, one store
a cycle).  What all kernels of a layer share, epilogue and x interleaved beforehand, is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...codegen.isa import Isa
from ...kernels import PRODUCTS
from ...pack.amx import BLOCKS, PANEL
from ...pack.vectors import PER_PRODUCT

__all__ = [
    "PACKINGS",
    "modelled_cycles",
    "modelled_pattern",
    "tile_patterns",
]

Array = NDArray[Any]
PRODUCT, STORE = 16, 16  # cycles of a tile product; a tile load (8) is hidden behind a product
RELOAD = 32  # cycles to load 16 outputs x 64 tokens of sums again, for the epilogue

PACKINGS = {"tiles": "dense", "tiles 16x1": "16x1"}  # pattern -> how pack/amx.py packs it
MOST_BLOCKS = 1 << 16  # of inputs: their numbers are u16


@dataclass(frozen=True)
class _Step:
    """What a turn of a vector kernel's loop does: 4 outputs x 64 tokens."""

    products: int
    shuffles: int
    loads: int

    def cycles(self, precision: str) -> float:
        """int8: products on two ports, shuffles on one of them; bfloat16: products on the other."""
        if precision == "int8":
            return max((self.products + self.shuffles) / 2, self.shuffles, self.loads / 2)
        return max(self.products, self.shuffles, self.loads / 2)


_STEPS = {  # per_product inputs (4x1, dense) or blocks of 4 inputs for each output (1x4)
    ("int8", "4x1"): _Step(16, 8, 20),
    ("int8", "1x4"): _Step(16, 5, 17),
    ("int8", "dense"): _Step(16, 0, 8),
    ("bfloat16", "4x1"): _Step(16, 4, 8),
    ("bfloat16", "1x4"): _Step(32, 0, 40),
    ("bfloat16", "dense"): _Step(16, 0, 8),
}


def _padded(weight: Array, outputs: int, inputs: int) -> Array:
    return np.pad(weight, ((0, -len(weight) % outputs), (0, -weight.shape[1] % inputs)))


def _vector_cycles(weight: Array, precision: str, pattern: str) -> float:
    if pattern == "1x4":
        quads = _padded(weight, 4, 4)
        blocks = np.sort(quads.reshape(len(quads), -1, 4).any(axis=2).sum(axis=1))
        steps = blocks.reshape(-1, 4).max(axis=1).sum()
    elif pattern == "4x1":
        columns = _padded(weight, 4, 1).reshape(-1, 4, weight.shape[1]).any(axis=1).sum(axis=1)
        steps = np.ceil(columns / PER_PRODUCT[precision]).sum()
    else:
        steps = -(-len(weight) // 4) * -(-weight.shape[1] // PER_PRODUCT[precision])
    return float(steps * _STEPS[precision, pattern].cycles(precision))


def _dense_cycles(weight: Array, precision: str) -> float:
    """Eight products a block that is not empty, and the sums stored and loaded."""
    rows, block = PANEL["dense"], BLOCKS[precision]
    panels = _padded(weight, rows, block).reshape(-1, rows, -(-weight.shape[1] // block), block)
    blocks = panels.any(axis=(1, 3)).sum()
    return float(blocks * 8 * PRODUCT + len(panels) * 2 * (4 * STORE + RELOAD))


def _block_cycles(weight: Array, precision: str) -> float:
    """Four products a step, or interleaving its 16 rows: int8 by 8 shuffles each, bfloat16 by 4."""
    rows, block = PANEL["16x1"], BLOCKS[precision]
    columns = _padded(weight, rows, 1).reshape(-1, rows, weight.shape[1]).any(axis=1).sum(axis=1)
    shuffles = 16 * (8 if precision == "int8" else 4)
    steps = np.ceil(columns / block).sum()
    return float(steps * max(4 * PRODUCT, shuffles) + len(columns) * (4 * STORE + RELOAD))


def modelled_cycles(weight: Array, precision: str, pattern: str) -> dict[str, float]:
    """weight [N, K]; by pattern: the layer's own on vectors, then those of tiles."""
    return {
        pattern: _vector_cycles(weight, precision, pattern),
        "tiles": _dense_cycles(weight, precision),
        "tiles 16x1": _block_cycles(weight, precision),
    }


def tile_patterns(isa: Isa, precision: str, inputs: int) -> tuple[str, ...]:
    """Those that the layer could run in; the dense kernel reads whole blocks only."""
    row = PRODUCTS.get((precision, "tiles"))
    if row is None or not all(map(isa.has, row.needs)):
        return ()
    whole = inputs % BLOCKS[precision] == 0 and inputs // BLOCKS[precision] <= MOST_BLOCKS
    return tuple(PACKINGS) if whole else ("tiles 16x1",)


def modelled_pattern(isa: Isa, weight: Array, precision: str, pattern: str) -> str:
    """The layer's own pattern, or one of tiles where that is modelled faster."""
    tiles = tile_patterns(isa, precision, weight.shape[1])
    if not tiles:
        return pattern
    cycles = modelled_cycles(weight, precision, pattern)
    return min((pattern, *tiles), key=lambda name: cycles[name])
