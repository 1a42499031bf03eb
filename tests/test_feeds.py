"""What commands feed: a model's own inputs, ids within its vocabulary, token types it has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine import Session
from engine.commands.cli import main
from engine.errors import InputError
from engine.formats import store
from engine.graph import Graph, Value
from engine.measure.feeds import made_up, rows_looked_up, taken
from engine.measure.instance_worker import make_feeds
from engine.measure.instances import Load
from tests.passes.sketch import Sketch, normal
from tests.tiny import tiny_graph


def small(*, words: int = 3, kinds: int = 1, types: bool = True, **dtypes: str) -> Graph:
    """The tiny model with tables of so many rows; without token types, as DistilBERT."""
    graph = tiny_graph()
    tables = {"words": graph.constants["words"][:words], "types": graph.constants["words"][:kinds]}
    nodes = list(graph.nodes)
    if not types:
        ids, _, table, positions, _, *norm = nodes[0].inputs
        nodes[0] = nodes[0].changed(inputs=(ids, "", table, positions, "", *norm))
    inputs = tuple(
        Value(value.name, dtypes.get(value.name, value.dtype), value.shape)
        for value in graph.inputs
        if types or value.name != "token_type_ids"
    )
    constants = {**graph.constants, **tables}
    return graph.changed(inputs=inputs, nodes=tuple(nodes), constants=constants)


MODELS: dict[str, dict[str, Any]] = {
    "three words": {},
    "one word": {"words": 1},
    "one kind of token": {"words": 200},
    "no token types": {"types": False},
    "ids of 32 bits": {"input_ids": "int32", "token_type_ids": "int32"},
    "a mask of bools": {"attention_mask": "bool"},
}


@pytest.fixture(params=MODELS)
def graph(request: pytest.FixtureRequest) -> Graph:
    return small(**MODELS[request.param])


@pytest.mark.parametrize("holes", [False, True])
def test_a_model_takes_what_is_made_up_for_it(graph: Graph, holes: bool) -> None:
    for seed in range(3):
        feed = made_up(graph, 3, 8, seed=seed, holes=holes)
        assert {name: str(array.dtype) for name, array in feed.items()} == {
            value.name: value.dtype for value in graph.inputs
        }
        assert Session(graph).run(feed)["logits"].shape == (3, 1, 2)
        assert feed["attention_mask"].all() != holes


def test_ids_reach_all_rows_of_a_small_table() -> None:
    assert set(np.unique(made_up(small(), 8, 16)["input_ids"])) == {0, 1, 2}


def test_tables_behind_other_operators_are_found() -> None:
    s = Sketch(ids=("int32", ("batch", 6)), kinds=("int64", ("batch", 6)), x=("float16", ("b", 6)))
    table = s.DequantizeLinear(np.ones((7, 4), np.int8), np.float32(1), np.int8(0))
    rows = s.Gather(table, s.Cast("ids", to="int64"))
    graph = s.graph(
        s.Add(rows, s.Gather(normal(2, 4), "kinds")), s.Gather(normal(4, 9), "kinds", axis=1)
    )
    assert rows_looked_up(graph) == {"ids": 7, "kinds": 2}
    feed = made_up(graph, 2, 99)
    assert {name: array.shape for name, array in feed.items()} == dict.fromkeys(feed, (2, 6))
    assert (feed["ids"].max() < 7, feed["kinds"].max() < 2, feed["x"].dtype) == (True, True, "f2")


def test_what_a_dataset_lacks_is_named() -> None:
    with pytest.raises(InputError, match="takes token_type_ids too"):
        taken(small(), {name: np.ones((1, 2)) for name in ("input_ids", "attention_mask")})


def test_sentences_are_fed_as_far_as_the_model_takes_them(tmp_path: Path) -> None:
    path = tmp_path / "sentences.npz"
    ids = np.array([[1, 2, 1, 0]])
    np.savez(path, input_ids=ids, attention_mask=(ids > 0).astype(int))
    graph = small(types=False, input_ids="int32")
    (feed,) = make_feeds(Load("", seq_len=4, dataset=str(path), mask="real"), graph, count=1)
    assert sorted(feed) == ["attention_mask", "input_ids"]
    assert feed["input_ids"].dtype == "int32"
    assert Session(graph).run(feed)["logits"].shape == (1, 1, 2)


COMMANDS = {
    "profile": ["--iterations", "1", "--seq_len", "8"],
    "bench": ["--iterations", "2", "--w", "1", "--seq_len", "8"],
    "memory": ["--instances", "1", "--seq_len", "8"],
    "compare": ["--kernels"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_run_models_of_few_words(command: str, tmp_path: Path) -> None:
    """The whole command, on a model that has no token types and a word less than BERT's special
    ones.
    """
    folder = str(tmp_path / "ir")
    store.write(small(types=False), folder)
    models = [folder] * (2 if command == "compare" else 1)
    assert main([command, *models, *COMMANDS[command]]) == 0
