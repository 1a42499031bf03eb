"""`engine cache`: what is kept on disk, and how it is emptied."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from .. import settings
from ..files import cache
from .text_table import as_text

__all__ = ["Row", "add_arguments", "main", "rows"]

DAY = 86400  # seconds
WHAT = {
    "code": "compiled kernels",
    "choices": "what was measured",
    "plans": "plans with packed weights",
    "packed": "packed weights of older versions",
}


@dataclass(frozen=True)
class Row:
    """Files of one kind; days since one was last used: the latest, the one that goes first."""

    kind: str
    files: int
    size: int
    latest: float
    earliest: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--empty", action="store_true", help="remove all files")
    parser.add_argument(
        "--unused-for", type=float, metavar="DAYS", help="remove what no process used for so long"
    )
    parser.add_argument("--json", action="store_true", help="as JSON")


def main(arguments: argparse.Namespace) -> int:
    gone: list[cache.Kept] = []
    if arguments.empty or arguments.unused_for is not None:
        before = float("inf") if arguments.empty else time.time() - DAY * arguments.unused_for
        gone = cache.forget([each for each in cache.kept() if each.used < before])
    found, place = rows(cache.kept()), settings.current().cache
    if arguments.json:
        told = {
            "cache": place,
            "most": settings.current().cache_size * cache.MIB,
            "kinds": {row.kind: {"files": row.files, "bytes": row.size} for row in found},
            "removed": {"files": len(gone), "bytes": sum(each.size for each in gone)},
        }
        sys.stdout.write(json.dumps(told, indent=1) + "\n")
    else:
        sys.stdout.write(_text(found, gone, place))
    return 0


def rows(files: Sequence[cache.Kept]) -> list[Row]:
    """A row for each kind of which there is a file."""
    found, now = [], time.time()
    for kind in cache.KINDS:
        some = [each for each in files if each.kind == kind]
        if some:
            ages = [max(now - each.used, 0) / DAY for each in some]
            size = sum(each.size for each in some)
            found.append(Row(kind, len(some), size, min(ages), max(ages)))
    return found


def _text(found: Sequence[Row], gone: Sequence[cache.Kept], place: str) -> str:
    if not place:
        return "ENGINE_CACHE is empty: nothing is kept on disk\n"
    head = ("folder", "what", "files", "MiB", "used, days ago")
    lines = [
        (
            row.kind,
            WHAT[row.kind],
            str(row.files),
            f"{row.size / cache.MIB:.1f}",
            f"{row.latest:.1f} to {row.earliest:.1f}",
        )
        for row in found
    ]
    total, most = sum(row.size for row in found), settings.current().cache_size
    told = f"{place}: {total / cache.MIB:.1f} MiB of at most {most}\n"
    if gone:
        size = sum(each.size for each in gone)
        told = f"{len(gone)} files removed, {size / cache.MIB:.1f} MiB\n{told}"
    return (as_text(head, lines, left=("folder", "what")) + "\n" if lines else "") + told
