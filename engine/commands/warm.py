"""`engine warm`: all that a model's first load would make: measured, planned, packed, compiled."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from .. import settings
from ..codegen import isa
from ..errors import SettingError
from ..files import cache
from ..formats import models
from ..plan.measured import read_measured
from ..runtime import Session

__all__ = ["add_arguments", "main"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, help="ONNX file or IR folder")
    parser.add_argument("--weight", type=Path, help="model.bin, where it is not beside conf.yaml")
    parser.add_argument(
        "--no-tune", action="store_true", help="measure no kernels: they follow patterns"
    )


def main(arguments: argparse.Namespace) -> int:
    began, before = time.perf_counter(), {each.path for each in cache.kept()}
    measured = read_measured(isa.chosen())
    known = len(measured.layers)
    if not measured.write():
        raise SettingError(f"ENGINE_CACHE={settings.current().cache!r}: nothing can be kept there")
    graph = models.read(arguments.model, arguments.weight)
    if not arguments.no_tune:
        with settings.override(tune=1):
            Session(graph)
    session = Session(graph)
    session.prepare()
    found = [each for each in cache.kept() if each.path not in before]
    sizes = {kind: [each.size for each in found if each.kind == kind] for kind in cache.KINDS}
    layers = len(read_measured(session.isa).layers) - known
    sys.stdout.write(
        f"{arguments.model}: {layers} layers measured, {len(sizes['code'])} kernels compiled for"
        f" {session.isa}, {sum(sizes['plans']) / cache.MIB:.1f} MiB packed,"
        f" in {time.perf_counter() - began:.1f} s\n"
    )
    return 0
