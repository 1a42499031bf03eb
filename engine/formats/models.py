"""A model of any kind by its path -> Graph of engine operators.

ONNX file, or its bytes   onnx_reader, then all passes
IR folder or conf.yaml    store; its model.bin beside it or given
"""

from __future__ import annotations

import argparse
from collections.abc import Collection
from pathlib import Path

from ..errors import ModelError
from ..files.replacing import standing
from ..graph import Graph
from ..passes import FUSIONS, PIPELINE, why
from ..passes.run import run_pipeline
from . import store

__all__ = ["OPTIONAL_PASSES", "add_options", "compiled", "left_out", "read", "reasons"]

OPTIONAL_PASSES = {  # option of `compile` -> pass left out with it
    "keep_dead_rows": "dead_rows",
    "keep_dense": "sparsity",
}
IR_SUFFIXES = (".yaml", ".yml")


def read(source: str | Path | bytes, weight: str | Path | None = None) -> Graph:
    """The graph a session runs.

    Raises:
        ModelError: see `onnx_reader.read` and `store.read`.
    """
    if weight is None:
        return compiled(source)
    if isinstance(source, bytes) or not _is_ir(path := standing(source)):
        from . import onnx_reader  # imports onnx

        name = onnx_reader.IN_MEMORY if isinstance(source, bytes) else source
        raise ModelError(f"{name}: weights in {weight} go with an IR's conf.yaml, not with ONNX")
    return store.read(path, weight)


def forget(graph: Graph) -> None:
    """Gives back the pages of a mapped model.bin that were looked at once."""
    if isinstance(graph.constants, store.Stored):
        graph.constants.forget()


def compiled(source: str | Path | bytes, left_out: Collection[str] = ()) -> Graph:
    """ONNX through the passes, but those left out; an IR, whoever wrote it, is through."""
    if not isinstance(source, bytes):
        source = standing(source)
        if _is_ir(source):
            return store.read(source)
    from . import onnx_reader  # imports onnx, 14 MiB that an IR needs not

    pipeline = [run for run in PIPELINE if run.__name__ not in left_out]
    return run_pipeline(onnx_reader.read(source), pipeline)


def _is_ir(path: Path) -> bool:
    return path.is_dir() or path.suffix in IR_SUFFIXES


def reasons(path: str | Path) -> list[str]:
    """For each fusion a sentence: the nearest place it did not match, and what was in the way."""
    # before quantize, whose attributes no pattern knows; all fusions have run by then
    names = [run.__name__ for run in PIPELINE]
    graph = compiled(path, names[names.index("quantize") :])
    return [why(graph, fusion) for fusion in FUSIONS.values()]


# --- options of the command line ---
def add_options(parser: argparse.ArgumentParser) -> None:
    for option, name in OPTIONAL_PASSES.items():
        flag = f"--{option.replace('_', '-')}"
        parser.add_argument(flag, action="store_true", help=f"leave out pass {name}")


def left_out(arguments: argparse.Namespace) -> list[str]:
    return [name for option, name in OPTIONAL_PASSES.items() if getattr(arguments, option)]
