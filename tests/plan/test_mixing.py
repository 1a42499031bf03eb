"""Tails that mix tokens: real values at masked tokens, or masked tokens count nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from engine.runtime import Session
from tests.passes.sketch import Sketch, normal, save
from tests.passes.test_widths import CHANNELS, LENGTH, Odd, given

Tail = Callable[[Sketch, str], str]
NEGATIVE = np.float32(-1e9)


def mask_of(s: Sketch, *axes: int, dtype: str = "float32") -> str:
    return str(s.Cast(s.Unsqueeze("mask", np.array(axes or (2,))), to=dtype))


def masked(s: Sketch, x: str) -> str:
    return str(s.Mul(x, mask_of(s)))


def logits(s: Sketch, x: str) -> str:
    """[batch, tokens], as spans are found."""
    return str(s.Squeeze(s.MatMul(x, normal(CHANNELS, 1)), np.array([-1])))


def low(s: Sketch, *axes: int) -> str:
    absent = s.Sub(np.float32(1), mask_of(s, *axes) if axes else s.Cast("mask", to="float32"))
    return str(s.Mul(absent, np.float32(-10000)))


def chosen(s: Sketch, x: str, otherwise: float) -> str:
    return str(s.Where(s.Equal(mask_of(s, dtype="int64"), np.int64(0)), np.float32(otherwise), x))


def heads(s: Sketch, x: str, order: tuple[int, ...]) -> str:
    return str(s.Transpose(s.Reshape(x, np.array([0, 0, 2, CHANNELS // 2])), perm=order))


def attention(s: Sketch, x: str, *, mask: bool = True) -> str:
    scores = s.MatMul(heads(s, x, (0, 2, 1, 3)), heads(s, x, (0, 2, 3, 1)))
    weights = s.Softmax(s.Add(scores, low(s, 1, 2)) if mask else scores, axis=-1)
    context = s.Transpose(s.MatMul(weights, heads(s, x, (0, 2, 1, 3))), perm=(0, 2, 1, 3))
    return str(s.Reshape(context, np.array([0, 0, CHANNELS])))


def masked_mean(s: Sketch, x: str) -> str:
    """As sentence-transformers exports it."""
    spread = s.Cast(s.Expand(s.Unsqueeze("mask", np.array([-1])), s.Shape(x)), to="float32")
    count = s.Clip(s.ReduceSum(spread, np.array([1]), keepdims=0), np.float32(1e-9))
    return str(s.Div(s.ReduceSum(s.Mul(x, spread), np.array([1]), keepdims=0), count))


def product_of_weights(s: Sketch, x: str) -> str:
    weights = s.Unsqueeze(s.Softmax(s.Add(logits(s, x), low(s)), axis=1), np.array([1]))
    return str(s.MatMul(weights, x))


MIXING: dict[str, Tail] = {
    "mean": lambda s, x: s.ReduceMean(x, axes=(1,)),
    "mean from the end": lambda s, x: s.ReduceMean(x, axes=(-2,), keepdims=0),
    "sum of all": lambda s, x: s.ReduceSum(x, keepdims=0),
    "maximum": lambda s, x: s.ReduceMax(x, axes=(1,)),
    "norm": lambda s, x: s.ReduceL2(x, axes=(1,)),
    "softmax over tokens": lambda s, x: s.Softmax(logits(s, x), axis=-1),
    "log of softmax": lambda s, x: s.LogSoftmax(s.Exp(x), axis=1),
    "largest": lambda s, x: s.Cast(s.ArgMax(logits(s, x), axis=1), to="float32"),
    "two largest": lambda s, x: s.TopK(logits(s, x), np.array([2]), axis=1, outputs=2)[0],
    "running sum": lambda s, x: s.CumSum(s.Exp(x), np.int64(1)),
    "the next token": lambda s, x: s.Slice(
        s.Exp(x), np.array([1]), np.array([9999]), np.array([1])
    ),
    "the last token": lambda s, x: s.Gather(s.Exp(x), np.int64(-1), axis=1),
    "products of tokens": lambda s, x: s.MatMul(s.Transpose(x, perm=(0, 2, 1)), x),
    "attention without a mask": lambda s, x: attention(s, x, mask=False),
    "tokens as channels": lambda s, x: s.Reshape(s.Exp(x), np.array([0, CHANNELS, -1])),
    "normalised over tokens": lambda s, x: s.LayerNormalization(
        s.Transpose(x, perm=(0, 2, 1)), np.ones(LENGTH, np.float32), np.zeros(LENGTH, np.float32)
    ),
    "mean of the mask added": lambda s, x: s.ReduceMean(s.Add(x, mask_of(s)), axes=(1,)),
    "maximum of the masked": lambda s, x: s.ReduceLogSum(s.Exp(x), axes=(1,)),
    "mean of the low": lambda s, x: s.ReduceMean(s.Add(x, low(s, 2)), axes=(1,)),
    "mean of the inverse": lambda s, x: s.ReduceMean(
        s.Mul(x, s.Sub(np.float32(1), mask_of(s))), axes=(1,)
    ),
    "mask of other axes": lambda s, x: s.ReduceMean(
        s.Mul(s.Transpose(s.Exp(x), perm=(1, 0, 2)), s.Cast(s.ReduceMax("mask"), to="float32")),
        axes=(0,),
    ),
    "maximum of the chosen other way": lambda s, x: s.ReduceMax(
        s.Where(s.Cast(mask_of(s), to="bool"), NEGATIVE, x), axes=(1,)
    ),
    "quantised over all tokens": lambda s, x: s.DequantizeLinear(
        *s.DynamicQuantizeLinear(s.Exp(x), outputs=3)
    ),
}
APART: dict[str, Tail] = {
    "masked mean": masked_mean,
    "masked sum": lambda s, x: s.ReduceSum(masked(s, s.Sigmoid(x)), np.array([1])),
    "mask times what may be infinite": lambda s, x: s.ReduceSum(
        masked(s, s.Div(x, s.ReduceL1(x, axes=(2,)))), np.array([1])
    ),
    "maximum of the chosen": lambda s, x: s.ReduceMax(chosen(s, x, -1e9), axes=(1,)),
    "mean of the chosen": lambda s, x: s.ReduceMean(chosen(s, x, 0.5), axes=(1,)),
    "maximum of the low": lambda s, x: s.ReduceMax(s.Add(x, low(s, 2)), axes=(1,)),
    "softmax of the low": lambda s, x: s.Softmax(s.Add(logits(s, x), low(s)), axis=1),
    "largest of the low": lambda s, x: s.Cast(
        s.ArgMax(s.Add(logits(s, x), low(s)), axis=1), to="float32"
    ),
    "weights by the low": product_of_weights,
    "attention": attention,
    "softmax over channels": lambda s, x: s.Softmax(x, axis=2),
    "normalised": lambda s, x: s.LayerNormalization(
        s.Exp(x), np.ones(CHANNELS, np.float32), np.zeros(CHANNELS, np.float32)
    ),
    "unit length": lambda s, x: s.Div(x, s.ReduceL2(x, axes=(-1,))),
    "products": lambda s, x: s.MatMul(s.Sigmoid(x), normal(CHANNELS, 3)),
    "labels": lambda s, x: s.Cast(s.ArgMax(s.Exp(x), axis=-1), to="float32"),
    "heads": lambda s, x: s.Transpose(
        s.Reshape(s.Exp(x), np.array([0, 0, 2, CHANNELS // 2])), perm=(0, 2, 1, 3)
    ),
    "halves": lambda s, x: s.Split(s.Exp(x), axis=2, outputs=2)[0],
    "joined": lambda s, x: s.Concat(s.Exp(x), x, axis=-1),
    "the first token": lambda s, x: s.Gather(s.Exp(x), np.int64(0), axis=1),
    "first tokens": lambda s, x: s.Slice(s.Exp(x), np.array([0]), np.array([1]), np.array([1])),
    "how long it is": lambda s, x: s.Cast(s.Shape(s.Exp(x)), to="float32"),
    "two largest channels": lambda s, x: s.TopK(x, np.array([2]), axis=2, outputs=2)[0],
}


def made(tail: Tail, path: Path) -> Path:
    """An encoder layer, what it makes, and the tail."""
    odd = Odd({"types": ("int64", ("batch", "sequence"))})
    s, x = odd.sketch, odd.embedded()
    x = odd.norm(s.Add(odd.layer(odd.attention(x), "out"), x), 1)
    return save(s.graph(x, tail(s, x)), path)


def differs(session: Session, path: Path, feeds: dict[str, np.ndarray]) -> None:
    """Not at all, where a result is no masked token's."""
    from tests.passes.exported import runtime

    results = session.run(feeds)
    real = feeds["mask"] == 1
    for name, wanted in runtime(path, feeds).items():
        got = results[name]
        assert (got.shape, got.dtype) == (wanted.shape, wanted.dtype)
        for axes in ((0, 1), (0, 2)):  # of sentences and tokens
            if tuple(wanted.shape[axis : axis + 1] for axis in axes) == ((2,), (LENGTH,)):
                keep = real.reshape(real.shape if axes == (0, 1) else (2, 1, LENGTH))
                keep = keep[(...,) + (None,) * (wanted.ndim - keep.ndim)]
                got, wanted = np.where(keep, got, 0), np.where(keep, wanted, 0)
                break
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=5e-5)


@pytest.mark.parametrize("name", MIXING)
def test_tails_that_mix_tokens_see_real_values(name: str, tmp_path: Path) -> None:
    import engine

    path = made(MIXING[name], tmp_path / "tail.onnx")
    session, feeds = engine.load(path), given({}, one_type=False)
    assert session.plan is not None and session.plan.mixes
    whole = {**feeds, "mask": np.ones_like(feeds["mask"])}
    for each in (feeds, whole, feeds):
        differs(session, path, each)


@pytest.mark.parametrize("name", APART)
def test_tails_that_keep_masked_tokens_apart_stay_behind_kernels(name: str, tmp_path: Path) -> None:
    import engine

    path = made(APART[name], tmp_path / "tail.onnx")
    session, feeds = engine.load(path), given({}, one_type=False)
    assert session.plan is not None and session.plan.mixes == ""
    differs(session, path, feeds)
