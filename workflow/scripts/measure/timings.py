"""Measurements as files: a table with a row per instance and one for all, and every single call."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from engine.measure.instances import Measurement
from workflow.rulebook.tables import write_table
from workflow.rulebook.writing import whole

COLUMNS = [
    "task",
    "model",
    "revision",
    "dataset",
    "precision",
    "engine",
    "version",
    "commit",
    "mode",
    "batch_size",
    "seq_len",
    "instances",
    "cores_per_instance",
    "instance",
    "cpus",
    "iterations",
    "warmup",
    "mean_ms",
    "p50_ms",
    "p90_ms",
    "p99_ms",
    "min_ms",
    "sentences_per_s",
    "allocator",
    "isa",
    "cpu_model",
    "kernels",
    "sockets",
    "cores",
    "threads",
    "quota",
]
PERCENTILES = {"throughput": (50, 90, 99), "latency": (50, 90, 99, 99.9)}


@dataclass(frozen=True)
class Subject:
    """What every row of a table says alike."""

    task: str
    model: str
    revision: str
    dataset: str
    precision: str
    mode: str
    commit: str


def columns(mode: str) -> list[str]:
    """The table's header; latency has one column more, after p99_ms."""
    extra = ["p99.9_ms"] if mode == "latency" else []
    at = COLUMNS.index("p99_ms") + 1
    return [*COLUMNS[:at], *extra, *COLUMNS[at:]]


def rows(subject: Subject, measured: Measurement) -> Iterator[dict[str, Any]]:
    """A row per instance, then the row of all."""
    load, samples = measured.load, measured.samples
    worker = measured.worker
    shared = {
        **asdict(subject),
        **{name: worker[name] for name in ("version", "allocator", "isa", "cpu_model", "kernels")},
        "engine": "engine",
        "batch_size": load.batch_size,
        "seq_len": load.seq_len,
        "instances": len(samples),
        "cores_per_instance": measured.split.used(samples[0].cpus).cores,
        "warmup": load.warmup,
    }
    for number, sample in enumerate(samples):
        times = _times(subject.mode, sample.milliseconds)
        rate = sample.sentences_per_second(load.batch_size)
        yield {
            **shared,
            "instance": number,
            **_where(measured, sample.cpus),
            **times,
            **_rate(rate),
        }
    everyone = sorted(cpu for sample in samples for cpu in sample.cpus)
    times = _times(subject.mode, measured.milliseconds)
    yield {
        **shared,
        "instance": "all",
        **_where(measured, everyone),
        **times,
        **_rate(measured.sentences_per_second),
    }


def _where(measured: Measurement, cpus: Sequence[int]) -> dict[str, Any]:
    """The CPUs, and what they are; no quota is an empty cell."""
    return {"cpus": " ".join(map(str, cpus)), **asdict(measured.split.used(cpus))}


def _rate(value: float) -> dict[str, str]:
    return {"sentences_per_s": f"{value:.2f}"}


def _times(mode: str, milliseconds: np.ndarray) -> dict[str, Any]:
    quantiles = PERCENTILES[mode]
    values = np.percentile(milliseconds, quantiles)
    return {
        "iterations": len(milliseconds),
        "mean_ms": f"{milliseconds.mean():.4f}",
        **{f"p{q}_ms": f"{v:.4f}" for q, v in zip(quantiles, values, strict=True)},
        "min_ms": f"{milliseconds.min():.4f}",
    }


# --- files ---


def write_times(path: Path, mode: str, table: list[dict[str, Any]]) -> None:
    write_table(path, pd.DataFrame(table, columns=columns(mode)))


def write_raw(path: Path, measurements: list[Measurement]) -> None:
    """Every counted call: when it began after the common start, and how long it took."""
    calls = [
        pd.DataFrame(
            {
                "batch_size": measured.load.batch_size,
                "seq_len": measured.load.seq_len,
                "instance": number,
                "iteration": range(len(sample.starts)),
                "start_ns": sample.starts,
                "ns": sample.ends - sample.starts,
            }
        )
        for measured in measurements
        for number, sample in enumerate(measured.samples)
    ]
    with whole(path) as partial:
        pd.concat(calls).to_csv(partial, index=False, compression="gzip")
