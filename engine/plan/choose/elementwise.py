"""Conversions, activations and sums that no product takes into its epilogue."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...graph import Node, Quantization
from ...ops import Trait, is_quantization, kinds
from ...ops.numbers import quantized
from ..quantized import stored
from ..steps import Unplanned
from .facts import Activation, Choice, Facts

__all__ = [
    "ELEMENTWISE",
    "NUMBERS",
    "AffineChoice",
    "CombineChoice",
    "ElementwiseChoice",
    "LookupChoice",
    "ThroughFloats",
    "choose_affine",
    "choose_arithmetic",
    "choose_elementwise",
    "choose_lookup",
    "through_floats",
]

Array = NDArray[Any]
ELEMENTWISE = {  # ONNX operator -> activation of the kernel
    "QuantizeLinear": "none",
    "DequantizeLinear": "none",
    **{kind: kind.rpartition(".")[2].lower() for kind in kinds(Trait.ACTIVATES)},
}
COMBINED = {"Add": "add", "Mul": "mul"}  # ONNX operator -> operation of the kernel


@dataclass(frozen=True)
class ElementwiseChoice(Choice):
    """x in y's type, through an activation."""

    x: Activation
    activation: str


@dataclass(frozen=True)
class CombineChoice(Choice):
    """x and other, as float32 each."""

    x: Activation
    other: Activation
    operation: str


@dataclass(frozen=True)
class AffineChoice(Choice):
    """x, with another activation added to it or None; norm: float32 [channels, 2], gamma, beta."""

    x: Activation
    other: Activation | None
    norm: Array


@dataclass(frozen=True)
class ThroughFloats(Choice):
    """The node's result is made as float32, by another node, and then converted to bytes by a step
    that saturates however far it is from the zero point (ranges.MOST_STEPS).
    """

    wide: Node
    made: Choice  # of `wide`


def choose_elementwise(facts: Facts, node: Node) -> ElementwiseChoice:
    """One operator of ELEMENTWISE.

    Raises:
        Unplanned: no kernel does this.
    """
    x = facts.value(node.inputs[0], plain=False)
    if x.returned != "float32":
        raise Unplanned(f"x is {x.returned}")
    if (node.kind == "DequantizeLinear") == (x.buffer.dtype == "f32"):
        raise Unplanned(f"x is {x.buffer.dtype}")
    if node.attributes.get("alpha", 1.0) != 1.0:
        raise Unplanned("x is scaled first")
    output = _quantization_of(facts, node) if node.kind == "QuantizeLinear" else None
    if node.kind == "DequantizeLinear":
        given = stored(_quantization_of(facts, node))
        if given != x.quantization:
            raise Unplanned(f"x is stored as {x.quantization}, read as {given}")
    y = converted(facts, node.outputs[0], x, output)
    by_tanh = node.attributes.get("approximate", "none") != "none"
    return ElementwiseChoice(y, x, "gelu_tanh" if by_tanh else ELEMENTWISE[node.kind])


def choose_arithmetic(facts: Facts, node: Node) -> CombineChoice | AffineChoice:
    """One of NUMBERS, of an activation and a constant or of two activations.

    Raises:
        Unplanned: no kernel does this.
    """
    constants = [name in facts.graph.constants for name in node.inputs]
    return _affine(facts, node, constants[0]) if any(constants) else _combined(facts, node)


def _affine(facts: Facts, node: Node, constant_first: bool) -> AffineChoice:
    """x in one shape with numbers for all channels or for each."""
    number, name = node.inputs if constant_first else node.inputs[::-1]
    x, array = facts.value(name, plain=False), facts.array(number)
    rank = 2 + (x.kept_axis or x.buffer.domain == "tokens") - x.flat
    of_channels = array.shape[-1:] == (x.channels,) and array.size == x.channels and not x.flat
    if array.dtype != np.float32 or array.ndim > rank or not (array.size == 1 or of_channels):
        raise Unplanned(f"'{number}' is not a number for each channel")
    if x.returned != "float32":
        raise Unplanned(f"x is {x.returned}")
    with np.errstate(divide="ignore"):
        factor, term = NUMBERS[node.kind](array.reshape(-1), constant_first)
    if np.isinf(factor).any() and not np.isinf(array).any():
        raise Unplanned(f"1 / '{number}' is infinite")
    numbers = np.empty((x.channels, 2), np.float32)
    numbers[:, 0], numbers[:, 1] = factor, term
    return AffineChoice(converted(facts, node.outputs[0], x, None), x, None, numbers)


def _reciprocal(number: Array, first: bool) -> tuple[Array | float, Array | float]:
    if first:
        raise Unplanned("a constant is divided")
    return np.float32(1) / number, 0.0


NUMBERS: dict[str, Callable[[Array, bool], tuple[Array | float, Array | float]]] = {
    "Add": lambda number, first: (1.0, number),
    "Div": _reciprocal,
    "Mul": lambda number, first: (number, 0.0),
    "Sub": lambda number, first: (-1.0, number) if first else (1.0, -number),
}  # operator -> factor and term by a constant, which may be the first operand


def _combined(facts: Facts, node: Node) -> CombineChoice:
    """A sum or a product of two activations of one shape."""
    if node.kind not in COMBINED:
        raise Unplanned("of two activations kernels have sums and products")
    x, other = (facts.value(name, plain=False) for name in node.inputs)
    if x.shape != other.shape or not x.returned == other.returned == "float32":
        raise Unplanned("the two operands have different shapes")
    y = converted(facts, node.outputs[0], x, None)
    return CombineChoice(y, x, other, COMBINED[node.kind])


def choose_affine(facts: Facts, node: Node) -> AffineChoice:
    """A sum or one activation, times and plus a number for each channel.

    Raises:
        Unplanned: no kernel does this.
    """
    x = other = facts.value(node.x, plain=False)
    if node.residual:
        other = facts.value(node.residual, plain=False)
    if x.shape != other.shape or not x.returned == other.returned == "float32":
        raise Unplanned("the two operands have different shapes")
    norm = np.stack([facts.array(name) for name in (node.gamma, node.beta)], axis=1)
    y = converted(facts, node.outputs[0], x, None)
    return AffineChoice(y, x, other if node.residual else None, norm)


@dataclass(frozen=True)
class LookupChoice(Choice):
    """x through a table, uint8 [256], of the bytes in its buffer."""

    x: Activation
    table: Array


def choose_lookup(facts: Facts, node: Node) -> LookupChoice:
    """Bytes of bytes.

    Raises:
        Unplanned: x or the result is float32.
    """
    x, name, output = facts.value(node.x), node.outputs[0], node.attributes.get("output")
    if x.quantization is None or output is None:
        raise Unplanned("a table of float32")
    table = (quantized(facts.array(node.table), output).astype(np.int16) - least(output)).astype(
        np.uint8
    )
    y = converted(facts, name, x, output)
    return LookupChoice(y, x, table ^ np.uint8(128) if y.less_128 else table)


def least(how: Quantization) -> int:
    """Of the numbers it is stored in; a buffer has 0 there."""
    return int(np.iinfo(how.dtype).min)


def converted(facts: Facts, name: str, x: Activation, output: Quantization | None) -> Activation:
    """x in another type, bytes less 128 where attention multiplies them."""
    y = facts.result(name, x.buffer.domain, x.channels, output)
    less_128 = output is not None and name in facts.byte_values
    return replace(y, kept_axis=x.kept_axis, flat=x.flat, less_128=less_128)


def through_floats(
    facts: Facts, node: Node, choose: Callable[[Facts, Node], Choice]
) -> ThroughFloats:
    """choose: of the node whose result is float32."""
    name, output = node.outputs[0], node.attributes["output"]
    attributes = {**node.attributes, "output": None}
    wide = node.changed(outputs=(f"{name}.wide",), attributes=attributes)
    made = choose(facts, wide)
    return ThroughFloats(converted(facts, name, made.y, output), wide, made)


def _quantization_of(facts: Facts, node: Node) -> Quantization:
    scale = facts.array(node.inputs[1])
    zero = np.zeros(1, node.attributes.get("output_dtype") or "uint8")
    if len(node.inputs) > 2:
        zero = facts.array(node.inputs[2])
    if np.size(scale) != 1 or np.size(zero) != 1 or zero.dtype not in (np.uint8, np.int8):
        raise Unplanned("not one scale for all, or not 8 bits")
    how = Quantization(float(np.ravel(scale)[0]), int(np.ravel(zero)[0]), str(zero.dtype))
    if not is_quantization(how):
        raise Unplanned(f"a scale of {how.scale}")
    return how
