"""What is added to an attention's scores, or chosen instead of them: which keys count, how far a
query sees, what goes by distance.

How a mask is spelled is found by running it (probe.py) on batches and lengths that would show a
difference.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..graph import Graph, Value
from ..ops.fused import KEPT, by_distance, within
from ..ops.reference import MOST_ELEMENTS
from .distances import Terms, added_by_distance
from .fusion import Match
from .lengths import Shape, alike
from .probe import USUAL, Part, kinds_tried, part_above, probe, sentences
from .shapes import Fact
from .simulate import rounded

__all__ = ["HOPELESS", "Mask", "mask_of"]

Array = NDArray[Any]
HOPELESS = -9999.0  # exp of anything this low is 0
VANISHED = 104.0  # so far below another score a probability is 0 in float32
MOST_SCORES = 1 << 26  # that are tried; models that fix longer sentences are none
UNREACHED = 1 << 20  # tokens of no sentence: a number as large says that there is no end
LEAST_HALF = float(np.finfo(np.float16).min)  # added in float32 it masks, and counts no tokens


@dataclass(frozen=True)
class Mask:
    """The graph input that is 1 where a token is real, "" where every token is; masking: whether
    those tokens' keys count, or the first keys, as many as there are ones.
    """

    value: str
    masking: str = "keys"
    bias: Array | None = None  # what is added by distance
    window: int | None = None  # how far from a query's place its keys are at most


def mask_of(
    match: Match,
    facts: Mapping[str, Fact],
    heads: int,
    levels: Array | None,
    hidden: Shape,
) -> Mask | str:
    """The mask behind what is added to the scores, or a sentence; levels: of scores, where they are
    quantised; hidden: lengths [batch, tokens, channels].
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
    kinds = kinds_tried(match.search, (value.name for value in given))
    for seed, (batch, tokens) in enumerate(seen.shapes):
        feeds = sentences(graph, batch, tokens, seed, kinds)
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
            number = float(array.reshape(()))
            low = array.dtype.kind == "f" and number == LEAST_HALF
            reached = abs(number) < UNREACHED and not low
            lengths.update([int(abs(number)) + 2] if reached else [])
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
