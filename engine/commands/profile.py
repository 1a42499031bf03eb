"""`engine profile`: where the time of a call goes, step by step, against what this core can do."""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import engine

from ..codegen import isa
from ..files.replacing import whole
from ..measure.instance_worker import make_feeds
from ..measure.instances import Load
from ..measure.peaks import BYTES_PEAK
from ..measure.profile import Profile, StepProfile, by_kernel, chrome_trace, profile
from .text_table import as_text

__all__ = ["HEAD", "add_arguments", "cells", "main", "summary"]

HEAD = ("name", "kernel", "calls", "us", "%", "GMAC/s", "GB/s", "peak", "share")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, help="ONNX file or IR folder")
    for name, default, text in (
        ("batch_size", 1, "sentences a call"),
        ("seq_len", 128, "tokens a sentence"),
        ("threads", 1, "cores; a step's time is then that of the caller's share"),
        ("iterations", 50, "calls, of which the shortest counts"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{text} ({default})")
    parser.add_argument("--dataset", default="", help=".npz of token ids, padding masked")
    parser.add_argument("--by_kernel", action="store_true", help="a line per kernel, not per step")
    parser.add_argument("--json", action="store_true", help="as one JSON object")
    parser.add_argument("--trace", type=Path, help="write a Chrome trace (Perfetto reads it)")


def main(arguments: argparse.Namespace) -> int:
    load = Load(
        str(arguments.model),
        batch_size=arguments.batch_size,
        seq_len=arguments.seq_len,
        dataset=arguments.dataset,
        mask="real" if arguments.dataset else "full",
    )
    session = engine.load(arguments.model, threads=arguments.threads)
    found = profile(session, make_feeds(load, session.graph, count=1)[0], arguments.iterations)
    if arguments.trace:
        with whole(arguments.trace) as fresh:
            fresh.write_text(json.dumps(chrome_trace(found)), encoding="utf-8")
    steps = by_kernel(found.steps) if arguments.by_kernel else list(found.steps)
    if arguments.json:
        sys.stdout.write(json.dumps(as_record(found, steps)) + "\n")
    else:
        sys.stdout.write(as_text(HEAD, cells(steps)) + summary(found))
    return 0


def cells(steps: list[StepProfile]) -> list[tuple[str, ...]]:
    """The lines of HEAD."""
    whole = sum(step.seconds for step in steps) or 1.0
    return [
        (
            step.name,
            step.kernel,
            str(step.calls),
            f"{step.seconds * 1e6:.1f}",
            f"{step.seconds / whole:.1%}"[:-1],
            f"{step.macs / step.seconds / 1e9:.0f}" if step.macs and step.seconds else "",
            f"{step.bytes / step.seconds / 1e9:.1f}" if step.seconds else "",
            step.peak,
            "" if math.isnan(step.share) else f"{step.share:.0%}",
        )
        for step in steps
    ]


def summary(found: Profile) -> str:
    work, inside = found.work, sum(step.seconds for step in found.steps)
    rates = ", ".join(
        f"{name} {rate / 1e9:.0f} {'GB/s' if name == BYTES_PEAK else 'GMAC/s'}"
        for name, rate in found.peaks.items()
    )
    return (
        f"\ncall {found.seconds * 1e6:.1f} us, {inside * 1e6:.1f} us of it in steps;"
        f" {work.sentences} sentences, {work.tokens} tokens, {work.packs} packs\n"
        f"{found.macs / 1e6:.1f} M multiply-adds needed: {found.macs / found.seconds / 1e9:.1f}"
        f" GMAC/s; at their peaks {found.roofline_seconds * 1e6:.1f} us,"
        f" {found.roofline_share:.1%} of the call\n"
        f"peaks of a core: {rates}; {isa.chosen().name}, {isa.cpu_model()}\n"
    )


def as_record(found: Profile, steps: list[StepProfile]) -> dict[str, Any]:
    return {
        "steps": [{**asdict(step), "share": _finite(step.share)} for step in steps],
        "work": asdict(found.work),
        "seconds": found.seconds,
        "threads": found.threads,
        "macs": found.macs,
        "macs_per_s": found.macs / found.seconds,
        "roofline_seconds": found.roofline_seconds,
        "roofline_share": found.roofline_share,
        "peaks": dict(found.peaks),
        "isa": isa.chosen().name,
        "cpu_model": isa.cpu_model(),
    }


def _finite(value: float) -> float | None:
    return None if math.isnan(value) else value
