"""Runs a list of passes: soundness after each, numbers on demand, counts to the log."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import FOREIGN, EngineError, PassError
from ..graph import Graph
from ..ops import checked, reference
from ..settings import current
from .simulate import spelled_out

__all__ = ["run_pipeline"]

Array = NDArray[Any]
log = logging.getLogger("engine.passes")


def run_pipeline(graph: Graph, pipeline: Sequence[Callable[[Graph], Graph]]) -> Graph:
    """The graph after all passes.

    Raises:
        PassError: a pass failed, left an unsound graph, or (ENGINE_CHECK=1) changed the numbers.
    """
    settings = current()
    expected = outputs_of(graph) if settings.check else {}
    for number, run in enumerate(pipeline, 1):
        before = graph
        try:
            graph = checked(run(graph))
        except (EngineError, AssertionError, *FOREIGN) as error:
            reason = str(error) or type(error).__name__
            raise PassError(f"{graph.name}: pass {number} ({run.__name__}): {reason}") from error
        if settings.debug >= 1:
            log.info("%s", counts(number, run.__name__, before, graph))
        if settings.debug >= 3:
            log.info(
                "%s",
                "\n".join(f"  {node.op} {node.inputs} -> {node.outputs}" for node in graph.nodes),
            )
        if settings.check:
            compare(expected, outputs_of(graph), f"{graph.name}: pass {number} ({run.__name__})")
    return graph


def counts(number: int, name: str, before: Graph, after: Graph) -> str:
    """ "3 gelu: 227 -> 211 nodes, Gelu 4" """
    old, new = Counter(n.op for n in before.nodes), Counter(n.op for n in after.nodes)
    made = ", ".join(f"{op} {count}" for op, count in sorted((new - old).items()))
    sizes = f"{len(before.nodes)} -> {len(after.nodes)} nodes"
    return f"{number} {name}: {sizes}{', ' + made if made else ''}"


# --- ENGINE_CHECK ---
def outputs_of(graph: Graph) -> dict[str, Array]:
    """What the graph computes for three made-up sentences, one of them padded."""
    feeds = {}
    for value in graph.inputs:
        shape = [
            length if isinstance(length, int) else (3 if i == 0 else 8)
            for i, length in enumerate(value.shape)
        ]
        if value.dtype.startswith("float"):
            feeds[value.name] = np.random.default_rng(0).standard_normal(shape).astype(value.dtype)
        else:
            feeds[value.name] = np.ones(shape, value.dtype)
            feeds[value.name][0, ..., shape[-1] // 2 :] = 0
    return reference.run(spelled_out(graph), feeds)


def compare(expected: dict[str, Array], got: dict[str, Array], place: str) -> None:
    """Raises PassError where outputs differ by more than one step of an 8-bit value can make."""
    for name, array in expected.items():
        if array.shape != got[name].shape:
            raise PassError(
                f"{place}: output '{name}' has shape {got[name].shape}, before {array.shape}"
            )
        error = float(np.abs(array.astype(np.float64) - got[name]).max(initial=0))
        limit = 0.05 * max(1.0, float(np.abs(array).max(initial=0)))
        if not error <= limit:
            raise PassError(f"{place}: output '{name}' differs by {error:.3g}, allowed {limit:.3g}")
