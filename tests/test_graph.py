"""Graph: soundness, dead nodes, who makes and who reads a value."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from engine.errors import ModelError
from engine.graph import Graph, Node, Value

X, Y = Value("x", "float32", ("n",)), Value("y", "float32", ("n",))


def graph(*nodes: Node) -> Graph:
    return Graph("g", (X,), (Y,), nodes, {"c": np.ones(1), "d": np.ones(1)})


ADD = Node("Add", ("x", "c"), ("a",), name="add")
MUL = Node("Mul", ("a", "a"), ("y",))


def test_who_makes_and_who_reads() -> None:
    g = graph(ADD, MUL)
    assert g.producer() == {"a": ADD, "y": MUL}
    assert g.consumers() == {"x": [ADD], "c": [ADD], "a": [MUL]}
    assert list(g) == [ADD, MUL]


def test_inputs_left_out_are_no_values() -> None:
    node = Node("Clip", ("x", "", "c"), ("y", ""))
    g = graph(node).check()
    assert g.producer() == {"y": node}
    assert set(g.consumers()) == {"x", "c"}


def test_dead_nodes_and_constants_go() -> None:
    dead = Node("Neg", ("d",), ("unused",))
    found = graph(ADD, dead, MUL).without_dead_nodes()
    assert found.nodes == (ADD, MUL)
    assert set(found.constants) == {"c"}


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ((MUL, ADD), r"node 'y' \(Mul\) reads 'a', which nothing before it makes"),
        ((ADD, ADD, MUL), r"node 'add' \(Add\) makes 'a' a second time"),
        ((Node("Neg", ("x",), ("c",)),), "makes 'c' a second time"),
        ((ADD,), "output 'y' is made by no node"),
    ],
)
def test_unsound_graphs(nodes: tuple[Node, ...], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        graph(*nodes).check()


def test_graphs_do_not_change() -> None:
    g = graph(ADD, MUL)
    with pytest.raises(FrozenInstanceError):
        g.name = "other"  # type: ignore[misc]
    assert g.changed(name="other").name == "other"
    assert g.name == "g"
