"""One instance of a measurement: a process that runs its load from the start until told to stop.

Started by instances.py; JSON lines on stdin (load, start, stop) and stdout (ready, progress,
finished, times, failed).
"""

from __future__ import annotations

import importlib
import json
import os
import select
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import __version__
from ..codegen import isa
from ..errors import EngineError
from ..graph import Graph
from .accuracy import read_arrays
from .allocator import loaded_allocator
from .feeds import BERT, INPUTS, Feed, made_up, of_sentences
from .instances import Load

__all__ = ["make_feeds"]

PROGRESS_NS = 1_000_000_000


# --- what is fed ---


def make_feeds(load: Load, graph: Graph = BERT, *, count: int = 16) -> list[Feed]:
    """Batches of the load's shape for a model, real sentences if it names a dataset, else random
    token ids.

    Mask "real": one sentence a row, padded. "full": sentences run together, every token counts.
    """
    if not load.dataset:
        seeds = range(load.seed, load.seed + count)
        return [made_up(graph, load.batch_size, load.seq_len, seed=each) for each in seeds]
    shape = (count * load.batch_size, load.seq_len)
    ids, mask = _real_tokens(load, shape)
    rows = [slice(i * load.batch_size, (i + 1) * load.batch_size) for i in range(count)]
    return [
        of_sentences(graph.inputs, {"input_ids": ids[row], "attention_mask": mask[row]})
        for row in rows
    ]


def _real_tokens(load: Load, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """In an order drawn at random: files are often sorted, by class or by length."""
    arrays = read_arrays(load.dataset)
    mask = arrays["attention_mask"]
    tokens_first = np.argsort(mask == 0, axis=1, kind="stable")
    drawn = np.random.default_rng(load.seed).permutation(len(mask))
    ids, mask = (np.take_along_axis(arrays[name], tokens_first, 1)[drawn] for name in INPUTS[:2])
    if load.mask == "full":
        tokens = np.resize(ids[mask == 1], shape).astype(np.int64)
        return tokens, np.ones_like(tokens)
    ids, mask = (
        np.pad(a, ((0, 0), (0, max(0, shape[1] - a.shape[1]))))[:, : shape[1]] for a in (ids, mask)
    )
    order = np.resize(np.arange(len(ids)), shape[0])
    return ids[order].astype(np.int64), mask[order].astype(np.int64)


# --- what it does ---


def _work() -> None:
    """One instance: read the load, get ready, run from the given start until told to stop."""
    load = Load(**json.loads(sys.stdin.readline()))
    try:
        _serve(load)
    except EngineError as error:
        _say("failed", error=str(error))
        raise SystemExit(1) from error
    except Exception as error:
        _say("failed", error=f"{type(error).__name__}: {error}")
        raise


def _serve(load: Load) -> None:
    os.sched_setaffinity(0, load.cpus)
    module, _, function = load.opener.partition(":")
    session = getattr(importlib.import_module(module), function)(load.model, threads=load.threads)
    feeds = make_feeds(load, session.graph)
    for number in range(load.warmup):
        session.run(feeds[number % len(feeds)])
    _say("ready", **_self_description(session))
    order = sys.stdin.readline()
    if not order:
        return
    _wait_until(json.loads(order)["start"])
    starts, ends = _timed_calls(session.run, feeds, load.iterations)
    _say("times", starts=starts, ends=ends)


def _timed_calls(
    run: Callable[[Feed], object], feeds: Sequence[Feed], iterations: int
) -> tuple[list[int], list[int]]:
    """Call until the driver says stop; say so when the asked number is reached."""
    clock = time.perf_counter_ns
    starts: list[int] = []
    ends: list[int] = []
    reported = clock()
    while len(ends) <= iterations or not select.select([sys.stdin], [], [], 0)[0]:
        feed = feeds[len(ends) % len(feeds)]
        starts.append(clock())
        run(feed)
        ends.append(clock())
        if len(ends) == iterations:
            _say("finished", end=ends[-1])
        elif ends[-1] - reported > PROGRESS_NS and len(ends) < iterations:
            reported = ends[-1]
            mean = sum(ends[i] - starts[i] for i in range(len(ends))) / len(ends) / 1e6
            _say("progress", done=len(ends), mean_ms=mean)
    return starts, ends


def _self_description(session: Any) -> dict[str, str]:
    kernels = Counter(row["kernel"] for row in session.describe() if row.get("kernel"))
    summary = " ".join(f"{name}:{count}" for name, count in sorted(kernels.items()))
    machine = isa.describe()
    return {
        "allocator": loaded_allocator(),
        "kernels": summary,
        "isa": machine["isa"],
        "cpu_model": machine["cpu_model"],
        "version": getattr(session, "version", __version__),
    }


def _wait_until(instant: int) -> None:
    while (left := instant - time.perf_counter_ns()) > 0:
        time.sleep(left / 2e9 if left > 2_000_000 else 0)


def _say(event: str, **values: object) -> None:
    sys.stdout.write(json.dumps({"event": event, **values}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    _work()
