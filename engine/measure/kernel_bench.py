"""Products alone: time, multiply-adds of non-zeros a second, share of the peak of the same minute.

Rounds go through all cases of a shape and the peaks in turns, and the shortest of each counts.
What calling a kernel from Python takes is measured beside it, with nothing to do, and taken off.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..codegen import isa
from ..graph import BLOCKS
from ..kernels import KERNELS, PRODUCTS, kernel, kernel_name
from ..kernels.context import TILE
from ..kernels.harness import Harness
from ..kernels.linear.records import DYNAMIC_LINEAR, OUTPUT
from ..pack.vectors import X_BYTES, pack_linear, pack_panels
from ..plan.operands import panel_count, part_count, placed
from .peaks import Peaks

__all__ = ["PRECISIONS", "SHAPES", "Case", "Timing", "best", "cases", "measure"]

Array = NDArray[Any]
SHAPES = (  # outputs, inputs
    (256, 256), (1024, 256), (256, 1024), (768, 768),
    (3072, 768), (768, 3072), (1024, 1024), (4096, 1024),
)  # fmt: skip
PRECISIONS = ("int8", "bfloat16", "float32")
NARROW = "narrow_dot_u8s8_4x1"  # where a register block is no whole tile
REPEATS = 3  # in a row, so that weights are in the cache that the shape allows


@dataclass(frozen=True)
class Case:
    """One product; zeros: share of blocks that are not there."""

    outputs: int
    inputs: int
    tokens: int
    zeros: float
    pattern: str
    precision: str

    @property
    def peak(self) -> str:
        """That bounds it."""
        return PRODUCTS[self.precision, self.pattern].multiplies

    def kernel(self, width: int) -> tuple[Any, ...]:
        """Row and variant; width: tokens of a register block."""
        row = PRODUCTS[self.precision, self.pattern]
        end = ("bytes" if self.precision == "int8" else "f32", "none")
        if "width" in row.variant:
            return row.name, TILE, width, *end
        if width == TILE:
            return row.name, TILE, *end
        return NARROW, TILE, width, *end


@dataclass(frozen=True)
class Timing:
    """What a case took at least."""

    case: Case
    kernel: str
    seconds: float
    macs: int  # of non-zeros
    peak: float  # multiply-adds a second

    @property
    def share(self) -> float:
        return self.macs / self.seconds / self.peak


def cases(
    shapes: Iterable[tuple[int, int]] = SHAPES,
    tokens: Iterable[int] = (128, 384),
    zeros: Iterable[float] = (0.7, 0.8, 0.9),
    precisions: Iterable[str] = tuple(PRECISIONS),
) -> Iterator[tuple[Case, ...]]:
    """Shape by shape: those that are measured in turns with one another."""
    tokens, zeros, precisions = tuple(tokens), tuple(zeros), tuple(precisions)
    for outputs, inputs in shapes:
        for count in tokens:
            sparse = [(share, pattern) for share in zeros for pattern in ("4x1", "1x4")]
            for precision in precisions:
                kinds = [(0.0, "dense"), *sparse]
                yield tuple(Case(outputs, inputs, count, *kind, precision) for kind in kinds)


def _weight(case: Case, random: np.random.Generator) -> Array:
    outputs, inputs = BLOCKS.get(case.pattern, (1, 1))
    kept = random.random((case.outputs // outputs, case.inputs // inputs)) >= case.zeros
    mask = np.kron(kept, np.ones((outputs, inputs), bool))
    whole = random.integers(1, 127, (case.outputs, case.inputs))
    return np.where(mask, whole, 0).astype(np.int8 if case.precision == "int8" else np.float32)


@dataclass(frozen=True)
class _Prepared:
    keep: tuple[Any, ...]  # what the calls read
    call: Callable[[], None]
    nothing: Callable[[], None]  # the same without a unit of work
    kernel: str
    macs: int


def _prepare(case: Case, chosen: isa.Isa) -> _Prepared:
    weight = _weight(case, np.random.default_rng(0))
    width = chosen.block_width()
    row, *variant = case.kernel(width)
    out_bytes = 1 if case.precision == "int8" else 4
    parts = part_count(weight, case.pattern)
    how: dict[str, Any] = {"precision": case.precision, "out_bytes": out_bytes, "parts": parts}
    if case.pattern == "1x4":
        panels = panel_count(weight, case.precision, width)
        packed = pack_panels(weight, panels, **how)
    else:
        packed = [pack_linear(weight, case.pattern, **how)]
    tiles = -(-case.tokens // TILE)
    x_bytes, y_bytes = X_BYTES[case.precision] * case.inputs * TILE, out_bytes * case.outputs * TILE
    harness = Harness(tiles * (x_bytes + y_bytes) + 4096, [case.tokens])
    x, buffer = harness.room((tiles, x_bytes), np.uint8)
    buffer.fill(1)  # memory never written is one page of zeros, which caches take another way
    y, _ = harness.room((tiles, y_bytes), np.uint8)
    records = np.zeros(len(packed[0].headers) + 1, OUTPUT.dtype)
    table, held = placed(packed, [records] * len(packed), None)
    activations = {"x": x, "x_tile": x_bytes, "y": y, "y_tile": y_bytes}
    params = {**activations, "part_count": parts, "parts": harness.address(table)}
    params |= {"scales": 0, "scales_tile": 0} if KERNELS[row].params is DYNAMIC_LINEAR else {}
    block = harness.params(KERNELS[row].params, **params)
    call, nothing = (
        harness.caller(kernel(chosen, row, *variant), block, 0, units)
        for units in (tiles * parts, 0)
    )
    macs = int(np.count_nonzero(weight)) * case.tokens
    return _Prepared((harness, held), call, nothing, kernel_name(row, *variant), macs)


def measure(group: tuple[Case, ...], rounds: int = 12) -> list[Timing]:
    """The cases in turns with the peaks."""
    chosen, peaks = isa.chosen(), Peaks()
    prepared = [_prepare(case, chosen) for case in group]
    least, calling = [float("inf")] * len(group), float("inf")
    for _ in range(rounds):
        rates = peaks.round()
        for number, each in enumerate(prepared):
            for _ in range(REPEATS):
                least[number] = min(least[number], _took(each.call))
                calling = min(calling, _took(each.nothing))
    return [
        Timing(
            case,
            each.kernel,
            seconds - calling,
            each.macs,
            rates[PRODUCTS[case.precision, case.pattern].multiplies],
        )
        for case, seconds, each in zip(group, least, prepared, strict=True)
    ]


def best(found: Sequence[Timing]) -> Timing:
    """Of one case, measured more than once: its shortest time against the highest peak."""
    least, peak = min(each.seconds for each in found), max(each.peak for each in found)
    return replace(found[0], seconds=least, peak=peak)


def _took(call: Callable[[], None]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
