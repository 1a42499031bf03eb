"""Results however far from their zero points: they saturate, as the operators say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.graph import Graph, Node, Quantization, Value
from engine.ops import reference
from engine.runtime import Session

CHANNELS = 64
X, FINE = Quantization(2**-4, 120), Quantization(2**-14, 100, "int8")
PRODUCT, OUTPUT = Quantization(2**-11, 100, "int8"), Quantization(2**-10, 7)


def graph(node: Node | None, output: Quantization, embedded: Quantization = X) -> Graph:
    """Embedding, the node on its bytes if there is one, back to floats."""
    random = np.random.default_rng(0)
    table = random.normal(size=(90, CHANNELS)).astype(np.float32)
    gamma, beta, bias = random.normal(size=(3, CHANNELS)).astype(np.float32)
    weight = random.integers(-127, 128, (CHANNELS, CHANNELS)).astype(np.int8)
    constants: dict[str, Any] = {
        "table": table, "gamma": gamma, "beta": beta, "bias": bias, "weight": weight,
        "one": np.full(CHANNELS, 0.01, np.float32), "scale": np.float32(output.scale),
        "zero": np.array(output.zero_point, output.dtype),
    }  # fmt: skip
    inputs = ("input_ids", "", "table", "table", "", "gamma", "beta")
    how = {"epsilon": 1e-6, "output": embedded}
    nodes = [Node("Embedding", inputs, ("x",), how, domain="engine")]
    nodes += [] if node is None else [node]
    last = nodes[-1].outputs[0]
    nodes.append(Node("DequantizeLinear", (last, "scale", "zero"), ("y",)))
    given = (Value("input_ids", "int64", ("batch", "sequence")),)
    result = (Value("y", "float32", ("batch", "sequence", CHANNELS)),)
    return Graph("one", given, result, tuple(nodes), constants)


def linear(**how: Any) -> Node:
    return Node("Linear", ("x", "weight", "one", "bias"), ("z",), {"input": X, **how}, "", "engine")


NORM = {"epsilon": 1e-6, "input": X, "residual": X, "output": FINE}
CASES = {
    "linear": (linear(output=FINE), FINE, X),
    "gelu": (linear(output=FINE, activation="gelu"), FINE, X),
    "table": (linear(product=PRODUCT, output=OUTPUT, activation="gelu"), OUTPUT, X),
    "norm": (
        Node("LayerNorm", ("x", "x", "", "gamma", "beta"), ("z",), NORM, "", "engine"), FINE, X
    ),
    "embedding": (None, FINE, FINE),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_far_results_saturate(case: str) -> None:
    """Hundreds of thousands of steps away: 16 bits of them would say anything."""
    built = graph(*CASES[case])
    feeds = {"input_ids": np.random.default_rng(1).integers(0, 90, (3, 40))}
    session = Session(built)
    assert session.plan is not None and session.plan.fallback is None
    got, wanted = session.run(feeds)["y"], reference.run(built, feeds)["y"]
    scale = CASES[case][1].scale
    off = np.abs(got - wanted) / scale
    assert off.max() < 1.5 and (off > 0.5).mean() < 0.05  # GELU's error is a part of a step
