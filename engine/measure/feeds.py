"""What a call is fed where nobody brings its inputs, or brings more than a model has.

Ids and token types are drawn among the rows of the tables that they look up; what looks up nothing
is a mask: ones.  Shapes and types are those that the model declares.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..graph import Graph, Node, Value
from ..ops import OPERATORS

__all__ = ["BERT", "INPUTS", "Feed", "made_up", "of_sentences", "rows_looked_up", "taken"]

Feed = dict[str, NDArray[Any]]

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
BERT = Graph(  # where no model says what it takes
    "BERT", tuple(Value(name, "int64", ("batch", "sequence")) for name in INPUTS), (), (), {}
)
MOST_IDS = 128  # different ones: their rows stay in the caches, as frequent words do
LOOKUPS = {str(row): row.lookups for row in OPERATORS if row.lookups}
SAME_ROWS = {
    str(row)
    for row in OPERATORS
    if row.name.endswith("DequantizeLinear") or row.name in ("Cast", "Identity")
}


def made_up(graph: Graph, batch: int, length: int, *, seed: int = 0, holes: bool = False) -> Feed:
    """One call's inputs; every token counts, or (holes) half of them and the first."""
    random, rows = np.random.default_rng(seed), rows_looked_up(graph)
    feed = {
        value.name: _drawn(value, _shape(value, batch, length), rows.get(value.name), random, holes)
        for value in graph.inputs
    }
    for node in graph:
        numbers = node.kind in ("engine.Embedding", "engine.Trigram")
        if numbers and (name := node.position_ids):
            feed[name] = np.zeros_like(feed[name]) + np.arange(length, dtype=feed[name].dtype)
    return feed


def taken(graph: Graph, feed: Mapping[str, NDArray[Any]]) -> Feed:
    """Of a feed what the model takes, in the types it declares.

    Raises:
        InputError: the model takes something else too.
    """
    lacking = [value.name for value in graph.inputs if value.name not in feed]
    if lacking:
        raise InputError(
            f"{graph.name}: takes {', '.join(lacking)} too, which is not in {', '.join(feed)}"
        )
    return {
        value.name: np.asarray(feed[value.name]).astype(value.dtype, copy=False)
        for value in graph.inputs
    }


def of_sentences(inputs: Sequence[Value], sentences: Mapping[str, NDArray[Any]]) -> Feed:
    """What a model takes of sentences, arrays (sentences, length): input_ids, attention_mask and
    what else there is.  Token types that are not there are 0; positions that are not there count a
    sentence's tokens from 0, as BERT's do: a model that counts otherwise needs them in the arrays.

    Raises:
        InputError: the model takes something else too.
    """
    made = {value.name: _of_sentences(value, sentences) for value in inputs}
    return {value.name: made[value.name].astype(value.dtype, copy=False) for value in inputs}


def _of_sentences(value: Value, sentences: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    ids = sentences["input_ids"]
    if value.name in sentences:
        return sentences[value.name]
    if value.name == "token_type_ids":
        return np.zeros_like(ids)
    if value.name == "position_ids":
        if value.shape[:1] == (1,):  # one row for all sentences
            return np.arange(ids.shape[1])[None]
        return np.maximum(np.cumsum(sentences["attention_mask"], 1) - 1, 0)
    raise InputError(
        f"the model's input '{value.name}': there is {', '.join(sentences)}, and token_type_ids and"
        " position_ids can be made"
    )


def rows_looked_up(graph: Graph) -> dict[str, int]:
    """Input -> rows of the smallest table that it looks up; token types without a table have one
    kind.
    """
    producer, found = graph.producer(), dict[str, int]()
    inputs = {value.name for value in graph.inputs}
    for node, index, table in _lookups(graph):
        index, rows = _source(index, producer), graph.constants.get(_source(table, producer))
        count = 1 if not table else len(rows) if rows is not None and rows.ndim else None
        if index in inputs and count is not None and not node.attributes.get("axis"):
            found[index] = min(count, found.get(index, count))
    return found


def _lookups(graph: Graph) -> Iterator[tuple[Node, str, str]]:
    """Nodes with the names of their indices and of the tables these look up."""
    for node in graph:
        for index, table in LOOKUPS.get(node.kind, ()):
            if index < len(node.inputs) and node.inputs[index]:
                yield node, node.inputs[index], "".join(node.inputs[table : table + 1])


def _source(name: str, producer: Mapping[str, Node]) -> str:
    while name in producer and producer[name].kind in SAME_ROWS:
        name = producer[name].inputs[0]
    return name


def _shape(value: Value, batch: int, length: int) -> list[int]:
    free = (batch, *[length] * len(value.shape))
    return [n if isinstance(n, int) else free[axis] for axis, n in enumerate(value.shape)]


def _drawn(
    value: Value, shape: list[int], rows: int | None, random: np.random.Generator, holes: bool
) -> NDArray[Any]:
    if rows is not None:
        return random.integers(0, max(1, min(MOST_IDS, rows)), shape).astype(value.dtype)
    if len(shape) > 2 and np.dtype(value.dtype).kind == "f":  # activations
        return random.normal(size=shape).astype(value.dtype)
    if not holes:
        return np.ones(shape, value.dtype)
    mask = random.integers(0, 2, shape).astype(value.dtype)
    mask[..., :1] = 1
    return mask
