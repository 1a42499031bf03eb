"""Attention: heads, scale, mask and quantisation in their spellings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from engine.graph import Graph, Quantization
from engine.passes.attention import FUSION, attention
from engine.passes.clean import clean
from engine.passes.fusion import why
from engine.passes.linear import linear
from engine.passes.simulate import simulate
from tests.passes.sketch import Sketch, assert_same, normal, only, operators, results

HIDDEN = ("float32", ("batch", "sequence", 8))
MASK = ("int64", ("batch", "sequence"))
LOWEST = np.finfo(np.float32).min
FEEDS: dict[str, Any] = {name: normal(2, 5, 8, seed=i) for i, name in enumerate("qkv")}
FEEDS["mask"] = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]], np.int64)


def whole(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def heads(s: Sketch, x: str, order: tuple[int, ...] = (0, 2, 1, 3)) -> str:
    return str(s.Transpose(s.Reshape(x, whole(0, 0, 2, 4)), perm=order))


def joined(s: Sketch, x: str) -> str:
    return str(s.Reshape(s.Transpose(x, perm=(0, 2, 1, 3)), whole(0, 0, 8)))


def additive(s: Sketch, scores: str, low: float = -10000.0) -> str:
    kept = s.Cast(s.Unsqueeze(s.Unsqueeze("mask", whole(1)), whole(2)), to="float32")
    return str(s.Add(scores, s.Mul(s.Sub(1.0, kept), low)))


def lowest(s: Sketch, scores: str) -> str:
    return additive(s, scores, float(LOWEST))


def expanded(s: Sketch, scores: str) -> str:
    """[batch, 1, sequence, sequence] through Expand and Where, as transformers 4.3x writes it."""
    length = s.Gather(s.Shape("mask"), whole(1))
    batch = s.Gather(s.Shape("mask"), whole(0))
    shape = s.Concat(batch, whole(1), length, length, axis=0)
    wide = s.Cast(
        s.Expand(s.Unsqueeze(s.Unsqueeze("mask", whole(1)), whole(2)), shape), to="float32"
    )
    inverted = s.Sub(1.0, wide)
    return str(s.Add(s.Where(s.Cast(inverted, to="bool"), LOWEST, inverted), scores))


def filled(s: Sketch, scores: str) -> str:
    """masked_fill, as DistilBERT writes it."""
    padded = s.Equal(s.Unsqueeze("mask", whole(1, 2)), np.int64(0))
    return str(s.Where(padded, LOWEST, scores))


def kept(s: Sketch, scores: str) -> str:
    return str(s.Where(s.Cast(s.Unsqueeze("mask", whole(1, 2)), to="bool"), scores, LOWEST))


def sketch_of(
    mask: Callable[[Sketch, str], str] = additive, scale: Callable[[Sketch, str], str] | None = None
) -> tuple[Sketch, str]:
    s = Sketch(q=HIDDEN, k=HIDDEN, v=HIDDEN, mask=MASK)
    scores = s.MatMul(heads(s, "q"), heads(s, "k", (0, 2, 3, 1)))
    scores = scale(s, scores) if scale else s.Div(scores, 2.0)
    context = s.MatMul(s.Softmax(mask(s, scores), axis=-1, name="/self/Softmax"), heads(s, "v"))
    return s, joined(s, context)


def fused(graph: Graph) -> Graph:
    return attention(simulate(clean(graph)))


@pytest.mark.parametrize("mask", [additive, lowest, expanded, filled, kept])
def test_masks(mask: Callable[[Sketch, str], str]) -> None:
    s, y = sketch_of(mask)
    graph = s.graph(y)
    after = fused(graph)
    assert operators(after) == ["Attention"]
    node = only(after, "Attention")
    assert node.inputs == ("q", "k", "v", "mask")
    assert (node.attributes["heads"], node.attributes["scale"]) == (2, 0.5)
    assert node.name == "self"
    assert_same(graph, after, **FEEDS)


def test_a_mask_of_floats() -> None:
    s = Sketch(q=HIDDEN, k=HIDDEN, v=HIDDEN, mask=("float32", ("batch", "sequence")))
    scores = s.MatMul(heads(s, "q"), heads(s, "k", (0, 2, 3, 1)))
    low = s.Mul(s.Sub(1.0, s.Unsqueeze("mask", whole(1, 2))), LOWEST)
    y = joined(s, s.MatMul(s.Softmax(s.Add(scores, low), axis=-1), heads(s, "v")))
    graph = s.graph(y)
    after = fused(graph)
    assert only(after, "Attention").mask == "mask"
    assert_same(graph, after, **{**FEEDS, "mask": FEEDS["mask"].astype(np.float32)})


def test_no_mask() -> None:
    s, y = sketch_of(lambda s, scores: scores)
    after = fused(s.graph(y))
    assert only(after, "Attention").inputs == ("q", "k", "v", "")


def test_a_softmax_guarded_against_rows_without_a_key() -> None:
    s = Sketch(q=HIDDEN, k=HIDDEN, v=HIDDEN, mask=MASK)
    scores = s.Mul(s.MatMul(heads(s, "q"), heads(s, "k", (0, 2, 3, 1))), 0.5)
    p = s.Softmax(additive(s, scores), axis=-1)
    p = s.Where(s.IsNaN(p), 0.0, p)
    graph = s.graph(joined(s, s.MatMul(p, heads(s, "v"))))
    assert operators(fused(graph)) == ["Attention"]


# --- heads ---
def test_heads_through_three_dimensions() -> None:
    """Batch and heads taken together for the products, and the key transposed there."""
    s = Sketch(q=HIDDEN, k=HIDDEN, v=HIDDEN, mask=MASK)
    shape = s.Concat(whole(-1), s.Gather(s.Shape("q"), whole(1)), whole(4), axis=0)
    q, k, v = (s.Reshape(heads(s, x), shape) for x in "qkv")
    scores = s.MatMul(q, s.Transpose(k, perm=(0, 2, 1)))
    four = s.Concat(s.Shape("mask"), whole(2), s.Gather(s.Shape("mask"), whole(1)), axis=0)
    four = s.Gather(four, whole(0, 2, 1, 3))
    p = s.Softmax(additive(s, s.Mul(s.Reshape(scores, four), 0.5)), axis=-1)
    flat = s.Concat(
        whole(-1), s.Gather(s.Shape("q"), whole(1)), s.Gather(s.Shape("q"), whole(1)), axis=0
    )
    context = s.MatMul(s.Reshape(p, flat), v)
    back = s.Concat(s.Gather(s.Shape("q"), whole(0)), whole(2), whole(-1), whole(4), axis=0)
    graph = s.graph(joined(s, s.Reshape(context, back)))
    after = fused(graph)
    assert operators(after) == ["Attention"]
    assert_same(graph, after, **FEEDS)


def test_heads_taken_the_other_way_round_are_refused() -> None:
    s = Sketch(q=HIDDEN, k=HIDDEN, v=HIDDEN)
    q, k, v = (s.Transpose(s.Reshape(x, whole(0, 0, 4, 2)), perm=(0, 3, 1, 2)) for x in "qkv")
    p = s.Softmax(s.MatMul(q, s.Transpose(k, perm=(0, 1, 3, 2))), axis=-1)
    graph = s.graph(joined(s, s.MatMul(p, v)))
    assert "Attention" not in operators(fused(graph))
    assert "is not 'q' split into 2 heads" in why(clean(graph), FUSION)


def test_heads_not_joined_again_are_refused() -> None:
    s, _ = sketch_of()
    context = next(node for node in reversed(s.nodes) if node.op == "MatMul").outputs[0]
    del s.nodes[-2:]
    graph = s.graph(s.Exp(context))
    assert "Attention" not in operators(fused(graph))
    assert "does not join the heads" in why(clean(graph), FUSION)


# --- scale ---
def half_on_each_side(s: Sketch) -> str:
    """As scaled_dot_product_attention is exported."""
    root = np.sqrt(0.5)
    q, k = s.Mul(heads(s, "q"), root), s.Mul(heads(s, "k", (0, 2, 3, 1)), root)
    p = s.Softmax(additive(s, s.MatMul(q, k)), axis=-1)
    return joined(s, s.MatMul(p, heads(s, "v")))


def test_scales_of_query_and_key_become_one() -> None:
    s = Sketch(q=HIDDEN, k=HIDDEN, v=HIDDEN, mask=MASK)
    graph = s.graph(half_on_each_side(s))
    after = fused(graph)
    assert operators(after) == ["Attention"]
    assert only(after, "Attention").attributes["scale"] == pytest.approx(0.5)
    assert_same(graph, after, **FEEDS)


def test_scaled_values_are_refused() -> None:
    s = Sketch(q=HIDDEN, k=HIDDEN, v=HIDDEN)
    p = s.Softmax(s.MatMul(heads(s, "q"), heads(s, "k", (0, 2, 3, 1))), axis=-1)
    graph = s.graph(joined(s, s.MatMul(p, s.Mul(heads(s, "v"), 2.0))))
    assert "Attention" not in operators(fused(graph))
    assert "the values are scaled by 2.0" in why(clean(graph), FUSION)


# --- masks that are none ---
@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (lambda s, x: additive(s, x, -5.0), "is not the mask of the padded tokens"),
        (lambda s, x: additive(s, x, 10000.0), "is not the mask of the padded tokens"),
        (
            lambda s, x: s.Add(x, s.MatMul(heads(s, "q"), heads(s, "k", (0, 2, 3, 1)))),
            "not made from",
        ),
    ],
    ids=["too high", "upside down", "computed"],
)
def test_other_terms_are_refused(mask: Callable[[Sketch, str], str], reason: str) -> None:
    s, y = sketch_of(mask)
    graph = s.graph(y)
    assert "Attention" not in operators(fused(graph))
    assert reason in why(clean(graph), FUSION)


def test_a_causal_mask_is_refused() -> None:
    def causal(s: Sketch, scores: str) -> str:
        length = s.Gather(s.Shape("mask"), np.int64(1))
        places = s.Range(np.int64(0), length, np.int64(1))
        later = s.Greater(s.Unsqueeze(places, whole(0)), s.Unsqueeze(places, whole(1)))
        return str(s.Where(later, LOWEST, scores))

    s, y = sketch_of(causal)
    assert "Attention" not in operators(fused(s.graph(y)))


# --- windows ---
def near(s: Sketch, window: int, dtype: str = "int64") -> str:
    """[tokens, tokens]: which places are at most so far apart."""
    length = s.Gather(s.Shape("mask"), np.int64(1))
    places = s.Cast(s.Range(np.int64(0), length, np.int64(1)), to=dtype)
    row, column = s.Unsqueeze(places, whole(0)), s.Unsqueeze(places, whole(1))
    return str(s.LessOrEqual(s.Abs(s.Sub(row, column)), np.array(window, dtype)))


def modern(window: int, low: np.float32 = LOWEST) -> Callable[[Sketch, str], str]:
    """ModernBERT's: the additive mask, filled outside the window."""

    def masked(s: Sketch, scores: str) -> str:
        padded = s.Sub(1.0, s.Cast(s.Unsqueeze("mask", whole(1, 2)), to="float32"))
        wide = s.Mul(padded, low)
        return str(s.Add(scores, s.Where(s.Not(near(s, window)), low, wide)))

    return masked


def both(window: int) -> Callable[[Sketch, str], str]:
    """Two conditions, and scores that are chosen away."""

    def masked(s: Sketch, scores: str) -> str:
        ones = s.Cast(s.Unsqueeze("mask", whole(1, 2)), to="bool")
        kept = s.And(ones, near(s, window, "float32"))
        return str(s.Where(kept, scores, LOWEST))

    return masked


def of_half(window: int) -> Callable[[Sketch, str], str]:
    """What masks is the least float16."""
    return modern(window, np.float32(-65504))


@pytest.mark.parametrize("spelling", [modern, both, of_half])
@pytest.mark.parametrize("window", [0, 2, 8, 64, 700])
def test_a_window_is_found(spelling: Callable[[int], Any], window: int) -> None:
    s, y = sketch_of(spelling(window))
    graph = s.graph(y)
    after = fused(graph)
    assert only(after, "Attention").attributes["window"] == window
    for tokens in (5, 40) if window < 64 else (5, 150):
        mask = np.ones((2, tokens), np.int64)
        mask[1, tokens // 2 :] = 0
        mask[1, 1] = 0  # a hole: places count it
        feeds = {name: normal(2, tokens, 8, seed=i) for i, name in enumerate("qkv")}
        real, (wanted,), (got,) = (
            mask == 1,
            *(results(each, mask=mask, **feeds) for each in (graph, after)),
        )
        np.testing.assert_allclose(got[real], wanted[real], atol=1e-5)


def test_windows_that_cannot_be_tried_stay() -> None:
    s, y = sketch_of(both(5000))
    assert "Attention" not in operators(fused(s.graph(y)))


@pytest.mark.parametrize("further", [3, -3])
def test_half_a_window_is_none(further: int) -> None:
    """Keys up to so many places before or behind a query, and any on the other side."""

    def masked(s: Sketch, scores: str) -> str:
        length = s.Gather(s.Shape("mask"), np.int64(1))
        places = s.Range(np.int64(0), length, np.int64(1))
        apart = s.Sub(s.Unsqueeze(places, whole(0)), s.Unsqueeze(places, whole(1)))
        bound = np.int64(further)
        outside = s.Greater(apart, bound) if further > 0 else s.Less(apart, bound)
        return str(s.Where(outside, LOWEST, scores))

    s, y = sketch_of(masked)
    assert "Attention" not in operators(fused(s.graph(y)))


# --- quantised ---
def test_all_quantisations_have_their_place() -> None:
    s = Sketch(q=HIDDEN, k=HIDDEN, v=HIDDEN, mask=MASK)
    q, k = s.round_trip(heads(s, "q"), 0.02), s.round_trip(heads(s, "k", (0, 2, 3, 1)), 0.03, 120)
    scores = s.round_trip(s.MatMul(q, k), 0.1, 100)
    p = s.round_trip(s.Softmax(additive(s, s.Div(scores, 2.0)), axis=-1), 1 / 256, 0)
    context = s.round_trip(s.MatMul(p, s.round_trip(heads(s, "v"), 0.04)), 0.015)
    graph = s.graph(joined(s, context))
    after = fused(graph)
    assert sorted(operators(after)) == ["Attention", *["FakeQuantize"] * 4]
    attributes = only(after, "Attention").attributes
    assert attributes["scores"] == Quantization(float(np.float32(0.1)), 100)
    assert attributes["probabilities"] == Quantization(1 / 256, 0)
    assert_same(graph, after, **FEEDS)


def rounded_mask(s: Sketch, scores: str, low: float, scale: float, zero: int) -> str:
    """Scores and mask rounded, as quantize_static leaves them."""
    scores = s.round_trip(s.Div(s.round_trip(scores, 0.1, 100), 2.0), 0.04, 110)
    kept = s.Cast(s.Unsqueeze("mask", whole(1, 2)), to="float32")
    mask = s.round_trip(s.Mul(s.round_trip(s.Sub(1.0, kept), 1 / 255, 0), low), scale, zero)
    return str(s.round_trip(s.Add(scores, mask), scale, 254))


def of_rounded_mask(low: float, scale: float, zero: int = 255) -> Graph:
    s = Sketch(q=HIDDEN, k=HIDDEN, v=HIDDEN, mask=MASK)
    q, k = s.round_trip(heads(s, "q"), 0.02), s.round_trip(heads(s, "k", (0, 2, 3, 1)), 0.03, 120)
    scores = rounded_mask(s, s.MatMul(q, k), low, scale, zero)
    p = s.round_trip(s.Softmax(scores, axis=-1), 1 / 255, 0)
    return s.graph(joined(s, s.MatMul(p, s.round_trip(heads(s, "v"), 0.04))))


@pytest.mark.parametrize(("low", "scale"), [(-10000.0, 40.0), (float(LOWEST), 1.334e36)])
def test_scores_that_are_rounded_again_with_their_mask(low: float, scale: float) -> None:
    graph = of_rounded_mask(low, scale)
    after = fused(graph)
    node = only(after, "Attention")
    assert node.mask == "mask"
    assert node.attributes["scaled"] == Quantization(float(np.float32(0.04)), 110)
    assert node.attributes["masked"] == Quantization(float(np.float32(scale)), 254)
    assert_same(graph, after, **FEEDS)


def test_a_mask_that_was_never_seen_is_none() -> None:
    """Calibrated on sentences without padding: what should be added is rounded to 0."""
    graph = of_rounded_mask(-10000.0, 1.0, zero=0)
    after = fused(graph)
    assert only(after, "Attention").mask == ""
    assert_same(graph, after, **FEEDS)


def test_a_rounded_mask_that_leaves_masked_keys_a_share_is_refused() -> None:
    assert "Attention" not in operators(fused(of_rounded_mask(-10000.0, 0.3)))


@pytest.mark.parametrize(("scale", "dtype"), [(1 / 127, "uint8"), (1 / 200, "int8")])
def test_signed_shares(scale: float, dtype: str) -> None:
    s = Sketch(q=HIDDEN, k=HIDDEN, v=HIDDEN, mask=MASK)
    scores = s.Mul(s.MatMul(heads(s, "q"), heads(s, "k", (0, 2, 3, 1))), 0.5)
    p = s.round_trip(s.Softmax(additive(s, scores), axis=-1), scale, 0, "int8")
    graph = s.graph(joined(s, s.MatMul(p, heads(s, "v"))))
    after = fused(graph)
    assert only(after, "Attention").attributes["probabilities"].dtype == dtype
    assert_same(graph, after, **FEEDS)


def test_a_scale_before_a_quantisation_divides_its_scale() -> None:
    s = Sketch(q=HIDDEN, k=HIDDEN, v=HIDDEN, mask=MASK)
    q = s.round_trip(s.Mul(heads(s, "q"), 0.5), 0.01)
    scores = s.round_trip(s.MatMul(q, s.round_trip(heads(s, "k", (0, 2, 3, 1)), 0.02)), 0.1)
    p = s.Softmax(additive(s, scores), axis=-1)
    graph = s.graph(joined(s, s.MatMul(p, heads(s, "v"))))
    after = fused(graph)
    attributes = only(after, "Attention").attributes
    assert attributes["scale"] == 0.5
    assert attributes["scores"].scale == pytest.approx(0.2)
    query = after.producer()[only(after, "Attention").inputs[0]]
    assert query.attributes["quantization"].scale == pytest.approx(0.02)
    assert_same(graph, after, atol=1e-5, **FEEDS)


# --- precision ---
@pytest.mark.parametrize(
    ("exact", "quantised", "precision"),
    [("qkv", False, "bfloat16"), ("qk", False, "float32"), ("qkv", True, "float32")],
)
def test_between_bfloat16_products_it_is_bfloat16(
    exact: str, quantised: bool, precision: str
) -> None:
    s = Sketch(q=HIDDEN, k=HIDDEN, v=HIDDEN, mask=MASK)
    matrix = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)
    short = (matrix.view(np.uint32) & 0xFFFF0000).view(np.float32)
    made = {x: s.MatMul(x, short if x in exact else matrix) for x in "qkv"}
    scores = s.MatMul(heads(s, made["q"]), heads(s, made["k"], (0, 2, 3, 1)))
    p = s.Softmax(additive(s, s.Mul(scores, 0.5)), axis=-1)
    p = s.round_trip(p, 1 / 255, 0) if quantised else p
    graph = s.graph(joined(s, s.MatMul(p, heads(s, made["v"])))).changed(has_bfloat16=True)
    after = attention(linear(simulate(clean(graph))))
    assert only(after, "Attention").attributes["precision"] == precision
