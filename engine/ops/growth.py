"""How many elements an operator makes or goes through, told before it is called.

For operators that can make many times what they are given: a file of a few kB could else ask for
any amount of memory and time.  Each takes the inputs and attributes of the operator's meaning.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .numbers import Array

__all__ = [
    "broadcast", "concatenated", "contracted", "convolved", "expanded", "filled", "gathered",
    "gathered_slices", "embedded", "in_blocks", "matrix", "multiplied", "of_blocks", "one_hot",
    "padded", "padding", "quantized_convolved", "quantized_product", "ranged",
    "scores", "square", "tiled", "topmost",
]  # fmt: skip


def of_blocks(a: Array, *rest: Array | None, N: int, K: int, **attributes: Any) -> int:  # noqa: N803
    """A weight [N, K], and the product."""
    return int(N * K + a.size // max(1, a.shape[-1]) * N)


def broadcast(*arrays: Array | None, **attributes: Any) -> int:
    shapes = [array.shape for array in arrays if array is not None]
    return math.prod(np.broadcast_shapes(*shapes)) if shapes else 0


def multiplied(a: Array, b: Array, *rest: Array | None, **attributes: Any) -> int:
    """Matrices [..., M, K] and [..., K, N] by NumPy's rules."""
    left = a.shape if a.ndim > 1 else (1, *a.shape)
    right = b.shape if b.ndim > 1 else (*b.shape, 1)
    lengths = (left[-2], left[-1]) if attributes.get("transA") else (left[-1], left[-2])
    batch = math.prod(np.broadcast_shapes(left[:-2], right[:-2]))
    across = right[-2] if attributes.get("transB") else right[-1]
    return int(batch * lengths[1 - int(bool(attributes.get("transA")))] * across)


def matrix(a: Array, b: Array, c: Array | None = None, **attributes: Any) -> int:
    """Gemm's [M, N], to which c broadcasts."""
    rows = a.shape[-1 if attributes.get("transA") else 0]
    columns = b.shape[0 if attributes.get("transB") else -1]
    return int(rows * columns) * max(1, 0 if c is None else c.ndim - 1)


def contracted(*operands: Array, equation: str) -> int:
    """Einsum goes through all lengths of all letters."""
    lengths: dict[str, int] = {}
    terms = equation.replace(" ", "").split("->")[0].split(",")
    for term, operand in zip(terms, operands, strict=True):
        letters = term.replace("...", "")
        front = math.prod(operand.shape[: operand.ndim - len(letters)])
        lengths["..."] = max(lengths.get("...", 1), front)
        for letter, length in zip(letters[::-1], operand.shape[::-1], strict=False):
            lengths[letter] = max(lengths.get(letter, 1), length)
    return math.prod(lengths.values())


def concatenated(*parts: Array, **attributes: Any) -> int:
    return sum(part.size for part in parts)


def gathered(x: Array, indices: Array, *, axis: int = 0) -> int:
    return indices.size * math.prod(n for i, n in enumerate(x.shape) if i != axis % x.ndim)


def gathered_slices(x: Array, indices: Array, *, batch_dims: int = 0) -> int:
    return math.prod(indices.shape[:-1]) * math.prod(x.shape[batch_dims + indices.shape[-1] :])


def expanded(x: Array, shape: Array) -> int:
    return math.prod(np.broadcast_shapes(x.shape, tuple(shape.tolist())))


def filled(shape: Array, **attributes: Any) -> int:
    return _product(shape)


def tiled(x: Array, repeats: Array) -> int:
    return x.size * _product(repeats)


def ranged(start: Array, limit: Array, delta: Array) -> int:
    return int(abs((limit.item() - start.item()) / delta.item())) + 1


def one_hot(indices: Array, depth: Array, values: Array, **attributes: Any) -> int:
    return (indices.size + 1) * int(depth.reshape(-1)[0])


def embedded(ids: Array, kinds: Array | None, words: Array, *rest: Any, **attributes: Any) -> int:
    return int(ids.size * words.shape[-1])


def quantized_product(a: Array, *rest: Array, **attributes: Any) -> int:
    """The second factor is input 3, that of a MatMul with scales beside it."""
    return multiplied(a, rest[2], **attributes)


def convolved(x: Array, weight: Array, *rest: Array | None, **attributes: Any) -> int:
    """The result, and all that windows of the kernel's size hold."""
    kernel, lengths = weight.shape[2:], x.shape[2:]
    ones = [1] * len(kernel)
    strides, steps = (attributes.get(name) or ones for name in ("strides", "dilations"))
    reach = [(k - 1) * step + 1 for k, step in zip(kernel, steps, strict=True)]
    how = attributes.get("auto_pad", "NOTSET"), attributes.get("pads")
    around = padding(lengths, reach, strides, *how)
    parts = zip(lengths, around, reach, strides, strict=True)
    places = math.prod((n + sum(more) - k) // stride + 1 for n, more, k, stride in parts)
    return int(x.shape[0] * places * (weight.shape[0] + x.shape[1] * math.prod(kernel)))


def quantized_convolved(x: Array, *rest: Array, **attributes: Any) -> int:
    """The weight is input 3."""
    return convolved(x, rest[2], **attributes)


def padding(
    lengths: Sequence[int],
    reach: Sequence[int],
    strides: Sequence[int],
    auto_pad: str,
    pads: Sequence[int] | None,
) -> list[tuple[int, int]]:
    """What a convolution adds before and behind each axis; reach: of a window."""
    axes = len(lengths)
    if not auto_pad.startswith("SAME"):
        given = list(pads or ()) if auto_pad == "NOTSET" else []
        given = given or [0] * 2 * axes
        return list(zip(given[:axes], given[axes:], strict=True))
    parts = zip(lengths, reach, strides, strict=True)
    lacking = [max(0, (-(-n // stride) - 1) * stride + k - n) for n, k, stride in parts]
    lower = auto_pad == "SAME_LOWER"  # where the odd one goes
    return [((n + lower) // 2, n - (n + lower) // 2) for n in lacking]


def padded(
    x: Array, pads: Array, value: Array | None = None, axes: Array | None = None, **how: Any
) -> int:
    chosen = list(range(x.ndim)) if axes is None else axes.tolist()
    lengths, given = list(x.shape), pads.tolist()
    for axis, before, behind in zip(
        chosen, given[: len(chosen)], given[len(chosen) :], strict=True
    ):
        lengths[axis] += max(0, before) + max(0, behind)
    return math.prod(lengths)


def square(x: Array, **attributes: Any) -> int:
    return math.prod(x.shape[:2])


def topmost(x: Array, k: Array, **attributes: Any) -> int:
    """Places that are counted, however few there are."""
    return int(k.reshape(-1)[0]) + x.size


def in_blocks(x: Array, scale: Array, *rest: Array | None, **attributes: Any) -> int:
    """Of scales for blocks, and where x has one element for many scales; else it is x again."""
    if scale.size == 1 and scale.ndim <= 1:  # one for all, whatever the attributes say
        return 0
    axis = attributes.get("axis", 1)
    is_one = -x.ndim <= axis < x.ndim and x.shape[axis] == 1
    return scale.size * max(x.size if is_one else 0, attributes.get("block_size", 0))


def scores(x: Array, weights: Array, *rest: Array | None, num_heads: int, **how: Any) -> int:
    """com.microsoft.Attention: the product and [batch, heads, queries, keys]."""
    batch, length = x.shape[:2]
    return int(batch * length * (weights.shape[-1] + num_heads * length))


def all_scores(query: Array, key: Array, *rest: Array | None, num_heads: int, **how: Any) -> int:
    """com.microsoft.MultiHeadAttention: [batch, heads, queries, keys]."""
    return int(math.prod(query.shape[:2]) * key.shape[1] * num_heads)


def _product(lengths: Sequence[int] | Array) -> int:
    """Of what a shape asks for, in Python's integers, which do not overflow."""
    return math.prod(max(int(n), 1) for n in np.ravel(lengths))
