"""No engine: what the core can do at most, measured in turn with the engines."""

from typing import Any

import numpy as np

from engine.codegen.isa import chosen, cpu_model
from engine.measure.peaks import Peaks


def prepare(model: str, threads: int, feed: dict[str, np.ndarray]) -> Peaks:
    return Peaks()


def run(prepared: Peaks) -> np.ndarray:
    return np.array(list(prepared.round().values()))


def facts(prepared: Peaks) -> dict[str, Any]:
    return {"rates": prepared.rates, "isa": chosen().name, "cpu_model": cpu_model()}
