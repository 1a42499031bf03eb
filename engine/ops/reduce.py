"""Operators that run along an axis: reductions, softmax, normalisation, running sums.

float16 is computed in float32 and rounded at the end: so does ONNX Runtime, and stash_type says it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial, wraps
from typing import Any

import numpy as np

from . import growth
from .numbers import Array
from .shape import from_front
from .table import ALONG, HEAVY, REDUCES, SAME, SUMS, Operator

__all__ = ["OPERATORS", "layer_normalization", "rms_normalization", "softmax", "widened"]


def widened(x: Array) -> Array:
    """float16 as float32."""
    return x.astype(np.float32) if x.dtype == np.float16 else x


def in_float32(function: Callable[..., Array]) -> Callable[..., Array]:
    """The function, of float16 by way of float32."""

    @wraps(function)
    def of_any(x: Array, *inputs: Any, **attributes: Any) -> Array:
        return function(widened(x), *inputs, **attributes).astype(x.dtype, copy=False)

    return of_any


def reduction(
    function: Callable[..., Any],
    x: Array,
    axes_input: Array | None = None,
    *,
    axes: Sequence[int] | None = None,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> Array:
    """Along axes (an attribute in older opsets, an input since); all where none is named."""
    chosen = axes if axes_input is None else axes_input.tolist()
    if not chosen:
        chosen = () if noop_with_empty_axes else None
    axis = None if chosen is None else tuple(chosen)
    found = np.asarray(function(widened(x), axis=axis, keepdims=bool(keepdims)))
    return found.astype(x.dtype, copy=False)


def extreme(function: np.ufunc, x: Array, *, axis: tuple[int, ...] | None, keepdims: bool) -> Array:
    """The maximum or minimum; of nothing, the lowest or highest value of the type."""
    if x.dtype == bool:
        least: Any = function is np.minimum
    elif x.dtype.kind == "f":
        least = np.inf if function is np.minimum else -np.inf
    else:
        limits = np.iinfo(x.dtype)
        least = limits.max if function is np.minimum else limits.min
    return np.asarray(function.reduce(x, axis=axis, keepdims=keepdims, initial=least))


def l1_norm(x: Array, **where: Any) -> Array:
    return np.asarray(np.sum(np.abs(x), **where))


def l2_norm(x: Array, **where: Any) -> Array:
    return np.asarray(np.sqrt(np.sum(np.square(x), **where)))


def sum_of_squares(x: Array, **where: Any) -> Array:
    return np.asarray(np.sum(np.square(x), **where))


def log_sum(x: Array, **where: Any) -> Array:
    return np.asarray(np.log(np.sum(x, **where)))


def log_sum_exp(x: Array, *, axis: tuple[int, ...] | None, keepdims: bool) -> Array:
    top = np.max(x, axis=axis, keepdims=True, initial=-np.inf)
    top = np.where(np.isfinite(top), top, 0)
    total = np.log(np.sum(np.exp(x - top), axis=axis, keepdims=True)) + top
    return np.asarray(total if keepdims else np.squeeze(total, axis))


def arg(
    function: Callable[..., Any],
    x: Array,
    *,
    axis: int = 0,
    keepdims: int = 1,
    select_last_index: int = 0,
) -> Array:
    if select_last_index:
        found = x.shape[axis] - 1 - function(np.flip(x, axis), axis=axis)
    else:
        found = function(x, axis=axis)
    return np.asarray(np.expand_dims(found, axis) if keepdims else found, np.int64)


@in_float32
def softmax(x: Array, *, axis: int = -1) -> Array:
    """A row of nothing but -inf gives nan, as ONNX's definition does."""
    with np.errstate(invalid="ignore"):
        exponential = np.exp(x - np.max(x, axis=axis, keepdims=True, initial=-np.inf))
        return np.asarray(exponential / np.sum(exponential, axis=axis, keepdims=True))


@in_float32
def log_softmax(x: Array, *, axis: int = -1) -> Array:
    shifted = x - np.max(x, axis=axis, keepdims=True)
    return np.asarray(shifted - np.log(np.sum(np.exp(shifted), axis=axis, keepdims=True)))


def flattened(function: Callable[..., Array], x: Array, *, axis: int = 1) -> Array:
    """Before opset 13 the axes from `axis` on count as one."""
    rows = int(np.prod(x.shape[: from_front(axis, x.ndim)], dtype=np.int64))
    return function(x.reshape(rows, -1), axis=1).reshape(x.shape)


def layer_normalization(
    x: Array,
    scale: Array,
    bias: Array | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> tuple[Array, Array, Array]:
    """Over the axes from `axis` on; also the mean and 1 / deviation, which stay float32."""
    del stash_type
    axes, wide = normalised_axes(x, axis), widened(x)
    mean = np.mean(wide, axes, keepdims=True)
    deviation = wide - mean
    rest = np.mean(deviation, axes, keepdims=True)  # beside a large offset the mean is rounded
    deviation = deviation - rest
    variance = np.mean(deviation * deviation, axes, keepdims=True)
    inverse = 1 / np.sqrt(variance + wide.dtype.type(epsilon))
    y = deviation * inverse * scale
    return np.asarray(y if bias is None else y + bias, x.dtype), mean + rest, inverse


def normalised_axes(x: Array, axis: int) -> tuple[int, ...]:
    return tuple(range(from_front(axis, x.ndim), x.ndim))


def rms_normalization(
    x: Array, scale: Array, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> Array:
    del stash_type
    wide = widened(x)
    square = np.mean(wide * wide, normalised_axes(x, axis), keepdims=True)
    return np.asarray(wide / np.sqrt(square + wide.dtype.type(epsilon)) * scale, x.dtype)


def skip_layer_normalization(
    x: Array,
    skip: Array,
    gamma: Array,
    beta: Array | None = None,
    bias: Array | None = None,
    *,
    epsilon: float = 1e-12,
) -> tuple[Array, Array, Array, Array]:
    total = widened(x) + skip if bias is None else widened(x) + skip + bias
    y, mean, inverse = layer_normalization(total, gamma, beta, epsilon=epsilon)
    return y.astype(x.dtype, copy=False), mean, inverse, total.astype(x.dtype, copy=False)


def skip_rms_normalization(
    x: Array, skip: Array, gamma: Array, bias: Array | None = None, *, epsilon: float = 1e-12
) -> tuple[Array, Array, Array, Array]:
    """Of the sum, and that sum; between them no mean, 1 / the root of the mean square."""
    total = widened(x) + skip if bias is None else widened(x) + skip + bias
    inverse = 1 / np.sqrt(np.mean(total * total, -1, keepdims=True) + total.dtype.type(epsilon))
    y, nothing = np.asarray(total * inverse * gamma), np.zeros_like(inverse)
    return y.astype(x.dtype, copy=False), nothing, inverse, total.astype(x.dtype, copy=False)


@in_float32
def running_sum(x: Array, axis: Array, *, exclusive: int = 0, reverse: int = 0) -> Array:
    along = int(axis)
    x = np.flip(x, along) if reverse else x
    total = np.cumsum(x, along, dtype=x.dtype)
    total = total - x if exclusive else total
    return np.flip(total, along) if reverse else total


def top_k(
    x: Array, k: Array, *, axis: int = -1, largest: int = 1, sorted: int = 1
) -> tuple[Array, Array]:
    """Equal values come in the order of their places."""
    del sorted  # the order asked for is one of those allowed when it is not
    count = int(k.reshape(-1)[0])
    if largest:  # stable from the end, read backwards: the first of equals comes first
        order = np.flip(x.shape[axis] - 1 - np.argsort(np.flip(x, axis), axis, kind="stable"), axis)
    else:
        order = np.argsort(x, axis, kind="stable")
    chosen = np.take(order, np.arange(count), axis)
    return np.take_along_axis(x, chosen, axis), chosen.astype(np.int64)


REDUCTIONS: Mapping[str, Callable[..., Any]] = {
    "ReduceL1": l1_norm, "ReduceL2": l2_norm, "ReduceLogSum": log_sum,
    "ReduceLogSumExp": log_sum_exp, "ReduceProd": np.prod, "ReduceSumSquare": sum_of_squares,
}  # fmt: skip
TAME_REDUCTIONS: Mapping[str, Callable[..., Any]] = {
    "ReduceMax": partial(extreme, np.maximum), "ReduceMean": np.mean,
    "ReduceMin": partial(extreme, np.minimum), "ReduceSum": np.sum,
}  # fmt: skip

OPERATORS = [
    *(
        Operator(name, partial(reduction, function), traits=REDUCES)
        for name, function in REDUCTIONS.items()
    ),
    *(
        Operator(name, partial(reduction, function), traits=REDUCES | SUMS)
        for name, function in TAME_REDUCTIONS.items()
    ),
    Operator("ArgMax", partial(arg, np.argmax), traits=REDUCES),
    Operator("ArgMin", partial(arg, np.argmin), traits=REDUCES),
    Operator("CumSum", running_sum, traits=SAME),
    Operator(
        "LayerNormalization", layer_normalization, makes=growth.broadcast, traits=SAME | ALONG
    ),
    Operator("LogSoftmax", partial(flattened, log_softmax), traits=SAME | ALONG),
    Operator("LogSoftmax", log_softmax, since=13, traits=SAME | ALONG),
    Operator("RMSNormalization", rms_normalization, makes=growth.broadcast, traits=SAME | ALONG),
    Operator(
        "SimplifiedLayerNormalization",  # as ONNX Runtime's optimiser calls it, in ONNX's domain
        rms_normalization,
        makes=growth.broadcast,
        traits=SAME | ALONG,
    ),
    Operator("Softmax", partial(flattened, softmax), traits=SAME | ALONG | HEAVY),
    Operator("Softmax", softmax, since=13, traits=SAME | ALONG | HEAVY),
    Operator("TopK", top_k, makes=growth.topmost, traits=ALONG),
    Operator(
        "SkipLayerNormalization",
        skip_layer_normalization,
        domain="com.microsoft",
        makes=growth.broadcast,
    ),
    Operator(
        "SkipSimplifiedLayerNormalization",
        skip_rms_normalization,
        domain="com.microsoft",
        makes=growth.broadcast,
    ),
]
