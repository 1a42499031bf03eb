"""Where the time of a call goes: per step its time, multiply-adds, bytes and share of a peak.

A multiply-add counts where it is needed: weights that are not zero times the tokens that are no
padding, and in attention every pair of tokens of a sentence.  Bytes are those of a step's weights
and of the activations it reads and writes, each counted once a pack.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..kernels import KERNELS
from ..kernels.context import MOST_ROWS, ROWS, TILE
from ..plan import Step
from ..runtime import Session
from ..runtime.session import Timed
from .peaks import BYTES_PEAK, Peaks, cycles_per_second

__all__ = ["Profile", "StepProfile", "Work", "chrome_trace", "profile", "work_of"]

Feeds = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Work:
    """What a call has to do, whatever the model."""

    sentences: int
    tokens: int
    pairs: int  # of tokens of one sentence
    token_tiles: int  # over all packs
    row_tiles: int
    packs: int


@dataclass(frozen=True)
class StepProfile:
    """One step; seconds: the shortest of all calls."""

    name: str
    kernel: str
    calls: int
    seconds: float
    macs: int
    bytes: int
    peak: str  # that bounds it
    rate: float  # of that peak: multiply-adds or bytes a second

    @property
    def share(self) -> float:
        """Of the peak; nan where none is known."""
        done = self.bytes if self.peak == BYTES_PEAK else self.macs
        return done / self.seconds / self.rate if self.rate and self.seconds else float("nan")


@dataclass(frozen=True)
class Profile:
    """A call by steps, and as a whole."""

    steps: tuple[StepProfile, ...]
    work: Work
    seconds: float  # of a call without clocks inside, the shortest
    threads: int
    peaks: Mapping[str, float]
    spans: tuple[
        tuple[int, int, tuple[float, ...]], ...
    ]  # of each call: begin and end in ns, seconds of its steps

    @property
    def macs(self) -> int:
        """Of all steps; what nobody reads is left out."""
        return sum(step.macs for step in self.steps)

    @property
    def roofline_seconds(self) -> float:
        """The same multiply-adds at their peaks, and nothing else."""
        return (
            sum(step.macs / step.rate for step in self.steps if step.macs and step.rate)
            / self.threads
        )

    @property
    def roofline_share(self) -> float:
        """Of the call: 1 would be nothing but multiply-adds at their peak."""
        return self.roofline_seconds / self.seconds


# --- counting
def work_of(timed: Timed) -> Work:
    """Counts of a call, from its sentences' lengths and its packs."""
    lengths = timed.lengths.astype(np.int64)
    of_packs = [int(lengths[first : first + count].sum()) for first, count in timed.packs]
    rows = sum(-(-int(count) // ROWS) for _, count in timed.packs)
    tiles = sum(-(-tokens // TILE) for tokens in of_packs)
    return Work(
        len(lengths), int(lengths.sum()), int((lengths**2).sum()), tiles, rows, len(timed.packs)
    )


def needed_macs(step: Step, work: Work) -> int:
    """Multiply-adds of a step: weights that are not zero, and the products of attention."""
    return step.macs * _turns(step, work)


def done_macs(step: Step, work: Work) -> int:
    """The same without those whose result nobody reads, which are left out."""
    return (step.macs - step.skipped_macs) * _turns(step, work)


def _turns(step: Step, work: Work) -> int:
    of_rows = step.domain == "rows"
    if KERNELS[
        step.kernel
    ].of_pairs:  # a pair costs a product with each channel of a key and a value
        return work.tokens if of_rows else work.pairs
    return work.sentences if of_rows else work.tokens


def touched_bytes(step: Step, work: Work) -> int:
    """Bytes of activations and constants a step reads or writes."""
    tiles = {"tokens": work.token_tiles, "rows": work.row_tiles}
    activations = sum(buffer.tile_bytes * tiles[buffer.domain] for buffer in set(step.buffers()))
    if KERNELS[step.kernel].looks_up:  # two rows of tables a token, the third's stays at hand
        return activations + 2 * 4 * step.buffers()[0].channels * work.tokens
    return activations + step.weight_bytes * work.packs


def late_work(work: Work) -> Work:
    """The same call for the steps on rows alone, which wait for rows of many packs."""
    tiles, turns = -(-work.sentences // ROWS), -(-work.sentences // MOST_ROWS)
    return replace(work, row_tiles=tiles, packs=turns)


# --- measuring
def profile(session: Session, feeds: Feeds, iterations: int = 50) -> Profile:
    """Calls with and without clocks inside, in turns with the peaks.

    With more than one thread a step's time is that of the caller's share.
    """
    peaks, plain, spans = Peaks(), [], []
    first = session.timed(feeds)
    session.run(feeds)
    unit = 1 / cycles_per_second()
    for _ in range(iterations):
        peaks.round()
        began = time.perf_counter_ns()
        session.run(feeds)
        middle = time.perf_counter_ns()
        timed = session.timed(feeds)
        plain.append(middle - began)
        spans.append((middle, time.perf_counter_ns(), tuple(float(n) * unit for n in timed.cycles)))
    shortest = np.min([seconds for _, _, seconds in spans], axis=0)
    assert session.plan is not None
    work = work_of(first)
    late, each = session.plan.late, zip(session.plan.steps, shortest, first.calls, strict=True)
    steps = [
        _step(step, work if n < late else late_work(work), float(seconds), int(calls), peaks)
        for n, (step, seconds, calls) in enumerate(each)
    ]
    return Profile(
        tuple(steps), work, min(plain) / 1e9, session.threads, dict(peaks.rates), tuple(spans)
    )


def _step(step: Step, work: Work, seconds: float, calls: int, peaks: Peaks) -> StepProfile:
    macs = done_macs(step, work)
    peak = KERNELS[step.kernel].multiplies if macs else BYTES_PEAK
    return StepProfile(
        step.name,
        step.kernel_name,
        calls,
        seconds,
        macs,
        touched_bytes(step, work),
        peak,
        peaks.rates.get(peak, 0.0),
    )


def by_kernel(steps: Sequence[StepProfile]) -> list[StepProfile]:
    """One row per kernel, the longest first."""
    rows: dict[str, StepProfile] = {}
    for step in steps:
        row = rows.get(step.kernel)
        rows[step.kernel] = replace(step, name="") if row is None else _both(row, step)
    return sorted(rows.values(), key=lambda row: -row.seconds)


def _both(row: StepProfile, step: StepProfile) -> StepProfile:
    return replace(
        row,
        calls=row.calls + step.calls,
        seconds=row.seconds + step.seconds,
        macs=row.macs + step.macs,
        bytes=row.bytes + step.bytes,
    )


# --- for chrome://tracing, Perfetto, speedscope
def chrome_trace(found: Profile) -> list[dict[str, Any]]:
    """Complete events: a call, and inside it its steps end to end, each with all packs' time."""
    origin = found.spans[0][0]
    events = []
    for number, (began, ended, seconds) in enumerate(found.spans):
        at = (began - origin) / 1e3
        events.append(
            _event(
                f"call {number}",
                at,
                (ended - began) / 1e3,
                packs=found.work.packs,
                tokens=found.work.tokens,
            )
        )
        for step, took in zip(found.steps, seconds, strict=True):
            events.append(
                _event(
                    step.name, at, took * 1e6, kernel=step.kernel, macs=step.macs, bytes=step.bytes
                )
            )
            at += took * 1e6
    return events


def _event(name: str, at: float, microseconds: float, **facts: Any) -> dict[str, Any]:
    return {
        "name": name,
        "ph": "X",
        "ts": round(at, 3),
        "dur": round(microseconds, 3),
        "pid": 1,
        "tid": 1,
        "args": facts,
    }
