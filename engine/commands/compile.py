"""`engine compile model.onnx ir/`: all passes, then conf.yaml and model.bin."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..errors import SettingError
from ..formats import models, store

__all__ = ["add_arguments", "main"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", type=Path, help="ONNX file, or an IR of the original")
    parser.add_argument("ir", nargs="?", type=Path, help="folder to write; appears whole or not")
    parser.add_argument("--input_model", type=Path, help="in place of the model, as in ITREX")
    parser.add_argument("--output_dir", type=Path, help="in place of the folder, as in ITREX")
    models.add_options(parser)


def main(arguments: argparse.Namespace) -> int:
    model, ir = _paths(arguments)
    graph = models.compiled(model, models.left_out(arguments))
    store.write(graph, ir)
    size = sum(path.stat().st_size for path in ir.iterdir())
    own = sum(node.domain == "engine" for node in graph)
    sys.stdout.write(f"{ir}: {len(graph.nodes)} operators, {own} of them fused, {size} bytes\n")
    return 0


def _paths(arguments: argparse.Namespace) -> tuple[Path, Path]:
    """Model and folder, each by its place or by its name."""
    words: list[Path | None] = [arguments.model, arguments.ir]
    model = arguments.input_model or words.pop(0)
    ir = arguments.output_dir or words.pop(0)
    if model is None or ir is None or any(words):
        raise SettingError("compile: expected one model and one folder: engine compile MODEL IR")
    return model, ir
