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
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from ..errors import EngineError, SettingError
from ..machine.topology import ranges
from .allocator import find_jemalloc
from .placement import Split, split_cores

__all__ = ["Load", "Measurement", "Sample", "Split", "measure", "split_cores"]

Report = Callable[[str], None]

START_DELAY_NS = (
    100_000_000  # from the word to the common start: enough for every worker to read it
)
NO_JEMALLOC = (
    "jemalloc was asked for and not found: the system's allocator is measured. `apt install"
    " libjemalloc2` or `conda install jemalloc` brings it, allocator.path names one elsewhere"
)
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
    seed: int = 0  # of the order in which sentences are taken, or of random ids
    opener: str = "engine:load"  # module:function, (model, threads=) -> session


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
    split: Split = Split()

    @property
    def milliseconds(self) -> np.ndarray:
        return np.concatenate([sample.milliseconds for sample in self.samples])

    @property
    def sentences_per_second(self) -> float:
        return sum(sample.sentences_per_second(self.load.batch_size) for sample in self.samples)


# --- one measurement at a time ---


@contextlib.contextmanager
def _machine_to_itself(report: Report) -> Iterator[None]:
    """Hold the lock that every measurement on this machine takes; the kernel frees it at exit."""
    while True:
        with os.fdopen(_opened_lock()) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                report(f"waiting for another measurement on this machine ({LOCK})")
                fcntl.flock(file, fcntl.LOCK_EX)
            if _is_still_there(file):
                yield
                return


def _opened_lock() -> int:
    """Reading is enough for a lock, and another user may own the file; what else may lie there,
    in a folder that everybody writes to, is neither followed nor waited for.
    """
    how = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        with contextlib.suppress(FileExistsError):
            made = os.open(LOCK, how | os.O_CREAT | os.O_EXCL)
            os.fchmod(made, 0o644)
            return made
        handle = os.open(LOCK, how)
    except OSError as error:
        raise _not_a_lock(error.strerror or str(error)) from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise _not_a_lock("not a regular file")
    return handle


def _not_a_lock(found: str) -> SettingError:
    return SettingError(
        f"{LOCK}: {found}; expected the file that measurements on this machine lock: remove what"
        " is there, or set TMPDIR to another folder"
    )


def _is_still_there(file: IO[str]) -> bool:
    """A lock on a file that was removed while we waited keeps nobody away."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), LOCK.lstat())
    except FileNotFoundError:
        return False


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
        report(NO_JEMALLOC)
    for line in filter(None, (*split.limits, split.note)):
        report(line)
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
    worker = {name: str(value) for name, value in ready[0].items() if name != "event"}
    load = replace(load, threads=split.threads)
    return Measurement(load, samples, worker, (end - start) / 1e9, split)


def _counted(cpus: tuple[int, ...], message: dict[str, Any], start: int, end: int) -> Sample:
    starts, ends = (np.array(message[name], np.int64) for name in ("starts", "ends"))
    inside = ends <= end
    return Sample(cpus, starts[inside] - start, ends[inside] - start)


class _Workers:
    """The processes of one measurement; leaving the block ends them, whatever happened."""

    def __init__(self, load: Load, split: Split, library: Path | None) -> None:
        self.messages: queue.Queue[tuple[int, dict[str, Any]]] = queue.Queue()
        self.names = [f"instance {i} (CPUs {ranges(c)})" for i, c in enumerate(split.instances)]
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
            if line.startswith("{"):
                self.messages.put((number, json.loads(line)))
            else:
                sys.stderr.write(line)
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
        ["env", *variables, *preload, sys.executable, "-m", f"{__package__}.instance_worker"],
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
