"""What is made of a rounded value alone becomes a table of 256 numbers."""

from __future__ import annotations

import numpy as np

from engine.graph import Graph
from engine.passes.lookup import lookup
from engine.passes.quantize import quantize
from engine.passes.simulate import simulate
from tests.passes.sketch import Sketch, assert_same, normal, only, operators

HIDDEN = ("float32", ("batch", "sequence", 8))
X = 2 * normal(2, 3, 8)


def rounded_gelu(s: Sketch, x: str) -> str:
    """As quantize_static leaves it."""
    x = s.round_trip(x, 0.05)
    normal_ = s.round_trip(s.Erf(s.Div(x, np.sqrt(2))), 2 / 255)
    normal_ = s.round_trip(s.Add(normal_, 1.0), 2 / 255, 0)
    half = s.round_trip(s.Mul(s.round_trip(s.Mul(x, normal_), 0.06, 12), 0.5), 0.03, 12)
    return str(half)


def looked_up(graph: Graph) -> Graph:
    return lookup(simulate(graph))


def test_a_gelu_of_many_roundings_is_one_table() -> None:
    s = Sketch(x=HIDDEN)
    graph = s.graph(s.Neg(rounded_gelu(s, "x")))
    after = looked_up(graph)
    assert operators(after) == ["FakeQuantize", "Lookup", "FakeQuantize", "Neg"]
    assert_same(graph, after, x=X)
    stored = quantize(after)
    assert operators(stored) == ["QuantizeLinear", "Lookup", "DequantizeLinear", "Neg"]
    assert only(stored, "Lookup").attributes["input"] is not None
    assert_same(graph, stored, x=X)


def test_no_steps_no_table() -> None:
    """A range that calibration found to be infinite is no quantisation."""
    s = Sketch(x=HIDDEN)
    y = s.round_trip(s.Tanh(s.round_trip("x", np.float32(np.inf))), 1 / 127)
    assert "Lookup" not in operators(looked_up(s.graph(s.Neg(y))))


def test_signed_bytes() -> None:
    s = Sketch(x=HIDDEN)
    y = s.round_trip(s.Tanh(s.round_trip("x", 0.03, -5, "int8")), 1 / 127, 0, "int8")
    graph = s.graph(s.Neg(y))
    after = quantize(looked_up(graph))
    assert only(after, "Lookup").attributes["output"].dtype == "int8"
    assert_same(graph, after, x=X)


def test_two_values_or_a_number_for_each_channel_are_no_table() -> None:
    for other in (lambda s: "y", lambda s: s.constant(normal(8))):
        s = Sketch(x=HIDDEN, y=HIDDEN)
        total = s.Add(s.round_trip("x", 0.05), other(s))
        assert "Lookup" not in operators(looked_up(s.graph(s.Neg(s.round_trip(total, 0.1)))))


def test_what_others_read_ends_a_table() -> None:
    s = Sketch(x=HIDDEN)
    first = s.round_trip(s.Tanh(s.round_trip("x", 0.05)), 1 / 127)
    graph = s.graph(s.Neg(s.round_trip(s.Erf(first), 1 / 127)), s.Neg(first))
    after = looked_up(graph)
    assert operators(after).count("Lookup") == 2
    assert_same(graph, after, x=X)
