"""A row of each sentence made of its tokens, and rows of length 1.

Which tokens count is no pattern: what is multiplied by, chosen by and divided by is made of the
mask alone and is tried on small masks (probe.py), one of them of a sentence without tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..graph import Graph, Node, Value
from ..ops import Trait, kinds
from ..ops.fused import KEPT
from .fusion import Fusion, Match, fuse_all
from .lengths import alike
from .match import Constant, Maybe, Operators, Pattern, Scalar, Tensor, either
from .names import layer_name
from .probe import USUAL, Part, kinds_tried, part_above, probe, sentences
from .select import squeeze
from .shape_rules import axes_of
from .shapes import FAKE

__all__ = ["FUSIONS", "mask_of", "pool"]

Array = NDArray[Any]
TRIED = (*USUAL, (1, 300))  # sentences, tokens
ACTIVATES = kinds(Trait.ACTIVATES)
ROUNDING = 2e-6  # of a count: count + epsilon is as good as the count itself


def reduced(op: Operators, kind: str, x: Pattern) -> Pattern:
    """Along an axis that is an attribute, or an input."""
    reduce = getattr(op, kind)
    return either(reduce(x), reduce(x, Constant().named("axes")))


# --- what the mask says ---
@dataclass(frozen=True)
class Tried:
    """The graph input that a part is made of, and what the part gives for some masks of it."""

    mask: Value
    found: tuple[tuple[Array, Array], ...]  # ones bool [B, S], the part's value

    def mask_of(self, says: Callable[[Array, Array], bool]) -> tuple[str, str] | None:
        """Name and masking (ops.fused.attention) of the mask by which the part says so."""
        for masking, kept in KEPT.items():
            if all(says(kept(ones), got) for ones, got in self.found):
                return self.mask.name, masking
        return None


def tried(match: Match, value: str, x: str) -> Tried | str:
    """A value made of the mask of x's tokens [B, S, C] alone, or a sentence why it is none."""
    graph, facts = match.graph, match.search.facts
    part, hidden = part_above(value, match.search, facts), facts[x].shape or ()
    if part is None or len(part.inputs) != 1:
        return f"'{value}' is not made of one mask"
    mask = next(each for each in graph.inputs if each.name == part.inputs[0])
    if len(mask.shape) != 2 or not alike(mask.shape, hidden[:2]):
        return f"'{mask.name}' is no mask of tokens {list(hidden[:2])}"
    numbers = kinds_tried(match.search, [mask.name])
    found = [_tried(match, part, mask, n, numbers) for n in range(len(TRIED))]
    results = tuple(each for each in found if each is not None)
    return Tried(mask, results) if len(results) == len(TRIED) else f"'{value}' is not known"


def _tried(
    match: Match, part: Part, mask: Value, number: int, kinds: int
) -> tuple[Array, Array] | None:
    feeds = sentences(match.graph, *TRIED[number], number, kinds)
    if mask.name not in feeds:
        return None
    if number == 0:
        feeds[mask.name][0] = 0
    got = probe(part, match.graph, match.search.facts, feeds)
    return None if got is None else (feeds[mask.name] != 0, got)


def like(got: Array, wanted: Array, shape: Sequence[int | str]) -> bool:
    """Whether what was found is the same, for each of the last axis too; wanted: of the rank of
    shape.
    """
    full = (*wanted.shape[:-1], shape[-1] if isinstance(shape[-1], int) else wanted.shape[-1])
    if got.ndim > len(full):
        return False
    try:
        return np.array_equal(np.broadcast_to(got, full), np.broadcast_to(wanted, full))
    except ValueError:
        return False


# --- along the tokens ---
def weighted(op: Operators, x: Tensor, ones: Tensor) -> Pattern:
    return either(reduced(op, "ReduceSum", x * ones), reduced(op, "ReduceMax", x * ones))


def product(op: Operators, x: Tensor, ones: Tensor) -> Pattern:
    return op.MatMul(ones, x)


def chosen(op: Operators, x: Tensor, ones: Tensor, fill: Scalar) -> Pattern:
    some = either(
        op.Where(ones, x, fill).named("kept_where"), op.Where(ones, fill, x).named("masked_where")
    )
    return either(reduced(op, "ReduceSum", some), reduced(op, "ReduceMax", some))


def plain(op: Operators, x: Tensor) -> Pattern:
    return either(
        reduced(op, "ReduceMean", x), reduced(op, "ReduceSum", x), reduced(op, "ReduceMax", x)
    )


def how_of(root: Node) -> str:
    return "sum" if root.kind == "MatMul" else root.kind.removeprefix("Reduce").lower()


def not_of_tokens(match: Match) -> str | None:
    shape = match.search.facts[match["x"]].shape or ()
    if match["x"] in match.graph.constants or len(shape) != 3 or not isinstance(shape[2], int):
        return f"'{match['x']}' is not [batch, sequence, channels]: {shape}"
    return None


def not_along_tokens(match: Match) -> str | None:
    """x is [B, S, C], and the axis of tokens is reduced."""
    reason = not_of_tokens(match)
    if reason or match.root.kind == "MatMul":
        return reason
    facts = [match.search.facts[name] for name in match.root.inputs if name]
    if axes_of(match.root, facts, 3) != [1]:
        return f"{match.root} does not reduce the tokens' axis"
    return None


def mask_of(match: Match) -> tuple[str, str] | str:
    """Name and masking of the mask that says which tokens count, or a sentence."""
    found = tried(match, match["ones"], match["x"])
    if isinstance(found, str):
        return found
    shape = match.search.facts[match["x"]].shape or ()

    def says(kept: Array, got: Array) -> bool:
        if match.root.kind == "MatMul":
            return got.ndim == 3 and like(got, kept[:, None].astype(got.dtype), kept.shape[1:])
        wanted = ~kept if "masked_where" in match else kept
        return like(got, wanted[..., None].astype(got.dtype), shape)

    return found.mask_of(says) or f"'{match['ones']}' is not 1 where a token counts, else 0"


def not_masked(match: Match) -> str | None:
    reason = not_along_tokens(match)
    if reason is None and "fill" in match and match.root.kind == "ReduceSum":
        reason = None if match.number("fill") == 0 else "others than 0 are added up"
    mask = reason or mask_of(match)
    return mask if isinstance(mask, str) else None


def not_of_kernels(match: Match) -> str | None:
    """Only where kernels may have made x: else nothing is won."""
    made = match.search.producer.get(match["x"])
    while made is not None and made.kind in FAKE:
        made = match.search.producer.get(made.inputs[0])
    if made is None or not (made.domain == "engine" or made.kind in ACTIVATES):
        return f"'{match['x']}' is no operator's of the engine"
    if match.root.kind == "ReduceMean" and source_of(match)[1]:
        return "tokens that do not count are counted"
    return not_along_tokens(match)


def pooled(match: Match) -> Sequence[Node]:
    how, fill, (x, mask) = how_of(match.root), None, source_of(match)
    masking = "keys"
    if "ones" in match:
        found = mask_of(match)
        assert not isinstance(found, str), "the guard has seen it"
        mask, masking = found
    if how == "max" and mask:
        fill = match.number("fill") if "fill" in match else 0.0
        fill = None if fill == -np.inf else fill
    attributes = {"how": how, "epsilon": 0.0, "fill": fill, "masking": masking}
    out = match.root.outputs[0]
    kept = match.root.kind == "MatMul" or match.root.attributes.get("keepdims", 1)
    rows, name = out if kept else f"{out}.rows", layer_name([match.root])
    node = Node("Pool", (x, mask), (rows,), attributes, name, "engine")
    return [node] if kept else [node, without_tokens(match, rows)]


def source_of(match: Match) -> tuple[str, str]:
    """x and "", or what a Mask makes x of and its mask."""
    made = match.search.producer.get(match["x"])
    masked = made is not None and made.kind == "engine.Mask" and "ones" not in match
    return (made.x, made.mask) if made is not None and masked else (match["x"], "")


def without_tokens(match: Match, rows: str) -> Node:
    """[batch, 1, channels] -> [batch, channels], the root's result."""
    axes = match.constant("axis_of_tokens", np.array([1], np.int64))
    return squeeze(rows, axes, match.root.outputs[0], match.graph.opset)


# --- the last token ---
def taken(op: Operators, x: Tensor, place: Tensor) -> Pattern:
    """As torch.gather, x[range, place] of several exporters."""
    return either(
        op.GatherElements(x, place, axis=1),
        op.GatherND(x, place),
        op.Gather(op.Flatten(x, axis=2), place),
        op.Gather(op.Flatten(x, axis=2), place, axis=0),
    )


def mask_of_last(match: Match) -> tuple[str, str] | str:
    """Name and masking of the mask whose last token is taken, or a sentence."""
    found, kind = tried(match, match["place"], match["x"]), match.root.kind
    if isinstance(found, str):
        return found
    shape = match.search.facts[match["x"]].shape or ()

    def says(kept: Array, got: Array) -> bool:
        (batch, tokens), some = kept.shape, kept.any(axis=1)
        places = np.where(some, tokens - 1 - np.argmax(kept[:, ::-1], axis=1), -1)
        if kind == "GatherElements":  # 0 times whatever is taken where no token counts
            chosen = some if source_of(match)[1] else np.ones(batch, bool)
            negative = np.where(got < tokens - 1, got, got - tokens * ~some[:, None, None])
            return got.ndim == 3 and like(negative[chosen], places[chosen, None, None], shape)
        rows = np.arange(batch)
        if kind == "Gather":  # of all sentences' tokens
            return np.array_equal(got, tokens * rows + places)
        return np.array_equal(got, np.stack([rows, places], axis=1))

    mask = found.mask_of(says)
    return mask or f"'{match['place']}' is not the last token that counts"


def not_last(match: Match) -> str | None:
    reason = not_of_tokens(match)
    if reason is None and match.root.attributes.get("batch_dims"):
        reason = f"{match.root} takes from each sentence"
    mask = reason or mask_of_last(match)
    if not isinstance(mask, tuple):
        return mask
    other = source_of(match)[1] not in ("", mask[0])
    return f"'{match['x']}' is not of the mask '{mask[0]}'" if other else None


def taken_last(match: Match) -> Sequence[Node]:
    mask, out = mask_of_last(match), match.root.outputs[0]
    assert not isinstance(mask, str), "the guard has seen it"
    x, masked = source_of(match)
    fill = 0.0 if masked else None
    attributes = {"how": "last", "epsilon": 0.0, "fill": fill, "masking": mask[1]}
    kept = match.root.kind == "GatherElements"
    rows, name = out if kept else f"{out}.rows", layer_name([match.root])
    node = Node("Pool", (x, mask[0]), (rows,), attributes, name, "engine")
    return [node] if kept else [node, without_tokens(match, rows)]


# --- what the sum is divided by ---
def mean(op: Operators, x: Tensor, mask: Tensor, count: Tensor) -> Pattern:
    rows = op.engine.Pool(x, mask).named("rows")
    total = either(
        op.Squeeze(rows, Constant().named("squeezed")).named("total"),
        op.Squeeze(rows, axes=(1,)).named("total"),
        rows,
    )
    return either(total / count, total * op.Reciprocal(count))


def divisor_of(match: Match) -> tuple[str, float] | str:
    """What the sum becomes, and the least count that it is divided by or by whose root; or a
    sentence why it is divided by neither.
    """
    found, rank = tried(match, match["count"], match["x"]), 2 if "total" in match else 3
    if isinstance(found, str):
        return found
    if found.mask.name != match["mask"]:
        return f"'{match['count']}' counts by another mask"
    shape = match.search.facts[match["x"]].shape or ()
    least = min((float(np.min(got)) for _, got in found.found if got.size), default=0.0)
    least = max(least, 0.0)

    counted = {"mean": lambda x: x, "mean_sqrt_len": np.sqrt}
    for how, function in counted.items():
        lowest = least if how == "mean" else least * least

        def says(kept: Array, got: Array, lowest: float = lowest, of: Any = function) -> bool:
            count = of(np.maximum(kept.sum(1), lowest)).astype(np.float32)
            count = count.reshape(-1, *(1,) * (rank - 1))
            near = np.abs(got - count) <= ROUNDING * count.max()
            return like(near, np.ones(count.shape, bool), shape)

        if found.mask_of(says) is not None:
            return how, lowest
    return f"'{match['count']}' is not the number of tokens that count"


def no_mean(match: Match) -> str | None:
    if match.node("rows").attributes["how"] != "sum" or not match["mask"]:
        return "it is no sum of tokens that count"
    if "squeezed" in match and match.array("squeezed").tolist() not in ([1], [-2]):
        return "another axis is squeezed"
    found = divisor_of(match)
    return found if isinstance(found, str) else None


def divided(match: Match) -> Sequence[Node]:
    node, out, found = match.node("rows"), match.root.outputs[0], divisor_of(match)
    assert not isinstance(found, str), "the guard has seen it"
    rows = f"{out}.rows" if "total" in match else out
    attributes = {**node.attributes, "how": found[0], "epsilon": found[1]}
    made = node.changed(outputs=(rows,), attributes=attributes)
    return [made, without_tokens(match, rows)] if "total" in match else [made]


# --- what may be done to the maximum instead of every token ---
def log1p(op: Operators, x: Tensor) -> Pattern:
    return op.Log(x + 1.0)


def one_operator(match: Match) -> Sequence[Node]:
    name = layer_name([match.root])
    return [Node("Log1p", (match["x"],), match.root.outputs, {}, name, "engine")]


def greatest_of(op: Operators, x: Tensor) -> Pattern:
    """Of a function that does not fall, and is 0 at 0."""
    each = either(op.Relu(x), op.engine.Log1p(x)).named("each")
    return op.engine.Pool(each, Maybe().named("mask"))


def falls(match: Match) -> str | None:
    if match.root.attributes["how"] != "max" or (
        match.get("mask") and match.root.attributes["fill"]
    ):
        return "it is no maximum in which masked tokens are 0"
    made = match.search.producer.get(match["x"])
    relu = made is not None and (made.kind == "Relu" or made.attributes.get("activation") == "relu")
    return None if match.node("each").kind == "Relu" or relu else "x may be less than -1"


def later(match: Match) -> Sequence[Node]:
    each, out = match.node("each"), match.root.outputs[0]
    pooled = (match["x"], *match.root.inputs[1:])
    return [
        match.root.changed(inputs=pooled, outputs=(f"{out}.greatest",)),
        each.changed(inputs=(f"{out}.greatest",), outputs=(out,)),
    ]


FUSIONS = [
    Fusion("log1p", log1p, one_operator),
    Fusion("pool", weighted, pooled, not_masked),
    Fusion("pool_chosen", chosen, pooled, not_masked),
    Fusion("pool_product", product, pooled, not_masked),
    Fusion("pool_all", plain, pooled, not_of_kernels),
    Fusion("pool_mean", mean, divided, no_mean),
    Fusion("pool_last", taken, taken_last, not_last),
    Fusion("pool_first", greatest_of, later, falls),
]


def pool(graph: Graph) -> Graph:
    """Sums, means and maxima over a sentence's tokens as Pool."""
    return fuse_all(graph, FUSIONS)
