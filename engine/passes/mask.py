"""Tokens multiplied by the mask, as DeBERTa does with its embeddings: Mask."""

from __future__ import annotations

from collections.abc import Sequence

from ..graph import Graph, Node
from .fusion import Fusion, Match, fuse
from .match import Operators, Pattern, Tensor
from .names import layer_name
from .pool import mask_of

__all__ = ["FUSION", "mask"]


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


FUSION = Fusion("mask", product, build, objection)


def mask(graph: Graph) -> Graph:
    """Products of tokens and their mask as Mask."""
    return fuse(graph, FUSION)
