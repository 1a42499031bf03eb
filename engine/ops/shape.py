"""Operators that move, select or make elements and compute nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from . import growth
from .numbers import Array
from .table import MOVES, SAME, VIEWS, Operator

__all__ = ["OPERATORS", "from_front"]


def from_front(axis: int, rank: int, *, end: bool = False) -> int:
    """An axis counted from the front; end: the place behind the last is one, too.

    Raises:
        IndexError: there is no such axis.
    """
    if not -rank <= axis < rank + end:
        raise IndexError(f"axis {axis}; there are {rank}")
    return axis + rank if axis < 0 else axis


def transpose(x: Array, *, perm: Sequence[int] | None = None) -> Array:
    return np.transpose(x, perm)


def reshape(x: Array, shape: Array, *, allowzero: int = 0) -> Array:
    """0 keeps the dimension that stands there (unless allowzero), -1 is what is left."""
    lengths = [int(length) for length in shape]
    if not allowzero:
        lengths = [x.shape[i] if n == 0 else n for i, n in enumerate(lengths)]
    return x.reshape(lengths)


def flatten(x: Array, *, axis: int = 1) -> Array:
    before = x.shape[: from_front(axis, x.ndim, end=True)]
    return x.reshape(int(np.prod(before, dtype=np.int64)), -1)


def squeeze(
    x: Array, axes_input: Array | None = None, *, axes: Sequence[int] | None = None
) -> Array:
    """The axes are an attribute before opset 13, an input since."""
    chosen = axes if axes_input is None else axes_input.tolist()
    return np.squeeze(x, None if chosen is None else tuple(chosen))


def unsqueeze(
    x: Array, axes_input: Array | None = None, *, axes: Sequence[int] | None = None
) -> Array:
    chosen = axes if axes_input is None else np.atleast_1d(axes_input).tolist()
    return np.expand_dims(x, tuple(chosen or ()))


def slice_(
    x: Array, starts: Array, ends: Array, axes: Array | None = None, steps: Array | None = None
) -> Array:
    cut = [slice(None)] * x.ndim
    chosen = range(len(starts)) if axes is None else axes.tolist()
    strides = [1] * len(starts) if steps is None else steps.tolist()
    for axis, start, end, step in zip(chosen, starts.tolist(), ends.tolist(), strides, strict=True):
        # an end before the first element of a backward slice: NumPy would read -1 as the last
        beyond = step < 0 and end < -x.shape[axis]
        cut[axis] = slice(start, None if beyond else end, step)
    return x[tuple(cut)]


def split(
    x: Array,
    split_input: Array | None = None,
    *,
    axis: int = 0,
    split: Sequence[int] | None = None,
    num_outputs: int | None = None,
    outputs: int,
) -> tuple[Array, ...]:
    """Parts of the lengths given, else as equal as can be with the last one smaller."""
    if num_outputs not in (None, outputs):
        raise ValueError(f"num_outputs is {num_outputs}, of {outputs}")
    lengths = split if split_input is None else split_input.tolist()
    if lengths is None:
        part = -(-x.shape[axis] // outputs)
        cuts = [part * i for i in range(1, outputs)]
    else:
        cuts = np.cumsum(lengths)[:-1].tolist()
    return tuple(np.split(x, cuts, axis))


def concat(*parts: Array, axis: int) -> Array:
    return np.concatenate(parts, axis)


def gather(x: Array, indices: Array, *, axis: int = 0) -> Array:
    return np.take(x, indices, axis)


def gather_elements(x: Array, indices: Array, *, axis: int = 0) -> Array:
    return np.take_along_axis(x, np.where(indices < 0, indices + x.shape[axis], indices), axis)


def gather_nd(x: Array, indices: Array, *, batch_dims: int = 0) -> Array:
    """indices[..., :] is a coordinate in x; the first batch_dims axes belong to both."""
    batch = indices.shape[:batch_dims]
    grids = np.indices(batch).reshape(batch_dims, *batch, *(1,) * (indices.ndim - 1 - batch_dims))
    return np.asarray(x[(*grids, *np.moveaxis(indices, -1, 0))])


def scatter_elements(
    x: Array, indices: Array, updates: Array, *, axis: int = 0, reduction: str = "none"
) -> Array:
    places = list(np.indices(indices.shape))
    places[axis] = np.where(indices < 0, indices + x.shape[axis], indices)
    return _scatter(x, tuple(places), updates, reduction)


def scatter_nd(x: Array, indices: Array, updates: Array, *, reduction: str = "none") -> Array:
    return _scatter(x, tuple(np.moveaxis(indices, -1, 0)), updates, reduction)


SCATTERING: Mapping[str, np.ufunc] = {
    "add": np.add,
    "mul": np.multiply,
    "max": np.maximum,
    "min": np.minimum,
}


def _scatter(x: Array, places: tuple[Array, ...], updates: Array, reduction: str) -> Array:
    result = x.copy()
    if reduction == "none":
        result[places] = updates
    else:
        SCATTERING[reduction].at(result, places, updates)
    return result


def expand(x: Array, shape: Array) -> Array:
    """Broadcasts both ways: a 1 in shape keeps x's length."""
    return np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(shape.tolist())))


def tile(x: Array, repeats: Array) -> Array:
    return np.tile(x, repeats.tolist())


PADDING: Mapping[str, Literal["reflect", "edge", "wrap"]] = {
    "reflect": "reflect",
    "edge": "edge",
    "wrap": "wrap",
}


def pad(
    x: Array,
    pads: Array,
    value: Array | None = None,
    axes: Array | None = None,
    *,
    mode: str = "constant",
) -> Array:
    """pads: how much longer each axis becomes, first before all of them, then behind; a negative
    one cuts off.
    """
    chosen = range(x.ndim) if axes is None else axes.tolist()
    before, behind = np.reshape(pads, (2, -1)).tolist()
    cut, longer = [slice(None)] * x.ndim, [(0, 0)] * x.ndim
    for axis, first, last in zip(chosen, before, behind, strict=True):
        cut[axis] = slice(max(0, -first), x.shape[axis] - max(0, -last))
        longer[axis] = (max(0, first), max(0, last))
    inner = x[tuple(cut)]
    if mode != "constant":
        return np.pad(inner, longer, PADDING[mode])
    return np.pad(inner, longer, constant_values=0 if value is None else value.reshape(()))


def shape_of(x: Array, *, start: int = 0, end: int | None = None) -> Array:
    return np.array(x.shape[start:end], np.int64)


def size_of(x: Array) -> Array:
    return np.array(x.size, np.int64)


def constant_of_shape(shape: Array, *, value: Array | None = None) -> Array:
    fill = np.zeros(1, np.float32) if value is None else value
    return np.full(tuple(shape.tolist()), fill.reshape(-1)[0], fill.dtype)


def range_(start: Array, limit: Array, delta: Array) -> Array:
    return np.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


def triangle(x: Array, k: Array | None = None, *, upper: int = 1) -> Array:
    return (np.triu if upper else np.tril)(x, 0 if k is None else int(k))


def eye_like(x: Array, *, dtype: str | None = None, k: int = 0) -> Array:
    return np.eye(x.shape[0], x.shape[1], k=k, dtype=np.dtype(dtype or x.dtype))


def non_zero(x: Array) -> Array:
    return np.array(np.nonzero(np.atleast_1d(x)), np.int64)


def depth_to_one_hot(indices: Array, depth: Array, values: Array, *, axis: int = -1) -> Array:
    count = int(depth.reshape(-1)[0])
    hot = np.arange(count) == np.mod(indices.astype(np.int64), count)[..., None]
    inside = ((indices >= -count) & (indices < count))[..., None]
    return np.moveaxis(np.where(hot & inside, values[1], values[0]), -1, axis)


OPERATORS = [
    Operator("Concat", concat, makes=growth.concatenated),
    Operator("ConstantOfShape", constant_of_shape, makes=growth.filled),
    Operator("Expand", expand, makes=growth.expanded, traits=VIEWS),
    Operator("EyeLike", eye_like, makes=growth.square),
    Operator("Flatten", flatten, traits=MOVES | VIEWS),
    Operator("Gather", gather, makes=growth.gathered, traits=MOVES, lookups=((1, 0),)),
    Operator("GatherElements", gather_elements),
    Operator("GatherND", gather_nd, makes=growth.gathered_slices),
    Operator("NonZero", non_zero),
    Operator("OneHot", depth_to_one_hot, makes=growth.one_hot),
    Operator("Pad", pad, makes=growth.padded),
    Operator("Range", range_, makes=growth.ranged),
    Operator("Reshape", reshape, traits=MOVES | VIEWS),
    Operator("ScatterElements", scatter_elements),
    Operator("ScatterND", scatter_nd, traits=SAME),
    Operator("Shape", shape_of),
    Operator("Size", size_of),
    Operator("Slice", slice_, traits=MOVES),
    Operator("Split", split, counts_outputs=True),
    Operator("Squeeze", squeeze, traits=MOVES | VIEWS),
    Operator("Tile", tile, makes=growth.tiled),
    Operator("Transpose", transpose, traits=MOVES | VIEWS),
    Operator("Trilu", triangle, traits=SAME),
    Operator("Unsqueeze", unsqueeze, traits=MOVES | VIEWS),
]
