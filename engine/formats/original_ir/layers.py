"""LayerNorm, embedding and linear layers, and how they store their values."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .content import Operator, integers
from .shapes import reshaped
from .translation import Activation, Gathered, Translation, plain

__all__ = ["inner_product", "layer_norm", "quantize"]

Array = NDArray[Any]
ACTIVATIONS = {"gelu_erf": "gelu", "gelu_tanh": "gelu_tanh", "tanh": "tanh", "relu": "relu"}
RESIDUALS = ("sum", "binary_add")
RANGES_OF_A_PRODUCT = 6  # least and greatest of both factors and of the result
TRANSPOSED = "1,0"


def layer_norm(at: Translation, operator: Operator) -> None:
    x = at.meaning(operator, 0, Gathered, Activation)
    gamma, beta = (at.constant(operator, at.input(operator, i)) for i in (1, 2))
    epsilon = float(operator.attributes.get("epsilon", 1e-12))
    out = plain(operator.outputs[0])
    if isinstance(x, Gathered):
        inputs = embedding_inputs(at, operator, x)
        at.emit(operator, "Embedding", (*inputs, gamma, beta), out, epsilon=epsilon,
                position_offset=0, padding_id=None)  # fmt: skip
        at.mean(operator, Activation(out, at.constants[inputs[2]].shape[1], "tc"))
        return
    transposed = bool(integers(operator, "transpose_mode"))
    if x.axes not in (("ct",) if transposed else ("tc", "bsc")):
        raise at.error(operator, f"over the channels of {x.axes}")
    at.emit(operator, "LayerNorm", (x.name, x.residual, x.bias, gamma, beta), out, epsilon=epsilon)
    at.mean(operator, replace(x, name=out, residual="", bias=""))


def embedding_inputs(at: Translation, operator: Operator, x: Gathered) -> tuple[str, ...]:
    """ids, token types, and their tables; the larger table is that of the words."""
    tables = sorted(x.tables, key=lambda row: -len(at.constants[row[0]]))
    if not x.positions or len(tables) not in (1, 2):
        raise at.error(operator, "a sum that is not of words, positions and token types")
    (words, ids), (types, kinds) = (*tables, ("", ""))[:2]
    return ids, kinds, words, x.positions, types


def quantize(at: Translation, operator: Operator) -> None:
    """The value is kept in 8 bits from here on; in bfloat16 the Linear behind rounds it."""
    x = at.meaning(operator, 0, Activation)
    dtype = operator.attributes.get("output_dtype")
    if dtype == "bf16" and len(operator.inputs) == 1:
        at.mean(operator, x)
        return
    if dtype not in ("u8", "s8") or len(operator.inputs) != 3 or "per_token" in operator.attributes:
        raise at.error(operator, f"to {dtype} by ranges found at run time; expected stored ranges")
    at.stored[source_of(at, x.name)] = at.quantization(operator, *operator.inputs[1:])
    at.mean(operator, x)


def source_of(at: Translation, name: str) -> str:
    """The value whose bytes a Select passes on."""
    for node in at.nodes:
        if node.kind == "engine.Select" and node.outputs[0] == name:
            return node.inputs[0]
    return name


def inner_product(at: Translation, operator: Operator) -> None:
    """Linear; [weight, x, ...] in the transposed IR, else [x, weight, ...]."""
    names = list(operator.inputs)
    if "reshape_dims" in operator.attributes:
        names.pop()  # it gives the lengths of the reshape
    transposed = bool(names) and names[0] in at.content.tensors
    x_place, weight_place = (1, 0) if transposed else (0, 1)
    x = at.meaning(operator, x_place, Activation)
    if x.residual or x.axes not in (("ct",) if transposed else ("tc", "bsc", "1c", "c")):
        raise at.error(operator, f"of axes {x.axes}, or of a sum without LayerNorm")
    stored = at.array(operator, at.input(operator, weight_place))
    if stored.ndim != 2:
        raise at.error(operator, f"weight of shape {list(stored.shape)}")
    is_rows = operator.attributes.get("src1_perm") == TRANSPOSED  # [inputs, outputs]
    weight = np.ascontiguousarray(stored.T) if is_rows else stored
    if weight.shape[1] != x.channels:
        raise at.error(operator, f"weight has {weight.shape[1]} inputs, x {x.channels} channels")
    ranges = names[-RANGES_OF_A_PRODUCT:] if weight.dtype == np.int8 else []
    others = names[2 : len(names) - len(ranges)]
    linear(at, operator, x, weight, others, ranges, weight_place)


def linear(
    at: Translation, operator: Operator, x: Activation, weight: Array, others: list[str],
    ranges: list[str], weight_place: int,
) -> None:  # fmt: skip
    out, append = plain(operator.outputs[0]), operator.attributes.get("append_op")
    if append is not None and append not in (*ACTIVATIONS, *RESIDUALS):
        raise at.error(operator, f"append_op {append!r}")
    bias = others.pop(0) if others and others[0] in at.content.tensors else ""
    residual = others.pop(0) if others and append in RESIDUALS else ""
    if others or (append in RESIDUALS and not residual):
        raise at.error(operator, f"inputs {', '.join(operator.inputs)}: not those of a layer")
    name = at.add_constant(plain(operator.inputs[weight_place]) + ".linear", weight)
    scale, shift = "", at.constant(operator, bias) if bias else ""
    if ranges:
        scale, shift = whole_numbers(at, operator, x, weight, shift, ranges, weight_place)
    kept = add_later(at, operator, residual, x.axes) if residual else ""
    if ranges and (residual or operator.attributes.get("output_dtype") in ("u8", "s8")):
        at.stored[out] = at.quantization(operator, *ranges[4:])
    late = shift if ranges and residual else ""
    short = at.content.tensors[operator.inputs[weight_place]].dtype == "bf16"
    at.emit(
        operator, "Linear", (x.name, name, scale, "" if late else shift), out,
        dynamic=None, product=None, activation=ACTIVATIONS.get(str(append)),
        precision="int8" if ranges else "bfloat16" if short else "float32",
    )  # fmt: skip
    shape = integers(operator, "reshape")
    axes = x.axes
    made = Activation(out, len(weight), axes, residual=kept, bias=late)
    if len(shape) == 4:
        made = replace(made, heads=shape[0] if axes == "ct" else shape[2])
    if shape:
        made = replace(made, axes=reshaped(at, operator, made, shape))
    at.mean(operator, made)


def add_later(at: Translation, operator: Operator, residual: str, axes: str) -> str:
    other = at.meanings.get(residual)
    if not isinstance(other, Activation) or other.residual or other.axes != axes:
        raise at.error(operator, f"'{residual}', which is added, is not an activation {axes}")
    return other.name


def whole_numbers(
    at: Translation, operator: Operator, x: Activation, weight: Array, bias: str,
    ranges: list[str], weight_place: int,
) -> tuple[str, str]:  # fmt: skip
    """Names of the weight's scale and of the bias without what they folded into it."""
    if len(ranges) != RANGES_OF_A_PRODUCT or not all(n in at.content.tensors for n in ranges):
        raise at.error(operator, "int8 weights without stored ranges of x, weight and result")
    low, high = at.range(operator, *ranges[2 * weight_place : 2 * weight_place + 2])
    if low.shape != (len(weight),) or not (np.maximum(-low, high) > 0).all():
        raise at.error(operator, f"{low.shape} ranges for {len(weight)} outputs")
    scale = np.maximum(high / np.float64(127), -low / np.float64(128))
    theirs = np.maximum(high, -low) / np.float64(127)
    first = 2 - 2 * weight_place
    how = at.quantization(operator, *ranges[first : first + 2])
    at.stored.setdefault(source_of(at, x.name), how)
    stem = plain(operator.inputs[weight_place])
    scale_name = at.add_constant(f"{stem}.scale", scale.astype(np.float32))
    if not bias:
        return scale_name, ""
    folded = how.zero_point * how.scale * theirs * weight.sum(1, dtype=np.int64)
    restored = (at.constants[bias] + folded).astype(np.float32)
    return scale_name, at.add_constant(f"{bias}.restored", restored)
