"""The IR of the original engine (Intel Extension for Transformers) -> Graph of engine operators.

conf.yaml, model.bin ─ content ─► operators, tensors ─ translate ─► Graph ─ passes ─► Graph
"""

from __future__ import annotations

import re
from pathlib import Path

from ...graph import Graph
from ...ops import checked
from ...passes.dead_rows import dead_rows
from ...passes.run import run_pipeline
from ...passes.sparsity import sparsity
from .content import load
from .translate import translate

__all__ = ["is_original", "read"]

FIRST_KEY = re.compile(rb"(?:---[ \t]*\n|[ \t]*#[^\n]*\n|[ \t]*\n)*model[ \t]*:")


def is_original(content: bytes) -> bool:
    """Whether this conf.yaml is one of theirs: its first key is `model`, ours is `format`."""
    return FIRST_KEY.match(content) is not None


def read(content: bytes, text_path: Path, bin_path: Path) -> Graph:
    """The graph; constants that lie in model.bin as they are needed are views of the mapped file.

    Raises:
        IntegrityError: truncated or damaged; names file, place, found and expected.
        UnsupportedError: an operator, or a use of one, that has no translation.
    """
    graph = translate(load(content, text_path, bin_path)).without_dead_nodes()
    checked(graph.changed(name=str(text_path)))
    return run_pipeline(graph, [dead_rows, sparsity])
