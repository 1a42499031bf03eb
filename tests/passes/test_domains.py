"""An operator of another domain is that domain's, whatever its name: never fused or planned.

Each node of a whole model, one after the other, goes to a domain "mine" where its operator means
something else.
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Any

import numpy as np
import pytest

from engine import ops
from engine.graph import Graph, Node, Value
from engine.ops import Operator, reference, rows
from engine.passes import optimize
from engine.passes.dead_rows import ROW_INPUTS, dead_rows
from engine.plan.choose import CHOOSERS
from engine.runtime import Session
from tests.passes.sketch import Sketch, normal, operators

IDS = ("int64", ("batch", "sequence"))
CHANNELS = 32
FEEDS = {
    "ids": np.random.default_rng(0).integers(0, 30, (2, 6)),
    "mask": np.array([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]]),
}


def weight(s: Sketch, seed: int, quantised: bool) -> str:
    values = 0.3 * normal(CHANNELS, CHANNELS, seed=seed)
    if not quantised:
        return s.constant(values)
    scale = np.float32(np.abs(values).max() / 127)
    return str(s.DequantizeLinear(np.rint(values / scale).astype(np.int8), scale, np.int8(0)))


def layer(s: Sketch, x: str, seed: int, quantised: bool) -> str:
    x = s.round_trip(x, 0.05) if quantised else x
    return str(s.Add(s.MatMul(x, weight(s, seed, quantised)), normal(CHANNELS, seed=seed)))


def norm(s: Sketch, x: str) -> str:
    """Written out, as torch exports it."""
    deviation = s.Sub(x, s.ReduceMean(x, axes=(-1,)))
    variance = s.ReduceMean(s.Pow(deviation, 2.0), axes=(-1,))
    unit = s.Div(deviation, s.Sqrt(s.Add(variance, 1e-5)))
    return str(s.Add(s.Mul(unit, 1 + 0.1 * normal(CHANNELS)), 0.1 * normal(CHANNELS)))


def heads(s: Sketch, x: str, order: tuple[int, ...] = (0, 2, 1, 3)) -> str:
    return str(s.Transpose(s.Reshape(x, np.array([0, 0, 2, CHANNELS // 2])), perm=order))


def attention(s: Sketch, x: str, quantised: bool) -> str:
    query, key, value = (layer(s, x, seed, quantised) for seed in (1, 2, 3))
    scores = s.MatMul(heads(s, query), heads(s, key, (0, 2, 3, 1)))
    scores = s.Div(scores, np.float32(sqrt(CHANNELS // 2)))
    mask = s.Cast(s.Unsqueeze("mask", np.array([1, 2])), to="float32")
    masked = s.Add(scores, s.Mul(s.Sub(np.float32(1), mask), np.float32(-10000)))
    context = s.MatMul(s.Softmax(masked, axis=-1), heads(s, value))
    return str(s.Reshape(s.Transpose(context, perm=(0, 2, 1, 3)), np.array([0, 0, CHANNELS])))


def gelu(s: Sketch, x: str) -> str:
    return str(s.Mul(s.Mul(x, s.Add(s.Erf(s.Div(x, np.float32(sqrt(2)))), 1.0)), 0.5))


def classifier(quantised: bool) -> Graph:
    """A layer between an embedding and a pooler."""
    s = Sketch(ids=IDS, mask=IDS)
    length = s.Gather(s.Shape("ids"), np.array([1]))
    places = s.Slice(np.arange(12)[None], np.array([0]), length, np.array([1]))
    words = s.Gather(normal(30, CHANNELS, seed=5), "ids", axis=0)
    x = norm(s, s.Add(words, s.Gather(normal(12, CHANNELS, seed=6), places, axis=0)))
    x = norm(s, s.Add(layer(s, attention(s, x, quantised), 4, quantised), x))
    inner = layer(s, gelu(s, layer(s, x, 7, quantised)), 8, quantised)
    x = norm(s, s.Add(inner, x))
    pooled = s.Tanh(layer(s, s.Gather(x, np.int64(0), axis=1), 9, quantised))
    return s.graph(layer(s, pooled, 10, quantised))


GRAPHS = {kind: classifier(kind == "int8") for kind in ("float32", "int8")}
FUSED = optimize(GRAPHS["float32"])
PLACES = [(kind, place) for kind, graph in GRAPHS.items() for place in range(len(graph.nodes))]


def other_meaning(row: Operator) -> Callable[..., Any]:
    """The same shapes, but floats are other numbers."""

    def changed(*arrays: Any, **attributes: Any) -> Any:
        y = np.asarray(row.meaning(*arrays, **attributes))
        return y * y.dtype.type(1.5) + y.dtype.type(0.25) if y.dtype.kind == "f" else y

    return changed


def keep(made: dict[str, np.dtype[Any]]) -> Callable[[Node, tuple[np.ndarray, ...]], None]:
    def observe(node: Node, outputs: tuple[np.ndarray, ...]) -> None:
        made.update((n, a.dtype) for n, a in zip(node.outputs, outputs, strict=False))

    return observe


@pytest.fixture
def mine(monkeypatch: pytest.MonkeyPatch) -> str:
    """A domain that has all of ONNX's names and ours."""
    for row in ops.OPERATORS:
        if row.domain in ("", "engine"):
            new = Operator(row.name, other_meaning(row), "mine")
            monkeypatch.setitem(rows._VERSIONS, ("mine", row.name), [new])
    return "mine"


@pytest.mark.parametrize(("kind", "place"), PLACES, ids=str)
def test_a_foreign_operator_stays_what_it_is(kind: str, place: int, mine: str) -> None:
    graph = GRAPHS[kind]
    nodes = list(graph.nodes)
    nodes[place] = nodes[place].changed(domain=mine)
    foreign = graph.changed(nodes=tuple(nodes))
    after = optimize(foreign)
    kept = [node.outputs for node in after if node.domain == mine]
    made: dict[str, np.dtype[Any]] = {}
    wanted, got = (list(reference.run(g, FEEDS, keep(made)).values())[0] for g in (foreign, after))
    known = all(name in graph.constants for name in nodes[place].inputs)
    if made[nodes[place].outputs[0]].kind == "f" and not known:  # masks and positions are probed
        assert kept == [nodes[place].outputs]
    np.testing.assert_allclose(got, wanted, atol=1e-4 if kind == "float32" else 0.3)


@pytest.mark.parametrize("place", range(len(FUSED.nodes)))
def test_a_plan_ends_before_it(place: int, mine: str) -> None:
    """The graph of fused operators with one of them replaced: the session's logits are its own."""
    nodes = list(FUSED.nodes)
    nodes[place] = nodes[place].changed(domain=mine)
    foreign = FUSED.changed(nodes=tuple(nodes))
    full = {**FEEDS, "mask": np.ones_like(FEEDS["mask"])}
    wanted, got = reference.run(foreign, full), Session(foreign).run(full)
    for name in wanted:
        np.testing.assert_allclose(got[name], wanted[name], atol=1e-4)


NAMESAKES = [
    (kind.removeprefix("engine."), domain)
    for kind in ROW_INPUTS
    for domain in ("", "engine", "com.microsoft", "mine")
    if Node(kind.removeprefix("engine."), (), (), domain=domain).kind not in ROW_INPUTS
]


@pytest.mark.parametrize(("name", "domain"), NAMESAKES)
def test_a_row_is_not_pushed_through_a_namesake(name: str, domain: str) -> None:
    hidden = ("batch", "sequence", 8)
    nodes = (
        Node(name, ("x", "w"), ("y",), {}, "", domain),
        Node("Select", ("y",), ("row",), {"index": 0}, "", "engine"),
    )
    constants = {"w": normal(8, 8)}
    out = (Value("row", "float32", ("batch", 1, 8)),)
    graph = Graph("namesake", (Value("x", "float32", hidden),), out, nodes, constants)
    assert operators(dead_rows(graph)) == [name, "Select"]


def test_choosers_are_found_by_domain() -> None:
    kinds = {str(row) for row in ops.OPERATORS}
    assert kinds.issuperset(CHOOSERS)
    assert not any(f"com.microsoft.{kind.removeprefix('engine.')}" in CHOOSERS for kind in kinds)
