"""One Linear by itself, planned as in a model: to tabulate kernels and to choose between them."""

from __future__ import annotations

import ctypes
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..codegen.isa import Isa
from ..graph import Graph, Node, Quantization
from ..kernels.harness import Stand
from .linear import plan_linear
from .measured import Choice, Choices, Layer
from .planner import Planner, block_width
from .product import LINEAR_KERNELS
from .program import Plan
from .steps import Step, Unplanned
from .tiles import tile_patterns

__all__ = ["Trial", "best_choice", "linear_trial"]

log = logging.getLogger(__name__)
Array = NDArray[Any]
KERNEL = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 4)
GUARD = 1 << 16  # bytes past the arena
TOKENS = {64: 128, 16: 16}  # of a trial, by the lanes of a tile
SECONDS = 0.004  # of a candidate in a round
ROUNDS = 5
LEAD = 0.97  # of the own kernel's time: less is noise


@dataclass(frozen=True)
class Trial:
    """The steps of one layer; the last is the product, those before it prepare x."""

    steps: tuple[Step, ...]
    calls: tuple[Callable[[], None], ...]
    keep: tuple[Any, ...]  # what the calls' addresses point to

    @property
    def product(self) -> Callable[[], None]:
        """Run the product alone."""
        return self.calls[-1]

    def run(self) -> None:
        """Run all steps."""
        for call in self.calls:
            call()


def linear_trial(
    isa: Isa,
    weight: Array,
    precision: str,
    pattern: str,
    *,
    tokens: int,
    lanes: int = 64,
    choice: Choice | None = None,
) -> Trial:
    """weight: int8 or float32, as the precision wants; tokens (16 lanes: sentences) are random.

    Raises:
        Unplanned: no kernel does this.
    """
    outputs, inputs = weight.shape
    bias, scale = np.zeros(outputs, np.float32), np.full(outputs, 1 / 128, np.float32)
    constants = {"weight": weight, "bias": bias, "scale": scale}
    q = Quantization(0.02, 128) if precision == "int8" else None
    names = ("x", "weight", "scale" if q else "", "bias")
    attributes = {"input": q, "output": q, "precision": precision, "pattern": pattern}
    node = Node("Linear", names, ("y",), attributes, "linear", "engine")
    planner = Planner(Graph("trial", (), (), (node,), constants), isa)
    planner.fixed_choice = choice
    planner.make("x", "tokens" if lanes == 64 else "rows", inputs, q)
    plan_linear(planner, node)
    return _ready(isa, tuple(planner.steps), tokens)


def _ready(isa: Isa, steps: tuple[Step, ...], tokens: int) -> Trial:
    plan = Plan(isa, steps, (), None, ("", "", ""), ())
    program, scratch = plan.program(-(-tokens // 64) * 64), plan.scratch_bytes(tokens)
    stand = Stand(program.arena_bytes + GUARD, [1] * tokens, scratch_bytes=scratch)
    floats = stand.arena[: len(stand.arena) // 4 * 4].view(np.float32)
    floats[:] = np.random.default_rng(0).normal(size=len(floats))
    calls = []
    for address, params, counted, units in program.steps[:, :4].tolist():
        count = units * (int(stand.context[counted // 8]) if counted else 1)
        calls.append(_caller(KERNEL(address), params, int(stand.context.ctypes.data), count))
    return Trial(steps, tuple(calls), (program, stand))


def _caller(function: Any, params: int, context: int, units: int) -> Callable[[], None]:
    return lambda: function(params, context, 0, units)


def shortest(call: Callable[[], object], seconds: float) -> float:
    """The shortest of as many calls as fit in the time, at least three."""
    best, left = float("inf"), 3
    end = time.perf_counter() + seconds
    while left > 0 or time.perf_counter() < end:
        began = time.perf_counter()
        call()
        best, left = min(best, time.perf_counter() - began), left - 1
    return best


# --- choosing
def candidates(isa: Isa, layer: Layer) -> list[Choice]:
    """The graph's own first, then all patterns that have a kernel, in every width."""
    divides = {"4x1": layer.outputs % 4 == 0, "1x4": layer.inputs % 4 == 0, "dense": True}
    widest = block_width(isa, layer.lanes)
    found = [Choice(layer.pattern, 0)]
    for precision, pattern in LINEAR_KERNELS:
        if precision != layer.precision or not divides[pattern]:
            continue
        widths = (0, 64, 32, 16) if (precision, pattern) != ("int8", "4x1") else (0,)
        found += [Choice(pattern, width) for width in widths if width <= widest]
    found += [Choice(name, 0) for name in tile_patterns(isa, layer.precision, layer.inputs)]
    return list(dict.fromkeys(found))


def best_choice(isa: Isa, layer: Layer, weight: Array) -> Choice:
    """The fastest candidate, x prepared; the graph's own where no other is 3 % faster."""
    trials: dict[Choice, Trial] = {}
    for choice in candidates(isa, layer):
        try:
            trials[choice] = linear_trial(
                isa, weight, layer.precision, choice.pattern,
                tokens=TOKENS[layer.lanes], lanes=layer.lanes, choice=choice,
            )  # fmt: skip
        except Unplanned:
            continue
    times = dict.fromkeys(trials, float("inf"))
    for _ in range(ROUNDS):
        for choice, trial in trials.items():
            times[choice] = min(times[choice], shortest(trial.run, SECONDS))
    found = (f"{c.pattern} {c.width or ''} {1e6 * s:.1f} us" for c, s in times.items())
    log.info("%s: %s", layer, ", ".join(found))
    own = Choice(layer.pattern, 0)
    rivals = [choice for choice, seconds in times.items() if seconds < LEAD * times[own]]
    return min(rivals, key=times.__getitem__, default=own)


def choose(choices: Choices, isa: Isa, layer: Layer, weight: Array) -> Choice:
    """The stored choice, or the measured one, which is then stored."""
    key = str(layer)
    if key not in choices.layers:
        choices.layers[key] = best_choice(isa, layer, weight)
        choices.write()
    return choices.layers[key]
