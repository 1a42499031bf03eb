"""`engine kernels`: products alone, each against the peak of its type measured in turns with it."""

from __future__ import annotations

import argparse
import csv
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..codegen import isa
from ..files.replacing import whole
from ..measure.kernel_bench import PRECISIONS, SHAPES, Timing, best, cases, measure
from .text_table import as_markdown, as_text

__all__ = ["HEAD", "add_arguments", "cells", "main", "record"]

HEAD = ("outputs", "inputs", "tokens", "zeros", "kernel", "us", "GMAC/s", "peak", "share")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    shapes = ",".join(f"{outputs}x{inputs}" for outputs, inputs in SHAPES)
    parser.add_argument("--shapes", default=shapes, help=f"outputs x inputs ({shapes})")
    parser.add_argument("--tokens", default="128,384", help="tokens of a call (128,384)")
    parser.add_argument("--zeros", default="0.7,0.8,0.9", help="share of zeros (0.7,0.8,0.9)")
    every = ",".join(PRECISIONS)
    parser.add_argument("--precisions", default=every, help=f"any of {every}")
    parser.add_argument("--rounds", type=int, default=12, help="of which the shortest counts (12)")
    parser.add_argument(
        "--passes",
        type=int,
        default=1,
        help="times over the whole table: other guests of a machine disturb for seconds (1)",
    )
    parser.add_argument("--markdown", action="store_true", help="the table as Markdown")
    parser.add_argument("--csv", type=Path, help="write the table to this file")


def cells(timings: list[Timing]) -> list[tuple[str, ...]]:
    """The lines of HEAD."""
    return [
        (
            str(timing.case.outputs),
            str(timing.case.inputs),
            str(timing.case.tokens),
            f"{timing.case.zeros:.0%}",
            timing.kernel,
            f"{timing.seconds * 1e6:.1f}",
            f"{timing.macs / timing.seconds / 1e9:.0f}",
            f"{timing.peak / 1e9:.0f}",
            f"{timing.share:.0%}",
        )
        for timing in timings
    ]


def record(timing: Timing) -> dict[str, Any]:
    """A row of the CSV."""
    return {
        **asdict(timing.case),
        "kernel": timing.kernel,
        "us": f"{timing.seconds * 1e6:.2f}",
        "gmac_per_s": f"{timing.macs / timing.seconds / 1e9:.1f}",
        "peak_gmac_per_s": f"{timing.peak / 1e9:.1f}",
        "share": f"{timing.share:.4f}",
    }


def main(arguments: argparse.Namespace) -> int:
    shapes = [tuple(map(int, shape.split("x"))) for shape in arguments.shapes.split(",")]
    groups = list(
        cases(
            [(outputs, inputs) for outputs, inputs in shapes],
            map(int, arguments.tokens.split(",")),
            map(float, arguments.zeros.split(",")),
            arguments.precisions.split(","),
        )
    )
    passes = [
        [timing for group in groups for timing in measure(group, arguments.rounds)]
        for _ in range(max(1, arguments.passes))
    ]
    timings = [best(found) for found in zip(*passes, strict=True)]
    if arguments.csv:
        with whole(arguments.csv) as fresh, fresh.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(record(timings[0])), lineterminator="\n")
            writer.writeheader()
            writer.writerows(map(record, timings))
    table = as_markdown if arguments.markdown else as_text
    sys.stdout.write(f"{isa.cpu_model()}, {isa.chosen()}\n\n" + table(HEAD, cells(timings)))
    return 0
