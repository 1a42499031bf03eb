"""Arithmetic that NumPy lacks: erf, rounding to bfloat16, quantisation.

quantize:    stored = saturate(round(x / scale) + zero_point), round half to even; of NaN, which
             ONNX leaves open, the least number there is, as in ONNX Runtime on x86
dequantize:  x = (stored - zero_point) * scale
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..graph import Quantization

__all__ = [
    "Array",
    "dequantize",
    "dequantized",
    "erf",
    "exact_in_bfloat16",
    "quantize",
    "quantized",
    "round_to_bfloat16",
    "saturate",
]

Array = NDArray[Any]

# --- erf ---
# W. J. Cody, "Rational Chebyshev approximations for the error function", Math. Comp. 23 (1969):
# three ranges of |x|, highest power first.
_NEAR = (  # erf(x) = x * P(x^2) / Q(x^2), |x| <= 0.46875
    (1.85777706184603153e-1, 3.16112374387056560e0, 1.13864154151050156e2,
     3.77485237685302021e2, 3.20937758913846947e3),
    (1.0, 2.36012909523441209e1, 2.44024637934444173e2,
     1.28261652607737228e3, 2.84423683343917062e3),
)  # fmt: skip
_MIDDLE = (  # erfc(x) = exp(-x^2) * P(x) / Q(x), 0.46875 < x <= 4
    (2.15311535474403846e-8, 5.64188496988670089e-1, 8.88314979438837594e0,
     6.61191906371416295e1, 2.98635138197400131e2, 8.81952221241769090e2,
     1.71204761263407058e3, 2.05107837782607147e3, 1.23033935479799725e3),
    (1.0, 1.57449261107098347e1, 1.17693950891312499e2, 5.37181101862009858e2,
     1.62138957456669019e3, 3.29079923573345963e3, 4.36261909014324716e3,
     3.43936767414372164e3, 1.23033935480374942e3),
)  # fmt: skip
_FAR = (  # erfc(x) = exp(-x^2) / x * (1 / sqrt(pi) - t P(t) / Q(t)), t = 1 / x^2, x > 4
    (1.63153871373020978e-2, 3.05326634961232344e-1, 3.60344899949804439e-1,
     1.25781726111229246e-1, 1.60837851487422766e-2, 6.58749161529837803e-4),
    (1.0, 2.56852019228982242e0, 1.87295284992346725e0, 5.27905102951428412e-1,
     6.05183413124413191e-2, 2.33520497626869185e-3),
)  # fmt: skip


def erf(x: Array) -> Array:
    """The error function in x's type; computed in float64, where its error is below 4e-16."""
    x = np.asarray(x)
    value = x.astype(np.float64)
    size = np.abs(value)
    result = np.empty_like(value)
    near = size <= 0.46875
    square = value[near] ** 2
    result[near] = value[near] * _ratio(_NEAR, square)
    middle = (size > 0.46875) & (size <= 4)
    y = size[middle]
    result[middle] = 1 - np.exp(-y * y) * _ratio(_MIDDLE, y)
    far = ~(near | middle)  # also nan
    y = np.minimum(size[far], 10.0)  # erf(10) is 1 in float64
    tail = 1 / np.sqrt(np.pi) - _ratio(_FAR, 1 / y**2) / y**2
    result[far] = 1 - np.exp(-y * y) / y * tail
    return np.where(near, result, np.copysign(result, value)).astype(x.dtype)


def _ratio(coefficients: tuple[tuple[float, ...], tuple[float, ...]], x: Array) -> Array:
    above, below = coefficients
    return np.asarray(np.polyval(above, x) / np.polyval(below, x))


# --- bfloat16 ---
def round_to_bfloat16(x: Array) -> Array:
    """float32 array of the nearest bfloat16 values, ties to even; nan stays nan."""
    x = np.ascontiguousarray(x, np.float32)
    bits = x.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(
        0xFFFF0000
    )
    return np.where(np.isnan(x), x, rounded.view(np.float32))


def exact_in_bfloat16(x: Array) -> bool:
    """Every value of a float32 array is a bfloat16 value."""
    return x.dtype == np.float32 and not np.any(
        np.ascontiguousarray(x).view(np.uint32) & np.uint32(0xFFFF)
    )


# --- quantisation ---
def saturate(x: Array, dtype: np.dtype[Any]) -> Array:
    """x, whole numbers in any type, clipped to the range of an integer dtype."""
    limits = np.iinfo(dtype)
    return np.clip(x, limits.min, limits.max).astype(dtype)


def quantize(x: Array, scale: Array, zero_point: Array) -> Array:
    """x / scale, rounded and saturated in zero_point's type; both parameters broadcast."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        steps = np.rint(x / scale)
        # float64: float32 cannot hold int32's limits; int64 zero: a uint8 one would wrap
        return saturate(
            np.nan_to_num(steps.astype(np.float64), nan=-np.inf) + zero_point.astype(np.int64),
            zero_point.dtype,
        )


def dequantize(stored: Array, scale: Array, zero_point: Array | None) -> Array:
    """(stored - zero_point) * scale in scale's type."""
    steps = stored.astype(np.int64)
    if zero_point is not None:
        steps = steps - zero_point.astype(np.int64)
    return np.asarray(steps.astype(scale.dtype) * scale)


def quantized(x: Array, how: Quantization | None) -> Array:
    """Q(x, how) of docs/design.md; None leaves x as it is."""
    if how is None:
        return x
    return quantize(x, np.float32(how.scale), np.array(how.zero_point, how.dtype))  # type: ignore[arg-type]


def dequantized(x: Array, how: Quantization | None) -> Array:
    """D(x, how) of docs/design.md as float32; None leaves x as it is."""
    if how is None:
        return x
    return dequantize(x, np.float32(how.scale), np.array(how.zero_point, how.dtype))  # type: ignore[arg-type]
