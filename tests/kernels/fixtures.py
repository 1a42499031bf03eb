"""Operands for kernels of one layer, and the instruction sets to try them on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.codegen import isa as instruction_sets
from engine.codegen.isa import Isa
from engine.graph import BLOCKS, Quantization
from engine.kernels import KERNELS, kernel
from engine.kernels.context import ROWS, TILE
from engine.kernels.harness import Harness, from_tiles, in_order, to_tiles
from engine.kernels.linear.records import DYNAMIC_LINEAR
from engine.plan.operands import Operands

Array = NDArray[Any]
KINDS = ("sparse", "full", "zero", "empty rows")  # of weights
SETS = [isa for isa in instruction_sets.detected() if not isa.name.startswith("amx")]
USUAL = [isa for isa in SETS if isa.name in ("avx2", SETS[-1].name)]

# NaN of several bits, infinities, zeros, numbers below 2^-126, the greatest; 64 of them
NANS = np.array([0x7FC00000, 0xFFC00000, 0x7FC12345, 0xFFFFFFFF], np.uint32).view(np.float32)
_NUMBERS = [np.inf, -np.inf, 0, -0.0, 1e-45, -1e-45, 1e-40, -1e-40, 3.4e38, -3.4e38, 1, -1]
SPECIALS = np.resize(np.concatenate([NANS, np.array(_NUMBERS, np.float32)]), 64)

TOKENS = (1, 31, 37, 128, 200)
X, RESIDUAL, OUTPUT = Quantization(0.021, 117), Quantization(0.034, 131), Quantization(0.05, 120)
TYPES = {"u8": np.uint8, "f32": np.float32}


def sets(*, slow: bool) -> list[Isa]:
    """The best instruction set and AVX2, or all that this CPU permits."""
    return SETS if slow else USUAL


def rows_of(table: Iterable[tuple[Any, ...]], slow: Iterable[tuple[Any, ...]]) -> list[Any]:
    """Parameters of a test: a table's rows, and those that only the slow run takes."""
    usual = [pytest.param(False, *row, id="_".join(map(str, row))) for row in table]
    marks = pytest.mark.slow
    every = [
        pytest.param(True, *row, id="_".join(map(str, row)) + "_everywhere", marks=marks)
        for row in (*table, *slow)
    ]
    return usual + every


SHARES = {"sparse": 0.3, "full": 2.0, "zero": -1.0, "empty rows": 0.5, "wide": 2.0}


def mask_of(random: np.random.Generator, shape: tuple[int, int], pattern: str, kind: str) -> Array:
    """Which weights are there."""
    outputs, inputs = BLOCKS.get(pattern, (1, 1))
    blocks = (-(-shape[0] // outputs), -(-shape[1] // inputs))
    keep = random.random(blocks) < SHARES[kind]
    if kind == "empty rows":
        keep[random.random(blocks[0]) < 0.5] = False
    return np.kron(keep, np.ones((outputs, inputs), bool))[: shape[0], : shape[1]]


def close(got: Array, wanted: Array, note: Any) -> None:
    """Floats nearly equal; bytes but for a rare fraction of a half."""
    if wanted.dtype == np.uint8:
        off = np.abs(got.astype(int) - wanted)
        assert off.max() <= 1 and (off > 0).mean() < 0.01, note
    else:
        np.testing.assert_allclose(got, wanted, atol=2e-5, rtol=3e-7, err_msg=str(note))


def quantise(random: np.random.Generator, shape: tuple[int, ...], kind: str) -> Array:
    if kind == "u8":
        return random.integers(0, 256, shape).astype(np.uint8)
    return random.normal(size=shape).astype(np.float32)


def tiles_at(**buffers: tuple[int, Array]) -> dict[str, int]:
    """Parameters that name buffers: where each begins, bytes of one of its tiles."""
    places = {name: place for name, (place, _) in buffers.items()}
    return places | {f"{name}_tile": tiles[0].nbytes for name, (_, tiles) in buffers.items()}


class Layer:
    """A harness with x in tiles; y starts with other bits than any result has."""

    def __init__(self, x: Array, outputs: int, dtype: Any, lanes: int = TILE) -> None:
        self.tokens, self.inputs = x.shape
        self.lanes, self.tiles = lanes, -(-self.tokens // lanes)
        self.rows = -(-outputs // 4) * 4
        places = self.tiles * lanes
        self.harness = Harness(
            places * (self.rows * 4 + self.inputs * 12 + 512) + 8192, [self.tokens]
        )
        place, _ = self.harness.put(to_tiles(x, lanes))
        self.source = {"x": place, "x_tile": lanes * self.inputs * x.itemsize}
        self.y, self.result = self.harness.room((self.tiles, self.rows, lanes), dtype)
        self.y_bytes = lanes * self.rows * self.result.itemsize
        self.result.view(np.uint8)[...] = 0xA5
        self.outputs = outputs

    def made(
        self, isa: Isa, name: str, variant: tuple[Any, ...], bytes_: int, **more: int
    ) -> dict[str, int]:
        """Another form of x, by a kernel with these parameters besides x and y: the x of a product,
        by name.
        """
        inputs = -(-self.inputs // 4) * 4
        place, buffer = self.harness.room((self.tiles, inputs, self.lanes * bytes_), np.uint8)
        buffer[...] = 0xFF  # NaN in every type
        tile = inputs * self.lanes * bytes_
        named, record = {**self.source, "y": place, "y_tile": tile, **more}, KERNELS[name].params
        block = self.harness.params(record, **named)
        self.harness.run(kernel(isa, name, *variant), block, 0, self.tiles)
        return {"x": place, "x_tile": tile}

    def run(
        self,
        isa: Isa,
        name: str,
        variant: tuple[Any, ...],
        source: dict[str, int],
        operands: Operands,
        form: str = "",
        **more: int,
    ) -> Array:
        """y [tokens, outputs], from its form; in two calls, as two workers would make it."""
        record, parts = KERNELS[name].params, operands.part_count
        given = {"y": self.y, "y_tile": self.y_bytes, "part_count": parts, **source, **more}
        given["parts"] = operands.parts.ctypes.data
        if record is DYNAMIC_LINEAR and not more:
            given |= {"scales": 0, "scales_tile": 0}
        block = self.harness.params(record, **given)
        units, compiled = self.tiles * parts, kernel(isa, name, *variant)
        self.harness.run(compiled, block, units // 2, units)
        self.harness.run(compiled, block, 0, units // 2)
        tiles = in_order(self.result.reshape(-1), self.result.shape, form)
        return from_tiles(tiles, self.tokens)[:, : self.outputs].copy()


DOMAINS = {TILE: "tokens", ROWS: "rows"}
