"""Convolutions over any number of axes: x [B, C, ...], weight [N, C / groups, ...].

y[b, n, p] = bias[n] + sum of x[b, c, p * stride + k * dilation - pad] weight[n, c, k] over c, k
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from . import growth
from .numbers import Array, quantize
from .table import HEAVY, Operator

__all__ = ["OPERATORS"]


def conv(
    x: Array, weight: Array, bias: Array | None = None, *, auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None, group: int = 1,
    kernel_shape: Sequence[int] | None = None, pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Array:  # fmt: skip
    """What lies outside x is 0."""
    if kernel_shape is not None and tuple(kernel_shape) != weight.shape[2:]:
        raise ValueError(f"kernel_shape is {tuple(kernel_shape)}, the weight {weight.shape}")
    kernel, axes = weight.shape[2:], x.ndim - 2
    steps, strides = list(dilations or [1] * axes), list(strides or [1] * axes)
    reach = [(k - 1) * step + 1 for k, step in zip(kernel, steps, strict=True)]
    around = growth.padding(x.shape[2:], reach, strides, auto_pad, pads)
    x = np.pad(x, [(0, 0), (0, 0), *around])
    spatial = tuple(range(2, x.ndim))
    windows = np.lib.stride_tricks.sliding_window_view(x, tuple(reach), spatial)  # type: ignore[call-overload]
    places, taps = (tuple(slice(None, None, n) for n in each) for each in (strides, steps))
    windows = windows[(slice(None), slice(None), *places, *taps)]
    summed = (1, *range(2 + axes, 2 + 2 * axes))  # channels and the kernel's places
    parts = zip(np.split(windows, group, 1), np.split(weight, group), strict=True)
    products = [np.tensordot(part, w, (summed, (1, *spatial))) for part, w in parts]
    y = np.moveaxis(np.concatenate(products, -1), -1, 1)
    return y if bias is None else y + along_outputs(bias, x.ndim)


def along_outputs(parameter: Array, rank: int) -> Array:
    """One in all, or one for each output, to broadcast against [B, N, ...]."""
    return parameter.reshape(-1, *[1] * (rank - 2))


def conv_integer(
    x: Array,
    weight: Array,
    x_zero: Array | None = None,
    weight_zero: Array | None = None,
    **how: Any,
) -> Array:
    y = conv(centred(x, x_zero), centred(weight, weight_zero), **how)
    return y.astype(np.int64).astype(np.int32)


def centred(x: Array, zero: Array | None) -> Array:
    """x less its zero point, one in all or one for each of a weight's outputs; float64, in which
    sums of products of bytes are exact.
    """
    offset = np.zeros(()) if zero is None else zero.reshape(-1, *[1] * (x.ndim - 1))
    return np.asarray(x.astype(np.float64) - offset).reshape(x.shape)


def qlinear_conv(
    x: Array, x_scale: Array, x_zero: Array, weight: Array, weight_scale: Array,
    weight_zero: Array, y_scale: Array, y_zero: Array, bias: Array | None = None, **how: Any,
) -> Array:  # fmt: skip
    """bias: int32, in steps of x_scale weight_scale."""
    total = conv(centred(x, x_zero), centred(weight, weight_zero), bias, **how)
    factor = x_scale.astype(np.float32) * weight_scale.astype(np.float32) / y_scale
    steps = 1 / along_outputs(factor.astype(np.float64), x.ndim)
    return quantize(total, steps, y_zero)


OPERATORS = [
    Operator("Conv", conv, makes=growth.convolved, traits=HEAVY),
    Operator("ConvInteger", conv_integer, makes=growth.convolved, traits=HEAVY),
    Operator("QLinearConv", qlinear_conv, makes=growth.quantized_convolved, traits=HEAVY),
]
