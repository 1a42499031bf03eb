"""Layers that are normalised before: residuals are plain sums; feed-forward layers are gated."""

from __future__ import annotations

import numpy as np
import pytest

import engine
from engine.graph import Graph, Node, Value
from engine.ops import reference
from engine.passes.dead_rows import dead_rows
from tests.tiny import CHANNELS, HEADS, INNER, feeds, sparse

TOKENS = ("batch", "sequence")


def pre_norm(pattern: str = "dense", *, row: bool = False) -> Graph:
    """Words alone, attention, a gated feed-forward layer, as T5 has them; row: of a first token."""
    random = np.random.default_rng(0)
    shapes = dict.fromkeys(("q", "k", "v", "o"), (CHANNELS, CHANNELS))
    shapes |= {"gate": (INNER, CHANNELS), "up": (INNER, CHANNELS), "down": (CHANNELS, INNER)}
    constants = {name: sparse(random, *shape, pattern) / 8 for name, shape in shapes.items()}
    constants["words"] = random.normal(size=(200, CHANNELS)).astype(np.float32)
    constants["one"] = (1 + random.normal(size=CHANNELS) / 5).astype(np.float32)
    constants["zero"] = np.zeros(CHANNELS, np.float32)
    linear = {"pattern": pattern, "precision": "float32", "activation": None}

    def node(op: str, inputs: str, output: str, domain: str = "engine", **how: object) -> Node:
        names = tuple("" if name == "-" else name for name in inputs.split())
        return Node(op, names, (output,), how, f"{output}_{op}", domain)

    def norm(x: str, y: str) -> Node:
        return node("LayerNorm", f"{x} - - one zero", y, epsilon=1e-6, centred=False)

    nodes = (
        node("Embedding", "input_ids - words - - - -", "x"),
        norm("x", "x1"),
        *(node("Linear", f"x1 {name} - -", f"x1{name}", **linear) for name in "qkv"),
        node("Attention", "x1q x1k x1v attention_mask", "a", heads=HEADS, scale=1.0),
        node("Linear", "a o - -", "b", **linear),
        node("Add", "x b", "y", ""),
        norm("y", "y1"),
        node("Linear", "y1 gate - -", "g", **{**linear, "activation": "gelu_tanh"}),
        node("Linear", "y1 up - -", "u", **linear),
        node("Mul", "g u", "gated", ""),
        node("Linear", "gated down - -", "d", **linear),
        node("Add", "y d", "z", ""),
        norm("z", "whole"),
        *([node("Select", "whole", "row", index=0)] if row else []),
    )
    inputs = tuple(Value(name, "int64", TOKENS) for name in ("input_ids", "attention_mask"))
    output = Value("row", "float32", ("batch", 1, CHANNELS))
    if not row:
        output = Value("whole", "float32", (*TOKENS, CHANNELS))
    return Graph("pre_norm", inputs, (output,), nodes, constants)


@pytest.mark.parametrize("row", [False, True], ids=["tokens", "row"])
@pytest.mark.parametrize("pattern", ["dense", "4x1"])
def test_wholly_in_kernels_as_the_reference(pattern: str, row: bool) -> None:
    """Of the gate, where its reader has no weights, neither operand is made."""
    graph = pre_norm(pattern, row=row)
    down = graph.constants["down"].copy()
    down[:, 8:40] = 0
    graph = graph.changed(constants={**graph.constants, "down": down})
    session = engine.Session(dead_rows(graph))
    assert session.plan is not None and session.plan.fallback is None
    skipped = {step.name: step.skipped_macs for step in session.plan.steps}
    assert bool(skipped["g_Linear"] and skipped["u_Linear"]) == (pattern == "4x1" and not row)
    for lengths in ([1], [31, 1, 37], [128, 2, 65]):
        feed = feeds(lengths, max(lengths))
        del feed["token_type_ids"]
        (wanted,), (got,) = reference.run(graph, feed).values(), session.run(feed).values()
        real = slice(None) if row else feed["attention_mask"] == 1
        np.testing.assert_allclose(got[real], wanted[real], rtol=0, atol=5e-5)
