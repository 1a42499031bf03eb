"""Autotuning: one Linear by itself, planned as in a model, in every configuration there is."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..codegen.isa import Isa
from ..graph import Graph, Node, Quantization
from ..kernels import PRODUCTS
from ..kernels.context import TILE
from ..kernels.harness import Harness
from .choose import Activation, Choices, LinearChoice, ThroughFloats, choices_of
from .choose.amx_cycles import tile_patterns
from .choose.linear import DENSE_ROWS, layer_of
from .emit import emit_steps
from .measured import Configuration, Layer, Measured
from .memory import Buffer
from .program import Plan
from .steps import Refusal, Step, Unplanned

__all__ = ["PlannedLinear", "best_configuration", "measure_layers", "planned_linear", "shortest"]

log = logging.getLogger(__name__)
Array = NDArray[Any]
GUARD = 1 << 16  # bytes past the arena
TOKENS = {64: 128, 16: 16}  # of a run, by the lanes of a tile
SECONDS = 0.004  # of a candidate in a round
ROUNDS = 5
LEAD = 0.97  # of the own kernel's time: less is noise


@dataclass(frozen=True)
class PlannedLinear:
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


def planned_linear(
    isa: Isa,
    weight: Array,
    precision: str,
    pattern: str,
    *,
    tokens: int,
    lanes: int = 64,
    configuration: Configuration | None = None,
) -> PlannedLinear:
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
    domain, dtype = ("tokens" if lanes == TILE else "rows"), ("u8" if q else "f32")
    x = Activation(Buffer("x", domain, -(-inputs // 4) * 4, dtype), inputs, q)
    fixed = {str(layer_of(node, weight, lanes)): configuration} if configuration else None
    choices = choices_of(Graph("linear", (), (), (node,), constants), isa, fixed, given={"x": x})
    found = choices.of["y"]
    if isinstance(found, Refusal):
        raise Unplanned(found.reason)
    return _ready(isa, tuple(emit_steps(choices).steps), tokens)


def _ready(isa: Isa, steps: tuple[Step, ...], tokens: int) -> PlannedLinear:
    plan = Plan(isa, steps, (), None, ("", "", ""), ())
    program, scratch = plan.program(-(-tokens // 64) * 64), plan.scratch_bytes(tokens)
    harness = Harness(program.arena_bytes + GUARD, [1] * tokens, scratch_bytes=scratch)
    floats = harness.arena[: len(harness.arena) // 4 * 4].view(np.float32)
    floats[:] = np.random.default_rng(0).normal(size=len(floats))
    tiles = {"tokens": harness.context["tiles"], "rows": harness.context["row_tiles"]}
    calls = (
        harness.caller(code, params, 0, step.units * int(tiles[step.domain]))
        for step, code, params in zip(steps, program.codes, program.params, strict=True)
    )
    return PlannedLinear(steps, tuple(calls), (program, harness))


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
def candidates(isa: Isa, layer: Layer) -> list[Configuration]:
    """The graph's own first, then all patterns that have a kernel, in every width."""
    divides = {"4x1": layer.outputs % 4 == 0, "1x4": layer.inputs % 4 == 0, "dense": True}
    widest = isa.block_width(layer.lanes)
    found = [Configuration(layer.pattern, 0)]
    for precision, pattern in PRODUCTS:
        if precision != layer.precision or not divides.get(pattern):
            continue
        widths = (0, 64, 32, 16) if (precision, pattern) != ("int8", "4x1") else (0,)
        found += [Configuration(pattern, width) for width in widths if width <= widest]
    tiles = tile_patterns(isa, layer.precision, layer.inputs)
    found += [Configuration(name, 0) for name in tiles]
    return list(dict.fromkeys(found))


def best_configuration(isa: Isa, layer: Layer, weight: Array) -> Configuration:
    """The fastest candidate, x prepared; the graph's own where no other is 3 % faster."""
    runs: dict[Configuration, PlannedLinear] = {}
    for each in candidates(isa, layer):
        how: dict[str, Any] = {"tokens": TOKENS[layer.lanes], "lanes": layer.lanes}
        with suppress(Unplanned):
            runs[each] = planned_linear(
                isa, weight, layer.precision, each.pattern, configuration=each, **how
            )
    times = dict.fromkeys(runs, float("inf"))
    for _ in range(ROUNDS):
        for each, planned in runs.items():
            times[each] = min(times[each], shortest(planned.run, SECONDS))
    found = (f"{c.pattern} {c.width or ''} {1e6 * s:.1f} us" for c, s in times.items())
    log.info("%s: %s", layer, ", ".join(found))
    own = Configuration(layer.pattern, 0)
    rivals = [each for each, seconds in times.items() if seconds < LEAD * times[own]]
    return min(rivals, key=times.__getitem__, default=own)


def measure_layers(choices: Choices, measured: Measured) -> None:
    """Measure, and keep, what is not known yet of the products that kernels make."""
    for node in choices.graph:
        choice = choices.of[node.outputs[0]]
        if isinstance(choice, ThroughFloats):
            choice = choice.made
        if not isinstance(choice, LinearChoice) or choice.how.kernel == DENSE_ROWS:
            continue
        weight = choices.graph.constants[node.weight]
        if weight.dtype == np.int16:
            continue  # one kernel has them
        layer = layer_of(node, weight, choice.y.buffer.lanes)
        if str(layer) not in measured.layers:
            measured.layers[str(layer)] = best_configuration(choices.isa, layer, weight)
            measured.write()
