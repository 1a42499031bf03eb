"""Joined linear layers: each selection of their channels becomes a layer of its own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from engine.passes.clean import clean
from engine.passes.gelu import gelu
from engine.passes.linear import linear
from engine.passes.simulate import simulate
from tests.passes.sketch import Sketch, assert_same, counts, normal, operators

HIDDEN = ("float32", ("batch", "sequence", 16))
FEEDS = {"x": normal(2, 5, 16)}


def whole(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def joined(s: Sketch, outputs: int = 96) -> str:
    return str(s.Add(s.MatMul("x", normal(16, outputs, seed=1)), normal(outputs, seed=2)))


def split(s: Sketch) -> list[str]:
    """GTE's."""
    return [str(part) for part in s.Split(joined(s), whole(32, 32, 32), outputs=3, axis=-1)]


def sliced(s: Sketch) -> list[str]:
    x = joined(s)
    return [str(s.Slice(x, whole(n), whole(n + 48), whole(2))) for n in (48, 0)]


def indexed(s: Sketch) -> list[str]:
    """nomic-bert's: [batch, tokens, 3, heads, depth], one of three."""
    x = s.Reshape(joined(s), whole(0, 0, 3, 2, 16))
    return [str(s.Gather(x, np.int64(n), axis=2)) for n in range(3)]


def unbound(s: Sketch) -> list[str]:
    """ModernBERT's: heads first, then one of three."""
    x = s.Transpose(s.Reshape(joined(s), whole(0, 0, 3, 2, 16)), perm=(0, 3, 2, 1, 4))
    parts = s.Split(x, whole(1, 1, 1), outputs=3, axis=2)
    return [str(s.Squeeze(part, whole(2))) for part in parts]


def alternating(s: Sketch) -> list[str]:
    """BLOOM's: query, key and value of each head side by side."""
    x = s.Reshape(joined(s), whole(0, 0, 2, 3, 16))
    return [str(s.Transpose(s.Gather(x, np.int64(n), axis=3), perm=(0, 2, 1, 3))) for n in range(3)]


def quantised(s: Sketch) -> list[str]:
    x = s.round_trip(joined(s), 0.05)
    return [str(s.Slice(x, whole(n), whole(n + 48), whole(2))) for n in (0, 48)]


@pytest.mark.parametrize("spelling", [split, sliced, indexed, unbound, alternating, quantised])
def test_each_selection_is_a_layer(spelling: Callable[[Sketch], list[str]]) -> None:
    s = Sketch(x=HIDDEN)
    graph = s.graph(*spelling(s))
    after = linear(simulate(clean(graph)))
    assert counts(after)["Linear"] == len(graph.outputs)
    moved = {"Reshape", "Transpose", "Unsqueeze", "Squeeze", "FakeQuantize"}
    assert set(operators(after)) <= {"Linear", *moved}
    assert_same(graph, after, atol=1e-5, **FEEDS)


def test_an_activation_goes_to_its_own_half() -> None:
    s = Sketch(x=HIDDEN)
    inner, gate = (str(part) for part in s.Split(joined(s), outputs=2, axis=2))
    graph = s.graph(s.Mul(s.Mul(inner, s.Sigmoid(inner)), gate))
    after = linear(gelu(clean(graph)))
    assert sorted(operators(after)) == ["Linear", "Linear", "Mul"]
    activations = [node.attributes["activation"] for node in after if node.op == "Linear"]
    assert sorted(activations, key=str) == [None, "swish"]
    assert_same(graph, after, atol=1e-5, **FEEDS)


def read_whole(s: Sketch) -> list[str]:
    x = joined(s)
    return [str(s.Slice(x, whole(0), whole(48), whole(2))), str(s.Relu(x))]


def of_tokens(s: Sketch) -> list[str]:
    x = joined(s)
    return [str(s.Slice(x, whole(0), whole(1), whole(1))), str(s.Gather(x, np.int64(0), axis=1))]


def few(s: Sketch) -> list[str]:
    """The logits of a model that answers questions."""
    return [str(part) for part in s.Split(joined(s, 2), whole(1, 1), outputs=2, axis=-1)]


@pytest.mark.parametrize("spelling", [read_whole, of_tokens, few])
def test_other_readers_leave_it_whole(spelling: Callable[[Sketch], list[str]]) -> None:
    s = Sketch(x=HIDDEN)
    graph = s.graph(*spelling(s))
    after = linear(simulate(clean(graph)))
    assert counts(after)["Linear"] == 1
    assert_same(graph, after, atol=1e-5, **FEEDS)
