"""Quantisation and products of whole numbers, ONNX's and ONNX Runtime's (com.microsoft)."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from ..errors import UnsupportedError
from . import growth
from .elementwise import sigmoid
from .numbers import Array, dequantize, quantize
from .table import EACH, HEAVY, SAME, TAME, Operator

__all__ = ["OPERATORS", "dynamic_quantize_linear", "weight_of_blocks", "whole_product"]


def _spread(parameter: Array, x: Array, axis: int, block_size: int) -> Array:
    """A scale or zero point, one in all, per slice of axis or per block, to broadcast against x."""
    if parameter.size == 1 and parameter.ndim <= 1:
        return parameter.reshape(())
    if block_size:
        whole = np.repeat(parameter, block_size, axis)
        return np.take(whole, np.arange(x.shape[axis]), axis)
    if parameter.ndim != 1:
        raise UnsupportedError(f"a scale of shape {parameter.shape} without block_size")
    return parameter.reshape([-1 if i == axis % x.ndim else 1 for i in range(x.ndim)])


def quantize_linear(
    x: Array,
    scale: Array,
    zero_point: Array | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: str | None = None,
    saturate: int = 1,
    precision: str | None = None,
) -> Array:
    del saturate, precision  # they concern float8 and float16
    if zero_point is None:
        zero_point = np.zeros(scale.shape, output_dtype or "uint8")
    scale, zero_point = (_spread(p, x, axis, block_size) for p in (scale, zero_point))
    return quantize(x.astype(np.result_type(scale, np.float32)), scale, zero_point)


def dequantize_linear(
    x: Array,
    scale: Array,
    zero_point: Array | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: str | None = None,
) -> Array:
    spread = _spread(scale, x, axis, block_size)
    offset = None if zero_point is None else _spread(zero_point, x, axis, block_size)
    return dequantize(x, spread, offset).astype(output_dtype or scale.dtype)


def dynamic_quantize_linear(x: Array, *, axis: int | None = None) -> tuple[Array, Array, Array]:
    """To uint8 over x's range and 0: stored, scale, zero point; with axis, a range per slice.

    NaN makes a scale that is NaN (ONNX Runtime's depends on its place), an infinity one that is
    infinite: of both comes NaN.
    """
    keep = axis is not None
    low = np.minimum(x.min(axis=axis, keepdims=keep, initial=0), 0).astype(np.float32)
    high = np.maximum(x.max(axis=axis, keepdims=keep, initial=0), 0).astype(np.float32)
    scale = (high - low) / np.float32(255)
    scale = np.where(scale == 0, np.float32(1), scale)
    zero_point = np.fmin(np.fmax(np.rint(-low / scale), 0), 255).astype(np.uint8)
    return quantize(x, scale, zero_point), scale, zero_point


# --- products ---
def whole_product(a: Array, b: Array) -> Array:
    """The product of whole numbers by float64: exact below 2^53, and fast where int64 is not."""
    return np.asarray(a.astype(np.float64) @ b.astype(np.float64))


def _centered(x: Array, zero_point: Array | None, axis: int) -> Array:
    """x - zero_point; a vector of zero points belongs to the rows (axis -2) or columns (-1)."""
    if zero_point is None:
        return x.astype(np.int64)
    if zero_point.ndim == 1 and zero_point.size > 1 and axis == -2:
        zero_point = zero_point[:, None]
    return np.asarray(x.astype(np.int64) - zero_point.astype(np.int64))


def matmul_integer(
    a: Array, b: Array, a_zero_point: Array | None = None, b_zero_point: Array | None = None
) -> Array:
    left, right = _centered(a, a_zero_point, -2), _centered(b, b_zero_point, -1)
    return whole_product(left, right).astype(np.int64).astype(np.int32)


def qlinear_matmul(
    a: Array, a_scale: Array, a_zero: Array, b: Array, b_scale: Array, b_zero: Array,
    y_scale: Array, y_zero: Array,
) -> Array:  # fmt: skip
    product = whole_product(_centered(a, a_zero, -2), _centered(b, b_zero, -1))
    if a_scale.ndim == 1 and a_scale.size > 1:
        a_scale = a_scale[:, None]
    factor = (a_scale.astype(np.float32) * b_scale.astype(np.float32)) / y_scale.astype(np.float32)
    return quantize(product, 1 / factor.astype(np.float64), y_zero)


# --- com.microsoft ---
def dynamic_quantize_matmul(
    a: Array, b: Array, b_scale: Array, b_zero: Array | None = None, bias: Array | None = None
) -> Array:
    stored, scale, zero = dynamic_quantize_linear(a)
    return matmul_integer_to_float(stored, b, scale, b_scale, zero, b_zero, bias)


def matmul_integer_to_float(
    a: Array, b: Array, a_scale: Array, b_scale: Array,
    a_zero: Array | None = None, b_zero: Array | None = None, bias: Array | None = None,
) -> Array:  # fmt: skip
    product = matmul_integer(a, b, a_zero, b_zero).astype(np.float32) * (a_scale * b_scale)
    return np.asarray(product if bias is None else product + bias)


def matmul_nbits(
    a: Array, b: Array, scales: Array, zero_points: Array | None = None,
    g_idx: Array | None = None, bias: Array | None = None,
    *, K: int, N: int, block_size: int, bits: int = 4, accuracy_level: int = 0,  # noqa: N803
) -> Array:  # fmt: skip
    """In float32, whatever the accuracy_level allows."""
    del accuracy_level
    how: dict[str, Any] = {"shape": (N, K), "bits": bits, "block": block_size}
    weight = weight_of_blocks(b, scales, zero_points, g_idx, **how)
    product = a @ weight.T.astype(a.dtype)
    return np.asarray(product if bias is None else product + bias)


def weight_of_blocks(
    stored: Array, scales: Array, zero_points: Array | None, groups: Array | None = None,
    *, shape: tuple[int, int], bits: int, block: int,
) -> Array:  # fmt: skip
    """float32 [N, K] of uint8 [N, blocks, block * bits / 8], the low bits first; a scale, and a
    zero point of so many bits or a number, for each block; groups: of each of K, its block.
    """
    outputs, inputs = shape
    if bits not in (2, 4, 8) or block < 1 or outputs < 1:
        raise UnsupportedError(f"MatMulNBits of {bits} bits in blocks of {block}")
    count = -(-inputs // block)
    steps = _parts_of_bytes(stored, outputs, bits)[:, :inputs].astype(np.float32)
    zeros: Array = np.full((outputs, count), 1 << (bits - 1))
    if zero_points is not None and zero_points.dtype == np.uint8:
        zeros = _parts_of_bytes(zero_points, outputs, bits)[:, :count]
    elif zero_points is not None:
        zeros = zero_points.reshape(outputs, -1)
    of_input = np.arange(inputs) // block if groups is None else groups
    spread = [x.reshape(outputs, -1)[:, of_input].astype(np.float32) for x in (zeros, scales)]
    return np.asarray((steps - spread[0]) * spread[1])


def _parts_of_bytes(stored: Array, rows: int, bits: int) -> Array:
    """uint8 [rows, ...]: numbers of so many bits, the low ones first."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    parts = stored.reshape(rows, -1, 1) >> shifts & np.uint8((1 << bits) - 1)
    return np.asarray(parts.reshape(rows, -1))


def qgemm(
    a: Array, a_scale: Array, a_zero: Array, b: Array, b_scale: Array, b_zero: Array,
    c: Array | None = None, y_scale: Array | None = None, y_zero: Array | None = None,
    *, alpha: float = 1.0, transA: int = 0, transB: int = 0,  # noqa: N803
) -> Array:  # fmt: skip
    """c is int32 in steps of a_scale b_scale; without y_scale the result is float32."""
    left, right = (a.T if transA else a), (b.T if transB else b)
    if transB and b_zero.ndim == 1 and b_zero.size > 1:
        b_zero = b_zero[None, :]
    total = whole_product(_centered(left, a_zero, -2), _centered(right, b_zero, -1))
    if c is not None:
        total = total + c
    product = (total * (a_scale.astype(np.float64) * b_scale * alpha)).astype(np.float32)
    return product if y_scale is None or y_zero is None else quantize(product, y_scale, y_zero)


def qlinear_binary(
    function: np.ufunc, a: Array, a_scale: Array, a_zero: Array | None,
    b: Array, b_scale: Array, b_zero: Array | None, y_scale: Array, y_zero: Array | None = None,
) -> Array:  # fmt: skip
    y = function(dequantize(a, a_scale, a_zero), dequantize(b, b_scale, b_zero))
    return quantize(y, y_scale, np.zeros((), a.dtype) if y_zero is None else y_zero)


def qlinear_concat(y_scale: Array, y_zero: Array, *operands: Array, axis: int) -> Array:
    """operands: stored numbers, their scale and zero point, three for each part."""
    if not operands or len(operands) % 3:
        raise UnsupportedError(f"{len(operands)} inputs after y's; expected three for each part")
    parts = (dequantize(*operands[i : i + 3]) for i in range(0, len(operands), 3))
    return quantize(np.concatenate(list(parts), axis), y_scale, y_zero)


def qlinear_sigmoid(
    x: Array, x_scale: Array, x_zero: Array | None, y_scale: Array, y_zero: Array | None = None
) -> Array:
    y = sigmoid(dequantize(x, x_scale, x_zero))
    return quantize(y, y_scale, np.zeros((), x.dtype) if y_zero is None else y_zero)


def qlinear_softmax(
    x: Array, x_scale: Array, x_zero: Array | None, y_scale: Array, y_zero: Array | None = None,
    *, axis: int = -1, opset: int = 13,
) -> Array:  # fmt: skip
    if opset < 13:
        raise UnsupportedError("QLinearSoftmax of an opset before 13")
    real = dequantize(x, x_scale, x_zero)
    power = np.exp(real - real.max(axis, keepdims=True))
    y = power / power.sum(axis, keepdims=True)
    return quantize(y, y_scale, np.zeros((), x.dtype) if y_zero is None else y_zero)


OPERATORS = [
    Operator(
        "DequantizeLinear", dequantize_linear, makes=growth.in_blocks, traits=SAME | EACH | TAME
    ),
    Operator("DynamicQuantizeLinear", dynamic_quantize_linear),
    Operator("MatMulInteger", matmul_integer, makes=growth.multiplied, traits=HEAVY),
    Operator("QLinearMatMul", qlinear_matmul, makes=growth.quantized_product),
    Operator("QuantizeLinear", quantize_linear, makes=growth.in_blocks, traits=SAME | EACH | TAME),
    *(
        Operator(name, meaning, domain="com.microsoft", makes=makes)
        for name, meaning, makes in (
            ("DequantizeLinear", dequantize_linear, growth.in_blocks),
            ("DynamicQuantizeMatMul", dynamic_quantize_matmul, growth.multiplied),
            ("MatMulIntegerToFloat", matmul_integer_to_float, growth.multiplied),
            ("MatMulNBits", matmul_nbits, growth.of_blocks),
            ("QGemm", qgemm, growth.quantized_product),
            ("QLinearAdd", partial(qlinear_binary, np.add), growth.broadcast),
            ("QLinearConcat", qlinear_concat, growth.concatenated),
            ("QLinearMul", partial(qlinear_binary, np.multiply), growth.broadcast),
            ("QLinearSigmoid", qlinear_sigmoid, None),
            ("QLinearSoftmax", qlinear_softmax, None),
            ("QuantizeLinear", quantize_linear, growth.in_blocks),
        )
    ),
]
