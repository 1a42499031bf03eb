"""The errors that kernels/activations.py states, on every instruction set."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.codegen.compile import compiled
from engine.codegen.isa import Isa
from engine.kernels import activations, context
from engine.kernels.harness import Harness
from engine.ops import elementwise as ops
from engine.ops import fused

from .fixtures import SETS, SPECIALS

Array = NDArray[Any]
LANES = 16
COUNT = 1 << 12
erf = np.vectorize(math.erf)


def run(name: str, isa: Isa, x: Array) -> Array:
    """The routine on all of x: one compiled kernel each."""

    def build() -> Any:
        from engine.codegen.simd import load_i64, loads, store

        load, function = loads("f32", LANES), getattr(activations, name)(LANES)

        def kernel(params, context_, begin, end):  # noqa: ANN001, ANN202
            at = load_i64(context_ + context.CONTEXT.arena)
            for _ in range(end):
                store(at, function(load(at)))
                at += 4 * LANES

        return kernel

    harness = Harness(x.nbytes)
    _, buffer = harness.put(x)
    harness.run(compiled(f"test_{name}_{LANES}", build, isa), harness.params(), 0, len(x) // LANES)
    return buffer.copy()


def gelu(x: Array) -> Array:
    return x / 2 * (1 + erf(x / math.sqrt(2)))


def gelu_tanh(x: Array) -> Array:
    return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


STATED: list[
    tuple[Any, ...]
] = [  # routine, meaning, range, greatest absolute error, greatest relative error
    ("exponential", np.exp, (-87, 88), 0, 2.5e-7),
    ("tanh_of", np.tanh, (-12, 12), 3e-7, 0),
    ("gelu", gelu, (-8, 8), 2e-6, 0),
    ("rough_gelu", gelu, (-8, 8), 5e-5, 0),
    ("gelu_tanh", gelu_tanh, (-8, 8), 2e-6, 0),
    ("relu", lambda x: np.maximum(x, 0), (-8, 8), 0, 0),
    ("sigmoid", lambda x: 1 / (1 + np.exp(-x)), (-20, 20), 2e-7, 0),
    (
        "log1p",
        lambda x: np.log((x.astype(np.float32) + np.float32(1)).astype(np.float64)),
        (-0.9, 40),
        0,
        2e-7,
    ),
    ("swish", lambda x: x / (1 + np.exp(-x)), (-80, 80), 0, 5e-7),
]


@pytest.mark.parametrize(
    "isa", [SETS[-1], *[pytest.param(i, marks=pytest.mark.slow) for i in SETS[:-1]]], ids=str
)
@pytest.mark.parametrize(
    ("name", "meaning", "limits", "absolute", "relative"), STATED, ids=[row[0] for row in STATED]
)
def test_error_is_as_stated(
    isa: Isa, name: str, meaning: Any, limits: tuple[float, float], absolute: float, relative: float
) -> None:
    random = np.random.default_rng(0)
    x = np.concatenate([np.linspace(*limits, COUNT // 2), random.uniform(*limits, COUNT // 2)])
    x = x.astype(np.float32)
    wanted = meaning(x.astype(np.float64))
    off = np.abs(run(name, isa, x) - wanted)
    assert (off <= absolute + relative * np.abs(wanted)).all(), off.max()


@pytest.mark.parametrize(
    "name", ["exponential", "tanh_of", "gelu", "rough_gelu", "gelu_tanh", "swish"]
)
def test_far_away(name: str) -> None:
    """Nothing overflows into NaN, and large x of GELU is x."""
    x = np.array([-1e30, -1e4, -100, -20, 0, 20, 100, 1e4] * 2, np.float32)
    got = run(name, SETS[-1], x)
    assert not np.isnan(got).any()
    if "gelu" in name:
        np.testing.assert_array_equal(got, np.maximum(x, 0))


SPECIAL = [  # routine, its meaning in ops
    ("exponential", np.exp),
    ("tanh_of", np.tanh),
    ("gelu", ops.gelu),
    ("rough_gelu", ops.gelu),
    ("gelu_tanh", ops.fast_gelu),
    ("relu", ops.relu),
    ("swish", ops.swish),
    ("none", lambda x: x),
    ("sigmoid", ops.sigmoid),
    ("log1p", fused.log1p),
]


@pytest.mark.parametrize("isa", SETS, ids=str)
@pytest.mark.parametrize(("name", "meaning"), SPECIAL, ids=[row[0] for row in SPECIAL])
def test_special_numbers(isa: Isa, name: str, meaning: Any) -> None:
    """NaN, whatever its bits, stays NaN; infinities give what ONNX Runtime gives, -inf in GELU
    NaN; so do the least and the greatest numbers.
    """
    with np.errstate(all="ignore"):
        wanted = meaning(SPECIALS)
    np.testing.assert_allclose(run(name, isa, SPECIALS), wanted, atol=5e-5, rtol=3e-7)
