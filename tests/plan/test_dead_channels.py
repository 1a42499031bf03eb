"""Which channels are read, and what those without weights add to scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.graph import Graph, Node, Quantization, Value
from engine.ops.reference import evaluate
from engine.plan.dead_channels import constant_scores, live_channels, varying_fours

Array = NDArray[Any]
HEADS, DEPTH, INPUTS = 2, 16, 8
CHANNELS = HEADS * DEPTH
BYTES = {
    "x": Quantization(0.02, 117),
    "q": Quantization(0.03, 120),
    "k": Quantization(0.04, 131),
    "v": Quantization(0.02, 128),
    "y": Quantization(0.05, 125),
    "z": Quantization(0.05, 125),
}
ATTENTION: dict[str, Any] = {
    "heads": HEADS, "scale": DEPTH**-0.5, "product": None, "scores": Quantization(0.08, 128),
    "probabilities": Quantization(1 / 255, 0), "query": BYTES["q"], "key": BYTES["k"],
    "value": BYTES["v"], "output": BYTES["y"],
}  # fmt: skip


def linear(name: str, x: str, **attributes: Any) -> Node:
    inputs = (x, f"{name}.w", f"{name}.s", f"{name}.b")
    how = {"input": BYTES[x], "output": BYTES[name], **attributes}
    return Node("Linear", inputs, (name,), how, name, "engine")


def layer(**weights: Array) -> Graph:
    """q, k, v, attention y and z, the Linear behind it; weights not given are all there."""
    random = np.random.default_rng(0)
    constants: dict[str, Array] = {}
    for name in "qkvz":
        shape = (INPUTS, CHANNELS) if name == "z" else (CHANNELS, INPUTS)
        constants[f"{name}.w"] = weights.get(name, np.ones(shape)).astype(np.int8)
        constants[f"{name}.s"] = np.full(shape[0], 0.01, np.float32)
        constants[f"{name}.b"] = random.normal(size=shape[0]).astype(np.float32)
    nodes = (
        *(linear(name, "x") for name in "qkv"),
        Node("Attention", ("q", "k", "v"), ("y",), ATTENTION, "y", "engine"),
        linear("z", "y"),
    )
    inputs = (Value("x", "uint8", (None, INPUTS)),)
    return Graph("layer", inputs, (Value("z", "uint8", (None, INPUTS)),), nodes, constants)


def without(rows: list[int]) -> Array:
    weight = np.ones((CHANNELS, INPUTS))
    weight[rows] = 0
    return weight


def in_floats(graph: Graph) -> Graph:
    """The same layer without quantisation."""
    none = dict.fromkeys(("input", "output", "query", "key", "value", "scores", "probabilities"))
    constants = {
        name: array.astype(np.float32) if name.endswith(".w") else array
        for name, array in graph.constants.items()
    }
    nodes = tuple(
        node.changed(
            inputs=(node.inputs[0], node.inputs[1], "", node.inputs[3])
            if node.op == "Linear"
            else node.inputs,
            attributes={k: v for k, v in {**node.attributes, **none}.items() if v is not None},
        )
        for node in graph
    )
    return graph.changed(nodes=nodes, constants=constants)


def test_all_is_read_where_nothing_is_zero() -> None:
    assert live_channels(layer(), varying_fours(layer()), {}) == {}


def test_values_are_read_where_the_context_is() -> None:
    columns = without([0, 1, 5, 30]).T
    graph = layer(z=columns)
    read = live_channels(graph, varying_fours(graph), {})
    assert sorted(read) == ["v", "y"]
    for mask in read.values():
        assert np.flatnonzero(~mask).tolist() == [0, 1, 5, 30]


def test_what_the_graph_gives_is_read() -> None:
    graph = layer(z=without([0]).T)
    both = graph.changed(outputs=(*graph.outputs, Value("y", "uint8", (None, CHANNELS))))
    assert live_channels(both, varying_fours(both), {}) == {}


def test_a_reader_in_floats_reads_all() -> None:
    graph = layer(z=without([0]).T)
    more = Node("Softmax", ("y",), ("p",), {}, "p")
    graph = graph.changed(nodes=(*graph.nodes, more), outputs=(*graph.outputs, Value("p", "", ())))
    assert live_channels(graph, varying_fours(graph), {}) == {}


def test_fours_count_where_queries_or_keys_vary() -> None:
    gone = list(range(4, 12))
    graph = layer(q=without(gone), k=without([*gone[:4], *gone[5:]]))
    fours = varying_fours(graph).get("y")
    assert fours is not None and fours.tolist() == [[True, False, True, True], [True] * 4]
    read = live_channels(graph, varying_fours(graph), {})
    assert sorted(read) == ["k", "q"] and np.flatnonzero(~read["q"]).tolist() == [4, 5, 6, 7]
    assert live_channels(graph, {}, {}) == {}


@pytest.mark.parametrize("gone", [[0, 1, 2, 3], list(range(CHANNELS))], ids=["one", "all"])
def test_the_rest_of_the_scores_is_known(gone: list[int]) -> None:
    graph = layer(q=without(gone), k=without(gone))
    node = graph.nodes[3]
    fours = varying_fours(graph).get("y")
    assert fours is not None
    added = constant_scores(graph, node, fours)
    x = np.random.default_rng(1).integers(0, 256, (5, INPUTS)).astype(np.uint8)
    for head in range(HEADS):
        parts = []
        for maker, name in zip(graph.nodes[:2], "qk", strict=True):
            made = evaluate(maker, [x, *(graph.constants[n] for n in maker.inputs[1:])], 17)[0]
            mine = [c for c in gone if c // DEPTH == head]
            parts.append(made[:, mine].astype(int) - BYTES[name].zero_point)
        assert np.all(parts[0] @ parts[1].T == added[head])


def test_floats_are_read_in_whole_blocks() -> None:
    graph = in_floats(layer(z=without([0, 1, 2, 3, 5, 30]).T))
    for block, gone in ((0, []), (1, [0, 1, 2, 3, 5, 30]), (4, [0, 1, 2, 3])):
        read = live_channels(graph, varying_fours(graph), dict.fromkeys("qkvz", block))
        assert sorted(read) == (["v", "y"] if gone else [])
        for mask in read.values():
            assert np.flatnonzero(~mask).tolist() == gone


def test_in_floats_keys_that_are_the_same_count_for_nothing() -> None:
    """Whatever queries are: all scores of one have it in common."""
    graph = in_floats(layer(k=without(list(range(4, 12)))))
    fours = varying_fours(graph).get("y")
    assert fours is not None and fours.tolist() == [[True, False, False, True], [True] * 4]
    x = np.random.default_rng(1).normal(size=(1, 5, INPUTS)).astype(np.float32)
    made = {}
    for maker in graph.nodes[:3]:
        constants = [graph.constants.get(name) for name in maker.inputs[1:]]
        made[maker.outputs[0]] = evaluate(maker, [x, *constants], 17)[0]
    node = graph.nodes[3]
    whole = evaluate(node, [made["q"], made["k"], made["v"]], 17)[0]
    some = fours.ravel().repeat(4)
    got = evaluate(node, [made["q"] * some, made["k"] * some, made["v"]], 17)[0]
    np.testing.assert_allclose(got, whole, atol=1e-5)


@pytest.mark.parametrize("op", ["Mul", "Add"])
def test_what_is_combined_is_read_where_the_result_is(op: str) -> None:
    """As in a gated layer: both operands' channels, if they are as many."""
    random, gone = np.random.default_rng(0), [0, 1, 5, 30]
    constants = {"g.w": random.normal(size=(CHANNELS, INPUTS)), "z.w": without(gone).T}
    constants["u.w"] = constants["g.w"]
    how = {"precision": "float32"}

    def product(x: str, y: str) -> Node:
        return Node("Linear", (x, f"{y}.w", "", ""), (y,), how, y, "engine")

    nodes = (
        product("x", "g"),
        product("x", "u"),
        Node(op, ("g", "u"), ("h",)),
        product("h", "z"),
    )
    inputs = (Value("x", "float32", ("tokens", INPUTS)),)
    outputs = (Value("z", "float32", ("tokens", INPUTS)),)
    floats = {name: array.astype(np.float32) for name, array in constants.items()}
    graph = Graph("gated", inputs, outputs, nodes, floats)
    read = live_channels(graph, {}, dict.fromkeys("guz", 1))
    assert sorted(read) == ["g", "h", "u"]
    for mask in read.values():
        assert np.flatnonzero(~mask).tolist() == gone
    floats["u.w"] = floats["u.w"][:1]
    spread = live_channels(graph.changed(constants=floats), {}, dict.fromkeys("guz", 1))
    assert sorted(spread) == ["h"]
