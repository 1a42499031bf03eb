"""Inputs, embeddings and the order of axes: mostly a change of what a name stands for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ...graph import Node, Value
from .content import Operator, integers
from .translation import Activation, Gathered, Input, Positions, Translation, permuted, plain

__all__ = [
    "gather",
    "output",
    "padding_sequence",
    "reorder",
    "reshape",
    "reshaped",
    "strided_slice",
]

ADDED = ("sum", "binary_add")


def padding_sequence(at: Translation, operator: Operator) -> None:
    """mask -> what is added to scores."""
    at.mean(operator, Input(at.meaning(operator, 0, Input).name, mask=True))


def reshape(at: Translation, operator: Operator) -> None:
    shape = integers(operator, "dst_shape")
    if at.input(operator, 0) in at.content.tensors:  # rows of a table, as many as there are places
        table = at.array(operator, operator.inputs[0])
        if table.ndim != 2 or shape != (1, -1, table.shape[1]):
            raise at.error(operator, f"a constant {list(table.shape)} to {list(shape)}")
        at.mean(operator, Positions(at.constant(operator, operator.inputs[0])))
        return
    x = at.meaning(operator, 0, Input, Positions, Gathered, Activation)
    if isinstance(x, Activation):
        x = replace(x, axes=reshaped(at, operator, x, shape))
    at.mean(operator, x)


def reshaped(at: Translation, operator: Operator, x: Activation, shape: tuple[int, ...]) -> str:
    heads = (x.heads, x.channels // x.heads)
    allowed = {
        ("tc", (-1, -1, x.channels)): "bsc",
        ("bsc", (-1, x.channels)): "tc",
        ("1c", (-1, x.channels)): "c",
        ("1c", (-1, 1, x.channels)): "1c",
        ("bshd", (-1, x.channels)): "tc",
        ("hdbs", (x.channels, -1)): "ct",
        ("tc", (-1, -1, *heads)): "bshd",
        ("ct", (*heads, -1, -1)): "hdbs",
    }
    if (x.axes, shape) not in allowed:
        raise at.error(operator, f"{x.axes} of {x.channels} channels to {list(shape)}")
    return allowed[x.axes, shape]


def reorder(at: Translation, operator: Operator) -> None:
    x = at.meaning(operator, 0, Activation)
    source, target = integers(operator, "src_perm"), integers(operator, "dst_perm")
    axes = permuted(x.axes, target)
    if source != tuple(range(len(x.axes))) or axes not in ("tc", "ct"):
        raise at.error(operator, f"axes {x.axes} from {source} to {target}")
    at.mean(operator, replace(x, axes=axes))


def gather(at: Translation, operator: Operator) -> None:
    """Rows of a table, and a sum with others if there is one."""
    ids = at.meaning(operator, 0, Input)
    table = at.constant(operator, at.input(operator, 1))
    if integers(operator, "axis") not in ((), (0,)) or at.constants[table].ndim != 2:
        raise at.error(operator, "not rows of a table")
    rows: tuple[tuple[str, str], ...] = ((table, ids.name),)
    positions = ""
    if operator.attributes.get("append_op") in ADDED:
        other = at.meaning(operator, 2, Positions, Gathered)
        positions = other.table if isinstance(other, Positions) else other.positions
        rows = (*(other.tables if isinstance(other, Gathered) else ()), *rows)
    at.mean(operator, Gathered(rows, positions))


def strided_slice(at: Translation, operator: Operator) -> None:
    """One token of each sentence."""
    x = at.meaning(operator, 0, Activation)
    begin, end, strides = (integers(operator, key) for key in ("begin", "end", "strides"))
    masks = [integers(operator, f"{key}_mask") for key in ("begin", "end")]
    whole = all(mask and mask[0] & 5 == 5 for mask in masks)
    if x.axes != "bsc" or len(begin) != 3 or not whole or strides != (1, 1, 1):
        raise at.error(operator, f"[{begin}:{end}:{strides}] of {x.axes} is not one token")
    if len(end) != 3 or end[1] != begin[1] + 1 or begin[1] < 0:
        raise at.error(operator, f"[{begin[1]}:{end[1:2]}] is not one token")
    out = plain(operator.outputs[0])
    at.emit(operator, "Select", (x.name,), out, index=begin[1])
    at.mean(operator, replace(x, name=out, axes="1c"))


def output(at: Translation, operator: Operator) -> None:
    """Rows lose the axis of tokens, as in the model the IR was made from."""
    for place, name in enumerate(operator.inputs):
        x = at.meaning(operator, place, Activation)
        if x.residual or x.name in at.stored or x.axes not in ("tc", "bsc", "c", "1c"):
            raise at.error(operator, f"'{name}' is no float32 [tokens, channels]")
        if x.axes == "c":
            made = next(node for node in at.nodes if node.outputs[0] == x.name)
            at.nodes[at.nodes.index(made)] = made.changed(outputs=(f"{x.name}.rows",))
            axes = at.add_constant("axis_of_tokens", np.array([1], np.int64))
            at.nodes.append(Node("Squeeze", (f"{x.name}.rows", axes), (x.name,)))
        shape = {"c": ("batch",), "1c": ("batch", 1)}.get(x.axes, ("batch", "sequence"))
        at.outputs.append(Value(x.name, "float32", (*shape, x.channels)))
