"""Attention whose inputs are not three values of its own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import engine
from engine.graph import Graph
from engine.ops import reference
from tests.fuzz.attempt import feeds_for, typed

pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.runtime.crowds import graph_of  # noqa: E402

SHARED = {  # which of query, key and value an attention reads as its query, key and value
    "keys are values": (0, 2, 2),
    "queries are values": (2, 1, 2),
    "queries are keys": (1, 1, 2),
    "all are values": (2, 2, 2),
}


def with_shared_inputs(graph: Graph, places: tuple[int, int, int]) -> Graph:
    """A value that attention on bytes reads as its second operand is stored less 128.  The last
    layer's queries are one of each sentence, so the first layer is changed.
    """
    nodes = []
    first = next(node for node in graph if node.kind == "engine.Attention")
    for node in graph:
        if node is first:
            names = ("query", "key", "value")
            attributes = {
                **node.attributes,
                **{
                    name: node.attributes[names[place]]
                    for name, place in zip(names, places, strict=True)
                },
            }
            inputs = (*(node.inputs[place] for place in places), *node.inputs[3:])
            node = node.changed(inputs=inputs, attributes=attributes)
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes))


@pytest.mark.parametrize("form", ["int8", "fp32"])
@pytest.mark.parametrize("case", SHARED)
def test_values_may_be_keys_too(form: str, case: str) -> None:
    graph = with_shared_inputs(graph_of(form, 20), SHARED[case])
    session, feeds = engine.Session(graph), feeds_for(graph)
    got = session.run(feeds)
    wanted = reference.run(graph, typed(graph, feeds))
    for name, array in wanted.items():
        np.testing.assert_allclose(got[name], array, atol=0.05)
