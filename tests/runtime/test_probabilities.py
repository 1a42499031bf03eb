"""Models that give their attention's probabilities out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engine
from engine.graph import Graph, Node, Value
from engine.ops import reference
from tests.tiny import CHANNELS, HEADS, feeds, tiny_graph

LENGTHS = [1, 31, 37, 58]
PAIRS = ("batch", HEADS, "sequence", "sequence")


def giving(*more: Node, name: str = "p", dtype: str = "float32") -> Graph:
    """The tiny model and what its attention multiplies values with; more: nodes behind it."""
    graph = tiny_graph()
    how = {"heads": HEADS, "scale": (CHANNELS // HEADS) ** -0.5}
    node = Node("Probabilities", ("x", "x", "attention_mask"), ("p",), how, "shares", "engine")
    outputs = (*graph.outputs, Value(name, dtype, PAIRS))
    return graph.changed(nodes=(*graph.nodes, node, *more), outputs=outputs)


def apart(got: np.ndarray, wanted: np.ndarray, mask: np.ndarray) -> float:
    """The largest difference at queries that count."""
    assert (got.shape, got.dtype) == (wanted.shape, wanted.dtype)
    real = np.broadcast_to(mask[:, None, :, None] == 1, got.shape)
    return float(np.abs(got.astype(np.float64) - wanted)[real].max())


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("length", [58, 64])
def test_as_the_operator_means(threads: int, length: int) -> None:
    graph, feed = giving(), feeds(LENGTHS, length)
    with engine.Session(graph, threads=threads) as session:
        assert session.plan is not None and session.plan.fallback is None
        got, wanted = session.run(feed), reference.run(graph, feed)
        for number in range(len(LENGTHS)):
            one = {name: array[number : number + 1] for name, array in feed.items()}
            np.testing.assert_array_equal(session.run(one)["p"][0], got["p"][number])
    assert apart(got["p"], wanted["p"], feed["attention_mask"]) < 1e-5
    assert np.all(got["p"][0, :, :, 1:] == 0), "nothing is seen of masked tokens"


def test_in_another_type() -> None:
    cast = Node("Cast", ("p",), ("half",), {"to": "float16"})
    graph, feed = giving(cast, name="half", dtype="float16"), feeds(LENGTHS, 64)
    session = engine.Session(graph)
    assert session.plan is not None and session.plan.fallback is None
    wanted = reference.run(graph, feed)["half"]
    assert apart(session.run(feed)["half"], wanted, feed["attention_mask"]) < 1e-3


@pytest.mark.parametrize("op", ["Sin", "Transpose"])
def test_what_no_kernel_has_reads_them(op: str) -> None:
    """Sin is of each by itself; turned, a masked query is among a key's."""
    how: dict[str, Any] = {"perm": (0, 1, 3, 2)} if op == "Transpose" else {}
    graph, feed = giving(Node(op, ("p",), ("q",), how), name="q"), feeds(LENGTHS, 64)
    session = engine.Session(graph)
    assert session.plan is not None and session.plan.fallback is not None
    got, wanted = session.run(feed)["q"], reference.run(graph, feed)["q"]
    if op == "Transpose":
        got, wanted = np.swapaxes(got, 2, 3), np.swapaxes(wanted, 2, 3)
    assert apart(got, wanted, feed["attention_mask"]) < 1e-5


def exported_bert(path: Path, **changes: Any) -> Path:
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from tests.passes import exported

    class Giving(torch.nn.Module):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = exported.bert(output_attentions=True, **changes)

        def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
            made = self.model(input_ids, attention_mask, token_type_ids)
            return (made.logits, *made.attentions)

    return exported.export(Giving(), path, outputs=("logits", "first", "second"))


def check(path: Path, most: float) -> None:
    """Wholly in kernels, and near to ONNX Runtime."""
    from tests.passes import exported

    session, feed = engine.load(path, threads=1), exported.feeds(path, 3, 37)
    assert session.plan is not None and session.plan.fallback is None
    got, wanted = session.run(feed), exported.runtime(path, feed)
    for name in ("first", "second"):
        assert apart(got[name], wanted[name], feed["attention_mask"]) < most


WAYS = {"float16": 1e-2, "bfloat16_weights": 5e-2, "static_int8": 0.05, "optimised": 1e-4}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported_bert(tmp_path_factory.mktemp("giving") / "model.onnx")


@pytest.mark.parametrize("way", WAYS)
def test_files_as_tools_leave_them(way: str, source: Path, tmp_path: Path) -> None:
    from tests.passes import exported

    check(getattr(exported, way)(source, tmp_path / "changed.onnx"), WAYS[way])


def test_heads_that_are_no_whole_sixteens(tmp_path: Path) -> None:
    """In the last layer attention is of a row, its probabilities are of all."""
    check(exported_bert(tmp_path / "model.onnx", hidden_size=52), 1e-4)
