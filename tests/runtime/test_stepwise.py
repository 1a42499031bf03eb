"""Programs run step by step: what is read back, and that a wrong step is found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import engine
from engine import settings
from engine.errors import CheckError
from engine.formats import store
from engine.graph import Graph, Quantization
from engine.ops import reference
from engine.ops.numbers import dequantized
from engine.runtime import stepwise
from tests import original_writer as writer
from tests.test_original_ir import feeds


@pytest.fixture(params=["fp32", "int8"])
def graph(request: pytest.FixtureRequest, tmp_path: Path) -> Graph:
    return store.read(writer.write(tmp_path / "ir", request.param))


def test_every_step_means_its_operator(graph: Graph) -> None:
    for batch, length in ((1, 1), (3, 13), (9, 24), (70, 5)):  # one pack and several
        compared = stepwise.check(graph, feeds(batch, length))
        assert compared == sum(node.domain == "engine" for node in graph)


def test_values_are_those_of_the_graph(graph: Graph) -> None:
    fed = feeds(40, 20)
    made = stepwise.values(graph, fed)
    stored = stepwise.quantizations(graph)
    expected: dict[str, np.ndarray] = {}
    reference.run(graph, fed, lambda node, outputs: expected.update({node.outputs[0]: outputs[0]}))
    first = graph.nodes[0].outputs[0]
    assert next(iter(made)) == first
    for name, value in made.items():
        want = expected[name]
        assert value.array.dtype == want.dtype
        real = slice(None) if value.real is None else value.real
        apart = np.abs(
            dequantized(value.array, stored.get(name)).astype(np.float64)
            - dequantized(want.reshape(value.array.shape), stored.get(name))
        )[real]
        assert apart.mean() < 0.02
        if value.real is not None:
            np.testing.assert_array_equal(value.real, fed["attention_mask"] != 0)
            assert not value.array[~value.real].any()


def test_a_step_that_goes_wrong_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = store.read(writer.write(tmp_path / "ir", "int8"))
    with settings.override(check=1):
        session = engine.Session(graph)
    fed = feeds(2, 9)
    session.run(fed)
    honest = stepwise.Stepwise._read

    def wrong(self: stepwise.Stepwise, buffer: stepwise.Buffer, offset: int) -> np.ndarray:
        array = honest(self, buffer, offset)
        if buffer.name == "key_heads":
            array[3, 5] ^= 0x40
        return array

    monkeypatch.setattr(stepwise.Stepwise, "_read", wrong)
    with pytest.raises(CheckError, match=r"key_heads.*kernel .*token 3, channel 5 of 'key_heads'"):
        session.run(fed)
    engine.Session(graph).run(fed)  # nothing is compared unless it is asked for


def test_quantizations_follow_a_select(tmp_path: Path) -> None:
    graph = store.read(writer.write(tmp_path / "ir", "int8"))
    found = stepwise.quantizations(graph)
    selected = [node for node in graph if node.op == "Select"]
    assert selected
    assert all(isinstance(found[node.outputs[0]], Quantization) for node in selected)
