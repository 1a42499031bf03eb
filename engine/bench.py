"""Measured runs: instances side by side, each a process pinned to its own CPUs.

    driver   spawn all ─► all ready, warmed up ─► one start ─► all have their iterations ─► stop
    worker   times every call by perf_counter_ns, one clock for all processes of a machine

The window lasts from the common start until the slowest instance has made its iterations; the
others go on meanwhile, so every counted call met the full load. Protocol: JSON lines over the
worker's stdin and stdout. A lock on the machine keeps two measurements from running at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import queue
import select
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from .allocator import find_jemalloc, loaded_allocator
from .errors import EngineError, InputError, SettingError

__all__ = ["Load", "Measurement", "Sample", "Split", "make_feeds", "measure", "split_cores"]

Feed = dict[str, np.ndarray]  # input name -> int64 (batch, length)
Report = Callable[[str], None]

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
START_DELAY_NS = (
    100_000_000  # from the word to the common start: enough for every worker to read it
)
PROGRESS_NS = 1_000_000_000
LOCK = Path(tempfile.gettempdir()) / "engine-timing.lock"


@dataclass(frozen=True)
class Load:
    """What one instance does; `model`: ONNX file or IR folder, `dataset`: an .npz of token ids."""

    model: str
    batch_size: int = 1
    seq_len: int = 128
    iterations: int = 100
    warmup: int = 10
    threads: int = 1
    cpus: tuple[int, ...] = ()
    dataset: str = ""
    mask: Literal["full", "real"] = "full"


@dataclass(frozen=True)
class Split:
    """Which CPUs each instance has; `note` says in words where this differs from what was asked."""

    instances: tuple[tuple[int, ...], ...]
    note: str = ""

    @property
    def cores_per_instance(self) -> int:
        return len(self.instances[0])


@dataclass(frozen=True)
class Sample:
    """The counted calls of one instance: nanoseconds from the window's opening."""

    cpus: tuple[int, ...]
    starts: np.ndarray  # int64 (calls,)
    ends: np.ndarray  # int64 (calls,)

    @property
    def milliseconds(self) -> np.ndarray:
        return (self.ends - self.starts) / 1e6

    def sentences_per_second(self, batch_size: int) -> float:
        return float(batch_size * len(self.ends) / (self.ends[-1] / 1e9))


@dataclass(frozen=True)
class Measurement:
    """One load on all instances, and what the workers say of themselves."""

    load: Load
    samples: tuple[Sample, ...]
    worker: Mapping[str, str] = field(
        default_factory=dict
    )  # allocator, kernels, isa, cpu_model, version
    seconds: float = 0.0  # the window

    @property
    def milliseconds(self) -> np.ndarray:
        return np.concatenate([sample.milliseconds for sample in self.samples])

    @property
    def sentences_per_second(self) -> float:
        return sum(sample.sentences_per_second(self.load.batch_size) for sample in self.samples)


# --- who runs where ---


def split_cores(cores_per_instance: int, *, instances: int = 0, cpus: Sequence[int] = ()) -> Split:
    """Share out the CPUs this process may use; 0 instances means as many as fit."""
    allowed = sorted(os.sched_getaffinity(0))
    absent = sorted(set(cpus) - set(allowed))
    if absent:
        raise SettingError(f"cpus {_ranges(absent)}: this process may use {_ranges(allowed)} only")
    if cores_per_instance < 1 or instances < 0:
        raise SettingError(
            f"{cores_per_instance} cores per instance, {instances} instances: too few"
        )
    free = sorted(cpus) if cpus else allowed
    size = min(cores_per_instance, len(free))
    fitting = len(free) // size
    if instances > fitting:
        raise SettingError(f"{instances} instances of {size} cores: only {len(free)} CPUs are here")
    count = instances or fitting
    groups = tuple(tuple(free[i * size : (i + 1) * size]) for i in range(count))
    notes = []
    if size < cores_per_instance:
        notes.append(f"{cores_per_instance} cores per instance were asked for, {size} are here")
    if count * size < len(free):
        notes.append(f"CPUs {_ranges(free[count * size :])} stay idle")
    return Split(groups, "; ".join(notes))


def _ranges(cpus: Sequence[int]) -> str:
    """(0, 1, 2, 5) -> '0-2,5'"""
    runs: list[list[int]] = []
    for cpu in sorted(cpus):
        if runs and cpu == runs[-1][1] + 1:
            runs[-1][1] = cpu
        else:
            runs.append([cpu, cpu])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


@contextlib.contextmanager
def _machine_to_itself(report: Report) -> Iterator[None]:
    """Hold the lock that every measurement on this machine takes; the kernel frees it at exit."""
    if not LOCK.exists():
        LOCK.touch(0o644)
    with LOCK.open() as file:  # reading is enough for a lock, and another user may own the file
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report(f"waiting for another measurement on this machine ({LOCK})")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


# --- what is fed ---


def make_feeds(load: Load, *, count: int = 16, seed: int = 0) -> list[Feed]:
    """Batches of the load's shape, real sentences if it names a dataset, else random token ids.

    Mask "real": one sentence a row, padded. "full": sentences run together, every token counts.
    """
    shape = (count * load.batch_size, load.seq_len)
    if load.dataset:
        ids, mask = _real_tokens(load, shape)
    else:
        ids = np.random.default_rng(seed).integers(0, 128, shape, dtype=np.int64)
        mask = np.ones(shape, np.int64)
    rows = [slice(i * load.batch_size, (i + 1) * load.batch_size) for i in range(count)]
    types = np.zeros((load.batch_size, load.seq_len), np.int64)
    return [dict(zip(INPUTS, (ids[row], mask[row], types), strict=True)) for row in rows]


def _real_tokens(load: Load, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    try:
        with np.load(load.dataset) as file:
            ids, mask = file["input_ids"], file["attention_mask"]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{load.dataset}: expected an .npz with {INPUTS[0]}, {INPUTS[1]} ({error})"
        ) from error
    if load.mask == "full":
        tokens = np.resize(ids[mask == 1], shape).astype(np.int64)
        return tokens, np.ones_like(tokens)
    ids, mask = (
        np.pad(a, ((0, 0), (0, max(0, shape[1] - a.shape[1]))))[:, : shape[1]] for a in (ids, mask)
    )
    order = np.resize(np.arange(len(ids)), shape[0])
    return ids[order].astype(np.int64), mask[order].astype(np.int64)


# --- the driver ---


def measure(
    load: Load,
    split: Split,
    *,
    jemalloc: bool = True,
    jemalloc_places: Sequence[str | Path] = (),
    report: Report = lambda line: None,
) -> Measurement:
    """Run the load on every instance of the split at the same time; one that fails fails all."""
    library = find_jemalloc(jemalloc_places) if jemalloc else None
    if jemalloc and library is None:
        report("jemalloc was asked for and not found: the system's allocator is measured")
    if split.note:
        report(split.note)
    with _machine_to_itself(report), _Workers(load, split, library) as workers:
        ready = workers.wait_for("ready")
        start = time.perf_counter_ns() + START_DELAY_NS
        workers.tell({"start": start})
        finished = workers.wait_for("finished", report)
        workers.tell({"stop": True})
        times = workers.wait_for("times")
    end = max(message["end"] for message in finished)
    samples = tuple(
        _counted(cpus, message, start, end)
        for cpus, message in zip(split.instances, times, strict=True)
    )
    threads = split.cores_per_instance
    worker = {name: str(value) for name, value in ready[0].items() if name != "event"}
    return Measurement(replace(load, threads=threads), samples, worker, (end - start) / 1e9)


def _counted(cpus: tuple[int, ...], message: dict[str, Any], start: int, end: int) -> Sample:
    starts, ends = (np.array(message[name], np.int64) for name in ("starts", "ends"))
    inside = ends <= end
    return Sample(cpus, starts[inside] - start, ends[inside] - start)


class _Workers:
    """The processes of one measurement; leaving the block ends them, whatever happened."""

    def __init__(self, load: Load, split: Split, library: Path | None) -> None:
        self.messages: queue.Queue[tuple[int, dict[str, Any]]] = queue.Queue()
        self.names = [f"instance {i} (CPUs {_ranges(c)})" for i, c in enumerate(split.instances)]
        self.iterations = load.iterations
        self.processes = []
        for number, cpus in enumerate(split.instances):
            process = _spawn(len(cpus), library)
            self.processes.append(process)
            threading.Thread(target=self._read, args=(number, process.stdout), daemon=True).start()
            _send(process, asdict(replace(load, threads=len(cpus), cpus=cpus)))

    def __enter__(self) -> _Workers:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def _read(self, number: int, lines: IO[str]) -> None:
        for line in lines:
            self.messages.put((number, json.loads(line)))
        self.messages.put((number, {"event": "gone"}))

    def tell(self, message: dict[str, Any]) -> None:
        for process in self.processes:
            _send(process, message)

    def wait_for(self, event: str, report: Report = lambda line: None) -> list[dict[str, Any]]:
        """The message of this kind from every worker; raises as soon as one has failed."""
        found: dict[int, dict[str, Any]] = {}
        while len(found) < len(self.processes):
            number, message = self.messages.get()
            if message["event"] == event:
                found[number] = message
            elif message["event"] == "progress":
                done, mean = message["done"], message["mean_ms"]
                report(f"{self.names[number]}: {done} of {self.iterations}, mean {mean:.3f} ms")
            elif message["event"] == "failed":
                raise EngineError(f"{self.names[number]}: {message['error']}")
            elif message["event"] == "gone" and number not in found:
                status = self.processes[number].wait()
                raise EngineError(f"{self.names[number]}: ended with status {status}, no result")
        return [found[number] for number in range(len(self.processes))]


def _spawn(threads: int, library: Path | None) -> subprocess.Popen[str]:
    """`env` sets what is set for the worker alone: the preload must not reach this process."""
    variables = [f"{name}_NUM_THREADS={threads}" for name in ("OMP", "NUMBA", "MKL", "OPENBLAS")]
    preload = [f"LD_PRELOAD={library}"] if library else []
    return subprocess.Popen(
        ["env", *variables, *preload, sys.executable, "-m", f"{__package__}.bench"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )


def _send(process: subprocess.Popen[str], message: dict[str, Any]) -> None:
    assert process.stdin is not None, "the worker was started with a pipe"
    with contextlib.suppress(BrokenPipeError):  # its end is reported by the reading side
        process.stdin.write(json.dumps(message) + "\n")
        process.stdin.flush()


# --- the worker ---


def _work() -> None:
    """One instance: read the load, get ready, run from the given start until told to stop."""
    load = Load(**json.loads(sys.stdin.readline()))
    try:
        _serve(load)
    except (EngineError, OSError, MemoryError) as error:
        _say("failed", error=f"{type(error).__name__}: {error}")
        raise SystemExit(1) from error


def _serve(load: Load) -> None:
    os.sched_setaffinity(0, load.cpus)
    import engine  # here, so that threads and caches are made on the CPUs they will use

    session = engine.load(load.model, threads=load.threads)
    feeds = make_feeds(load)
    for number in range(load.warmup):
        session.run(feeds[number % len(feeds)])
    _say("ready", **_self_description(engine, session))
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


def _self_description(engine: Any, session: Any) -> dict[str, str]:
    kernels = Counter(row["kernel"] for row in session.describe() if row.get("kernel"))
    summary = " ".join(f"{name}:{count}" for name, count in sorted(kernels.items()))
    machine = engine.isa.describe()
    return {
        "allocator": loaded_allocator(),
        "kernels": summary,
        "isa": machine["isa"],
        "cpu_model": machine["cpu_model"],
        "version": engine.__version__,
    }


def _wait_until(instant: int) -> None:
    while (left := instant - time.perf_counter_ns()) > 0:
        time.sleep(left / 2e9 if left > 2_000_000 else 0)


def _say(event: str, **values: object) -> None:
    sys.stdout.write(json.dumps({"event": event, **values}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    _work()
