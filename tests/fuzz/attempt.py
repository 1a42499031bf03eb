"""One mutation, as far as it goes, and which class that is.

refused      an error of the engine (of the configuration) that says where
same         loaded and run, and the reference gives the same
by reference loaded and run, but nothing of it in kernels
accepted     a configuration that fits its schema

Everything else is a failure: `raw` (another exception), `differs`, `reference refuses`, `no place`.
"""

from __future__ import annotations

import random
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

import engine
from engine.errors import CheckError, EngineError
from engine.graph import Graph
from engine.ops import reference
from engine.runtime import stepwise
from engine.runtime.session import Session
from tests.fuzz import mutations
from tests.fuzz.onnx_mutations import FILE, onnx_file
from workflow.rulebook.checked_config import ConfigError, checked

__all__ = ["FINE", "KINDS", "attempt", "mutated"]

ROOT = Path(__file__).parents[2]
SCHEMA = ROOT / "workflow" / "schemas" / "config.schema.yaml"
FINE = ("refused", "same", "by reference", "accepted")
Array = np.ndarray
KINDS: dict[str, Callable[[random.Random], tuple[dict[str, bytes], str]]] = {
    "ir": mutations.ir,
    "original": mutations.original,
    "onnx": onnx_file,
    "configuration": mutations.configuration,
}


def mutated(kind: str, seed: int, folder: Path) -> str:
    """The files of a mutation in the folder; the name of what was changed."""
    files, base = KINDS[kind](random.Random(f"{kind} {seed}"))
    for old in folder.iterdir():
        old.unlink()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return base


def attempt(kind: str, folder: Path) -> tuple[str, str]:
    """Class, and what was said."""
    try:
        if kind == "configuration":
            return configuration(folder)
        return model(folder / FILE if kind == "onnx" else folder, folder)
    except Exception as error:  # noqa: BLE001 - that there is any is the finding
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(last.filename).name}:{last.lineno} {last.name}"
        return "raw", f"{type(error).__name__}: {str(error)[:200]} at {place}"


def configuration(folder: Path) -> tuple[str, str]:
    tree = yaml.safe_load((folder / mutations.CONFIG).read_bytes())
    try:
        checked(tree, SCHEMA)
    except ConfigError as error:
        return "refused", str(error)
    return "accepted", ""


def model(path: Path, folder: Path) -> tuple[str, str]:
    try:
        session = engine.load(path)
    except EngineError as error:
        return ("refused" if str(folder) in str(error) else "no place"), str(error)
    feeds = feeds_for(session.graph)
    try:
        got = session.run(feeds)
    except EngineError as error:
        return "refused", str(error)
    if session.plan is None:
        return "by reference", ""
    return compared(session, feeds, got)


def compared(session: Session, feeds: dict[str, Array], got: dict[str, Array]) -> tuple[str, str]:
    try:
        wanted = reference.run(session.graph, typed(session.graph, feeds))
    except EngineError as error:
        return "reference refuses", str(error)
    for name, array in wanted.items():
        reason = difference(session, feeds, np.asarray(got[name]), array)
        if reason is not None and not same_by_steps(session, feeds):
            return "differs", f"'{name}': {reason}"
    return "same", ""


def same_by_steps(session: Session, feeds: dict[str, Array]) -> bool:
    """A step of 8 bits, rounded the other way, grows to anything behind wild weights; each step
    alone is held to its operator's meaning.
    """
    if session.plan is None or session.plan.fallback is not None:
        return False
    try:
        stepwise.check(session.graph, feeds)
    except CheckError:
        return False
    return True


def typed(graph: Graph, feeds: dict[str, Array]) -> dict[str, Array]:
    """Integers in the graph's type of them, bool too, as a session takes any."""
    return {
        value.name: feeds[value.name].astype(value.dtype)
        if np.dtype(value.dtype).kind in "iub"
        else feeds[value.name]
        for value in graph.inputs
    }


def difference(session: Session, feeds: dict[str, Array], got: Array, wanted: Array) -> str | None:
    """What differs by more than steps of 8 bits can make, where tokens count and numbers are
    numbers; NaN may come to more of them or fewer (zeros of sparse weights are not multiplied,
    masks are no scores), but that of a constant does not vanish from all.
    """
    if got.shape != wanted.shape:
        return f"{got.shape}, expected {wanted.shape}"
    got, wanted = got.astype(np.float64), wanted.astype(np.float64)
    counts = np.ones(wanted.shape, bool)
    mask = feeds.get(session.plan.inputs[2]) if session.plan is not None else None
    if mask is not None and wanted.shape[:2] == mask.shape:
        counts[mask == 0] = False
    constants = session.graph.constants.values()
    tame = all((np.abs(array) < LARGE).all() for array in constants)
    finite = all(np.isfinite(array).all() for array in constants)
    if not finite and np.isnan(wanted[counts]).any() and np.isfinite(got[counts]).all():
        return f"{got[counts][:4]}, expected NaN among {wanted[counts][:4]}"
    known = counts & np.isfinite(wanted) & tame
    limit = 0.05 * max(1.0, np.abs(wanted[known]).max(initial=0))
    error = np.abs(got[known] - wanted[known]).max(initial=0)
    if error <= limit:
        return None
    return f"off by {error:.3g}: {got[known][:4]}, {wanted[known][:4]}"


LARGE = 1e15  # squares of sums of it leave float32: what comes out is decided by their order


def feeds_for(graph: Graph, batch: int = 3, tokens: int = 10) -> dict[str, Any]:
    """Sentences of three lengths for the inputs that there are, with as many axes as they have."""
    mask = (np.arange(tokens) < np.array([[tokens], [6], [1]])[:batch]).astype(np.int64)
    ids = np.random.default_rng(0).integers(2, 40, mask.shape)
    given: dict[str, Any] = {}
    for value in graph.inputs:
        if "mask" in value.name:
            given[value.name] = mask
        elif "type" in value.name:
            given[value.name] = ids % 2
        else:
            given[value.name] = np.where(mask == 1, ids, 1)
        more = [1] * (len(value.shape) - 2)  # nobody reads such an input where the plan takes it
        given[value.name] = given[value.name].reshape(*mask.shape, *more)
    return given
