"""Operators that treat each element by itself, with NumPy's broadcasting (which is ONNX's)."""

from __future__ import annotations

from functools import partial, reduce

import numpy as np

from .growth import broadcast
from .numbers import Array, erf, round_to_bfloat16
from .table import ACTIVATES, BROADCASTS, COMPARES, EACH, HEAVY, SAME, TAME, Operator

__all__ = ["OPERATORS", "gelu", "swish"]


def divide(a: Array, b: Array) -> Array:
    """Whole numbers are divided towards zero."""
    if a.dtype.kind in "iu":
        return np.asarray((a - np.fmod(a, b)) // b)
    return np.asarray(np.divide(a, b))


def power(base: Array, exponent: Array) -> Array:
    """In base's type, whatever the exponent's."""
    if base.dtype.kind in "iu" and (exponent.dtype.kind == "f" or np.any(exponent < 0)):
        return np.power(base.astype(np.float64), exponent).astype(base.dtype)
    return np.power(base, exponent).astype(base.dtype)


def mod(a: Array, b: Array, *, fmod: int = 0) -> Array:
    return np.asarray(np.fmod(a, b) if fmod else np.mod(a, b))


def relu(x: Array) -> Array:
    return np.maximum(x, x.dtype.type(0))


def leaky_relu(x: Array, *, alpha: float = 0.01) -> Array:
    return np.where(x < 0, x * x.dtype.type(alpha), x)


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), written so that exp cannot overflow."""
    decay = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, 1 / (1 + decay), decay / (1 + decay)).astype(x.dtype))


def swish(x: Array, *, alpha: float = 1.0) -> Array:
    return np.asarray(x * sigmoid(x * x.dtype.type(alpha)))


def softplus(x: Array) -> Array:
    return np.logaddexp(x, x.dtype.type(0))


def gelu(x: Array, *, approximate: str = "none") -> Array:
    """x times the normal distribution's cdf; "tanh" is Hendrycks' approximation of it."""
    if approximate == "tanh":
        return fast_gelu(x)
    return np.asarray(0.5 * x * (1 + erf(x * x.dtype.type(np.sqrt(0.5)))), x.dtype)


def bias_gelu(x: Array, bias: Array) -> Array:
    return gelu(x + bias)


def fast_gelu(x: Array, bias: Array | None = None) -> Array:
    x = x if bias is None else x + bias
    inner = x.dtype.type(np.sqrt(2 / np.pi)) * (x + x.dtype.type(0.044715) * x**3)
    return np.asarray(0.5 * x * (1 + np.tanh(inner)), x.dtype)


def quick_gelu(x: Array, *, alpha: float = 1.702) -> Array:
    return np.asarray(x * sigmoid(x * x.dtype.type(alpha)))


def clip(x: Array, low: Array | None = None, high: Array | None = None) -> Array:
    if low is not None:
        x = np.maximum(x, low)
    return np.asarray(x if high is None else np.minimum(x, high))


def cast(x: Array, *, to: str, saturate: int = 1, round_mode: str = "up") -> Array:
    """To a type by NumPy's name; "bfloat16" is float32 rounded to bfloat16's values."""
    del saturate, round_mode  # they concern float8 only
    if to == "bfloat16":
        return round_to_bfloat16(x.astype(np.float32))
    with np.errstate(invalid="ignore", over="ignore"):
        return x.astype(to)


def cast_like(x: Array, like: Array, *, saturate: int = 1, round_mode: str = "up") -> Array:
    return cast(x, to=like.dtype.name, saturate=saturate, round_mode=round_mode)


def is_infinite(x: Array, *, detect_negative: int = 1, detect_positive: int = 1) -> Array:
    found = np.zeros(x.shape, bool)
    if detect_negative:
        found |= np.isneginf(x)
    if detect_positive:
        found |= np.isposinf(x)
    return found


def identity(x: Array) -> Array:
    return x


def dropout(
    x: Array, ratio: Array | None = None, training: Array | None = None, *, seed: int = 0
) -> tuple[Array, Array]:
    """As in inference: nothing is dropped."""
    del ratio, training, seed
    return x, np.ones(x.shape, bool)


def early_dropout(x: Array, *, ratio: float = 0.5) -> tuple[Array, Array]:
    """The ratio is an attribute before opset 12, and there is no training."""
    del ratio
    return dropout(x)


def variadic(function: np.ufunc, *operands: Array) -> Array:
    return reduce(function, operands)


def mean(*operands: Array) -> Array:
    return np.asarray(variadic(np.add, *operands) / operands[0].dtype.type(len(operands)))


OPERATORS = [
    Operator("Abs", np.abs, traits=SAME | EACH | TAME),
    Operator("Ceil", np.ceil, traits=SAME | EACH | TAME),
    Operator("Cos", np.cos, traits=SAME | EACH | TAME),
    Operator("Erf", erf, traits=SAME | EACH | TAME | HEAVY),
    Operator("Exp", np.exp, traits=SAME | EACH),
    Operator("Floor", np.floor, traits=SAME | EACH | TAME),
    Operator("IsNaN", np.isnan, traits=EACH | TAME),
    Operator("Log", np.log, traits=SAME | EACH),
    Operator("Neg", np.negative, traits=SAME | EACH | TAME),
    Operator("Not", np.logical_not, traits=EACH | TAME),
    Operator("Round", np.rint, traits=EACH | TAME),
    Operator("Sign", np.sign, traits=SAME | EACH | TAME),
    Operator("Sin", np.sin, traits=SAME | EACH | TAME),
    Operator("Sqrt", np.sqrt, traits=SAME | EACH),
    Operator("Tanh", np.tanh, traits=SAME | EACH | TAME | ACTIVATES | HEAVY),
    Operator("Add", np.add, makes=broadcast, traits=BROADCASTS | EACH | TAME),
    Operator("And", np.logical_and, makes=broadcast, traits=BROADCASTS | EACH | TAME),
    Operator("Equal", np.equal, makes=broadcast, traits=COMPARES | EACH | TAME),
    Operator("Greater", np.greater, makes=broadcast, traits=COMPARES | EACH | TAME),
    Operator("GreaterOrEqual", np.greater_equal, makes=broadcast, traits=COMPARES | EACH | TAME),
    Operator("Less", np.less, makes=broadcast, traits=COMPARES | EACH | TAME),
    Operator("LessOrEqual", np.less_equal, makes=broadcast, traits=COMPARES | EACH | TAME),
    Operator("Mul", np.multiply, makes=broadcast, traits=BROADCASTS | EACH | TAME),
    Operator("Or", np.logical_or, makes=broadcast, traits=BROADCASTS | EACH | TAME),
    Operator("Sub", np.subtract, makes=broadcast, traits=BROADCASTS | EACH | TAME),
    Operator("Xor", np.logical_xor, makes=broadcast, traits=BROADCASTS | EACH | TAME),
    Operator("Cast", cast, traits=EACH | TAME),
    Operator("CastLike", cast_like),
    Operator("Clip", clip, makes=broadcast, traits=SAME | EACH | TAME),
    Operator("Div", divide, makes=broadcast, traits=BROADCASTS | EACH),
    Operator("Dropout", early_dropout, traits=SAME | EACH | TAME),
    Operator("Dropout", dropout, since=12, traits=SAME | EACH | TAME),
    Operator("Gelu", gelu, traits=SAME | EACH | TAME | ACTIVATES),
    Operator("Identity", identity, traits=SAME | EACH | TAME),
    Operator("IsInf", is_infinite, traits=EACH | TAME),
    Operator("LeakyRelu", leaky_relu, traits=SAME | EACH | TAME),
    Operator(
        "Max", partial(variadic, np.maximum), makes=broadcast, traits=BROADCASTS | EACH | TAME
    ),
    Operator("Mean", mean, makes=broadcast),
    Operator(
        "Min", partial(variadic, np.minimum), makes=broadcast, traits=BROADCASTS | EACH | TAME
    ),
    Operator("Mod", mod, makes=broadcast, traits=BROADCASTS),
    Operator("Pow", power, makes=broadcast, traits=BROADCASTS | EACH),
    Operator("Reciprocal", lambda x: 1 / x, traits=SAME | EACH),
    Operator("Relu", relu, traits=SAME | EACH | TAME | ACTIVATES),
    Operator("Sigmoid", sigmoid, traits=SAME | EACH | TAME | ACTIVATES),
    Operator("Swish", swish, traits=SAME | EACH | TAME | ACTIVATES),
    Operator("Softplus", softplus, traits=SAME | EACH | TAME),
    Operator("Sum", partial(variadic, np.add), makes=broadcast, traits=EACH | TAME),
    Operator(
        "Where",
        lambda condition, a, b: np.where(condition, a, b),
        makes=broadcast,
        traits=EACH | TAME,
    ),
    Operator("BiasGelu", bias_gelu, domain="com.microsoft", makes=broadcast, traits=EACH | TAME),
    Operator(
        "FastGelu", fast_gelu, domain="com.microsoft", makes=broadcast, traits=SAME | EACH | TAME
    ),
    Operator("Gelu", gelu, domain="com.microsoft", traits=EACH | TAME),
    Operator("QuickGelu", quick_gelu, domain="com.microsoft", traits=SAME | EACH | TAME),
]
