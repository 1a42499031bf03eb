"""A case measured: how much of it runs in kernels, how far it is from ONNX Runtime, how fast."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnxruntime.capi import onnxruntime_pybind11_state as errors

import engine
from engine.graph import Graph
from engine.measure.feeds import made_up
from engine.plan import make_choices
from workflow.scripts.convert import onnx_runtime

__all__ = ["Row", "measure"]

Array = np.ndarray[Any, Any]
SHAPES = ((1, 1), (1, 31), (3, 37))
ROUNDS = 15
PLACES = re.compile(r"\[ONNXRuntimeError\] : \d+ : |/\S+/")  # numbers of errors, folders
UNUSABLE = (errors.Fail, errors.InvalidArgument, errors.InvalidGraph, errors.RuntimeException)


@dataclass(frozen=True)
class Row:
    """kernels: "wholly", "partly", "none", or "no file" where ONNX Runtime runs none; left: what
    NumPy runs, and the reason of the first; difference: the largest to ONNX Runtime at tokens that
    count, in the largest number of its result; ratio: ONNX Runtime's time to the engine's, above 1
    the engine is faster.
    """

    kernels: str
    left: str = ""
    difference: float = float("nan")
    ratio: float = float("nan")


def measure(path: Path, *, timed: int = 0, shapes: tuple[tuple[int, int], ...] = SHAPES) -> Row:
    """timed: tokens of the sentence that is timed, 0 is none."""
    session = engine.load(path, threads=1)
    if fixed := fixed_shape(session.graph):
        shapes, timed = (fixed,), timed and fixed[1]
    given = [padded(session.graph, *shape) for shape in shapes]
    try:
        wanted = results_of(path, given)
    except UNUSABLE as error:
        reason = PLACES.sub("", str(error))[:90]
        return Row("no file", left=f"ONNX Runtime cannot run it: {reason}")
    found = zip(given, wanted, strict=True)
    difference = max(differences(session.run(feed), results, feed) for feed, results in found)
    ratio = float("nan")
    if timed:
        feed, theirs = made_up(session.graph, 1, timed), of_onnx_runtime(path, exact=False)
        ours, other = fastest([lambda: session.run(feed), lambda: theirs(feed)])
        ratio = other / ours
    return Row(*in_kernels(session), difference, ratio)


def fixed_shape(graph: Graph) -> tuple[int, int] | None:
    """Sentences and tokens, where the model takes no others."""
    batch, tokens = graph.inputs[0].shape
    return (batch, tokens) if isinstance(batch, int) and isinstance(tokens, int) else None


def results_of(path: Path, given: Sequence[Mapping[str, Array]]) -> list[dict[str, Array]]:
    """ONNX Runtime's, with exact sums where it can run the file so."""
    try:
        return [of_onnx_runtime(path)(feed) for feed in given]
    except UNUSABLE:
        return [of_onnx_runtime(path, exact=False)(feed) for feed in given]


def padded(graph: Graph, batch: int, tokens: int) -> dict[str, Array]:
    """Sentences of which each is 9 tokens shorter than the one before it."""
    feed = dict(made_up(graph, batch, tokens, seed=tokens))
    lengths = np.maximum(tokens - 9 * np.arange(batch), 1)
    if "attention_mask" in feed:
        mask = np.arange(tokens) < lengths[:, None]
        feed["attention_mask"] = mask.astype(feed["attention_mask"].dtype)
    return feed


def in_kernels(session: engine.Session) -> tuple[str, str]:
    """How much, and what is left."""
    if session.plan is not None and session.plan.fallback is None:
        return "wholly", ""
    choices = make_choices(session.graph, session.isa)
    left = choices.fallback if session.plan is not None else session.graph.nodes
    why = choices.refusal.reason if choices.refusal else choices.reason(left[0])
    kinds = Counter(node.kind for node in left)
    shown = ", ".join(f"{kind}" for kind, _ in kinds.most_common(4))
    more = f" and {len(kinds) - 4} more" if len(kinds) > 4 else ""
    return "none" if session.plan is None else "partly", f"{shown}{more}: {why}"


def of_onnx_runtime(
    path: Path, *, exact: bool = True
) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
    """A call of it; not exact: as it comes out of the box, to be timed."""
    session = onnx_runtime.session(path, threads=1, exact=exact)
    names = [output.name for output in session.get_outputs()]
    return lambda feed: dict(zip(names, session.run(None, dict(feed)), strict=True))


def differences(
    ours: Mapping[str, Array], theirs: Mapping[str, Array], feed: Mapping[str, Array]
) -> float:
    """The largest of all results, at tokens that count."""
    mask = feed.get("attention_mask", np.ones_like(feed["input_ids"])) != 0
    worst = 0.0
    for name, wanted in theirs.items():
        got = ours[name]
        if (got.dtype, got.shape) != (wanted.dtype, wanted.shape):
            return float("inf")
        if got.ndim == 4:  # [batch, heads, sequence, sequence]
            got, wanted = (np.moveaxis(array, 1, 2) for array in (got, wanted))
        if got.ndim > 1 and got.shape[:2] == mask.shape:
            got, wanted = got[mask], wanted[mask]
        apart = np.abs(got.astype(np.float64) - wanted)
        worst = max(worst, float(apart.max() / max(float(np.abs(wanted).max()), 1e-30)))
    return worst


def fastest(calls: list[Callable[[], Any]]) -> list[float]:
    """Seconds of each, the least of rounds in which they take turns."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(ROUNDS):
        for call, seen in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            seen.append(time.perf_counter() - start)
    return [min(seen) for seen in times]
