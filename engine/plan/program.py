"""A plan, and the programs it makes: its steps over an arena, ready to run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..codegen.compile import Compiled
from ..codegen.isa import Isa
from ..graph import Graph
from ..kernels import kernel
from ..kernels.call import STEP
from ..kernels.context import MOST_ROWS, ROWS, TILE
from ..ops.fused import first_keys
from .barriers import barriers, ranges_between_barriers
from .memory import Buffer, place
from .scratch import scratch_bytes
from .steps import Step

__all__ = ["NO_LIMIT", "PACK_TOKENS", "Plan", "Program", "Result"]

NO_LIMIT = 1 << 30  # rows of a table that is not there
EXECUTOR = (("call", False), ("serve",))  # kernels of every call
PACK_TOKENS = 128  # a pack's activations and a layer's weights fit in L2 together


@dataclass(frozen=True)
class Result:
    """An array the program makes: an output of the graph, or an input of the fallback subgraph."""

    name: str
    domain: (
        str  # "tokens": [batch, length, channels]; "rows": [batch, channels]; "pairs": of tokens
    )
    channels: int  # of pairs: heads
    keep_row_axis: bool = False  # [batch, 1, channels]
    flat: bool = False  # of one channel, which is no axis
    dtype: str = "float32"  # in which a call returns it; the program makes float32

    @property
    def shape(self) -> tuple[int | str, ...]:
        """Of the array, with names for what a call decides."""
        if self.domain == "pairs":
            return ("batch", self.channels, "sequence", "sequence")
        one: list[int | str] = [1] if self.keep_row_axis else []
        tokens = ["sequence"] if self.domain == "tokens" else one
        return ("batch", *tokens, *([] if self.flat else [self.channels]))


@dataclass(frozen=True)
class Program:
    """Steps with every address known, for packs of at most `tokens` tokens."""

    plan: Plan
    tokens: int
    arena_bytes: int
    steps: NDArray[Any]  # STEP [steps]
    codes: tuple[Compiled, ...]  # of the steps
    params: tuple[NDArray[np.int64], ...]  # of the steps, behind one another
    offsets: Mapping[Buffer, int]  # in the arena

    @property
    def address(self) -> int:
        """Of the steps."""
        return self.steps.ctypes.data


@dataclass(frozen=True)
class Plan:
    """What runs in kernels, in order, and the fallback subgraph."""

    isa: Isa
    steps: tuple[Step, ...]
    results: tuple[Result, ...]
    fallback: Graph | None
    inputs: tuple[str, ...]  # names of ids, types, mask ("" where there is none)
    layers: tuple[Mapping[str, Any], ...]  # for describe()
    first_position: int = 0
    padding_id: int | None = None
    most_positions: int = NO_LIMIT
    vocabulary: int = NO_LIMIT
    kinds: int = NO_LIMIT
    pack_tokens: int = PACK_TOKENS
    places: Mapping[str, NDArray[Any]] = field(default_factory=dict)  # where channels lie: heads.py
    mixes: str = ""  # how the fallback reads masked tokens, which are 0 here: mixing.py
    handed: Mapping[str, str] = field(default_factory=dict)  # output -> the input that it is
    by_lengths: bool = False  # only the sums of masks count
    by_distance: bool = False  # attention counts the tokens between two
    numbered: str = ""  # the input that numbers tokens, where one does
    left: str = ""  # what the reference is left with, and why: a sentence for people

    def refuses(self, mask: NDArray[Any] | None, feeds: Mapping[str, NDArray[Any]]) -> bool:
        """Whether kernels, which leave masked tokens out and number tokens by themselves, would not
        make what the graph means.
        """
        if self.numbered and not _counts(np.asarray(feeds[self.numbered]), mask):
            return True
        if mask is None or not (self.mixes or self.by_lengths or self.by_distance):
            return False
        if self.by_distance and _has_holes(mask):
            return True
        return bool(self.mixes and not mask.all()) or (
            self.by_lengths and not np.array_equal(mask, first_keys(mask))
        )

    @property
    def kernels(self) -> list[tuple[Any, ...]]:
        """Name and variant of each that a call needs."""
        steps = ((step.kernel, *step.variant) for step in self.steps)
        return [*dict.fromkeys(steps), *EXECUTOR]

    @cached_property
    def signature(self) -> str:
        """Names what runs: models of the same shapes, kernels and sparsity have the same."""
        steps = [(step.kernel_name, step.units, step.macs // 1000) for step in self.steps]
        return hashlib.sha256(repr(steps).encode()).hexdigest()[:16]

    @cached_property
    def _live_ranges(self) -> dict[Buffer, tuple[int, int]]:
        live_ranges: dict[Buffer, tuple[int, int]] = {}
        for number, step in enumerate(self.steps):
            for buffer in step.buffers():
                live_ranges[buffer] = (live_ranges.get(buffer, (number, number))[0], number)
        return live_ranges

    @cached_property
    def late(self) -> int:
        """The first of the last steps, those on rows alone: they run once for many packs' rows."""
        late = len(self.steps)
        while late and all(each.domain == "rows" for each in self.steps[late - 1].buffers()):
            late -= 1
        return late

    def first_use(self, buffer: Buffer) -> int:
        """The step that makes it."""
        return self._live_ranges[buffer][0]

    def scratch_bytes(self, tokens: int) -> int:
        """Of a worker's scratch, for sentences of at most `tokens` tokens."""
        return max((scratch_bytes(step, tokens) for step in self.steps), default=0)

    def program(self, tokens: int, *, shared: bool = False) -> Program:
        """The program for packs of at most `tokens` tokens, a multiple of 64; shared: workers may
        share a pack, for which the arena has to be larger.
        """
        tiles = {"tokens": -(-tokens // TILE), "rows": MOST_ROWS // ROWS}
        waiting = {  # rows of earlier packs are there, and in part made again, until the late steps
            buffer: (0, max(last, min(self.late, len(self.steps) - 1)))
            for buffer, (first, last) in self._live_ranges.items()
            if buffer.domain == "rows" and first < self.late
        }
        live_ranges = {**self._live_ranges, **waiting}
        after = barriers(self.steps, self._live_ranges, self.late)
        offsets, size = place(
            ranges_between_barriers(live_ranges, after) if shared else live_ranges, tiles
        )
        rows = np.zeros(len(self.steps), STEP.dtype)
        codes, blocks = [], []
        for row, step, who in zip(rows, self.steps, after, strict=True):
            code = kernel(self.isa, step.kernel, *step.variant)
            params = np.array([_slot(param, offsets) for param in step.params.values()], np.int64)
            codes.append(code)
            blocks.append(params)
            row["kernel"], row["params"] = code.address, params.ctypes.data
            row["counted"], row["units"] = step.counted, step.units
            row["barrier"], row["alone"] = who, step.alone
        return Program(self, tokens, size, rows, tuple(codes), tuple(blocks), offsets)


def _counts(position_ids: NDArray[Any], mask: NDArray[Any] | None) -> bool:
    """Whether tokens that count are numbered 0, 1, 2 ... by their places."""
    same = position_ids == np.arange(position_ids.shape[-1])
    return bool(same.all() or (mask is not None and np.all(same | (mask == 0))))


def _has_holes(mask: NDArray[Any]) -> bool:
    """Whether a sentence has masked tokens between others."""
    begins = np.diff(mask != 0, axis=1, prepend=False) & (mask != 0)
    return bool((begins.sum(axis=1) > 1).any())


def _slot(param: Any, offsets: Mapping[Buffer, int]) -> int:
    """A parameter as the eight bytes a kernel reads."""
    if isinstance(param, Buffer):
        return offsets[param.whole] + param.offset
    if isinstance(param, np.ndarray):
        return param.ctypes.data
    if isinstance(param, float | np.floating):
        return int(np.float32(param).view(np.int32))
    return int(param)
