"""Tokens multiplied by the mask, as DeBERTa does with its embeddings: Mask."""

from __future__ import annotations

from collections.abc import Sequence

from ..graph import Graph, Node
from .fusion import Fusion, Match, fuse_all
from .match import Operators, Pattern, Tensor
from .names import layer_name
from .pool import mask_of

__all__ = ["FUSIONS", "mask"]


def product(op: Operators, x: Tensor, ones: Tensor) -> Pattern:
    return x * ones


def objection(match: Match) -> str | None:
    """x is an operator's of the engine, [B, S, C], and kept or made 0 token by token."""
    made, fact = match.search.producer.get(match["x"]), match.search.facts[match["x"]]
    if made is None or made.domain != "engine" or fact.rank != 3 or fact.dtype != "float32":
        return f"'{match['x']}' is no operator's of the engine, [batch, sequence, channels]"
    found = mask_of(match)
    if isinstance(found, str):
        return found
    return None if found[1] == "keys" else f"'{match['ones']}' goes by the sum of the mask"


def build(match: Match) -> Sequence[Node]:
    found, name = mask_of(match), layer_name([match.root])
    assert not isinstance(found, str), "the guard has seen it"
    return [Node("Mask", (match["x"], found[0]), match.root.outputs, {}, name, "engine")]


# --- quantised ---
def rounded(op: Operators, x: Tensor, mask: Tensor) -> Pattern:
    return op.engine.FakeQuantize(op.engine.Mask(x, mask))


def rounded_before(match: Match) -> Sequence[Node]:
    """Every quantisation has a 0, so tokens may be rounded first; they may have been already."""
    root, out, made = match.root, match.root.outputs[0], match.search.producer.get(match["x"])
    if made is not None and made.kind == root.kind and made.attributes == root.attributes:
        return [Node("Mask", (match["x"], match["mask"]), (out,), {}, root.name, "engine")]
    return [
        root.changed(inputs=(match["x"],), outputs=(f"{out}.unmasked",)),
        Node("Mask", (f"{out}.unmasked", match["mask"]), (out,), {}, root.name, "engine"),
    ]


FUSIONS = [
    Fusion("mask", product, build, objection),
    Fusion("mask_rounded", rounded, rounded_before),
]


def mask(graph: Graph) -> Graph:
    """Products of tokens and their mask as Mask."""
    return fuse_all(graph, FUSIONS)
