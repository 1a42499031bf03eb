"""`engine isa`: the ladder of instruction sets, what this machine permits, what is in use."""

from __future__ import annotations

import argparse
import json
import sys

from .. import isa

__all__ = ["add_arguments", "main"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="as JSON")


def main(arguments: argparse.Namespace) -> int:
    here = {row.name for row in isa.detected()}
    described = isa.describe()
    if arguments.json:
        names = [row.name for row in isa.LADDER]
        content = {**described, "known": names, "available": [n for n in names if n in here]}
        sys.stdout.write(json.dumps(content, indent=1) + "\n")
        return 0
    sys.stdout.write(f"{described['cpu_model']}\n")
    for row in isa.LADDER:
        state = (
            "in use" if row.name == described["isa"] else "available" if row.name in here else "-"
        )
        sys.stdout.write(f"  {row.name:<14}{row.width:>4} bit  {state}\n")
    return 0
