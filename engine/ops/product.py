"""Matrix products of floating-point numbers, and layers that ONNX Runtime's optimiser makes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import ModelError
from . import growth
from .elementwise import gelu, relu
from .numbers import Array
from .quantized import dequantize_linear, matmul_integer_to_float
from .reduce import layer_normalization, softmax, widened
from .table import HEAVY, Operator

__all__ = ["OPERATORS", "attention_mask"]

LEAST = np.float32(np.finfo(np.float32).min)


def gemm(
    a: Array,
    b: Array,
    c: Array | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,  # noqa: N803  ONNX's name
    transB: int = 0,  # noqa: N803
) -> Array:
    """alpha a b + beta c."""
    left, right = (a.T if transA else a), (b.T if transB else b)
    product = left @ right
    if alpha != 1:
        product = product * product.dtype.type(alpha)
    if c is None:
        return np.asarray(product)
    addend = c if beta == 1 else c * c.dtype.type(beta)
    return np.asarray(product + addend, a.dtype)


def einsum(*operands: Array, equation: str) -> Array:
    return np.asarray(np.einsum(equation, *operands))


def fused_matmul(
    a: Array,
    b: Array,
    *,
    alpha: float = 1.0,
    transA: int = 0,  # noqa: N803
    transB: int = 0,  # noqa: N803
    transBatchA: int = 0,  # noqa: N803
    transBatchB: int = 0,  # noqa: N803
) -> Array:
    if transBatchA:
        a = np.moveaxis(a, 0, -2)
    if transBatchB:
        b = np.moveaxis(b, 0, -2)
    left, right = (
        (np.swapaxes(a, -1, -2) if transA else a),
        (np.swapaxes(b, -1, -2) if transB else b),
    )
    return np.asarray(a.dtype.type(alpha) * (left @ right))


# --- com.microsoft ---
def attention_mask(mask: Array, keys: int) -> Array:
    """What is added to the scores, [B, 1, 1, S] or with queries, from ONNX Runtime's mask_index.

    [B]: lengths; [B, S]: 1 where a key counts; [B, Sq, S]: the same per query.
    """
    if mask.ndim == 1:
        mask = (np.arange(keys) < mask[:, None]).astype(np.int32)
    spread = mask[:, None, None, :] if mask.ndim == 2 else mask[:, None]
    return np.where(spread != 0, np.float32(0), LEAST)


def attention(
    x: Array,
    weights: Array,
    bias: Array | None = None,
    mask_index: Array | None = None,
    *,
    num_heads: int,
    scale: float = 0.0,
    mask_filter_value: float = -10000.0,
) -> Array:
    """com.microsoft.Attention without past; weights is [C, 3 C] for query, key and value."""
    del mask_filter_value  # a masked key has no probability
    product = x @ weights if bias is None else x @ weights + bias
    return attended(np.split(product, 3, axis=-1), mask_index, num_heads, scale)


def q_attention(
    x: Array, weights: Array, bias: Array, x_scale: Array, scale: Array,
    mask_index: Array | None = None, x_zero: Array | None = None, zero: Array | None = None,
    *, num_heads: int, mask_filter_value: float = -10000.0,
) -> Array:  # fmt: skip
    """com.microsoft.QAttention: of stored values and weights."""
    del mask_filter_value
    product = matmul_integer_to_float(x, weights, x_scale, scale, x_zero, zero, bias)
    return attended(np.split(product, 3, axis=-1), mask_index, num_heads, 0.0)


def multi_head_attention(
    query: Array, key: Array, value: Array, bias: Array | None = None, mask: Array | None = None,
    *, num_heads: int, scale: float = 0.0, mask_filter_value: float = -10000.0,
) -> Array:  # fmt: skip
    """Query, key and value [B, S, C] apart, the bias [3 C] of all three."""
    del mask_filter_value
    layers = [query, key, value]
    if bias is not None:
        layers = [x + part for x, part in zip(layers, np.split(bias, 3), strict=True)]
    return attended(layers, mask, num_heads, scale)


def attended(layers: Sequence[Array], mask: Array | None, heads: int, scale: float) -> Array:
    """Of query, key and value [B, S, C]; scale 0 is that of the heads' channels."""
    query, key, value = (_heads(layer, heads) for layer in layers)
    scores = query @ np.swapaxes(key, -1, -2) * np.float32(scale or query.shape[-1] ** -0.5)
    if mask is not None:
        scores = scores + attention_mask(mask, key.shape[2])
    result = np.moveaxis(softmax(scores) @ value, 1, 2)  # scores with a mask are float32 at least
    return result.reshape(*layers[0].shape[:2], -1).astype(layers[0].dtype, copy=False)


def _heads(x: Array, heads: int) -> Array:
    """[B, S, C] -> [B, heads, S, C / heads]."""
    return np.moveaxis(x.reshape(*x.shape[:2], heads, -1), 2, 1)


def embed_layer_normalization(
    input_ids: Array,
    segment_ids: Array | None,
    words: Array,
    positions: Array,
    segments: Array | None,
    gamma: Array,
    beta: Array,
    mask: Array | None = None,
    position_ids: Array | None = None,
    *,
    epsilon: float = 1e-12,
    mask_index_type: int = 0,
) -> tuple[Array, Array, Array]:
    """Also the lengths by the mask, and the sum before normalisation."""
    del mask_index_type
    places = np.arange(input_ids.shape[1])[None] if position_ids is None else position_ids
    total = widened(words[input_ids]) + positions[places]
    if segment_ids is not None and segments is not None:
        total = total + segments[segment_ids]
    lengths = (
        np.zeros(len(input_ids), np.int32) if mask is None else (mask == 1).sum(1, dtype=np.int32)
    )
    y = layer_normalization(total, gamma, beta, epsilon=epsilon)[0]
    return y.astype(words.dtype, copy=False), lengths, total.astype(words.dtype, copy=False)


def q_embed_layer_normalization(
    input_ids: Array, segment_ids: Array | None, *rest: Any, epsilon: float = 1e-12
) -> tuple[Array, ...]:
    """The same of five stored tables: after the mask their scales, then their zero points."""
    stored = zip(rest[:5], rest[6:11], rest[11:16], strict=True)
    tables = [None if how[0] is None else dequantize_linear(*how) for how in stored]
    given: Any = (*tables, rest[5])
    return embed_layer_normalization(input_ids, segment_ids, *given, epsilon=epsilon)[:2]


ACTIVATIONS: Mapping[str, Callable[[Array], Any]] = {
    "": lambda x: x,
    "Relu": relu,
    "Tanh": np.tanh,
    "Gelu": gelu,
}


def fused_gemm(
    a: Array, b: Array, c: Array | None = None, *, activation: str = "", **how: float
) -> Array:
    """Gemm followed by an activation."""
    return np.asarray(ACTIVATIONS[activation](gemm(a, b, c, **how)))  # type: ignore[arg-type]


# --- rotary positions ---
def rotary_embedding(
    x: Array,  # [B, S, C] or [B, heads, S, depth]
    cos: Array,  # [P, R], or [B, S, R] where no positions are given
    sin: Array,
    position_ids: Array | None = None,  # [B, S]
    *,
    interleaved: int = 0,
    num_heads: int = 0,
    rotary_embedding_dim: int = 0,
) -> Array:
    """R pairs of each head's channels turned; rotary_embedding_dim, if given, is 2 R."""
    if position_ids is not None:
        cos, sin = cos[position_ids], sin[position_ids]
    pairs = cos.shape[-1]
    if rotary_embedding_dim not in (0, 2 * pairs):
        raise ModelError(f"rotary_embedding_dim {rotary_embedding_dim} for {pairs} pairs")
    if x.ndim == 3:
        heads = num_heads or x.shape[2] // (2 * pairs)
        split = x.reshape(*x.shape[:2], heads, -1)
    else:
        split = np.moveaxis(x, 1, 2)
    y, c, s = split.copy(), cos[:, :, None], sin[:, :, None]
    ends = (slice(0, 2 * pairs, 2), slice(1, 2 * pairs, 2))
    first, second = ends if interleaved else (slice(pairs), slice(pairs, 2 * pairs))
    a, b = split[..., first], split[..., second]
    y[..., first], y[..., second] = a * c - b * s, b * c + a * s
    return y.reshape(x.shape) if x.ndim == 3 else np.moveaxis(y, 2, 1)


def microsofts_rotary_embedding(
    x: Array,
    position_ids: Array,
    cos: Array,
    sin: Array,
    *,
    interleaved: int = 0,
    num_heads: int = 0,
    rotary_embedding_dim: int = 0,
    scale: float = 1.0,
    is_packed_batching: int = 0,
) -> Array:
    """position_ids [B, S], or [1], the place of the first token."""
    if scale != 1.0 or is_packed_batching:
        raise ModelError("rotary positions that are scaled or of packed sentences")
    if position_ids.ndim < 2:
        tokens = x.shape[1 if x.ndim == 3 else 2]
        position_ids = np.add.outer(np.zeros(len(x), np.int64), position_ids + np.arange(tokens))
    how = {"interleaved": interleaved, "num_heads": num_heads}
    how["rotary_embedding_dim"] = rotary_embedding_dim
    return rotary_embedding(x, cos, sin, position_ids, **how)


OPERATORS = [
    Operator("Einsum", einsum, makes=growth.contracted),
    Operator("Gemm", gemm, makes=growth.matrix, traits=HEAVY),
    Operator("MatMul", lambda a, b: np.matmul(a, b), makes=growth.multiplied, traits=HEAVY),
    Operator("Attention", attention, domain="com.microsoft", makes=growth.scores),
    Operator(
        "EmbedLayerNormalization",
        embed_layer_normalization,
        domain="com.microsoft",
        makes=growth.embedded,
        lookups=((0, 2), (1, 4), (8, 3)),
    ),
    Operator("FusedGemm", fused_gemm, domain="com.microsoft", makes=growth.matrix),
    Operator("FusedMatMul", fused_matmul, domain="com.microsoft", makes=growth.multiplied),
    Operator(
        "MultiHeadAttention", multi_head_attention, domain="com.microsoft", makes=growth.all_scores
    ),
    Operator(
        "QEmbedLayerNormalization",
        q_embed_layer_normalization,
        domain="com.microsoft",
        makes=growth.embedded,
        lookups=((0, 2), (1, 4)),
    ),
    Operator("RotaryEmbedding", rotary_embedding, since=23, lookups=((3, 1), (3, 2))),
    Operator(
        "RotaryEmbedding",
        microsofts_rotary_embedding,
        domain="com.microsoft",
        lookups=((1, 2), (1, 3)),
    ),
    Operator("QAttention", q_attention, domain="com.microsoft", makes=growth.scores),
]
