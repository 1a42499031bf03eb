"""The first test to run: a small model, in kernels, has the numbers of its operators' meanings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from engine.errors import InputError
from engine.graph import Value
from engine.ops import reference
from engine.runtime import Session
from tests.tiny import feeds, tiny_graph


@pytest.mark.parametrize("pattern", ["4x1", "1x4", "dense"])
def test_a_model_in_kernels_equals_its_reference(pattern: str) -> None:
    graph, given = tiny_graph(pattern), feeds([8, 5, 1], 8)
    got, wanted = Session(graph).run(given), reference.run(graph, given)
    np.testing.assert_allclose(got["logits"], wanted["logits"], rtol=0, atol=2e-4)


@pytest.mark.parametrize("shape", [(3, 9), (2, 8), ("n", "n")])
def test_lengths_that_a_model_fixes(shape: tuple[int | str, ...]) -> None:
    graph = tiny_graph()
    fixed = graph.changed(inputs=tuple(replace(value, shape=shape) for value in graph.inputs))
    with pytest.raises(InputError, match=r"input 'input_ids' is \[3, 8\]: the model has \["):
        Session(fixed).run(feeds([8, 5, 1], 8))


def test_inputs_that_nothing_reads_have_their_shapes_too() -> None:
    graph = tiny_graph()
    unread = Value("unread", "int64", (2, "batch"))
    session = Session(graph.changed(inputs=(*graph.inputs, unread)))
    given = feeds([5, 3], 5)
    assert session.plan is not None
    session.run({**given, "unread": np.zeros((2, 2), np.int64)})
    for shape in ((2,), (3, 2)):
        with pytest.raises(InputError, match=r"input 'unread': shape \("):
            session.run({**given, "unread": np.zeros(shape, np.int64)})
