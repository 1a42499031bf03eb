"""Throughput or latency of the engine as a table: a row per instance, and one for all of them.

throughput   as many instances as fit, all at once; sentences per second add up
latency      one instance; a time is that of the whole request, not divided by the batch
"""

import argparse
import csv
import gzip
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from engine.bench import Load, Measurement, Split, measure, split_cores
from engine.errors import EngineError
from workflow.scripts.provenance import run_record
from workflow.scripts.writing import read_json, run_main, whole, write_json

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
        "cores_per_instance": load.threads,
        "warmup": load.warmup,
    }
    for number, sample in enumerate(samples):
        times = _times(subject.mode, sample.milliseconds)
        rate = sample.sentences_per_second(load.batch_size)
        yield {**shared, "instance": number, **_where(sample.cpus), **times, **_rate(rate)}
    everyone = sorted(cpu for sample in samples for cpu in sample.cpus)
    times = _times(subject.mode, measured.milliseconds)
    yield {
        **shared,
        "instance": "all",
        **_where(everyone),
        **times,
        **_rate(measured.sentences_per_second),
    }


def _where(cpus: Iterable[int]) -> dict[str, str]:
    return {"cpus": " ".join(map(str, cpus))}


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


def write_table(path: Path, mode: str, table: list[dict[str, Any]]) -> None:
    with whole(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns(mode), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)


def write_raw(path: Path, measurements: list[Measurement]) -> None:
    """Every counted call: when it began after the common start, and how long it took."""
    with whole(path) as partial, gzip.open(partial, "wb") as packed:
        file = io.TextIOWrapper(packed, encoding="utf-8", newline="")
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["batch_size", "seq_len", "instance", "iteration", "start_ns", "ns"])
        for measured in measurements:
            shape = (measured.load.batch_size, measured.load.seq_len)
            for number, sample in enumerate(measured.samples):
                calls = zip(sample.starts, sample.ends - sample.starts, strict=True)
                writer.writerows((*shape, number, i, *call) for i, call in enumerate(calls))
        file.flush()


# --- the measurement ---


def split_for(mode: str, options: dict[str, Any]) -> Split:
    instances = 1 if mode == "latency" else options["instances"]
    return split_cores(options["cores_per_instance"], instances=instances)


def measure_all(
    ir: Path, sentences: Path, mode: str, options: dict[str, Any], allocator: dict[str, str]
) -> list[Measurement]:
    """One measurement for each batch size and length."""
    split = split_for(mode, options)
    found = []
    for batch_size, seq_len in product(options["batch_sizes"], options["seq_lens"]):
        load = Load(
            str(ir),
            batch_size=batch_size,
            seq_len=seq_len,
            iterations=options["iterations"],
            warmup=options["warmup"],
            dataset=str(sentences),
            mask=options["mask"],
        )
        say(
            f"batch {batch_size}, length {seq_len}:"
            f" {len(split.instances)} x {split.cores_per_instance} cores"
        )
        found.append(
            measure(
                load,
                split,
                jemalloc=allocator["prefer"] == "jemalloc",
                jemalloc_places=[allocator["path"]] if allocator["path"] else [],
                report=say,
            )
        )
        say(f"  {found[-1].sentences_per_second:.1f} sentences/s")
    return found


def say(line: str) -> None:
    print(line, flush=True)


def main(arguments: argparse.Namespace) -> None:
    options, allocator = json.loads(arguments.options), json.loads(arguments.allocator)
    model, dataset = read_json(arguments.model / "source.json"), read_json(arguments.dataset)
    found = measure_all(arguments.ir, arguments.sentences, arguments.mode, options, allocator)
    run = run_record([arguments.ir / "conf.yaml", arguments.ir / "model.bin", arguments.sentences])
    subject = Subject(
        arguments.task,
        f"{model['source']}:{model['name']}",
        model["revision"],
        f"{dataset['source']}:{dataset['name']} {options['mask']}",
        arguments.precision,
        arguments.mode,
        run["commit"],
    )
    table = [row for measured in found for row in rows(subject, measured)]
    write_raw(arguments.raw, found)
    note = split_for(arguments.mode, options).note
    about = {"model": model, "dataset": dataset, "options": options, "split": note}
    write_json(arguments.run, {**about, **run})
    write_table(arguments.table, arguments.mode, table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("ir", "model", "sentences", "dataset", "table", "raw", "run"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ("task", "precision", "mode", "options", "allocator"):
        parser.add_argument(f"--{name}", required=True)
    run_main(main, parser, EngineError)
