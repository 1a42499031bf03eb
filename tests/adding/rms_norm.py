"""What docs/adding.md says of an operator, done: RMSNorm in float32, with a kernel of its own.

    y[c, t] = x[c, t] / sqrt(mean over c of x[c, t]^2 + epsilon) * gamma[c]

In the engine the parts below stand in files of their own: the meaning in ops/, the record and the
row in kernels/, the kernel in kernels/rms_norm.py, the choice in plan/choose/, the steps in plan/.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba as nb
import numpy as np

from engine.codegen.lower import routine
from engine.codegen.simd import add, div, load_f32, load_i64, loads, mul, splats, square_root, store
from engine.graph import Node
from engine.kernels.buffers import tile_of
from engine.kernels.context import CONTEXT
from engine.kernels.params import X, Y
from engine.kernels.record import ADDRESS, FLOAT, WHOLE, Field, record
from engine.kernels.table import Kernel
from engine.ops import Operator, Trait
from engine.plan.choose.facts import Activation, Choice, Facts
from engine.plan.planner import Planner
from engine.plan.steps import Unplanned

f32 = nb.float32


# --- 1. its meaning and its row: ops/
def meaning(x: np.ndarray, gamma: np.ndarray, *, epsilon: float = 1e-6) -> np.ndarray:
    square = np.mean(np.square(x), axis=-1, keepdims=True)
    return np.asarray(x / np.sqrt(square + np.float32(epsilon)) * gamma, np.float32)


OPERATOR = Operator("RMSNorm", meaning, domain="extra", traits=Trait.SAME | Trait.ALONG)

# --- 2. its parameters and its kernel: kernels/
RMS_NORM = record(
    "RMS_NORM",
    *X,
    *Y,
    Field("channels", WHOLE, "of x and of y"),
    Field("gamma", ADDRESS, "float32 [channels]"),
    Field("epsilon", FLOAT, "added to the mean of squares"),
)


def rms_norm(lanes):
    """A unit is a tile; params: RMS_NORM."""
    load, splat, row = loads("f32", lanes), splats("f32", lanes), 4 * lanes

    def scale_of(x, channels, count, epsilon):
        sums = mul(load(x), load(x))
        for n in range(1, channels):
            v = load(x + row * n)
            sums = add(sums, mul(v, v))
        return square_root(add(div(sums, count), epsilon))

    scale_of = routine(scale_of)

    def kernel(params, context, begin, end):
        arena, channels = load_i64(context + CONTEXT.arena), load_i64(params + RMS_NORM.channels)
        gamma, epsilon = load_i64(params + RMS_NORM.gamma), load_f32(params + RMS_NORM.epsilon)
        for tile in range(begin, end):
            x = tile_of(arena, params + RMS_NORM.x, tile)
            y = tile_of(arena, params + RMS_NORM.y, tile)
            scale = scale_of(x, channels, splat(f32(channels)), splat(epsilon))
            for n in range(channels):
                v = div(load(x + row * n), scale)
                store(y + row * n, mul(v, splat(load_f32(gamma + 4 * n))))

    return kernel


ROW = Kernel("rms_norm", "rms_norm", ("lanes",), RMS_NORM)


# --- 3. how it is chosen: plan/choose/
@dataclass(frozen=True)
class RmsNormChoice(Choice):
    """x in float32, y too."""

    x: Activation


def choose_rms_norm(facts: Facts, node: Node) -> RmsNormChoice:
    x = facts.value(node.inputs[0])
    if x.buffer.dtype != "f32" or x.channels != x.buffer.channels:
        raise Unplanned(f"x is {x.buffer.dtype}, {x.channels} of {x.buffer.channels} channels")
    facts.array(node.inputs[1])
    y = facts.result(node.outputs[0], x.buffer.domain, x.channels, None, kept_axis=x.kept_axis)
    return RmsNormChoice(y, x)


# --- 4. its step: plan/
def emit_rms_norm(planner: Planner, node: Node, choice: RmsNormChoice) -> None:
    x, y = choice.x.buffer, choice.y.buffer
    params = {
        "x": x,
        "y": y,
        "channels": choice.y.channels,
        "gamma": planner.array(node.inputs[1]),
        "epsilon": float(node.attributes.get("epsilon", 1e-6)),
    }
    planner.emit(node, "rms_norm", (x.lanes,), params, x.domain)
    planner.layer(node, shape=(choice.y.channels,), dtype=y.dtype, bytes=4 * choice.y.channels)
