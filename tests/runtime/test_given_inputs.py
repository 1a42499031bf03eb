"""Positions, and masks of floats, as callers give them."""

from __future__ import annotations

import numpy as np
import pytest

import engine
from engine.errors import InputError
from engine.graph import Graph, Node, Value
from engine.measure.feeds import made_up
from engine.ops import reference
from tests.tiny import feeds, tiny_graph

LENGTHS = [1, 31, 37]


def numbered() -> Graph:
    """The tiny model with position_ids."""
    graph = tiny_graph()
    embedding, *others = graph.nodes
    inputs = (*graph.inputs, Value("position_ids", "int64", ("batch", "sequence")))
    embedding = embedding.changed(inputs=(*embedding.inputs, "position_ids"))
    return graph.changed(inputs=inputs, nodes=(embedding, *others))


def with_float_mask() -> Graph:
    graph = tiny_graph()
    types = {"attention_mask": "float32"}
    inputs = [Value(v.name, types.get(v.name, v.dtype), v.shape) for v in graph.inputs]
    return graph.changed(inputs=tuple(inputs))


def counted(feed: dict[str, np.ndarray]) -> np.ndarray:
    return np.zeros_like(feed["input_ids"]) + np.arange(feed["input_ids"].shape[1])


@pytest.mark.parametrize("places", ["counted", "counted where the mask is 1", "twice", "turned"])
def test_positions_are_what_the_caller_says(places: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels number tokens themselves, where that is the same; NumPy takes the other calls."""
    graph, feed = numbered(), feeds(LENGTHS, max(LENGTHS))
    feed["position_ids"] = {
        "counted": counted(feed),
        "counted where the mask is 1": counted(feed) * feed["attention_mask"],
        "twice": counted(feed) // 2,
        "turned": counted(feed)[:, ::-1],
    }[places]
    session, calls = engine.Session(graph), list[str]()
    by_reference = session._by_reference
    monkeypatch.setattr(
        session, "_by_reference", lambda feed: calls.append("NumPy") or by_reference(feed)
    )
    wanted = reference.run(graph, feed)["logits"]
    np.testing.assert_allclose(session.run(feed)["logits"], wanted, rtol=0, atol=1e-4)
    assert session.plan is not None and session.plan.fallback is None
    assert bool(calls) == (not places.startswith("counted"))


def test_positions_that_are_missing_are_named() -> None:
    with pytest.raises(InputError, match="position_ids"):
        engine.Session(numbered()).run(feeds(LENGTHS, 37))


def test_made_up_positions_are_those_of_kernels() -> None:
    feed = made_up(numbered(), 2, 9)
    np.testing.assert_array_equal(feed["position_ids"], counted(feed))


def test_a_mask_of_floats_is_one_of_ones() -> None:
    session, feed = engine.Session(with_float_mask()), feeds(LENGTHS, 37)
    wanted = engine.Session(tiny_graph()).run(feed)["logits"]
    feed["attention_mask"] = feed["attention_mask"].astype(np.float32)
    np.testing.assert_array_equal(session.run(feed)["logits"], wanted)
    feed["attention_mask"][1, 2] = 0.5
    for run in (session.run, lambda feed: reference.run(session.graph, feed)):
        with pytest.raises(InputError, match=r"0\.5: expected 0 or 1"):
            run(feed)


def test_a_mask_of_floats_for_integers_is_refused() -> None:
    feed = feeds(LENGTHS, 37)
    feed["attention_mask"] = feed["attention_mask"].astype(np.float32)
    with pytest.raises(InputError, match="'attention_mask' is float32: expected integers"):
        engine.Session(tiny_graph()).run(feed)


def handing_on(*names: str) -> Graph:
    """The tiny model that gives inputs out as they are."""
    graph = tiny_graph()
    given = [next(value for value in graph.inputs if value.name == name) for name in names]
    nodes = [Node("Identity", (v.name,), (f"{v.name}_out",)) for v in given]
    outputs = [Value(f"{v.name}_out", v.dtype, v.shape) for v in given]
    return graph.changed(nodes=(*graph.nodes, *nodes), outputs=(*graph.outputs, *outputs))


def test_inputs_that_are_outputs_are_handed_on() -> None:
    graph = handing_on("input_ids", "attention_mask")
    session, feed = engine.Session(graph), feeds(LENGTHS, max(LENGTHS))
    assert session.plan is not None and session.plan.fallback is None
    wanted, got = reference.run(graph, feed), session.run(feed)
    assert got.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_allclose(got[name], array, rtol=0, atol=1e-4)
        assert got[name].dtype == array.dtype
    assert not np.shares_memory(got["input_ids_out"], feed["input_ids"])


def test_an_input_that_is_handed_on_and_missing_is_named() -> None:
    graph = handing_on("input_ids")
    other, out = Value("other", "float32", ("batch",)), Value("out", "float32", ("batch",))
    nodes = (*graph.nodes, Node("Identity", ("other",), ("out",)))
    outputs = (*graph.outputs, out)
    session = engine.Session(
        graph.changed(inputs=(*graph.inputs, other), nodes=nodes, outputs=outputs)
    )
    feed = feeds(LENGTHS, max(LENGTHS))
    with pytest.raises(InputError, match="other"):
        session.run(feed)
    numbers = np.arange(len(LENGTHS), dtype=np.float32)
    np.testing.assert_array_equal(session.run({**feed, "other": numbers})["out"], numbers)
