"""Channels taken out of a value along the last axis, and what takes out something else."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from engine.passes.channels import channels
from engine.passes.clean import clean
from tests.passes.sketch import Sketch, assert_same, normal, operators

Taken = Callable[[Sketch, str], tuple[str, ...]]
AT = {name: np.array([n]) for name, n in (("one", 1), ("two", 2), ("three", 3), ("last", -1))}
HOW = (np.float32(0.1), np.uint8(120))
TAKEN: dict[str, Taken] = {
    "split": lambda s, x: s.Split(x, np.array([1, 3]), axis=-1, outputs=2),
    "split evenly": lambda s, x: s.Split(x, axis=2, outputs=2),
    "one channel": lambda s, x: (s.Gather(x, np.int64(-2), axis=2),),
    "one channel, an axis": lambda s, x: (s.Gather(x, np.array([1]), axis=-1),),
    "slice": lambda s, x: (s.Slice(x, AT["one"], AT["three"], AT["two"]),),
    "slice from the end": lambda s, x: (s.Slice(x, AT["last"], np.array([99]), AT["last"]),),
}
OTHERS: dict[str, Taken] = {
    "tokens": lambda s, x: (s.Slice(x, AT["one"], AT["three"], AT["one"]),),
    "one token": lambda s, x: (s.Gather(x, np.int64(0), axis=1),),
    "every other": lambda s, x: (s.Slice(x, AT["one"], np.array([4]), AT["two"], AT["two"]),),
    "in another order": lambda s, x: (s.Gather(x, np.array([1, 0]), axis=2),),
    "none": lambda s, x: (s.Slice(x, AT["two"], AT["two"], AT["two"]),),
    "bytes": lambda s, x: (
        s.DequantizeLinear(s.Gather(s.QuantizeLinear(x, *HOW), AT["one"], axis=-1), *HOW),
    ),
    "sentences": lambda s, x: s.Split(x, np.array([1, 1]), axis=0, outputs=2),
}


def sketch(opset: int = 17) -> tuple[Sketch, str]:
    s = Sketch(opset, h=("float32", ("batch", "sequence", 4)))
    norm = s.constant(np.ones(4, np.float32), "gamma"), s.constant(np.zeros(4, np.float32), "beta")
    return s, str(s.LayerNorm("h", "", "", *norm, domain="engine"))


@pytest.mark.parametrize("name", TAKEN)
def test_channels_are_taken(name: str) -> None:
    s, x = sketch()
    before = s.graph(*TAKEN[name](s, x))
    after = channels(clean(before))
    assert set(operators(after)) <= {"LayerNorm", "Channels", "Squeeze"}
    assert_same(before, after, h=normal(2, 3, 4))


@pytest.mark.parametrize("name", OTHERS)
def test_something_else_is_taken(name: str) -> None:
    s, x = sketch()
    graph = clean(s.graph(*OTHERS[name](s, x)))
    assert operators(channels(graph)) == operators(graph)


def test_before_axes_were_an_input() -> None:
    s, x = sketch(12)
    before = s.graph(s.Gather(x, np.int64(3), axis=-1))
    assert_same(before, channels(clean(before)), h=normal(2, 3, 4))
