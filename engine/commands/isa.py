"""`engine isa`: what instruction sets there are, which is in use, and why not more."""

from __future__ import annotations

import argparse
import json
import sys

from ..codegen import isa

__all__ = ["add_arguments", "main"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="as JSON")


def main(arguments: argparse.Namespace) -> int:
    if arguments.json:
        here = {row.name for row in isa.detected()}
        content = {
            **isa.describe(),
            "known": [row.name for row in isa.LADDER],
            "available": [row.name for row in isa.LADDER if row.name in here],
            "missing": {row.name: isa.missing(row) for row in isa.LADDER if row.name not in here},
        }
        sys.stdout.write(json.dumps(content, indent=1) + "\n")
    else:
        sys.stdout.write("\n".join(isa.report()) + "\n")
    return 0
