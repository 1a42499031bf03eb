"""Plans that were made before: files of the cache, mapped, from which nothing is computed again.

Their names are digests of all that a plan depends on: the graph and the content of its constants,
the engine's sources, the instruction set, what was measured.  Processes that load a model at once
each make its plan and put the file, whole, in the same place.  ENGINE_SHARE=0 keeps none.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from .. import settings
from ..codegen.isa import Isa, first_cache
from ..errors import FOREIGN
from ..files import cache
from ..formats.store import Stored
from ..graph import Graph
from ..machine.topology import local_node
from .measured import read_measured
from .plan_file import NotFlatError, as_pieces, as_plan
from .program import PACK_TOKENS, Plan

__all__ = ["keep", "place_of", "recall"]

log = logging.getLogger(__name__)
LEAST = 1 << 20  # bytes of constants: less is packed in no time


def place_of(graph: Graph, isa: Isa) -> Path | None:
    """Where the plan of a graph is kept; None where it is not: it is small, or to be measured or
    shown in the making.
    """
    now = settings.current()
    if not now.share or not now.cache or now.tune or now.debug >= 2 or _size(graph) < LEAST:
        return None
    measured = {name: asdict(each) for name, each in sorted(read_measured(isa).layers.items())}
    here = (isa, first_cache(), local_node())  # those bound to a node of memory have pages nearby
    depends = (_sources(), np.__version__, here, json.dumps(measured))
    digest = hashlib.sha256(repr(depends).encode())
    digest.update(_structure(graph).encode())
    digest.update(_content(graph).encode())
    return cache.place("plans", f"{digest.hexdigest()[:32]}.plan")


def recall(place: Path | None, graph: Graph, isa: Isa) -> Plan | None:
    """The plan that is kept there; says again what was said of it when it was made."""
    plan = _read(place, graph, isa)
    if plan is not None and plan.left:
        log.warning("%s: %s", graph.name, plan.left)
    return plan


def keep(place: Path | None, graph: Graph, plan: Plan) -> Plan:
    """The plan, as every process that loads the model from now on has it; itself where it cannot
    be kept.
    """
    if place is None:
        return plan
    try:
        pieces = as_pieces(plan, graph)
    except NotFlatError as error:
        log.info("%s: its plan is not kept: %s", graph.name, error)
        return plan
    kept = _read(place, graph, plan.isa) if cache.write(place, *pieces) else None
    return plan if kept is None else kept


def _read(place: Path | None, graph: Graph, isa: Isa) -> Plan | None:
    content = cache.mapped(place)
    if content is None:
        return None
    try:
        plan = as_plan(content, graph, isa)
    except FOREIGN as error:
        log.warning("%s makes no sense, and is made again: %s", place, error)
        return None
    packs = read_measured(isa).packs
    return replace(plan, pack_tokens=packs.get(plan.signature, PACK_TOKENS))


# --- what a plan depends on
@lru_cache(maxsize=1)
def _sources() -> str:
    """Of all modules of the engine."""
    digest, root = hashlib.sha256(), Path(__file__).parents[1]
    for path in sorted(root.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _size(graph: Graph) -> int:
    if isinstance(graph.constants, Stored):
        return len(graph.constants.content)
    return sum(array.nbytes for array in graph.constants.values())


def _structure(graph: Graph) -> str:
    nodes = [
        (node.kind, node.inputs, node.outputs, node.name, _plain(dict(node.attributes)))
        for node in graph
    ]
    return repr((graph.opset, graph.inputs, graph.outputs, nodes))


def _plain(value: Any) -> Any:
    """Without arrays, whose text is cut short."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, dict):
        return [(key, _plain(each)) for key, each in sorted(value.items())]
    return tuple(map(_plain, value)) if isinstance(value, tuple | list) else value


def _content(graph: Graph) -> str:
    """Of the constants."""
    if isinstance(graph.constants, Stored):
        return graph.constants.digest
    digest = hashlib.sha256()
    for name, array in sorted(graph.constants.items()):
        digest.update(repr((name, array.dtype.str, array.shape)).encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
