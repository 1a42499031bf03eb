"""Words (+ positions) (+ token types), normalised, as one Embedding; words alone, as they are,
where a norm reads them.

Positions are recognised by running what makes them (probe.py): 0, 1, 2 ... from an offset, or
RoBERTa's, which count only what is not padding; up to as many tokens as the table has rows for.
Token types that are always the same are added to the positions.  Tables of one column broadcast in
ONNX: they are spread over the channels of the words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..graph import Graph, Node, Quantization
from ..ops.reference import evaluate
from .fusion import Fusion, Match, fuse
from .layer_norm import ROUNDINGS
from .lengths import Shape, alike
from .match import Constant, Missing, Operators, Pattern, Search, Tensor, either, sum_of
from .names import layer_name
from .probe import part_above, probe, sentences
from .shapes import Fact
from .simulate import fake_quantize, quantization_of, rounded

__all__ = ["FUSIONS", "embedding"]

Array = NDArray[Any]
SHAPES = ((2, 8), (3, 7))
LONG = 1000  # tokens of the longest sentence that is tried where no table ends


def looked_up(
    op: Operators,
    words: Tensor, ids: Tensor, positions: Tensor, places: Tensor, types: Tensor, kinds: Tensor,
    gamma: Constant, beta: Constant,
) -> Pattern:  # fmt: skip
    word, place, kind = row(op, words, ids), row(op, positions, places), row(op, types, kinds)
    rows = Constant().named("rows")  # of a model with one fixed length
    first = op.engine.FakeQuantize(word + kind).named("rounded sum")
    placed = [op.engine.FakeQuantize(word + p).named("rounded places") for p in (place, rows)]
    total = either(
        *(sum_of(word, p, kind) for p in (place, rows)),
        *(sum_of(word, p) for p in (place, rows, kind)),
        word,
        *(op.engine.FakeQuantize(first + p).named("rounded") for p in (place, rows)),
        *(op.engine.FakeQuantize(p + kind).named("rounded") for p in placed),
        *(op.engine.FakeQuantize(sum_of(word, p, kind)).named("rounded") for p in (place, rows)),
        *(op.engine.FakeQuantize(word + p).named("rounded") for p in (place, rows)),
    )
    return op.engine.LayerNorm(total, Missing(), Missing(), gamma, beta)


def words_alone(op: Operators, words: Tensor, ids: Tensor) -> Pattern:
    return row(op, words, ids)


def row(op: Operators, table: Tensor, index: Tensor) -> Pattern:
    return either(op.Gather(table, index, axis=0), op.Gather(table, index, axis=None))


@dataclass(frozen=True)
class Tables:
    """What an Embedding reads; kinds is "" where the types are added to the positions already, or
    have one row.
    """

    words: Array
    positions: Array | None
    types: Array | None
    kinds: str
    offset: int = 0
    padding: int | None = None
    numbered: str = ""  # the input that numbers the tokens


def tables(match: Match) -> Tables | str:
    if not match.root.attributes.get("centred", True):
        return f"{match.root} takes no mean off"
    words, inputs = table(match["words"], match.search), inputs_alike(match)
    if words is None or inputs is None:
        return no_words(match)
    if "places" in match or "rows" in match:
        return with_positions(match, words, inputs)
    if "types" not in match:
        return Tables(words, None, None, "")
    types = type_rows(match, words)
    if types is not None and match["kinds"] in inputs:
        return Tables(words, None, types, match["kinds"])
    always = always_the_same(match, match.search.facts, longest_tried(match))
    if types is None or always is None or always >= len(types):
        return f"'{match['kinds']}' is no input that tells token types"
    return Tables(words, None, types[always : always + 1], "")


def no_words(match: Match) -> str:
    if inputs_alike(match) is None:
        return f"'{match['ids']}' is not an input [batch, sequence]"
    return f"'{match['words']}' is not a constant table of float32"


def inputs_of_rank_2(match: Match) -> dict[str, Shape]:
    return {v.name: v.shape for v in match.graph.inputs if len(v.shape) == 2}


def inputs_alike(match: Match) -> set[str] | None:
    """The graph's inputs [batch, sequence] as the ids are one; None where they are none."""
    shapes = inputs_of_rank_2(match)
    if match["ids"] not in shapes:
        return None
    return {name for name, shape in shapes.items() if alike(shape, shapes[match["ids"]])}


def type_rows(match: Match, words: Array) -> Array | None:
    types = table(match["types"], match.search)
    types = None if types is None else as_wide(types, words)
    return None if types is None or len(types) > len(words) else types


def with_positions(match: Match, words: Array, inputs: set[str]) -> Tables | str:
    facts, positions = match.search.facts, position_rows(match)
    if positions is None:
        return "the positions are not a constant table of float32"
    spread = as_wide(positions, words)
    if spread is None:
        return f"positions {positions.shape} are not as wide as the words {words.shape}"
    numbered = numbering_input(match)
    if numbered in inputs and "types" not in match and len(positions) <= len(words):
        return Tables(words, None, spread, numbered)  # looked up whatever the numbers are
    numbering: Numbering | None = (0, None)
    if "places" in match and not numbered:
        numbering = positions_of(match, facts, words, positions)
    if numbering is None:
        return f"'{match['places']}' does not number the tokens"
    found = Tables(words, spread, None, "", *numbering, numbered)
    return with_types(match, found, inputs, len(positions)) if "types" in match else found


def with_types(match: Match, found: Tables, inputs: set[str], most: int) -> Tables | str:
    """The tables with that of token types, which are one of `inputs` or always the same; most: as
    many rows as the table of positions has.
    """
    types = type_rows(match, found.words)
    if types is None:
        return f"'{match['types']}' is not a table of token types as wide as the words"
    if match["kinds"] in inputs:
        if found.numbered and len(types) > most:
            return f"'{found.numbered}' looks up {most} rows, '{match['kinds']}' {len(types)}"
        return replace(found, types=types, kinds=match["kinds"])
    always = always_the_same(match, match.search.facts, most)
    if always is None or always >= len(types):
        return f"'{match['kinds']}' is neither an input nor always the same"
    if "rounded sum" in match:
        words = rounded(found.words + types[always], match.node("rounded sum"))
        return replace(found, words=words)
    if "rounded places" in match:
        return replace(found, types=types[always : always + 1])
    assert found.positions is not None, "there are some, to number"
    return replace(found, positions=found.positions + types[always])


def numbering_input(match: Match) -> str:
    """The graph's input that numbers the tokens, one row for all sentences or one for each."""
    name, shapes = match.get("places"), inputs_of_rank_2(match)
    if name == match["ids"] or name not in shapes:
        return ""
    batch, ids = shapes[name][0], shapes[match["ids"]]
    return name if alike(shapes[name][1:], ids[1:]) and batch in (1, ids[0]) else ""


def as_wide(rows: Array, words: Array) -> Array | None:
    """A table with as many columns as the words; None where it does not broadcast to them."""
    if rows.shape[1] == words.shape[1]:
        return rows
    return np.repeat(rows, words.shape[1], axis=1) if rows.shape[1] == 1 else None


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
        inner = table(node.inputs[0], search)
        array = None if inner is None else rounded(inner, node)
    return array if array is not None and array.ndim == 2 and array.dtype == np.float32 else None


def position_rows(match: Match) -> Array | None:
    """The table of positions; where the length is fixed its rows are added as they are."""
    if "rows" not in match:
        return table(match["positions"], match.search)
    array, ids = match.array("rows"), match.search.facts[match["ids"]].shape or ("",)
    if array.dtype != np.float32 or array.ndim < 2 or array.shape[-2] != ids[-1]:
        return None  # a row for every token is no position's
    if array.size != array.shape[-2] * array.shape[-1]:
        return None
    return np.ascontiguousarray(array.reshape(array.shape[-2:]))


Numbering = tuple[int, int | None]  # offset, padding id


def positions_of(
    match: Match, facts: Mapping[str, Fact], words: Array, positions: Array
) -> Numbering | None:
    """Offset and padding id of the positions, the same up to the last row of their table."""
    part = part_above(match["places"], match.search, facts)
    if part is None or set(part.inputs) - {match["ids"]}:
        return None

    def numbering(shape: tuple[int, int], seed: int) -> Numbering | None:
        feeds = sentences(match.graph, *shape, seed, kinds=min(len(words), 4))
        got = probe(part, match.graph, facts, feeds)
        return None if got is None else numbering_of(got, feeds[match["ids"]], bool(part.inputs))

    guess = numbering(SHAPES[0], 0)
    if guess is None or numbering(SHAPES[1], 1) != guess:
        return None
    offset, padding = guess
    longest = len(positions) - (offset if padding is None else padding + 1)
    return guess if numbering((1, max(1, longest)), 2) == guess else None


def numbering_of(got: Array, ids: Array, by_ids: bool) -> Numbering | None:
    """How tokens are numbered; by_ids: RoBERTa's way, else all of them."""
    try:
        got = np.broadcast_to(got, ids.shape)
    except ValueError:
        return None
    first = int(got[0, 0])
    wanted = np.arange(ids.shape[1])[None] + first
    padding = int(got.min()) if by_ids else None
    if padding is not None:
        real = (ids != padding).astype(np.int64)
        first, wanted = 0, np.cumsum(real, 1) * real + padding
    return (first, padding) if np.array_equal(got, np.broadcast_to(wanted, ids.shape)) else None


def always_the_same(match: Match, facts: Mapping[str, Fact], most: int) -> int | None:
    """The token type of every sentence of up to so many tokens."""
    part = part_above(match["kinds"], match.search, facts)
    if part is None or part.inputs:
        return None
    seen = set[int]()
    for shape in (*SHAPES, (1, max(1, most))):
        feeds = sentences(match.graph, *shape, seed=0, kinds=2)
        got = probe(part, match.graph, facts, feeds)
        seen.update([-1] if got is None else np.unique(got).tolist())
    return seen.pop() if len(seen) == 1 and min(seen) >= 0 else None


def longest_tried(match: Match) -> int:
    """Tokens of the longest sentence that a graph without positions takes, or that is tried."""
    part = part_above(match["kinds"], match.search, match.search.facts)
    names = [name for node in part.nodes for name in node.inputs] if part else []
    constants = [match.graph.constants[name] for name in names if name in match.graph.constants]
    tables = [max(array.shape) for array in constants if array.size > 1]
    return min([LONG, *tables])


def objection(match: Match) -> str | None:
    found = tables(match)
    return found if isinstance(found, str) else None


def build(match: Match) -> Sequence[Node]:
    found = tables(match)
    assert isinstance(found, Tables), "the guard has seen it"
    norm = match.root
    attributes = {
        "epsilon": norm.attributes.get("epsilon", 0.0),
        "position_offset": found.offset,
        "padding_id": found.padding,
        "sum": None,
        "first": "types",
        "output": None,
    }
    if "rounded sum" in match and found.types is not None:
        attributes["sum"] = match.node("rounded sum").attributes["quantization"]
    if "rounded places" in match:
        attributes["sum"] = match.node("rounded places").attributes["quantization"]
        attributes["first"] = "positions"
    kept = {id(array): name for name, array in match.graph.constants.items()}

    def constant(array: Array | None, name: str) -> str:
        if array is None:
            return ""
        return kept.get(id(array)) or match.constant(f"{name}.table", array)

    inputs = (
        match["ids"],
        found.kinds,
        constant(found.words, match["words"]),
        constant(found.positions, match.get("positions") or match.get("rows")),
        constant(found.types, match.get("types")),
        match.get("gamma"),
        match.get("beta"),
        *filter(None, [found.numbered]),
    )
    name = layer_name([], [match.get("gamma")]).rsplit(".", 1)[0] or layer_name([norm])
    if "rounded" not in match and not any(norm.attributes.get(each) for each in ROUNDINGS):
        return [Node("Embedding", inputs, norm.outputs, attributes, name, "engine")]
    return before_norm(match, Node("Embedding", inputs, norm.outputs, attributes, name, "engine"))


def before_norm(match: Match, node: Node) -> list[Node]:
    """An Embedding without LayerNorm, which stands behind it, as it did."""
    norm, total = match.root, f"{match.root.outputs[0]}.sum"
    inputs = (*node.inputs[:5], "", "", *node.inputs[7:])
    parts, x = [node.changed(inputs=inputs, outputs=(total,))], total
    how = steps_of_rows(match)
    if "rounded" in match:
        x = f"{total}.rounded"
        parts.append(match.node("rounded").changed(inputs=(total,), outputs=(x,)))
    elif how is not None:  # which changes nothing
        x = f"{total}.rounded"
        parts.append(fake_quantize(total, x, how))
    return [*parts, norm.changed(inputs=(x, *norm.inputs[1:]))]


def steps_of_rows(match: Match) -> Quantization | None:
    """Those that all rows are made of, where words alone are looked up in a table of bytes."""
    if any(name in match for name in ("places", "rows", "types")):
        return None
    source = match.search.producer.get(match["words"])
    stored = source is not None and source.kind == "DequantizeLinear"
    return quantization_of(match.graph, source) if source is not None and stored else None


# --- words alone, as T5 has them ---
def no_first_layer(match: Match) -> str | None:
    """What is looked up goes to a norm: it is a model's first value, and nothing is added to it."""
    reason = objection(match)
    readers = match.search.consumers.get(match.root.outputs[0], [])
    if reason is None and not any(node.kind == "engine.LayerNorm" for node in readers):
        return f"no norm reads '{match.root.outputs[0]}'"
    return reason


FUSIONS = [
    Fusion("embedding", looked_up, build, objection),
    Fusion("words_alone", words_alone, build, no_first_layer),
]


def embedding(graph: Graph) -> Graph:
    """The sum of looked up rows and its normalisation as one Embedding."""
    for fusion in FUSIONS:
        graph = fuse(graph, fusion)
    return graph
