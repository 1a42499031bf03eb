"""This engine; says too how many multiply-adds a call really needs, and after each turn what the
core does at most: its clock changes from turn to turn.
"""

from functools import lru_cache
from typing import Any

import numpy as np

import engine
from engine.measure.peaks import Peaks
from engine.measure.profile import done_macs, needed_macs, work_of

Feed = dict[str, np.ndarray]
PEAK_ROUNDS = 5


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


def after(prepared: Any) -> dict[str, Any]:
    peaks = Peaks()
    for _ in range(PEAK_ROUNDS):
        rates = peaks.round()
    return {"peaks": rates}


def facts(prepared: Any) -> dict[str, Any]:
    session, feed = prepared
    work = work_of(session.timed(feed))
    macs, done = (
        sum(count(step, work) for step in session.plan.steps) for count in (needed_macs, done_macs)
    )
    isa = engine.isa.chosen().name
    return {"version": engine.__version__, "macs": macs, "done": done, "isa": isa}
