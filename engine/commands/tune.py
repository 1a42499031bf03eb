"""`engine tune`: which kernel is fastest for each layer on this CPU; tokens of a pack.

The choice goes to the cache; every later plan of a layer of this kind, on this CPU, follows it.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

import numpy as np

from .. import settings
from ..codegen import isa
from ..errors import SettingError
from ..formats import models
from ..measure.instance_worker import make_feeds
from ..measure.instances import Load
from ..plan.measured import Measured, read_measured
from ..plan.tune import shortest
from ..runtime import Session
from .text_table import as_text

__all__ = ["add_arguments", "main"]

PACKS = (64, 128, 192, 256, 384, 512)  # tokens
ROUNDS, SECONDS = 5, 0.05
LEAD = 0.98  # of the usual pack's time: less is noise


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, help="ONNX file or IR folder")
    parser.add_argument("--batch_size", type=int, default=32, help="to choose packs with (32)")
    parser.add_argument("--seq_len", type=int, default=64, help="tokens of a sentence (64)")
    parser.add_argument("--again", action="store_true", help="forget what was measured before")


def main(arguments: argparse.Namespace) -> int:
    graph = models.read(arguments.model)
    measured = read_measured(isa.chosen())
    if arguments.again:
        measured.layers.clear()
        measured.packs.clear()
    if not measured.write():
        raise SettingError(f"ENGINE_CACHE={settings.current().cache!r}: nothing can be kept there")
    known = set(measured.layers)
    before = Session(graph)
    with settings.override(tune=1):
        after = Session(graph)
    measured = read_measured(isa.chosen())
    load = Load("", batch_size=arguments.batch_size, seq_len=arguments.seq_len)
    feed = make_feeds(load, graph, count=1)[0]
    if after.plan is not None:
        measured.packs[after.plan.signature] = after.pack_tokens = _best_pack(after, feed)
        measured.write()
    old, new = _both(before, after, feed)
    sys.stdout.write(_layers(measured, known))
    sys.stdout.write(
        f"\npacks of {after.pack_tokens} tokens; {arguments.batch_size} x {arguments.seq_len}:"
        f" {old * 1e3:.3f} ms before, {new * 1e3:.3f} ms now\n{measured.path}\n"
    )
    return 0


def _best_pack(session: Session, feed: dict[str, np.ndarray]) -> int:
    """In turns; the usual one where no other is clearly faster."""
    usual = session.pack_tokens
    times = dict.fromkeys((usual, *PACKS), float("inf"))
    for _ in range(ROUNDS):
        for tokens in times:
            session.pack_tokens = tokens
            times[tokens] = min(times[tokens], shortest(partial(session.run, feed), SECONDS))
    rivals = [tokens for tokens, seconds in times.items() if seconds < LEAD * times[usual]]
    return min(rivals, key=times.__getitem__, default=usual)


def _both(before: Session, after: Session, feed: dict[str, np.ndarray]) -> tuple[float, float]:
    pairs = [
        [shortest(partial(session.run, feed), SECONDS) for session in (before, after)]
        for _ in range(ROUNDS)
    ]
    old, new = np.min(pairs, axis=0)
    return float(old), float(new)


def _layers(measured: Measured, known: set[str]) -> str:
    head = ("layer", "pattern", "width", "measured")
    rows = [
        (key, each.pattern, str(each.width or ""), "before" if key in known else "now")
        for key, each in sorted(measured.layers.items())
    ]
    return as_text(head, rows, left=("layer", "pattern", "measured"))
