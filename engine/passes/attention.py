"""Scaled dot-product attention over heads (Vaswani et al. 2017) as one Attention.

The pattern is the mathematics; how channels become heads is checked by moving numbered elements
(movement.py), what the mask means by running it (attention_mask.py).  A factor on query, key or
scores becomes `scale`, and the scales of quantisations after it are divided by it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..graph import Graph, Node, Quantization
from ..ops.numbers import dequantized, quantized
from .attention_mask import Mask, mask_of
from .fusion import Fusion, Match, fuse
from .match import Operators, Pattern, Scalar, Search, Tensor, Viewed, either
from .movement import VIEWS, Chain, chain_above, differs, lengths, moved, size, splits_heads
from .names import layer_name
from .outputs_apart import outputs_apart
from .positions import Attended, Positions, positions_of
from .probe import part_above
from .shapes import Fact
from .simulate import every_byte, fake_quantize

__all__ = [
    "FUSION",
    "attention",
    "chain_of_scores",
    "divided",
    "levels_of",
    "of_shares",
    "rearranged",
    "softmax_of",
]

Array = NDArray[Any]


def softmax_of(op: Operators, scores: Tensor, bias: Tensor, mask: Tensor, low: Scalar) -> Pattern:
    added = either(
        scores, summed(op, scores, bias), Viewed(summed(op, scores, bias).named("sum"), {"Reshape"})
    )
    masked = either(
        added + mask,
        op.Where(mask, low, added).named("masked_where"),
        op.Where(mask, added, low).named("kept_where"),
        scores,
    )
    masked = either(masked, op.engine.FakeQuantize(masked).named("rounded masked"))
    return either(op.Softmax(masked, axis=-1), op.Softmax(masked, axis=3)).named("softmax")


def scaled_dot_product(
    op: Operators, value: Tensor, scores: Tensor, bias: Tensor, mask: Tensor, low: Scalar
) -> Pattern:
    softmax = softmax_of(op, scores, bias, mask, low)
    shares = either(softmax, op.engine.FakeQuantize(softmax).named("rounded shares"))
    emptied = op.Where(mask, 0.0, shares).named("emptied")
    softmax = either(softmax, op.Where(op.IsNaN(softmax), 0.0, softmax), emptied)
    probabilities = either(op.engine.FakeQuantize(softmax).named("probabilities"), softmax)
    weights = Viewed(probabilities, {"Reshape"}).named("weights")
    return Viewed(op.MatMul(weights, value).named("context"), VIEWS | {"engine.FakeQuantize"})


def summed(op: Operators, scores: Tensor, bias: Tensor) -> Pattern:
    return either(scores + bias, op.engine.FakeQuantize(scores + bias).named("rounded sum"))


@dataclass(frozen=True)
class Parts:
    """A match taken apart."""

    query: Chain
    key: Chain
    value: Chain
    scores: Chain
    scaled: Quantization | None  # of scores after all scaling, where they were quantised before
    heads: int
    mask: Mask
    positions: Positions | None


def taken_apart(match: Match, facts: Mapping[str, Fact]) -> Parts | str:
    """The parts of an attention, or a sentence why it is none."""
    search = match.search
    scores, scaled = chain_of_scores(match["scores"], search)
    product = search.producer.get(scores.source)
    if product is None or product.kind != "MatMul":
        return f"'{scores.source}' is not a product of query and key"
    query, key = (chain_above(name, search) for name in product.inputs)
    value = chain_above(match["value"], search, rescale=False)  # queries and keys have a scale
    shape = facts[value.source].shape
    if shape is None or len(shape) != 3 or not isinstance(shape[2], int):
        return f"'{value.source}' is not [batch, sequence, channels]: {shape}"
    depth = (facts[value.result].shape or ("",))[-1]
    if not isinstance(depth, int) or depth < 1 or shape[2] % depth:
        return f"'{value.result}' is not split into heads: {facts[value.result].shape}"
    if not np.isclose(value.factor, 1):
        return f"the values are scaled by {value.factor}"
    heads = shape[2] // depth
    reason = wrong_layout(match, facts, query, key, value, heads) or shape_of_scores(
        scores, match, facts
    )
    if reason:
        return reason
    levels = levels_of(match, query.factor * key.factor, scores, scaled)
    attended = Attended(query, key, heads, query.factor * key.factor * scores.factor)
    positions = positions_added(match, facts, attended, levels)
    if isinstance(positions, str):
        return positions
    mask = mask_of(match, facts, heads, levels, shape)
    if isinstance(mask, str):
        return mask
    parts = Parts(query, key, value, scores, scaled, heads, mask, positions)
    return wrong_roundings(match, parts) or parts


def wrong_roundings(match: Match, parts: Parts) -> str | None:
    """A sentence where something is rounded, or set to 0, as no Attention has it."""
    if parts.positions and partly_rounded(match, parts.positions, parts):
        return "scores by positions are partly quantised"
    inner = rounding(match, "rounded shares")
    if inner not in (None, rounding(match, "probabilities")):
        return f"'{match['rounded shares']}' is rounded again"
    if "emptied" in match and ("masked_where" not in match or parts.mask.masking != "keys"):
        return f"'{match['emptied']}' is 0 elsewhere than where a token is masked"
    return None


def rounding(match: Match, name: str) -> Quantization | None:
    """Of a FakeQuantize of the match; None where it has none."""
    return match.node(name).attributes["quantization"] if name in match else None


def rounded_to_one(match: Match, levels: Array | None) -> bool:
    """Whether all that scores with positions can be, and scores without, the mask's rounding makes
    the same: quantize_static's steps reach from 0 to the least float32.
    """
    of_sum, of_mask = rounding(match, "rounded sum"), rounding(match, "rounded masked")
    if of_sum is None or of_mask is None or levels is None:
        return False
    every = np.concatenate([every_byte(of_sum), levels])
    return len(np.unique(quantized(every, of_mask))) == 1


def partly_rounded(match: Match, positions: Positions, parts: Parts) -> bool:
    """Whether some is quantised of what stands before the softmax, and some is not; or the sum."""
    how = [chain.quantization for chain in (parts.query, parts.key, parts.scores)]
    for table in (positions.of_keys, positions.of_queries):
        how += [] if table is None else [table.how, table.rounding]
    some = any(how) and not all(how)
    return parts.scaled is not None or "rounded masked" in match or some


def positions_added(
    match: Match, facts: Mapping[str, Fact], attended: Attended, levels: Array | None
) -> Positions | None | str:
    """What queries and keys themselves are multiplied with, before that is added; or a sentence."""
    if "bias" not in match:
        return None
    if part_above(match["bias"], match.search, facts) is not None:
        odd = "rounded" if "rounded sum" in match else "rearranged" if "sum" in match else ""
        return f"the sum with a bias is {odd}" if odd else None
    if "sum" in match and last_two(match["sum"], facts) != last_two(match["softmax"], facts):
        return f"'{match['sum']}' is rearranged"
    if "rounded sum" in match:
        flat = rounded_to_one(match, levels)
        return None if flat else "scores by positions are rounded again"
    return positions_of(match["bias"], attended, match.search, facts)


def last_two(value: str, facts: Mapping[str, Fact]) -> tuple[int | str, ...]:
    return (facts[value].shape or (value,))[-2:]


def chain_of_scores(value: str, search: Search) -> tuple[Chain, Quantization | None]:
    """From masked scores to the product; what they are rounded by after one rounding more."""
    last = chain_above(value, search)
    source = search.producer.get(last.source)
    if source is None or source.kind != "engine.FakeQuantize" or last.factor <= 0:
        return last, None
    first, how = chain_above(last.source, search), last.quantization
    nodes, factor = (*first.nodes, *last.nodes), first.factor * last.factor
    scaled = divided(how, 1 / last.factor)
    return replace(first, nodes=nodes, factor=factor, result=last.result), scaled


def levels_of(
    match: Match, before: float, scores: Chain, scaled: Quantization | None
) -> Array | None:
    """float32 [256]: what scores can be where they are not masked; None where they are not
    quantised.
    """
    how = divided(scores.quantization, before)
    if how is None:
        return None
    levels = every_byte(how) * np.float32(before * scores.factor)
    return dequantized(quantized(levels, scaled), scaled)


# --- layout ---
def wrong_layout(
    match: Match, facts: Mapping[str, Fact], query: Chain, key: Chain, value: Chain, heads: int
) -> str | None:
    """A sentence where the chains do not split channels into heads and join them again."""
    sources = [chain.source for chain in (query, key, value)]
    names = lengths(facts, sources)
    if names is None or any(facts[name].rank != 3 for name in sources):
        shapes = [facts[source].shape for source in sources]
        return f"query, key and value are not [batch, sequence, channels]: {shapes}"
    for chain, order in ((query, (0, 2, 1, 3)), (key, (0, 2, 3, 1)), (value, (0, 2, 1, 3))):
        if not splits_heads(chain, order, heads, match.graph, facts, names):
            return f"'{chain.result}' is not '{chain.source}' split into {heads} heads"
    shape = size(facts[query.source].shape or (), names)
    joined = np.arange(np.prod(shape)).reshape(shape)
    split = joined.reshape(*shape[:2], heads, -1).transpose(0, 2, 1, 3)
    given = facts[match["context"]].shape
    start = split if given is None or len(given) != 3 else split.reshape(-1, *split.shape[2:])
    result = moved(after_product(match), start, match.graph, facts, names)
    if result is None or result.shape != joined.shape or differs(result, joined):
        return f"'{match.root.outputs[0]}' does not join the heads to [batch, sequence, channels]"
    return None


def after_product(match: Match) -> list[Node]:
    """The views and quantisations of the result, in the order they run."""
    product = next(i for i, node in enumerate(match.nodes) if node.kind == "MatMul")
    return list(match.nodes[:product][::-1])


def shape_of_scores(scores: Chain, match: Match, facts: Mapping[str, Fact]) -> str | None:
    """Around the softmax batch and heads may be joined or parted, nothing else moves."""
    names = lengths(facts, [scores.source, match["softmax"], match["weights"]])
    if names is None:
        return f"the shape of '{scores.source}' is not known"
    shape = size(facts[scores.source].shape or (), names)
    numbered = np.arange(np.prod(shape)).reshape(shape)
    if reason := rearranged(scores, numbered, match, names):
        return reason
    before, after = (facts[match[name]].shape or () for name in ("softmax", "weights"))
    if before[-2:] != after[-2:]:
        return f"'{match['weights']}' rearranges the probabilities"
    return None


def rearranged(
    scores: Chain, numbered: Array, match: Match, names: Mapping[str, int]
) -> str | None:
    """A sentence where the chain moves scores, which are numbered."""
    result = moved(scores.nodes, numbered, match.graph, match.search.facts, names)
    if result is None or result.shape[-2:] != numbered.shape[-2:] or differs(result, numbered):
        return f"'{scores.result}' rearranges the scores"
    return None


# --- rewriting ---
def build(match: Match) -> Sequence[Node]:
    parts = taken_apart(match, match.search.facts)
    assert isinstance(parts, Parts), "the guard has seen it"
    out = match.root.outputs[0]
    nodes: list[Node] = []

    def rounded(chain: Chain, name: str) -> str:
        if chain.quantization is None:
            return chain.source
        nodes.append(fake_quantize(chain.source, f"{out}.{name}", chain.quantization))
        return f"{out}.{name}"

    inputs = (
        rounded(parts.query, "query"),
        rounded(parts.key, "key"),
        rounded(parts.value, "value"),
        parts.mask.value,
        *added_constants(match, parts),
    )
    before = parts.query.factor * parts.key.factor
    shares = rounding(match, "probabilities")
    attributes = {
        "heads": parts.heads,
        "scale": before * parts.scores.factor,
        "query": None,
        "key": None,
        "value": None,
        **rounded_positions(parts.positions),
        "scores": divided(parts.scores.quantization, before),
        "scaled": parts.scaled,
        "masked": rounding(match, "rounded masked"),
        "probabilities": of_shares(shares) if shares else None,
        "product": None,
        "output": None,
        "precision": precision_of(match, parts),
        "masking": parts.mask.masking,
        "window": parts.mask.window,
    }
    later = [node for node in after_product(match) if node.kind == "engine.FakeQuantize"]
    if "emptied" in match and parts.mask.value:
        later.insert(0, Node("Mask", ("", parts.mask.value), ("",), {}, f"{out}.mask", "engine"))
    results = [f"{out}.context{i}" for i in range(len(later))] + [out]
    name = layer_name([match.node("softmax"), match.root])
    nodes.append(Node("Attention", inputs, (results[0],), attributes, name, "engine"))
    for i, node in enumerate(later):
        given = (results[i], *node.inputs[1:])
        nodes.append(node.changed(inputs=given, outputs=(results[i + 1],)))
    return nodes


def rounded_positions(positions: Positions | None) -> dict[str, Quantization | None]:
    """How they are stored, and their products rounded."""
    if positions is None:
        return {}
    found: dict[str, Quantization | None] = {}
    for name, table, products in (
        ("key_positions", positions.of_keys, "query_scores"),
        ("query_positions", positions.of_queries, "key_scores"),
    ):
        found[name], found[products] = (
            (None, None) if table is None else (table.how, table.rounding)
        )
    return found


def added_constants(match: Match, parts: Parts) -> Sequence[str]:
    """The bias and the positions, as far as there are any; layers share the bias."""
    name, positions = match.get("bias") or match.get("mask"), parts.positions
    bias = parts.mask.bias
    names = ["" if bias is None else match.constant(f"{name}.by_distance", bias)]
    if positions is not None:
        tables = {"keys": positions.of_keys, "queries": positions.of_queries}
        names += [
            "" if table is None else match.constant(f"{name}.of_{what}", table.rows)
            for what, table in tables.items()
        ]
    return names if any(names) else ()


def precision_of(match: Match, parts: Parts) -> str:
    """bfloat16 where query, key and value are results of bfloat16 products, and nothing between
    them and the weighted sum is quantised.
    """
    chains = (parts.query, parts.key, parts.value)
    makers = [match.search.producer.get(chain.source) for chain in chains]
    low = all(maker and maker.attributes.get("precision") == "bfloat16" for maker in makers)
    whole = all(chain.quantization is None for chain in (*chains, parts.scores))
    whole = whole and parts.positions is None and "probabilities" not in match
    return "bfloat16" if low and whole else "float32"


def of_shares(how: Quantization) -> Quantization:
    """A quantisation of numbers from 0 to 1, from 0 up where it says the same so."""
    if how.dtype == "int8" and how.zero_point == 0 and 127.5 * how.scale > 1:
        return Quantization(how.scale, 0, "uint8")
    return how


def divided(how: Quantization | None, factor: float) -> Quantization | None:
    return None if how is None else Quantization(how.scale / factor, how.zero_point, how.dtype)


def objection(match: Match) -> str | None:
    parts = taken_apart(match, match.search.facts)
    return parts if isinstance(parts, str) else None


FUSION = Fusion("attention", scaled_dot_product, build, objection)


def attention(graph: Graph) -> Graph:
    """Scores, mask, softmax and the weighted sum as one Attention."""
    fused, apart = fuse(graph, FUSION), outputs_apart(graph)
    if apart is graph:
        return fused
    apart = fuse(apart, FUSION)
    return apart if attentions(apart) > attentions(fused) else fused


def attentions(graph: Graph) -> int:
    return sum(node.kind == "engine.Attention" for node in graph)
