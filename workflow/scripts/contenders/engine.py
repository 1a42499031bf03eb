"""This engine; says too how many multiply-adds a call really needs."""

from functools import lru_cache
from typing import Any

import numpy as np

import engine
from engine.profile import needed_macs, work_of

Feed = dict[str, np.ndarray]


@lru_cache(maxsize=1)
def _session(model: str, threads: int) -> engine.Session:
    return engine.load(model, threads=threads)


def prepare(model: str, threads: int, feed: Feed) -> Any:
    session = _session(model, threads)
    names = {value.name for value in session.graph.inputs}
    return session, {name: array for name, array in feed.items() if name in names}


def run(prepared: Any) -> np.ndarray:
    session, feed = prepared
    return session.run(feed)["logits"]


def facts(prepared: Any) -> dict[str, Any]:
    session, feed = prepared
    work = work_of(session.timed(feed))
    macs = sum(needed_macs(step, work) for step in session.plan.steps)
    return {"version": engine.__version__, "macs": macs, "isa": engine.isa.chosen().name}
