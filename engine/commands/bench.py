"""`engine bench`: time a model in a process of its own; option names and lines of the original."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, SettingError
from ..machine.topology import listed
from ..measure.instances import Load, Measurement, measure
from ..measure.placement import ONE_SOCKET, SOCKETS, Split, split_cores

__all__ = ["add_arguments", "main"]

PERCENTILES = (50, 90, 99, 99.9)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", type=Path, help="ONNX file or IR folder")
    parser.add_argument("--config", type=Path, help="conf.yaml, in place of the model")
    parser.add_argument("--weight", type=Path, help="model.bin, in place of the model")
    for name, default, text in (
        ("batch_size", 1, "sentences a call"),
        ("seq_len", 128, "tokens a sentence"),
        ("iterations", 100, "timed calls"),
        ("w", 10, "calls before that, not timed"),
        ("threads", 1, "cores of an instance"),
        ("instances", 1, "processes side by side, each on its own cores; 0: as many as fit"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{text} ({default})")
    parser.add_argument("--cpus", default="", help="CPUs to use, as 0,1,4-7; else those allowed")
    parser.add_argument("--sockets", choices=SOCKETS, default=ONE_SOCKET, help="to use (1)")
    parser.add_argument("--smt", action="store_true", help="all threads of a core, not one")
    parser.add_argument(
        "--mask",
        choices=("full", "real"),
        default="full",
        help="without padding, or with it",
    )
    parser.add_argument("--dataset", default="", help=".npz of token ids; else random ones")
    parser.add_argument("--jemalloc", action="store_true", help="preload it, if it is found")
    parser.add_argument("--json", action="store_true", help="the result as one JSON object")


def main(arguments: argparse.Namespace) -> int:
    cpus = _cpus(arguments.cpus)
    split = split_cores(
        arguments.threads,
        instances=arguments.instances,
        cpus=cpus,
        sockets=arguments.sockets,
        smt=arguments.smt,
    )
    with _model(arguments) as model:
        load = Load(
            str(model),
            batch_size=arguments.batch_size,
            seq_len=arguments.seq_len,
            iterations=arguments.iterations,
            warmup=arguments.w,
            dataset=arguments.dataset,
            mask=arguments.mask,
        )
        measured = measure(load, split, jemalloc=arguments.jemalloc, report=_say)
    if arguments.json:
        sys.stdout.write(json.dumps(_as_record(measured, split)) + "\n")
    else:
        sys.stdout.write(_as_text(measured))
    return 0


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def _cpus(text: str) -> list[int]:
    """'0,1,4-7' -> [0, 1, 4, 5, 6, 7]"""
    try:
        return listed(text)
    except ValueError as error:
        raise SettingError(f"--cpus {text}: '{error}' is neither a number nor a range") from error


@contextmanager
def _model(arguments: argparse.Namespace) -> Iterator[Path]:
    """The model's path; a folder is made where configuration and weights are named one by one."""
    if arguments.model is not None:
        yield arguments.model
        return
    if arguments.config is None or arguments.weight is None:
        raise SettingError("bench: a model is needed, or --config and --weight")
    with tempfile.TemporaryDirectory() as name:
        for path, link in ((arguments.config, "conf.yaml"), (arguments.weight, "model.bin")):
            if not path.is_file():
                raise InputError(f"{path}: no such file")
            (Path(name) / link).symlink_to(path.absolute())
        yield Path(name)


# --- results ---


def _as_record(measured: Measurement, split: Split) -> dict[str, Any]:
    times = measured.milliseconds
    return {
        **asdict(measured.load),
        **measured.worker,
        "instances": len(measured.samples),
        "cpus": [sample.cpus for sample in measured.samples],
        "used": asdict(split.all_used),
        "limits": split.limits,
        "note": split.note,
        "counted": len(times),
        "mean_ms": float(times.mean()),
        "min_ms": float(times.min()),
        **{f"p{q}_ms": float(v) for q, v in zip(PERCENTILES, _percentiles(times), strict=True)},
        "sentences_per_s": measured.sentences_per_second,
    }


def _as_text(measured: Measurement) -> str:
    """Latency is that of the whole request; the original divided it by the batch."""
    times, worker = measured.milliseconds, measured.worker
    used = measured.split.all_used
    quota = "none" if used.quota is None else f"{used.quota:g} CPUs"
    named = zip(PERCENTILES, _percentiles(times), strict=True)
    return (
        f" Batch Size is {measured.load.batch_size}\n"
        f" Sequence Length is {measured.load.seq_len}\n"
        f" Latency is {times.mean():.4f} ms (min {times.min():.4f},"
        f" {', '.join(f'p{q} {value:.4f}' for q, value in named)})\n"
        f" Throughput is {measured.sentences_per_second:.2f} sentences/s\n"
        f" {len(measured.samples)} x {measured.load.threads} threads; sockets {used.sockets},"
        f" cores {used.cores}, threads {used.threads}, quota {quota}\n"
        f" {worker['isa']}, {worker['allocator']}, {worker['cpu_model']}\n"
    )


def _percentiles(times: np.ndarray) -> list[float]:
    return [float(value) for value in np.percentile(times, PERCENTILES)]
