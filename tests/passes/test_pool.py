"""Rows made of a sentence's tokens, rows of length 1: how they are spelled, and what is neither."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from engine.graph import Graph
from engine.passes.clean import clean
from engine.passes.l2_norm import l2_norm
from engine.passes.mask import mask
from engine.passes.pool import pool
from tests.passes.sketch import Sketch, assert_same, counts, normal, only, operators

SIZE = ("batch", "sequence")
TOKENS, NEGATIVE = np.array([1]), np.float32(-1e9)


def sketch(opset: int = 17) -> tuple[Sketch, str]:
    """x: what a layer of the engine makes of every token."""
    s = Sketch(opset, h=("float32", (*SIZE, 8)), mask=("int64", SIZE))
    norm = s.constant(np.ones(8, np.float32), "gamma"), s.constant(np.zeros(8, np.float32), "beta")
    return s, str(s.LayerNorm("h", "", "", *norm, domain="engine"))


def ones(s: Sketch, dtype: str = "float32") -> str:
    return str(s.Cast(s.Unsqueeze("mask", np.array([-1])), to=dtype))


def expanded(s: Sketch, x: str) -> str:
    return str(s.Cast(s.Expand(s.Unsqueeze("mask", np.array([-1])), s.Shape(x)), to="float32"))


def absent(s: Sketch) -> str:
    return str(s.Equal(s.Unsqueeze("mask", np.array([-1])), np.int64(0)))


def total(s: Sketch, x: str, keepdims: int = 0) -> str:
    return str(s.ReduceSum(s.Mul(x, ones(s)), TOKENS, keepdims=keepdims))


def sentence_transformers(s: Sketch, x: str) -> str:
    weights = expanded(s, x)
    count = s.Clip(s.ReduceSum(weights, TOKENS, keepdims=0), np.float32(1e-9), "")
    return str(s.Div(s.ReduceSum(s.Mul(x, weights), TOKENS, keepdims=0), count))


def counted(s: Sketch, keepdims: int, *least: np.float32) -> str:
    count = s.Cast(s.ReduceSum("mask", TOKENS, keepdims=1), to="float32")
    count = s.Unsqueeze(count, TOKENS) if keepdims else count
    return str(s.Max(count, *least) if least else count)


def low_rows(s: Sketch, x: str) -> str:
    """Chosen by places below the length."""
    places = s.Unsqueeze(
        s.Range(np.int64(0), s.Gather(s.Shape("mask"), np.int64(1)), np.int64(1)), np.array([0])
    )
    kept = s.Less(places, s.ReduceSum("mask", TOKENS, keepdims=1))
    return str(s.ReduceMax(s.Where(s.Unsqueeze(kept, np.array([2])), x, NEGATIVE), axes=(1,)))


def last(s: Sketch) -> str:
    """[batch, 1]"""
    return str(s.Sub(s.ReduceSum("mask", TOKENS, keepdims=1), np.int64(1)))


def places_of_last(s: Sketch, x: str) -> str:
    size = s.Concat(s.Slice(s.Shape(x), np.array([0]), TOKENS), np.array([1, 8]), axis=0)
    return str(s.Expand(s.Unsqueeze(last(s), TOKENS), size))


def rows(s: Sketch) -> str:
    return str(s.Range(np.int64(0), s.Gather(s.Shape("mask"), np.int64(0)), np.int64(1)))


def places(s: Sketch) -> str:
    """[sequence, 1]"""
    numbers = s.Range(np.int64(0), s.Gather(s.Shape("mask"), np.int64(1)), np.int64(1))
    return column(s, numbers)


def column(s: Sketch, x: str) -> str:
    return str(s.Unsqueeze(x, TOKENS))


Spelling = Callable[[Sketch, str], str]
SPELLINGS: dict[str, tuple[Spelling, str, float | None]] = {  # how, and epsilon or fill
    "sentence-transformers": (sentence_transformers, "mean", 1e-9),
    "kept axis": (lambda s, x: s.Div(total(s, x, 1), counted(s, 1)), "mean", 0.0),
    "reciprocal": (
        lambda s, x: s.Mul(s.Reciprocal(counted(s, 0, np.float32(1))), total(s, x)), "mean", 1.0,
    ),
    "epsilon added": (
        lambda s, x: s.Div(total(s, x), s.Add(counted(s, 0), np.float32(1e-6))), "mean", 1e-6,
    ),
    "product": (
        lambda s, x: s.Div(
            s.MatMul(s.Cast(s.Unsqueeze("mask", TOKENS), to="float32"), x), counted(s, 1)
        ), "mean", 0.0,
    ),
    "sum of the chosen": (
        lambda s, x: s.ReduceSum(s.Where(absent(s), np.float32(0), x), TOKENS), "sum", 0.0,
    ),
    "filled": (
        lambda s, x: s.ReduceMax(s.Where(absent(s), NEGATIVE, x), axes=(1,), keepdims=0),
        "max", -1e9,
    ),
    "filled with -inf": (
        lambda s, x: s.ReduceMax(s.Where(ones(s, "bool"), x, np.float32(-np.inf)), axes=(-2,)),
        "max", None,
    ),
    "maximum of products": (lambda s, x: s.ReduceMax(s.Mul(ones(s), x), axes=(1,)), "max", 0.0),
    "by length": (low_rows, "max", -1e9),
    "square root of the length": (
        lambda s, x: s.Div(total(s, x), s.Sqrt(counted(s, 0, np.float32(1e-9)))),
        "mean_sqrt_len", 1e-9,
    ),
    "torch.gather of products": (
        lambda s, x: s.GatherElements(s.Mul(x, ones(s)), places_of_last(s, x), axis=1), "last", 0.0,
    ),
    "torch.gather": (
        lambda s, x: s.GatherElements(x, places_of_last(s, x), axis=1), "last", None,
    ),
    "indices": (
        lambda s, x: s.GatherND(x, s.Concat(column(s, rows(s)), last(s), axis=1)), "last", None,
    ),
    "all tokens": (lambda s, x: s.ReduceMean(x, axes=(1,), keepdims=0), "mean", 0.0),
}  # fmt: skip
FEEDS = {
    "h": normal(3, 7, 8),
    "mask": (np.arange(7) < np.array([[7], [3], [0]])).astype(np.int64),
}


def same(before: Graph, after: Graph) -> None:
    """Where a sentence has no tokens, too."""
    with np.errstate(invalid="ignore"):
        assert_same(before, after, **FEEDS)


def approx(number: float | None) -> Any:
    return None if number is None else pytest.approx(number)


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_row_of_all_tokens(name: str) -> None:
    spelling, how, number = SPELLINGS[name]
    s, x = sketch()
    before = s.graph(spelling(s, x))
    after = pool(mask(clean(before)))
    node = only(after, "Pool")
    assert set(operators(after)) <= {"LayerNorm", "Pool", "Squeeze"}
    assert node.attributes["how"] == how
    assert node.attributes["fill" if how in ("max", "last") else "epsilon"] == approx(number)
    by_length = name == "by length" or how == "last"
    assert node.attributes["masking"] == ("lengths" if by_length else "keys")
    assert node.inputs[1] == ("" if name == "all tokens" else "mask")
    same(before, after)


OTHERS: dict[str, Spelling] = {
    "over channels": lambda s, x: s.ReduceSum(s.Mul(x, ones(s)), np.array([2])),
    "over both": lambda s, x: s.ReduceSum(s.Mul(x, ones(s)), np.array([1, 2])),
    "the masked": lambda s, x: s.ReduceSum(
        s.Mul(x, s.Sub(np.float32(1), ones(s))), TOKENS
    ),
    "twice": lambda s, x: s.ReduceSum(s.Mul(x, s.Add(ones(s), ones(s))), TOKENS),
    "filled with 1 and added": lambda s, x: s.ReduceSum(
        s.Where(absent(s), np.float32(1), x), TOKENS
    ),
    "the last but one": lambda s, x: s.GatherElements(
        x, s.Sub(places_of_last(s, x), np.int64(1)), axis=1
    ),
    "the first where there are none": lambda s, x: s.GatherElements(
        x, s.Max(places_of_last(s, x), np.int64(0)), axis=1
    ),
    "all tokens counted": lambda s, x: s.ReduceMean(s.Mul(x, ones(s)), axes=(1,)),
    "the first hundred": lambda s, x: s.ReduceSum(
        s.Mul(x, s.Mul(ones(s), s.Cast(s.Less(places(s), np.int64(100)), to="float32"))), TOKENS
    ),
    "by what tokens hold": lambda s, x: s.ReduceSum(s.Mul(x, s.Sigmoid(x)), TOKENS),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_such_row(name: str) -> None:
    s, x = sketch()
    assert "Pool" not in operators(pool(mask(clean(s.graph(OTHERS[name](s, x))))))


@pytest.mark.parametrize("number", [2.0, 1e-3])
def test_a_sum_divided_by_another_number(number: float) -> None:
    """It stays a sum."""
    s, x = sketch()
    count = s.Add(counted(s, 0), np.float32(number))
    after = pool(mask(clean(s.graph(s.Div(total(s, x), count)))))
    assert only(after, "Pool").attributes["how"] == "sum"


LENGTHS: dict[str, tuple[Callable[[Sketch, int], str], float]] = {  # -> epsilon
    "normalize": (
        lambda s, axis: s.Expand(
            s.Clip(s.ReduceL2("x", axes=(axis,)), np.float32(1e-12)), s.Shape("x")
        ),
        1e-12,
    ),
    "norm": (lambda s, axis: s.ReduceL2("x", axes=(axis,)), 0.0),
    "root": (lambda s, axis: s.Sqrt(s.ReduceSum(s.Mul("x", "x"), np.array([axis]))), 0.0),
    "power": (
        lambda s, axis: s.Max(
            s.Pow(s.ReduceSum(s.Pow("x", np.float32(2)), np.array([axis])), np.float32(0.5)),
            np.float32(1e-6),
        ), 1e-6,
    ),
    "squares": (lambda s, axis: s.Sqrt(s.ReduceSumSquare("x", axes=(axis,))), 0.0),
}  # fmt: skip


@pytest.mark.parametrize("name", LENGTHS)
def test_length_1(name: str) -> None:
    spelling, epsilon = LENGTHS[name]
    for axis in (-1, 1, 0):
        s = Sketch(x=("float32", ("batch", 8)))
        before = s.graph(s.Div("x", spelling(s, axis)))
        after = l2_norm(clean(before))
        if axis:
            assert counts(after) == {"L2Norm": 1}
            assert only(after, "L2Norm").attributes["epsilon"] == pytest.approx(epsilon)
            assert_same(before, after, x=normal(3, 8))
        else:
            assert "L2Norm" not in operators(after)


@pytest.mark.parametrize("relu", [True, False])
def test_the_maximum_comes_before_functions_that_do_not_fall(relu: bool) -> None:
    """SPLADE; x that may be less than -1 is looked at token by token."""
    s, x = sketch()
    weights = s.Log(s.Add(s.Relu(x) if relu else x, np.float32(1)))
    before = s.graph(s.ReduceMax(s.Mul(weights, ones(s)), axes=(1,), keepdims=0))
    after = pool(mask(clean(before)))
    later = ["LayerNorm", "Pool", "Relu", "Log1p", "Squeeze"]
    assert operators(after) == (later if relu else ["LayerNorm", "Log1p", "Pool", "Squeeze"])
    if relu:
        same(before, after)
