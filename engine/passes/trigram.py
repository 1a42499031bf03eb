"""MobileBERT's beginning: a layer of the words behind, at and before a token, positions, types.

    layer(Concat(words[next ids], words[ids], words[previous ids])) + positions[...] + types[...]

becomes one Trigram, whose first channels the layer reads and whose last ones are added to it.  That
the words beside a token are looked up rows moved by one, 0 behind the ends, is seen by running what
moves them on numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineError
from ..graph import Graph, Node
from ..ops.reference import evaluate
from .embedding import Tables, inputs_alike, row, table, with_positions
from .fusion import Fusion, Match, fuse
from .match import Constant, Maybe, Operators, Pattern, Tensor, either, sum_of
from .names import layer_name

__all__ = ["FUSIONS", "trigram"]

Array = NDArray[Any]
TRIED = (1, 2, 5)  # tokens
MOST_MOVES = 4  # nodes between the looked up rows and those beside them


def with_types(
    op: Operators,
    words: Tensor, ids: Tensor, weight: Constant,
    positions: Tensor, places: Tensor, types: Tensor, kinds: Tensor,
) -> Pattern:  # fmt: skip
    layer, rows = layer_of(op, words, ids, weight), Constant().named("rows")
    place, kind = row(op, positions, places), row(op, types, kinds)
    return either(*(sum_of(layer, p, kind) for p in (place, rows)))


def without_types(
    op: Operators, words: Tensor, ids: Tensor, weight: Constant, positions: Tensor, places: Tensor
) -> Pattern:
    layer, rows = layer_of(op, words, ids, weight), Constant().named("rows")
    return either(*(sum_of(layer, p) for p in (row(op, positions, places), rows)))


def rounded_one_by_one(
    op: Operators,
    words: Tensor, ids: Tensor, weight: Constant,
    positions: Tensor, places: Tensor, types: Tensor, kinds: Tensor,
) -> Pattern:  # fmt: skip
    """As quantize_static leaves it: no two of layer, position and type are added beforehand."""
    layer, rows = layer_of(op, words, ids, weight), Constant().named("rows")
    layer = op.engine.FakeQuantize(layer).named("rounded layer")
    place, kind = row(op, positions, places), row(op, types, kinds)
    sums = (op.engine.FakeQuantize(layer + p).named("placed") for p in (place, rows))
    return either(*(placed + kind for placed in sums))


def layer_of(op: Operators, words: Tensor, ids: Tensor, weight: Constant) -> Pattern:
    own = row(op, words, ids).named("own")
    after, before = beside(op, own).named("after"), beside(op, own).named("before")
    near = op.Concat(after, own, before).named("near")
    rounded = either(near, op.engine.FakeQuantize(near), op.engine.DynamicFakeQuantize(near))
    return op.engine.Linear(rounded.named("x"), weight, Maybe(), Maybe()).named("layer")


def beside(op: Operators, own: Pattern) -> Pattern:
    part = op.Slice(own, Constant(), Constant(), Maybe(), Maybe())
    return op.Pad(part, Constant(), Maybe(), Maybe())


def tables(match: Match) -> Tables | str:
    """What a Trigram reads, or a sentence why it is none."""
    words, inputs = table(match["words"], match.search), inputs_alike(match)
    if words is None or inputs is None:
        return f"'{match['ids']}' does not look up a constant table of float32"
    if match.node("near").attributes["axis"] not in (-1, 2):
        return f"{match.node('near')} does not join channels"
    for name, by in (("after", 1), ("before", -1)):
        if not is_moved(match, match[name], by):
            return f"'{match[name]}' are not the rows of '{match['own']}' moved by {by}"
    channels = len(match.array("weight"))
    wide = np.broadcast_to(np.float32(0), (len(words), channels))  # as what is added to positions
    found = with_positions(match, wide, inputs)
    if "placed" in match and isinstance(found, Tables) and found.types is None:
        return "types are always the same, and added apart"
    if isinstance(found, Tables) and (found.positions is None or found.padding is not None):
        return "tokens are not numbered from the first on"
    return found


def is_moved(match: Match, value: str, by: int) -> bool:
    """Whether rows [batch, tokens, channels] become those `by` tokens further, else 0."""
    nodes: list[Node] = []
    while value != match["own"]:
        node = match.search.producer.get(value)
        known = node is not None and all(
            not name or name in match.graph.constants for name in node.inputs[1:]
        )
        if node is None or not known or len(nodes) == MOST_MOVES:
            return False
        nodes.append(node)
        value = node.inputs[0]
    return all(moves(match, nodes[::-1], tokens, by) for tokens in TRIED)


def moves(match: Match, nodes: Sequence[Node], tokens: int, by: int) -> bool:
    rows = np.arange(1, 6 * tokens + 1, dtype=np.float32).reshape(2, tokens, 3)
    padded, made = np.pad(rows, ((0, 0), (1, 1), (0, 0))), rows
    try:
        for node in nodes:
            others = (match.graph.constants.get(name) for name in node.inputs[1:])
            made = evaluate(node, [made, *others], match.graph.opset)[0]
    except EngineError:
        return False
    return np.array_equal(made, padded[:, 1 + by : 1 + by + tokens])


def objection(match: Match) -> str | None:
    found = tables(match)
    return found if isinstance(found, str) else None


def build(match: Match) -> Sequence[Node]:
    found = tables(match)
    assert isinstance(found, Tables) and found.positions is not None, "the guard has seen it"
    out, layer, width = match.root.outputs[0], match.node("layer"), found.words.shape[1]
    words = table(match["words"], match.search)
    assert words is not None, "the guard has seen it"
    if apart := "placed" in match:
        found = side_by_side(found)
    kept = {id(array): name for name, array in match.graph.constants.items()}

    def constant(array: Array | None, name: str) -> str:
        known = "" if array is None else kept.get(id(array), "")
        return known or ("" if array is None else match.constant(f"{name}.table", array))

    inputs = (
        match["ids"],
        found.kinds,
        constant(words, match["words"]),
        constant(found.positions, match.get("positions") or match.get("rows")),
        constant(found.types, match.get("types")),
        *filter(None, [found.numbered]),
    )
    name, embedded = layer_name([match.node("near")]), f"{out}.embedded"
    nodes = [
        Node("Trigram", inputs, (embedded,), {"position_offset": found.offset}, name, "engine")
    ]

    def some(name: str, first: int) -> str:
        count = width if first else 3 * words.shape[1]
        how = {"first": first, "count": count}
        nodes.append(Node("Channels", (embedded,), (f"{out}.{name}",), how, "", "engine"))
        return f"{out}.{name}"

    def then(node: Node, x: str, name: str) -> str:
        nodes.append(node.changed(inputs=(x, *node.inputs[1:]), outputs=(f"{out}.{name}",)))
        return f"{out}.{name}"

    x = some("words", 0)
    x = x if match["x"] == match["near"] else then(match.node("x"), x, "rounded")
    x, rest = then(layer, x, "layer"), 3 * words.shape[1]
    if apart:
        x = then(match.node("rounded layer"), x, "made")
        nodes.append(Node("Add", (x, some("place", rest)), (f"{out}.sum",), {}, match.root.name))
        x, rest = then(match.node("placed"), f"{out}.sum", "placed"), rest + width
    nodes.append(Node("Add", (x, some("rest", rest)), (out,), {}, match.root.name))
    return nodes


def side_by_side(found: Tables) -> Tables:
    """Positions in the first channels and types in as many behind them."""
    assert found.positions is not None and found.types is not None, "the guard has seen it"
    positions, types = (
        np.pad(array, ((0, 0), pads))
        for array, pads in (
            (found.positions, (0, found.types.shape[1])),
            (found.types, (found.positions.shape[1], 0)),
        )
    )
    return replace(found, positions=positions, types=types)


FUSIONS = [
    Fusion("trigram", with_types, build, objection),
    Fusion("trigram_rounded", rounded_one_by_one, build, objection),
    Fusion("trigram_without_types", without_types, build, objection),
]


def trigram(graph: Graph) -> Graph:
    """MobileBERT's embeddings as one Trigram."""
    for fusion in FUSIONS:
        graph = fuse(graph, fusion)
    return graph
