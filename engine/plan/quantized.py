"""The arithmetic of quantised steps: scales, zero points and tables as the kernels want them,
computed once in float64.

Activations are kept as u8: int8 ones are stored plus 128, with a zero point 128 higher, which
changes nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..codegen.elements import MAGIC, MAGIC_BITS
from ..graph import Node, Quantization
from ..kernels.attention.records import CONSTANTS
from ..kernels.params import ROUNDING
from ..ops.fused import ACTIVATIONS

__all__ = [
    "ExactNorm",
    "OutputConstants",
    "attention_constants",
    "dynamic_constants",
    "float_bias",
    "float_constants",
    "key_factors",
    "norm_of_bytes",
    "of_bytes",
    "operand_quantizations",
    "roundings",
    "score_roundings",
    "stored",
]

Array = NDArray[Any]
LARGEST_RATIOS = (8000, 4000, 2000, 1000)  # A and B of layer_norm_bytes: 255 times each is 22 bits
UNITS = Quantization(1.0, 0)
FLIP = -0x7F7F7F80  # int32 0x80808080: turns four u8 into s8 less 128


def stored(q: Quantization | None) -> Quantization | None:
    """How a value with this quantisation lies in a buffer: always u8."""
    if q is None or q.dtype == "uint8":
        return q
    return replace(q, zero_point=q.zero_point + 128, dtype="uint8")


@dataclass(frozen=True)
class OutputConstants:
    """What an epilogue needs of each output, in the order of the weight's rows."""

    epilogue: str
    activation: str
    scale: Array  # float32 [N]
    start: Array  # int32 [N]
    shift: Array  # float32 [N]
    a: float = 0.0
    b: float = 0.0
    flip: int = 0
    table: Array | None = None  # uint8 [tables, 256], each of them once
    which: Array | None = None  # int64 [N], the table of an output
    total: Array | None = None  # int32 [N], sums of weights


def float_constants(outputs: int, bias: Array | None, activation: str) -> OutputConstants:
    """Products in float32: a bias and an activation."""
    shift = np.zeros(outputs) if bias is None else bias
    return OutputConstants(
        "sums",
        activation,
        np.ones(outputs, np.float32),
        np.zeros(outputs, np.int32),
        shift.astype(np.float32),
    )


def dynamic_constants(
    weight: Array, weight_scale: Array, bias: Array | None, activation: str
) -> OutputConstants:
    """x in bytes with a scale for each token: the epilogue takes its zero point times each output's
    total of weights off.
    """
    outputs = len(weight)
    scale = np.broadcast_to(weight_scale, outputs).astype(np.float32)
    shift = np.zeros(outputs) if bias is None else bias
    total = weight.sum(1, dtype=np.int32)
    return OutputConstants(
        "dynamic",
        activation,
        scale,
        np.zeros(outputs, np.int32),
        shift.astype(np.float32),
        total=total,
    )


def of_bytes(
    node: Node,
    weight: Array,
    weight_scale: Array,
    bias: Array | None,
    source: Quantization,
    *,
    flip: bool,
) -> OutputConstants:
    """Constants of a Linear with int8 weights and x in bytes; flip: the result is stored less 128,
    as attention reads its values.
    """
    product, output = stored(node.attributes.get("product")), stored(node.attributes.get("output"))
    outputs, activation = len(weight), node.attributes.get("activation") or "none"
    scale = np.broadcast_to(np.float64(source.scale) * weight_scale.astype(np.float64), outputs)
    start = (-source.zero_point * weight.sum(1, dtype=np.int64)).astype(np.int32)
    shift = np.zeros(outputs) if bias is None else bias.astype(np.float64)
    made = OutputConstants("floats", activation, scale, start, shift)
    if product is not None and output is not None:
        made = _in_table(made, product, output, flip=flip)
    elif product is not None:
        made = _of_product(made, product)
    elif output is not None:
        made = _of_result(replace(made, flip=FLIP if flip else 0), output, biased=bias is not None)
    shift = np.broadcast_to(made.shift, outputs)
    return replace(made, scale=made.scale.astype(np.float32), shift=shift.astype(np.float32))


def _in_table(
    made: OutputConstants, product: Quantization, output: Quantization, *, flip: bool
) -> OutputConstants:
    """Bias, activation and the second rounding are a function of the product's byte."""
    every = _table(product, output, made.shift, made.activation)
    table, which = np.unique(every, axis=0, return_inverse=True)
    return replace(
        made,
        epilogue="table",
        activation="none",
        scale=made.scale / product.scale,
        shift=np.array(product.zero_point + MAGIC),
        table=table ^ np.uint8(128) if flip else table,
        which=which.ravel(),
    )


def _of_product(made: OutputConstants, product: Quantization) -> OutputConstants:
    """The product is rounded, the result float32."""
    return replace(
        made,
        epilogue="rounded",
        scale=made.scale / product.scale,
        shift=made.shift - product.zero_point * product.scale,
        a=product.scale,
        b=product.zero_point + MAGIC,
    )


def _of_result(made: OutputConstants, output: Quantization, *, biased: bool) -> OutputConstants:
    """The result alone is rounded: without an activation by the same factor as the sums."""
    if made.activation != "none":
        return replace(made, epilogue="bytes", a=1 / output.scale, b=output.zero_point + MAGIC)
    scale = made.scale / output.scale
    if biased:
        shift = made.shift / output.scale + output.zero_point
        return replace(made, epilogue="bytes", scale=scale, shift=shift)
    return replace(made, epilogue="plain", scale=scale, shift=np.array(output.zero_point + MAGIC))


def _table(product: Quantization, output: Quantization, bias: Array, activation: str) -> Array:
    """Every byte of a quantised product -> the byte of the quantised result, for each output: uint8
    [N, 256].
    """
    value = (np.arange(256, dtype=np.float32) - np.float32(product.zero_point)) * np.float32(
        product.scale
    )
    value = ACTIVATIONS[None if activation == "none" else activation](
        value + bias.astype(np.float32)[:, None]
    )
    return np.clip(np.rint(value / np.float32(output.scale)) + output.zero_point, 0, 255).astype(
        np.uint8
    )


# --- attention
def operand_quantizations(node: Node) -> tuple[Quantization, Quantization, Quantization]:
    query, key, value = (stored(node.attributes[name]) for name in ("query", "key", "value"))
    assert query is not None and key is not None and value is not None
    return query, key, value


def key_factors(node: Node, channels: Array) -> tuple[int, Array]:
    """factor and extra of interleave_keys: what a key adds to each of its scores is factor * (sum
    of its bytes) + extra.  channels: of each head, how many count; extra: int64 for each head.
    """
    query, key, _ = operand_quantizations(node)
    return -query.zero_point, channels * query.zero_point * key.zero_point


def attention_constants(node: Node) -> Array:
    """CONSTANTS [1] of an attention on bytes."""
    query, key, value = operand_quantizations(node)
    scores, probabilities, output = (
        stored(node.attributes.get(name)) for name in ("scores", "probabilities", "output")
    )
    assert probabilities is not None and output is not None
    constants = np.zeros(1, CONSTANTS.dtype)
    constants["query_factor"] = 128 - key.zero_point
    constants["value_zero"] = 128 - value.zero_point
    constants["probability_factor"] = 1 / probabilities.scale
    constants["value_scale"] = np.float64(probabilities.scale) * value.scale / output.scale
    constants["output_zero"] = output.zero_point + MAGIC
    product = np.float64(query.scale) * key.scale
    _fill_scores(constants, node, product, scores)
    return constants


def _fill_scores(
    constants: Array, node: Node, product: np.float64, scores: Quantization | None
) -> None:
    """product: a step of sums of products of queries and keys."""
    scale = node.attributes["scale"]
    if scores is None:
        constants["score_scale"] = product * scale
        return
    constants["score_scale"] = product / scores.scale
    constants["score_shift"] = scores.zero_point + MAGIC
    constants["score_step"] = np.float64(scores.scale) * scale
    _fill_roundings(constants, node, scores, scale)
    step = np.arange(-15, 1) * np.float64(scores.scale) * scale
    constants["coarse"], constants["fine"] = np.exp(16 * step), np.exp(step)


def _fill_roundings(constants: Array, node: Node, scores: Quantization, scale: float) -> None:
    """Of scores that are rounded again; rounding twice alike is rounding once."""
    given = (stored(node.attributes.get(name)) for name in ("scaled", "masked"))
    again = [how for how in given if how is not None]
    if not again:
        return
    first, last = again[0], again[-1]
    constants["first_zero"] = scores.zero_point + MAGIC
    constants["second_factor"] = np.float64(scores.scale) * scale / first.scale
    constants["second_zero"] = first.zero_point + MAGIC
    constants["third_factor"] = np.float64(first.scale) / last.scale
    constants["third_zero"] = last.zero_point + MAGIC
    constants["third_scale"] = last.scale


def score_roundings(node: Node) -> Array:
    """ROUNDING [4] of attention_positions, whose operands are whole steps: of queries with keys,
    with positions, of keys with positions, and of probabilities, whose scale is that of their
    steps times that of values.
    """
    how = node.attributes
    pairs = [("query", "key"), ("query", "key_positions"), ("key", "query_positions")]
    names = ("scores", "query_scores", "key_scores", "probabilities")
    found = roundings([how.get(name) or UNITS for name in names])
    for row, operands in zip(found, pairs, strict=False):
        given = [how.get(name) or UNITS for name in operands]  # no positions: their product is 0
        row["factor"] *= np.float64(given[0].scale) * given[1].scale
    found[3]["scale"] *= np.float64(how["value"].scale)
    return found


# --- layer norm
@dataclass(frozen=True)
class ExactNorm:
    """Operands of layer_norm_bytes."""

    bias: Array  # int32 [C], with MAGIC_BITS
    weights: int  # A | B << 16
    epsilon: float


def norm_of_bytes(
    sources: list[Quantization | None], bias: Array | None, channels: int, epsilon: float
) -> ExactNorm | None:
    """x and residual as whole multiples of the smallest unit in which their sums fit, or None where
    they are not both bytes or there is none.
    """
    x, residual = sources
    if x is None or residual is None or (bias is not None and not np.isfinite(bias).all()):
        return None
    shift = np.zeros(channels) if bias is None else bias.astype(np.float64)
    for source in (x, residual):
        shift = shift - np.float64(source.scale) * source.zero_point
    ratio = Fraction(float(residual.scale) / float(x.scale))
    found = (_in_units(x.scale, ratio, shift, epsilon, largest) for largest in LARGEST_RATIOS)
    return next((norm for norm in found if norm is not None), None)


def _in_units(
    scale: float, ratio: Fraction, shift: Array, epsilon: float, largest: int
) -> ExactNorm | None:
    """The unit a part of x's scale: A and B up to `largest`."""
    if ratio < 1:
        ratio = ratio.limit_denominator(largest)
    else:
        ratio = 1 / (1 / ratio).limit_denominator(largest)
    if not ratio:
        return None
    times = max(1, largest // max(ratio.numerator, ratio.denominator))
    a, b = ratio.denominator * times, ratio.numerator * times
    unit = float(scale) / a
    whole = np.rint(shift / unit)
    least, most = whole.min(), 255 * (a + b) + whole.max()
    too_wide = max(a, b) > 32767 or max(most, -least) >= 1 << 22
    if too_wide or len(shift) * (most - least) >= 1 << 31:
        return None
    return ExactNorm((whole + MAGIC_BITS).astype(np.int32), a | b << 16, epsilon / unit**2)


def roundings(hows: Sequence[Quantization | None]) -> Array:
    """ROUNDING of each; zeros where there is none."""
    made = np.zeros(len(hows), ROUNDING.dtype)
    for row, how in zip(made, map(stored, hows), strict=True):
        if how is not None:
            row["factor"], row["zero"] = 1 / how.scale, how.zero_point + MAGIC
            row["scale"] = how.scale
    return made


def float_bias(
    sources: list[Quantization | None], bias: Array | None, channels: int
) -> tuple[Array, tuple[float, float]]:
    """For layer_norm_floats: the bias with the zero points taken off, and the two scales."""
    shift = np.zeros(channels) if bias is None else bias.astype(np.float64)
    for source in sources:
        if source is not None:
            shift = shift - np.float64(source.scale) * source.zero_point
    scales = tuple(1.0 if source is None else float(source.scale) for source in sources)
    return shift.astype(np.float32), (scales[0], scales[1])
