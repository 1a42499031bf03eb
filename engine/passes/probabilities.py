"""Probabilities that a model gives out: scores, mask and softmax of an attention as one operator.

`outputs_apart` has computed them beside those that are multiplied with values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..graph import Graph, Node, Quantization
from .attention import chain_of_scores, divided, levels_of, of_shares, rearranged, softmax_of
from .attention_mask import Mask, mask_of
from .fusion import Fusion, Match, fuse
from .match import Operators, Pattern, Scalar, Search, Tensor, either
from .movement import Chain, chain_above, lengths, size, splits_heads
from .names import layer_name
from .probe import part_above
from .simulate import fake_quantize

__all__ = ["FUSION", "probabilities"]


def given_out(op: Operators, scores: Tensor, bias: Tensor, mask: Tensor, low: Scalar) -> Pattern:
    softmax = softmax_of(op, scores, bias, mask, low)
    return either(op.engine.FakeQuantize(softmax).named("rounded"), softmax)


@dataclass(frozen=True)
class Shares:
    """Probabilities taken apart."""

    query: Chain
    key: Chain
    scores: Chain
    scaled: Quantization | None  # of scores after all scaling, where they were quantised before
    heads: int
    mask: Mask


def shares_of(match: Match) -> Shares | str:
    """The parts of probabilities that only go out of the graph, or a sentence why they are none."""
    search, value = match.search, match.root.outputs[0]
    facts = search.facts
    if not only_given_out(value, search):
        return f"'{value}' does not only go out of the graph"
    scores, scaled = chain_of_scores(match["scores"], search)
    product = search.producer.get(scores.source)
    if product is None or product.kind != "MatMul":
        return f"'{scores.source}' is not a product of query and key"
    query, key = (chain_above(name, search) for name in product.inputs)
    heads = heads_of_shares(match, query, key, scores)
    if isinstance(heads, str):
        return heads
    if positions_by_channels(match):
        return "scores go by positions"
    levels = levels_of(match, query.factor * key.factor, scores, scaled)
    mask = mask_of(match, facts, heads, levels, facts[query.source].shape or ())
    if isinstance(mask, str):
        return mask
    if mask.window is not None:
        return "keys are seen from near only"
    return Shares(query, key, scores, scaled, heads, mask)


def only_given_out(value: str, search: Search) -> bool:
    """As it is, or in another type."""
    readers = search.consumers.get(value, [])
    if value in search.outputs:
        return not readers
    return all(node.kind == "Cast" and node.outputs[0] in search.outputs for node in readers)


def positions_by_channels(match: Match) -> bool:
    """Whether what is added does not follow from lengths and masks, or is rearranged."""
    if "bias" not in match:
        return False
    if "sum" in match or "rounded sum" in match:
        return True
    return part_above(match["bias"], match.search, match.search.facts) is None


def heads_of_shares(match: Match, query: Chain, key: Chain, scores: Chain) -> int | str:
    """Heads of [batch, heads, queries, keys], made of channels as an attention makes them; or a
    sentence.
    """
    facts, given = match.search.facts, match.root.outputs[0]
    shape, source = facts[given].shape or (), facts[query.source].shape or ()
    names = lengths(facts, [query.source, key.source, scores.source, given])
    if names is None or len(shape) != 4 or not isinstance(shape[1], int) or len(source) != 3:
        return f"'{given}' is not [batch, heads, tokens, tokens]: {shape}"
    if shape != facts[scores.source].shape or facts[key.source].shape != source:
        return f"'{given}' is {shape}, not of the tokens {source}"
    if not isinstance(source[2], int) or source[2] % shape[1]:
        return f"{source[2]} channels are not split into {shape[1]} heads"
    for chain, order in ((query, (0, 2, 1, 3)), (key, (0, 2, 3, 1))):
        if not splits_heads(chain, order, shape[1], match.graph, facts, names):
            return f"'{chain.result}' is not '{chain.source}' split into {shape[1]} heads"
    numbered = np.arange(np.prod(size(shape, names))).reshape(size(shape, names))
    return rearranged(scores, numbered, match, names) or shape[1]


def build_shares(match: Match) -> Sequence[Node]:
    parts, out, nodes = shares_of(match), match.root.outputs[0], list[Node]()
    assert isinstance(parts, Shares), "the guard has seen it"
    inputs = []
    for chain, name in ((parts.query, "query"), (parts.key, "key")):
        stored, inner = chain.quantization, f"{out}.{name}"
        nodes += [] if stored is None else [fake_quantize(chain.source, inner, stored)]
        inputs.append(chain.source if stored is None else inner)
    inputs.append(parts.mask.value)
    if parts.mask.bias is not None:
        name = match.get("bias") or match.get("mask")
        inputs.append(match.constant(f"{name}.by_distance", parts.mask.bias))
    before = parts.query.factor * parts.key.factor
    low = all_low(match.search, parts.query, parts.key) and parts.scores.quantization is None
    how = {
        name: match.node(found).attributes["quantization"]
        for name, found in (("masked", "rounded masked"), ("probabilities", "rounded"))
        if found in match
    }
    low = low and not how
    if "probabilities" in how:
        how["probabilities"] = of_shares(how["probabilities"])
    attributes = {
        "heads": parts.heads,
        "scale": before * parts.scores.factor,
        "query": None,
        "key": None,
        "scores": divided(parts.scores.quantization, before),
        "scaled": parts.scaled,
        **how,
        "precision": "bfloat16" if low else "float32",
        "masking": parts.mask.masking,
    }
    name = layer_name([match.root])
    node = Node("Probabilities", tuple(inputs), (out,), attributes, name, "engine")
    return [*nodes, node]


def all_low(search: Search, *chains: Chain) -> bool:
    """Whether all are results of bfloat16 products that nothing quantises."""
    makers = [search.producer.get(chain.source) for chain in chains]
    low = all(maker and maker.attributes.get("precision") == "bfloat16" for maker in makers)
    return low and all(chain.quantization is None for chain in chains)


def no_shares(match: Match) -> str | None:
    parts = shares_of(match)
    return parts if isinstance(parts, str) else None


FUSION = Fusion("probabilities", given_out, build_shares, no_shares)


def probabilities(graph: Graph) -> Graph:
    """Probabilities that are outputs as one operator each."""
    return fuse(graph, FUSION)
