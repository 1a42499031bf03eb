"""Words + positions (+ token types), normalised, as one Embedding.

Positions are recognised by running what makes them (probe.py): 0, 1, 2 ... from an offset, or
RoBERTa's, which count only what is not padding.  Token types that are always the same are added to
the positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..graph import Graph, Node
from ..ops.numbers import dequantized, quantized
from ..reference import evaluate
from .fusion import Fusion, Match, fuse
from .match import Constant, Missing, Operators, Pattern, Search, Tensor, either, sum_of
from .names import layer_name
from .probe import part_above, probe, sentences
from .shapes import Fact

__all__ = ["FUSION", "embedding"]

Array = NDArray[Any]
SHAPES = ((2, 8), (3, 7))


def looked_up(
    op: Operators,
    words: Tensor, ids: Tensor, positions: Tensor, places: Tensor, types: Tensor, kinds: Tensor,
    gamma: Constant, beta: Constant,
) -> Pattern:  # fmt: skip
    word, place, kind = row(op, words, ids), row(op, positions, places), row(op, types, kinds)
    rows = Constant().named("rows")  # of a model with one fixed length
    total = either(
        *(sum_of(word, p, kind) for p in (place, rows)), *(sum_of(word, p) for p in (place, rows))
    )
    return op.engine.LayerNorm(total, Missing(), Missing(), gamma, beta)


def row(op: Operators, table: Tensor, index: Tensor) -> Pattern:
    return either(op.Gather(table, index, axis=0), op.Gather(table, index, axis=None))


@dataclass(frozen=True)
class Tables:
    """What an Embedding reads; kinds is "" where the types are added to the positions already."""

    words: Array
    positions: Array
    types: Array | None
    kinds: str
    offset: int
    padding: int | None


def tables(match: Match) -> Tables | str:
    search, facts = match.search, match.search.facts
    words = table(match["words"], search)
    positions = position_rows(match)
    if words is None or positions is None:
        return f"'{match['words']}' or the positions are not a constant table"
    inputs = {value.name for value in match.graph.inputs if len(value.shape) == 2}
    if match["ids"] not in inputs:
        return f"'{match['ids']}' is not an input [batch, sequence]"
    numbering = (0, None) if "rows" in match else positions_of(match, facts, len(words))
    if numbering is None:
        return f"'{match['places']}' does not number the tokens"
    if "types" not in match:
        return Tables(words, positions, None, "", *numbering)
    types = table(match["types"], search)
    if types is None or len(types) > len(words):
        return f"'{match['types']}' is not a table of token types"
    if match["kinds"] in inputs:
        return Tables(words, positions, types, match["kinds"], *numbering)
    always = always_the_same(match, facts)
    if always is None or always >= len(types):
        return f"'{match['kinds']}' is neither an input nor always the same"
    return Tables(words, positions + types[always], None, "", *numbering)


def table(value: str, search: Search) -> Array | None:
    """The rows of a constant, dequantised if need be."""
    array = search.graph.constants.get(value)
    node = search.producer.get(value)
    if array is None and node is not None and node.kind == "DequantizeLinear":
        parts = [search.graph.constants.get(name) for name in node.inputs]
        if any(part is None for part in parts):
            return None
        array = evaluate(node, parts, search.graph.opset)[0]
    elif array is None and node is not None and node.kind == "engine.FakeQuantize":
        inner, how = table(node.inputs[0], search), node.attributes["quantization"]
        array = None if inner is None else dequantized(quantized(inner, how), how)
    return array if array is not None and array.ndim == 2 and array.dtype == np.float32 else None


def position_rows(match: Match) -> Array | None:
    """The table of positions; where the length is fixed its rows are added as they are."""
    if "rows" not in match:
        return table(match["positions"], match.search)
    array = match.array("rows")
    array = array[0] if array.ndim == 3 and len(array) == 1 else array
    return np.ascontiguousarray(array) if array.ndim == 2 else None


def positions_of(
    match: Match, facts: Mapping[str, Fact], words: int
) -> tuple[int, int | None] | None:
    """Offset and padding id of the positions."""
    part = part_above(match["places"], match.search, facts)
    if part is None or set(part.inputs) - {match["ids"]}:
        return None
    guess: tuple[int, int | None] | None = None
    for seed, shape in enumerate(SHAPES):
        feeds = sentences(match.graph, *shape, seed, kinds=min(words, 4))
        ids = feeds[match["ids"]]
        got = probe(part, match.graph, facts, feeds)
        if got is None or got.ndim > 2:
            return None
        guess = guess or (int(got.reshape(-1)[0]), None) if not part.inputs else (0, int(got.min()))
        offset, padding = guess
        wanted = np.arange(ids.shape[1])[None] + offset
        if padding is not None:
            real = (ids != padding).astype(np.int64)
            wanted = np.cumsum(real, 1) * real + padding
        if not np.array_equal(np.broadcast_to(got, ids.shape), np.broadcast_to(wanted, ids.shape)):
            return None
    return guess


def always_the_same(match: Match, facts: Mapping[str, Fact]) -> int | None:
    part = part_above(match["kinds"], match.search, facts)
    if part is None or part.inputs:
        return None
    seen = set[int]()
    for shape in SHAPES:
        feeds = sentences(match.graph, *shape, seed=0, kinds=2)
        got = probe(part, match.graph, facts, feeds)
        seen.update([-1] if got is None else np.unique(got).tolist())
    return seen.pop() if len(seen) == 1 and min(seen) >= 0 else None


def objection(match: Match) -> str | None:
    found = tables(match)
    return found if isinstance(found, str) else None


def build(match: Match) -> Sequence[Node]:
    found = tables(match)
    assert isinstance(found, Tables), "the guard has seen it"
    norm = match.root
    attributes = {
        "epsilon": norm.attributes["epsilon"],
        "position_offset": found.offset,
        "padding_id": found.padding,
        "output": None,
    }
    kept = {id(array): name for name, array in match.graph.constants.items()}

    def constant(array: Array | None, name: str) -> str:
        if array is None:
            return ""
        return kept.get(id(array)) or match.constant(f"{name}.table", array)

    inputs = (
        match["ids"],
        found.kinds,
        constant(found.words, match["words"]),
        constant(found.positions, match.get("positions") or match["rows"]),
        constant(found.types, match.get("types")),
        match["gamma"],
        match["beta"],
    )
    name = layer_name([], [match["gamma"]]).rsplit(".", 1)[0] or layer_name([norm])
    return [Node("Embedding", inputs, norm.outputs, attributes, name, "engine")]


FUSION = Fusion("embedding", looked_up, build, objection)


def embedding(graph: Graph) -> Graph:
    """The sum of looked up rows and its normalisation as one Embedding."""
    return fuse(graph, FUSION)
