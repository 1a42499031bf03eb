"""`engine memory`: what instances of a model take together."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict

from ..measure.memory import Memory, measure

__all__ = ["add_arguments", "main"]

MIB = 1 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="IR folder or ONNX file")
    parser.add_argument("--instances", type=int, default=8, help="processes side by side (8)")
    parser.add_argument("--batch_size", type=int, default=1, help="sentences a call (1)")
    parser.add_argument("--seq_len", type=int, default=128, help="tokens a sentence (128)")
    parser.add_argument("--json", action="store_true", help="as one JSON object")


def main(arguments: argparse.Namespace) -> int:
    found = measure(
        arguments.model,
        instances=arguments.instances,
        batch_size=arguments.batch_size,
        seq_len=arguments.seq_len,
    )
    if arguments.json:
        sys.stdout.write(json.dumps({**asdict(found), "shared": found.shared}) + "\n")
    else:
        sys.stdout.write(_text(found))
    return 0


def _text(found: Memory) -> str:
    count = len(found.instances)
    return (
        f"{count} instances      {sum(found.instances) / MIB:8.1f} MiB PSS, beside\n"
        f"{count} interpreters   {sum(found.interpreters) / MIB:8.1f} MiB\n"
        f"{count} arenas         {sum(found.arenas) / MIB:8.1f} MiB\n"
        f"weights          {found.weights / MIB:8.1f} MiB, of which the rest is"
        f" {found.shared:.2f} times\n"
    )
