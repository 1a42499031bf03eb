"""Scaled dot-product attention over heads (Vaswani et al. 2017) as one Attention.

The pattern is the mathematics; how channels become heads is checked by moving numbered elements
(movement.py), how the mask is spelled by running it (probe.py).  A factor on query, key or scores
becomes `scale`, and the scales of quantisations after it are divided by it.  What is added to the
scores beside the mask may depend on distances (distances.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..graph import Graph, Node, Quantization, Value
from ..ops.fused import by_distance, first_keys, within
from ..ops.numbers import dequantized, quantized
from ..ops.reference import MOST_ELEMENTS
from .distances import Terms, added_by_distance
from .fusion import Fusion, Match, fuse
from .lengths import alike
from .match import Operators, Pattern, Scalar, Search, Tensor, Viewed, either
from .movement import VIEWS, Chain, chain_above, differs, lengths, moved, size, splits_heads
from .names import layer_name
from .outputs_apart import outputs_apart
from .positions import Attended, Positions, positions_of
from .probe import LOOKUPS, Part, part_above, probe, sentences
from .shapes import Fact
from .simulate import every_byte, fake_quantize, rounded

__all__ = ["FUSION", "attention"]

Array = NDArray[Any]
HOPELESS = -9999.0  # exp of anything this low is 0
VANISHED = 104.0  # so far below another score a probability is 0 in float32
KEPT: Mapping[str, Callable[[Array], Array]] = {  # by masking: ones [B, S] -> keys that count
    "keys": lambda ones: ones,
    "lengths": first_keys,
}
MOST_SCORES = 1 << 26  # that are tried; models that fix longer sentences are none
USUAL = ((2, 3), (1, 4), (3, 7))  # batches and lengths that are tried of every mask
UNREACHED = 1 << 20  # tokens of no sentence: a number as large says that there is no end


def scaled_dot_product(
    op: Operators, value: Tensor, scores: Tensor, bias: Tensor, mask: Tensor, low: Scalar
) -> Pattern:
    added = either(scores, scores + bias, Viewed((scores + bias).named("sum"), {"Reshape"}))
    masked = either(
        added + mask,
        op.Where(mask, low, added).named("masked_where"),
        op.Where(mask, added, low).named("kept_where"),
        scores,
    )
    masked = either(masked, op.engine.FakeQuantize(masked).named("rounded masked"))
    softmax = either(op.Softmax(masked, axis=-1), op.Softmax(masked, axis=3)).named("softmax")
    emptied = op.Where(mask, 0.0, softmax).named("emptied")
    softmax = either(softmax, op.Where(op.IsNaN(softmax), 0.0, softmax), emptied)
    probabilities = either(op.engine.FakeQuantize(softmax).named("probabilities"), softmax)
    weights = Viewed(probabilities, {"Reshape"}).named("weights")
    return Viewed(op.MatMul(weights, value).named("context"), VIEWS | {"engine.FakeQuantize"})


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
    query, key, value = (chain_above(name, search) for name in (*product.inputs, match["value"]))
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
    positions = positions_added(match, facts, attended)
    if isinstance(positions, str):
        return positions
    mask = mask_of(match, facts, heads, levels)
    if isinstance(mask, str):
        return mask
    if positions and not all_floats(match, query, key, scores, scaled):
        return "scores by positions are quantised"
    if "emptied" in match and ("masked_where" not in match or mask.masking != "keys"):
        return f"'{match['emptied']}' is 0 elsewhere than where a token is masked"
    return Parts(query, key, value, scores, scaled, heads, mask, positions)


def all_floats(match: Match, *how: Chain | Quantization | None) -> bool:
    """Whether nothing before the softmax is quantised."""
    given = [each.quantization if isinstance(each, Chain) else each for each in how]
    return "rounded masked" not in match and not any(given)


def positions_added(
    match: Match, facts: Mapping[str, Fact], attended: Attended
) -> Positions | None | str:
    """What queries and keys themselves are multiplied with, before that is added; or a sentence."""
    if "bias" not in match or part_above(match["bias"], match.search, facts) is not None:
        return "the sum with a bias is rearranged" if "sum" in match else None
    if "sum" in match and last_two(match["sum"], facts) != last_two(match["softmax"], facts):
        return f"'{match['sum']}' is rearranged"
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


@dataclass(frozen=True)
class Mask:
    """The graph input that is 1 where a token is real, "" where every token is; masking: whether
    those tokens' keys count, or the first keys, as many as there are ones.
    """

    value: str
    masking: str = "keys"
    bias: Array | None = None  # what is added by distance
    window: int | None = None  # how far from a query's place its keys are at most


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
    result = moved(scores.nodes, numbered, match.graph, facts, names)
    if result is None or result.shape[-2:] != shape[-2:] or differs(result, numbered):
        return f"'{scores.result}' rearranges the scores"
    before, after = (facts[match[name]].shape or () for name in ("softmax", "weights"))
    if before[-2:] != after[-2:]:
        return f"'{match['weights']}' rearranges the probabilities"
    return None


# --- mask ---
def mask_of(
    match: Match, facts: Mapping[str, Fact], heads: int, levels: Array | None
) -> Mask | str:
    """The mask behind what is added to the scores, or a sentence; levels: of scores, where they are
    quantised.
    """
    if "rounded masked" in match and levels is None:
        return f"{match.node('rounded masked')} rounds scores that are not quantised"
    if "mask" not in match:
        return Mask("")
    if "low" in match and match.number("low") > HOPELESS:
        low = match.number("low")
        return f"masked scores become {low}, which is not low enough to vanish"
    found = added_parts(match, facts)
    if isinstance(found, str):
        return found
    mask, others = found
    graph = match.graph
    given = [v for v in graph.inputs if any(v.name in part.inputs for part in (*mask, *others))]
    if given and len(given[0].shape) != 2:
        shape = list(given[0].shape)
        return f"the mask '{given[0].name}' is {shape}, expected [batch, sequence]"
    hidden = facts[chain_above(match["value"], match.search).source].shape or ()
    if given and not alike(given[0].shape, hidden[:2]):
        return f"the mask '{given[0].name}' is {list(given[0].shape)} for tokens {list(hidden[:2])}"
    bias, seen = None, windows(match, facts, mask)
    if never_masks(match, facts, (*mask, *others), given, seen):
        return Mask("")
    ways = [] if others else maskings(match, facts, mask, given, seen, levels)
    if not ways and "rounded masked" not in match:
        bias = bias_of(match, facts, others or mask, heads)
        seen = seen if others else Seen(USUAL, bias=bias)
        ways = [] if bias is None else maskings(match, facts, mask, given, seen, levels)
    if not ways or (others and bias is None):
        return f"'{match['mask']}' is not the mask of the padded tokens"
    return Mask(given[0].name if given else "", ways[0], bias, seen.window)


@dataclass(frozen=True)
class Seen:
    """What else than masked tokens a mask tells of: how far a query sees, what is added by
    distance; and the batches and lengths that show it, none where it cannot be tried.
    """

    shapes: Sequence[tuple[int, int]]
    window: int | None = None
    bias: Array | None = None


def added_parts(match: Match, facts: Mapping[str, Fact]) -> tuple[list[Part], list[Part]] | str:
    """What makes the mask, and what else is added, where that stands apart: where both are added
    they are one sum.
    """
    names = [name for name in ("mask", "bias") if name in match]
    parts = [part_above(match[name], match.search, facts) for name in names]
    if None in parts[1:]:  # of queries and keys: positions_added
        parts = parts[:1]
    found = [part for part in parts if part is not None]
    if len(found) < len(parts) or len({name for part in found for name in part.inputs}) > 1:
        return f"'{match['mask']}' is not made from one mask"
    return (found[:1], found[1:]) if chosen(match) else (found, [])


def chosen(match: Match) -> bool:
    """Whether masked scores are exchanged: else something low is added to them."""
    return "masked_where" in match or "kept_where" in match


def bias_of(
    match: Match, facts: Mapping[str, Fact], parts: Sequence[Part], heads: int
) -> Array | None:
    """What is added by distance; layers share it."""
    notes, key = match.search.notes, (heads, *(part.value for part in parts))
    if key not in notes:
        notes[key] = added_by_distance(Terms(parts, match.graph, facts, heads))
    found: Array | None = notes[key]
    return found


Tried = tuple[list[Array | None], Array]


def tried(
    match: Match,
    facts: Mapping[str, Fact],
    parts: Sequence[Part],
    given: Sequence[Value],
    seen: Seen,
) -> Iterator[Tried]:
    """What the parts make of some masks, and bool [batch, sequence], where those are not 0."""
    graph = match.graph
    readers = [node for value in given for node in match.search.consumers[value.name]]
    ids = any(node.kind in LOOKUPS for node in readers)
    for seed, (batch, tokens) in enumerate(seen.shapes):
        feeds = sentences(graph, batch, tokens, seed, kinds=7 if ids else 2)
        terms = [probe(part, graph, facts, feeds) for part in parts]
        yield terms, kept_of(given, feeds, (batch, tokens))


def maskings(
    match: Match,
    facts: Mapping[str, Fact],
    parts: Sequence[Part],
    given: Sequence[Value],
    seen: Seen,
    levels: Array | None,
) -> list[str]:
    """The ways of KEPT in which the parts' sum, less the bias, means a mask."""
    ways = dict(KEPT) if seen.shapes else {}
    for terms, ones in tried(match, facts, parts, given, seen):
        for masking, kept in KEPT.items():
            if not means(terms, kept(ones), seen, match, levels):
                ways.pop(masking, None)
    return list(ways)


def never_masks(
    match: Match,
    facts: Mapping[str, Fact],
    parts: Sequence[Part],
    given: Sequence[Value],
    seen: Seen,
) -> bool:
    """Whether nothing is added whatever is masked, as after calibration without padding."""
    if chosen(match) or not given:
        return False
    every = [(sum_of_known(terms), ones) for terms, ones in tried(match, facts, parts, given, seen)]
    masked = not all(ones.all() for _, ones in every)  # in some of what was tried
    return masked and all(got is not None and not got.any() for got, _ in every)


def kept_of(given: Sequence[Value], feeds: Mapping[str, Array], shape: tuple[int, int]) -> Array:
    return feeds[given[0].name] != 0 if given else np.ones(shape, bool)


def means(
    terms: Sequence[Array | None],
    keep: Array,
    seen: Seen,
    match: Match,
    levels: Array | None,
) -> bool:
    """Whether what was computed keeps these tokens and takes the others out."""
    got = sum_of_known(terms)
    if got is None:
        return False
    shape = (len(keep), 1 if got.ndim < 4 else got.shape[1], keep.shape[1], keep.shape[1])
    if math.prod(shape) > MOST_SCORES:
        return False
    try:
        got = np.broadcast_to(got, shape)
    except ValueError:
        return False
    wanted = np.broadcast_to(keep[:, None, None], got.shape)
    wanted = wanted if seen.window is None else wanted & within(seen.window, *shape[2:])
    if "emptied" in match:  # a masked token attends to nothing
        wanted = wanted & keep[:, None, :, None]
    if chosen(match):
        if not vanishes(np.array(match.number("low"), np.float32), match, levels):
            return False
        return bool(np.array_equal(got.astype(bool), wanted ^ ("masked_where" in match)))
    added = np.zeros(()) if seen.bias is None else by_distance(seen.bias, *shape[2:])
    with np.errstate(invalid="ignore"):  # where both are infinite
        low = (got <= HOPELESS) | (got - added <= HOPELESS)
    lows = np.unique(got[~wanted]).astype(np.float32)
    if levels is not None and not all(vanishes(levels + each, match, levels) for each in lows):
        return False
    return bool(np.where(wanted, got == added, low).all())


def sum_of_known(terms: Sequence[Array | None]) -> Array | None:
    known = [term for term in terms if term is not None]
    if len(known) < len(terms):
        return None
    try:
        return sum(known[1:], known[0])
    except ValueError:
        return None


def vanishes(masked: Array, match: Match, levels: Array | None) -> bool:
    """Whether masked scores have no probability, rounded as the match says, whatever those are that
    are kept.
    """
    if "rounded masked" not in match or levels is None:
        return True
    node = match.node("rounded masked")
    with np.errstate(over="ignore"):
        most, least = rounded(masked, node).max(), rounded(levels, node).min()
    return bool(most <= least - np.float32(VANISHED))


# --- windows ---
def windows(match: Match, facts: Mapping[str, Fact], parts: Sequence[Part]) -> Seen:
    """How far a query sees; layers share what is found."""
    ways = "masked_where" in match, "kept_where" in match
    notes, key = match.search.notes, ("window", *(part.value for part in parts), *ways)
    if key not in notes:
        notes[key] = windows_tried(match, facts, parts)
    found: Seen = notes[key]
    return found


def windows_tried(match: Match, facts: Mapping[str, Fact], parts: Sequence[Part]) -> Seen:
    if first_query(match, facts, parts, 3) is None:  # all queries see the same
        return Seen(USUAL)
    lengths = telling(parts, match.graph)
    if lengths[-1] ** 2 > MOST_ELEMENTS:
        return Seen([])
    tried = [(n, first_query(match, facts, parts, n)) for n in lengths]
    seen = [(n, row) for n, row in tried if row is not None]  # longer than a table nothing runs
    whole = not seen or seen[-1][1].all()
    window = None if whole else max(int(seen[-1][1].sum()) - 1, 0)
    return Seen([*USUAL, *((1, n) for n, _ in seen)], window)


def telling(parts: Sequence[Part], graph: Graph) -> list[int]:
    """Lengths at which a window shows: longer than a number that the mask is made with, or as long
    as a table of it.
    """
    lengths, names = set[int](), {n for part in parts for node in part.nodes for n in node.inputs}
    for array in (graph.constants[name] for name in names if name in graph.constants):
        lengths.update(array.shape)
        if array.size == 1 and array.dtype.kind in "iuf":
            number = abs(float(array.reshape(())))
            lengths.update([int(number) + 2] if number < UNREACHED else [])
    usual = max(tokens for _, tokens in USUAL)
    return sorted({usual + 1, *(n for n in lengths if n > usual)})


def first_query(
    match: Match, facts: Mapping[str, Fact], parts: Sequence[Part], tokens: int
) -> Array | None:
    """bool: the keys that the first of so many tokens sees where none is masked, if that depends on
    the query; None where it cannot be computed.
    """
    feeds = sentences(match.graph, 1, tokens, 0, kinds=2)
    ones = {name: np.ones_like(feed) for name, feed in feeds.items()}
    got = sum_of_known([probe(part, match.graph, facts, ones) for part in parts])
    if got is None or got.ndim < 2 or got.shape[-2] != got.shape[-1]:
        return None
    row = got.reshape(-1, *got.shape[-2:])[0, 0]
    return row.astype(bool) ^ ("masked_where" in match) if chosen(match) else row == 0


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
    softmax = match.node("probabilities") if "probabilities" in match else None
    attributes = {
        "heads": parts.heads,
        "scale": before * parts.scores.factor,
        "query": None,
        "key": None,
        "value": None,
        "scores": divided(parts.scores.quantization, before),
        "scaled": parts.scaled,
        "masked": match.node("rounded masked").attributes["quantization"]
        if "rounded masked" in match
        else None,
        "probabilities": of_shares(softmax.attributes["quantization"]) if softmax else None,
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


def added_constants(match: Match, parts: Parts) -> Sequence[str]:
    """The bias and the positions, as far as there are any; layers share the bias."""
    name, positions = match.get("bias") or match.get("mask"), parts.positions
    bias = parts.mask.bias
    names = ["" if bias is None else match.constant(f"{name}.by_distance", bias)]
    if positions is not None:
        tables = {"keys": positions.of_keys, "queries": positions.of_queries}
        names += [
            "" if table is None else match.constant(f"{name}.of_{what}", table)
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
