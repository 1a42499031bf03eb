"""What is added to scores by the places of a query and a key, and by what they hold: DeBERTa's
disentangled attention (He et al. 2021).

    added[h, q, k] = x[h, q] . rows[h, where[q, k]],   x the queries; or turned, x the keys

Vectors of positions are multiplied with all tokens, and GatherElements takes what belongs to a
pair.  Of what makes the vectors and the places nothing is matched: they are found by running it
(probe.py, distances.py), for batches and lengths of several sizes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..graph import Quantization
from ..ops.fused import by_distance
from ..ops.numbers import quantized
from .distances import Terms, added_by_distance
from .match import Search
from .movement import Chain, chain_above, lengths, moved, size, splits_heads
from .probe import USUAL, Part, part_above, probe, sentences
from .shapes import Fact
from .simulate import quantization_of

__all__ = ["Attended", "Positions", "positions_of"]

Array = NDArray[Any]


@dataclass(frozen=True)
class Attended:
    """The queries and keys of an attention, its heads, and what their product is multiplied by."""

    query: Chain
    key: Chain
    heads: int
    scale: float


@dataclass(frozen=True)
class Table:
    """[2 P - 1, C], by how far a key stands behind a query: what queries or keys are multiplied
    with, float32 or stored as `how` says; rounding: of the products.
    """

    rows: Array
    how: Quantization | None
    rounding: Quantization | None

    def reaching(self, most: int) -> Table:
        """With as many rows; beyond the last ones it is the same."""
        rows = np.pad(self.rows, [(most - len(self.rows) // 2,) * 2, (0, 0)], "edge")
        return replace(self, rows=rows)


@dataclass(frozen=True)
class Positions:
    """What queries are multiplied with, and what keys are; None where they are not."""

    of_keys: Table | None
    of_queries: Table | None


def positions_of(
    value: str, of: Attended, search: Search, facts: Mapping[str, Fact]
) -> Positions | str:
    """Those that the value, which is added to scores, is made with, or a sentence."""
    found: dict[bool, Table] = {}
    for name in addends(value, search):
        term = term_of(name, of, search, facts)
        if isinstance(term, str):
            return term
        turned, table = term
        if turned in found:
            return f"'{name}' is added twice"
        found[turned] = table
    most = max(len(table.rows) for table in found.values()) // 2
    of_keys, of_queries = (
        None if table is None else table.reaching(most)
        for table in (found.get(False), found.get(True))
    )
    return Positions(of_keys, of_queries)


def addends(value: str, search: Search) -> Iterator[str]:
    """What the value is a sum of."""
    node = search.producer.get(value)
    if node is None or node.kind != "Add":
        yield value
        return
    for name in node.inputs:
        yield from addends(name, search)


def term_of(
    name: str, of: Attended, search: Search, facts: Mapping[str, Fact]
) -> tuple[bool, Table] | str:
    """Whether a term is turned, so that keys are multiplied, and with what, by distance."""
    chain = chain_above(name, search)
    gather = search.producer.get(chain.source)
    if gather is None or gather.kind != "GatherElements":
        return f"'{chain.source}' is not gathered by places"
    products = chain_above(gather.inputs[0], search)
    product = search.producer.get(products.source)
    if product is None or product.kind != "MatMul":
        return f"'{products.source}' is not a product"
    if {node.kind for node in products.nodes} - {"engine.FakeQuantize"}:
        return f"'{products.source}' is rearranged or scaled"
    if gather.attributes.get("axis", 0) not in (-1, (facts[chain.source].rank or 0) - 1):
        return f"{gather} does not gather along the last axis"
    turned, x = turns(chain, search, facts), chain_above(product.inputs[0], search)
    owner = of.key if turned else of.query
    names = lengths(facts, [x.source])
    if turned is None or names is None or not same_operand(x, owner):
        return f"'{product.inputs[0]}' is not what is attended with"
    if not splits_heads(x, (0, 2, 1, 3), of.heads, search.graph, facts, names):
        return f"'{x.result}' is not '{x.source}' split into {of.heads} heads"
    if chain.quantization or not of.scale:
        return f"'{name}' is quantised"
    vectors = vectors_of(product.inputs[1], x, of, search, facts)
    places = places_of(gather.inputs[1], of, search, facts)
    if vectors is None or places is None or not fits(places, vectors.shape[-1]):
        return f"'{gather.inputs[1]}' does not go by distances, or '{product.inputs[1]}' by tokens"
    places = places[:, ::-1] if turned else places  # a key's lie by how far the query is behind
    stored, how = in_steps(vectors, product.inputs[1], search)
    table = np.take_along_axis(stored, places[:, None] % vectors.shape[-1], axis=-1)
    outside = chain.factor / of.scale
    factor, how = x.factor * outside, scaled(how, x.factor * outside)
    if how is None:
        table = table * np.float32(factor)
    rows = np.ascontiguousarray(np.moveaxis(table, -1, 0).reshape(places.shape[1], -1))
    return turned, Table(rows, how, scaled(products.quantization, outside))


def same_operand(x: Chain, owner: Chain) -> bool:
    """Whether both are of one value, which is rounded the same or not at all."""
    return x.source == owner.source and x.quantization == owner.quantization


def scaled(how: Quantization | None, factor: float) -> Quantization | None:
    return None if how is None else replace(how, scale=how.scale * factor)


def in_steps(vectors: Array, value: str, search: Search) -> tuple[Array, Quantization | None]:
    """What vectors are stored as, where they are dequantised; else themselves."""
    chain = chain_above(value, search)
    source = search.producer.get(chain.source)
    how = chain.quantization
    if how is None and source is not None and source.kind == "DequantizeLinear":
        how = quantization_of(search.graph, source)
    how = scaled(how, chain.factor)
    return quantized(vectors, how), how


def turns(chain: Chain, search: Search, facts: Mapping[str, Fact]) -> bool | None:
    """Whether the chain exchanges queries and keys; None where it does more."""
    names = lengths(facts, [chain.source])
    if names is None:
        return None
    shape = size(facts[chain.source].shape or (), names)
    numbered = np.arange(np.prod(shape)).reshape(shape)
    got = moved(chain.nodes, numbered, search.graph, facts, names)
    for turned, wanted in ((False, numbered), (True, np.swapaxes(numbered, -1, -2))):
        if got is not None and np.array_equal(got, wanted):
            return turned
    return None


def vectors_of(
    value: str, x: Chain, of: Attended, search: Search, facts: Mapping[str, Fact]
) -> Array | None:
    """float32 [heads, depth, vectors], the same for all sentences."""
    part, found = part_above(value, search, facts), None
    apart = (facts[x.result].rank or 0) > 3
    for (batch, _), got in tried(part, search, facts):
        if got is None or got.dtype != np.float32 or got.ndim < 3:
            return None
        if not apart and (got.ndim > 3 or len(got) != batch * of.heads):
            return None
        shape = (batch, of.heads, *got.shape[-2:])
        got = np.broadcast_to(got, shape) if apart else got.reshape(shape)
        if not np.array_equal(got, np.broadcast_to(got[0] if found is None else found, shape)):
            return None
        found = got[0]
    return found


def places_of(value: str, of: Attended, search: Search, facts: Mapping[str, Fact]) -> Array | None:
    """int64 [heads, 2 P - 1]: the vector, by how far the second token stands behind the first;
    layers share it.
    """
    notes, key = search.notes, ("places", value, of.heads)
    if key not in notes:
        part = part_above(value, search, facts)
        notes[key] = None if part is None else places_tried(part, of, search, facts)
    found: Array | None = notes[key]
    return found


def places_tried(
    part: Part, of: Attended, search: Search, facts: Mapping[str, Fact]
) -> Array | None:
    table = added_by_distance(Terms([part], search.graph, facts, of.heads))
    if table is None or not np.array_equal(table, table.astype(np.int64)):
        return None
    for (batch, tokens), got in tried(part, search, facts):
        wanted = by_distance(table, tokens, tokens)
        if got is None or got.shape[-2:] != wanted.shape[-2:] or got.size != batch * wanted.size:
            return None
        if not (got.reshape(batch, *wanted.shape) == wanted).all():
            return None
    return table.astype(np.int64)


def tried(
    part: Part | None, search: Search, facts: Mapping[str, Fact]
) -> Iterator[tuple[tuple[int, int], Array | None]]:
    """What a part makes for some batches and lengths; nothing else may be an input of it."""
    for seed, shape in enumerate(USUAL):
        feeds = sentences(search.graph, *shape, seed, kinds=2)
        known = part is not None and not part.inputs and feeds
        yield shape, probe(part, search.graph, facts, feeds) if known and part else None


def fits(places: Array, count: int) -> bool:
    return bool(((places >= -count) & (places < count)).all())
