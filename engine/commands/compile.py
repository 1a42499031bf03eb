"""`engine compile model.onnx ir/`: all passes, then conf.yaml and model.bin."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..formats import models, store

__all__ = ["add_arguments", "main"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, help="ONNX file, or an IR of the original")
    parser.add_argument("ir", type=Path, help="folder to write; appears whole or not at all")
    models.add_options(parser)


def main(arguments: argparse.Namespace) -> int:
    graph = models.compiled(arguments.model, models.left_out(arguments))
    store.write(graph, arguments.ir)
    size = sum(path.stat().st_size for path in arguments.ir.iterdir())
    own = sum(node.domain == "engine" for node in graph)
    sys.stdout.write(
        f"{arguments.ir}: {len(graph.nodes)} operators, {own} of them fused, {size} bytes\n"
    )
    return 0
