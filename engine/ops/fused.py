"""The engine's own operators: docs/design.md, section 1, word for word in NumPy.

What is quantised is computed in float64, where sums of products of 8-bit numbers are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..errors import InputError
from ..graph import Quantization
from .elementwise import gelu, swish
from .numbers import Array, dequantized, quantized, round_to_bfloat16
from .quantized import dynamic_quantize_linear
from .reduce import layer_normalization, rms_normalization, softmax
from .table import ACTIVATES, EACH, HEAVY, MOVES, SAME, TAME, Operator

__all__ = [
    "KEPT",
    "OPERATORS",
    "activation_of",
    "by_distance",
    "first_keys",
    "mask_of_ones",
    "within",
]

ACTIVATIONS: Mapping[str | None, Callable[[Array], Any]] = {
    None: lambda x: x,
    "gelu": gelu,
    "gelu_tanh": lambda x: gelu(x, approximate="tanh"),
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, np.float32(0)),
    "swish": swish,
}


def activation_of(name: str | None, x: Array) -> Array:
    """Linear's `activation` of float32 x, as float32."""
    return np.asarray(ACTIVATIONS[name](x), np.float32)


def embedding(
    input_ids: Array,
    token_type_ids: Array | None,
    words: Array,
    positions: Array | None = None,
    types: Array | None = None,
    gamma: Array | None = None,
    beta: Array | None = None,
    position_ids: Array | None = None,
    *,
    epsilon: float = 1e-12,
    position_offset: int = 0,
    padding_id: int | None = None,
    sum: Quantization | None = None,
    first: str = "types",
    output: Quantization | None = None,
) -> Array:
    """y [B, S, C] from input_ids [B, S]; first: what is added to words before the other is."""
    places = np.arange(input_ids.shape[1])[None] + position_offset
    if position_ids is not None:
        places = position_ids
    if padding_id is not None:  # RoBERTa counts only real tokens, from padding_id + 1
        real = (input_ids != padding_id).astype(np.int64)
        places = np.cumsum(real, axis=1) * real + padding_id
    kinds = np.zeros_like(input_ids) if token_type_ids is None else token_type_ids
    parts = [None if types is None else types[kinds], None]
    parts[1] = None if positions is None else positions[places]
    one, other = parts if first == "types" else parts[::-1]
    total = words[input_ids]
    total = total if one is None else rounded(total + one, sum)
    total = total if other is None else total + other
    if gamma is not None:
        total = layer_normalization(total, gamma, beta, epsilon=epsilon)[0]
    return quantized(total, output)


def trigram(
    input_ids: Array,
    token_type_ids: Array | None,
    words: Array,  # [V, E]
    positions: Array,  # [P, C]
    types: Array | None = None,  # [T, C]
    position_ids: Array | None = None,
    *,
    position_offset: int = 0,
) -> Array:
    """y [B, S, 3 E + C] from input_ids [B, S]: the rows of the word behind a token, of its own and
    of the one before, 0 where there is none; then its position's and its type's, added.
    """
    own = words[input_ids]
    around = np.pad(own, ((0, 0), (1, 1), (0, 0)))
    rest = positions[np.arange(input_ids.shape[1])[None] + position_offset]
    if position_ids is not None:
        rest = positions[position_ids]
    if types is not None:
        kinds = np.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        rest = rest + types[kinds]
    rest = np.broadcast_to(rest, (*own.shape[:2], rest.shape[-1]))
    return np.concatenate([around[:, 2:], own, around[:, :-2], rest], axis=-1)


def linear(
    x: Array,
    weight: Array,
    weight_scale: Array | None = None,
    bias: Array | None = None,
    *,
    input: Quantization | None = None,
    dynamic: str | None = None,
    product: Quantization | None = None,
    activation: str | None = None,
    output: Quantization | None = None,
    precision: str = "float32",
    pattern: str = "dense",
    zero_ratio: float = 0.0,
) -> Array:
    """y [..., N] from x [..., K] and weight [N, K]."""
    del pattern, zero_ratio  # how the weight is stored, not what it means
    if precision == "bfloat16":
        x = round_to_bfloat16(dequantized(x, input))
        y = x @ weight.T
    elif weight.dtype.kind == "i":
        y = _whole_linear(x, weight, weight_scale, input, dynamic)
    else:
        y = dequantized(x, input) @ weight.T
    y = dequantized(quantized(y, product), product)
    y = y if bias is None else y + bias
    return quantized(activation_of(activation, y), output)


def _whole_linear(
    x: Array,
    weight: Array,
    weight_scale: Array | None,
    input: Quantization | None,
    dynamic: str | None,
) -> Array:
    """x is stored quantised, or is quantised here over its range (dynamic); float32 result."""
    scale: Any
    if input is not None:
        steps, scale = x.astype(np.float64) - input.zero_point, np.float32(input.scale)
    elif dynamic is not None:
        stored, scale, zero = dynamic_quantize_linear(x, axis=-1 if dynamic == "token" else None)
        steps = stored.astype(np.float64) - zero
    else:
        steps, scale = x.astype(np.float64), np.float32(1)
    sums = steps @ weight.T.astype(np.float64)
    factor = scale if weight_scale is None else scale * weight_scale.astype(np.float64)
    return np.asarray(sums * factor, np.float32)


def layer_norm(
    x: Array,
    skip: Array | None,
    bias: Array | None,
    gamma: Array,
    beta: Array,
    *,
    epsilon: float = 1e-12,
    input: Quantization | None = None,
    residual: Quantization | None = None,
    sum: Quantization | None = None,
    variance: Quantization | None = None,
    raised: Quantization | None = None,
    normalised: Quantization | None = None,
    scaled: Quantization | None = None,
    output: Quantization | None = None,
    centred: bool = True,
) -> Array:
    """x + bias + skip (the operator's input `residual`), normalised over the last axis; without its
    mean where that is centred.
    """
    total = dequantized(x, input)
    if bias is not None:
        total = total + bias
    if skip is not None:
        total = total + dequantized(skip, residual)
    total = rounded(total, sum)
    if not centred:
        return quantized(rms_normalization(total, gamma, epsilon=epsilon) + beta, output)
    if not any((variance, raised, normalised, scaled)):
        return quantized(layer_normalization(total, gamma, beta, epsilon=epsilon)[0], output)
    deviation = total - total.mean(axis=-1, keepdims=True)
    power = rounded(np.square(deviation).mean(axis=-1, keepdims=True), variance)
    power = rounded(power + np.float32(epsilon), raised)
    with np.errstate(divide="ignore", invalid="ignore"):
        y = rounded(rounded(deviation / np.sqrt(power), normalised) * gamma, scaled)
    return quantized(y + beta, output)


def rounded(x: Array, how: Quantization | None) -> Array:
    """Quantised, and dequantised again."""
    return dequantized(quantized(x, how), how)


def attention(
    q: Array,  # [B, Sq, C]
    k: Array,  # [B, S, C]
    v: Array,  # [B, S, C]
    mask: Array | None = None,  # [B, S]
    bias: Array | None = None,  # [H, 2 P - 1]
    of_keys: Array | None = None,  # [2 P - 1, C], the input key_positions
    of_queries: Array | None = None,  # [2 P - 1, C], query_positions
    *,
    heads: int,
    scale: float,
    query: Quantization | None = None,
    key: Quantization | None = None,
    value: Quantization | None = None,
    key_positions: Quantization | None = None,
    query_positions: Quantization | None = None,
    scores: Quantization | None = None,
    query_scores: Quantization | None = None,
    key_scores: Quantization | None = None,
    scaled: Quantization | None = None,
    masked: Quantization | None = None,
    probabilities: Quantization | None = None,
    product: Quantization | None = None,
    output: Quantization | None = None,
    precision: str = "float32",
    masking: str = "keys",
    window: int | None = None,
) -> Array:
    """y [B, Sq, C]; masking: whether the mask's ones mark keys, or only their sums count."""
    low = precision == "bfloat16"
    if low:
        q, k, v = (round_to_bfloat16(x) for x in (q, k, v))
    s = _product(_heads(q, heads), query, np.swapaxes(_heads(k, heads), -1, -2), key)
    s = rounded(s, scores)
    if of_keys is not None:
        added = of_positions(_heads(q, heads), query, of_keys, key_positions, k.shape[1])
        s = s + rounded(added, query_scores)
    if of_queries is not None:  # those of a key lie by how far a query stands behind it
        turned = of_positions(_heads(k, heads), key, of_queries[::-1], query_positions, q.shape[1])
        s = s + rounded(np.swapaxes(turned, -1, -2), key_scores)
    s = rounded(s * np.float32(scale), scaled)
    if bias is not None:
        s = s + by_distance(bias, q.shape[1], k.shape[1])
    s = rounded(s, masked)
    if mask is not None:  # LEAST absorbs the score, so a row with no key left is uniform
        s = np.where(KEPT[masking](mask)[:, None, None], s, np.finfo(np.float32).min)
    if window is not None:
        s = np.where(within(window, s.shape[-2], s.shape[-1]), s, np.finfo(np.float32).min)
    if low:  # exps are rounded, their sum is not
        exps = np.exp(s - s.max(axis=-1, keepdims=True))
        y = round_to_bfloat16(exps) @ _heads(v, heads) / exps.sum(axis=-1, keepdims=True)
        return np.asarray(np.moveaxis(y, 1, 2).reshape(q.shape), np.float32)
    p = quantized(softmax(s), probabilities)
    y = _product(p, probabilities, _heads(v, heads), value)
    y = np.moveaxis(y, 1, 2).reshape(q.shape)
    return quantized(dequantized(quantized(y, product), product), output)


def probabilities(
    q: Array,  # [B, Q, C]
    k: Array,  # [B, S, C]
    mask: Array | None = None,  # [B, S]
    bias: Array | None = None,  # [H, 2 P - 1]
    *,
    heads: int,
    scale: float,
    query: Quantization | None = None,
    key: Quantization | None = None,
    scores: Quantization | None = None,
    scaled: Quantization | None = None,
    masked: Quantization | None = None,
    probabilities: Quantization | None = None,
    precision: str = "float32",
    masking: str = "keys",
) -> Array:
    """[B, H, Q, S]: what an attention multiplies values with."""
    if precision == "bfloat16":
        q, k = round_to_bfloat16(q), round_to_bfloat16(k)
    s = _product(_heads(q, heads), query, np.swapaxes(_heads(k, heads), -1, -2), key)
    s = rounded(rounded(s, scores) * np.float32(scale), scaled)
    if bias is not None:
        s = s + by_distance(bias, q.shape[1], k.shape[1])
    s = rounded(s, masked)
    if mask is not None:
        s = np.where(KEPT[masking](mask)[:, None, None], s, np.finfo(np.float32).min)
    return np.asarray(rounded(softmax(s), probabilities), np.float32)


def within(window: int, queries: int, keys: int) -> Array:
    """bool [queries, keys]: those whose places are at most `window` apart."""
    return np.asarray(np.abs(np.arange(queries)[:, None] - np.arange(keys)) <= window)


def mask_of_ones(mask: Array) -> Array:
    """bool [B, S]: where it is not 0.

    Raises:
        InputError: a mask of floats is something between 0 and 1, which formulas take differently.
    """
    if mask.dtype.kind == "f" and (odd := mask[(mask != 0) & (mask != 1)]).size:
        raise InputError(f"a mask holds {odd.flat[0]:g}: expected 0 or 1")
    return mask != 0


def by_distance(bias: Array, queries: int, keys: int) -> Array:
    """[H, queries, keys] of what a bias [H, 2 P - 1] adds where a key stands so far behind a query,
    from P - 1 tokens before it to as many behind; further away what stands there.
    """
    return np.asarray(bias[:, _places(bias.shape[1] // 2, queries, keys)])


def of_positions(
    x: Array,
    x_how: Quantization | None,
    positions: Array,
    how: Quantization | None,
    others: int,
) -> Array:
    """[B, H, S, others] of the products of x [B, H, S, D] with the row of positions [2 P - 1, C]
    that says how far another token stands behind.
    """
    rows = np.moveaxis(positions.reshape(len(positions), x.shape[1], -1), 0, -1)
    places = _places(len(positions) // 2, x.shape[2], others)
    products = _product(x, x_how, rows, how)
    return np.asarray(np.take_along_axis(products, places[None, None], axis=-1))


def _places(most: int, tokens: int, others: int) -> Array:
    """Rows of a table of 2 most + 1 distances, [tokens, others]."""
    distance = np.arange(others)[None] - np.arange(tokens)[:, None]
    return np.asarray(np.clip(distance, -most, most) + most)


def first_keys(mask: Array) -> Array:
    """bool [B, S]: as many from the start as the mask has ones."""
    return np.asarray(np.arange(mask.shape[1]) < mask.sum(1, keepdims=True))


def _heads(x: Array, heads: int) -> Array:
    """[B, S, C] -> [B, heads, S, C / heads]."""
    return np.moveaxis(x.reshape(*x.shape[:2], heads, -1), 2, 1)


def _product(a: Array, a_how: Quantization | None, b: Array, b_how: Quantization | None) -> Array:
    if a_how is None or b_how is None:
        return np.asarray(dequantized(a, a_how) @ dequantized(b, b_how))
    left, right = a.astype(np.float64) - a_how.zero_point, b.astype(np.float64) - b_how.zero_point
    return np.asarray((left @ right) * (a_how.scale * b_how.scale), np.float32)


def lookup(
    x: Array,
    table: Array,
    *,
    steps: Quantization,
    input: Quantization | None = None,
    output: Quantization | None = None,
) -> Array:
    """y of x's shape; table float32 [256]: what becomes of the bytes of `steps`, from the least."""
    stored = x if input is not None else quantized(x, steps)
    return quantized(table[stored.astype(np.int64) - np.iinfo(stored.dtype).min], output)


def rotary(
    x: Array,  # [B, S, C]
    cos: Array,  # [P, R]
    sin: Array,  # [P, R]
    *,
    heads: int,
    interleaved: int = 0,
    input: Quantization | None = None,
    output: Quantization | None = None,
) -> Array:
    """y [B, S, C]: R pairs of each head's channels turned by the token's place in its sentence."""
    tokens, pairs = x.shape[1], cos.shape[1]
    if tokens > len(cos):
        raise InputError(f"length {tokens}: the model has positions for {len(cos)} tokens")
    x = dequantized(x, input)
    y = x.reshape(*x.shape[:2], heads, -1).copy()
    first, second = (0, pairs) if not interleaved else (0, 1)
    step, end = 1 + interleaved, pairs * (1 + interleaved)
    a, b = (y[..., start : start + end : step].copy() for start in (first, second))
    c, s = cos[:tokens, None], sin[:tokens, None]
    y[..., first : first + end : step] = a * c - b * s
    y[..., second : second + end : step] = b * c + a * s
    return quantized(y.reshape(x.shape), output)


def select(x: Array, *, index: int = 0) -> Array:
    """y [B, 1, C] from x [B, S, C]."""
    return x[:, [index]]


def pool(
    x: Array,  # [B, S, C]
    mask: Array | None = None,  # [B, S]
    *,
    how: str = "mean",
    epsilon: float = 0.0,
    fill: float | None = None,
    masking: str = "keys",
) -> Array:
    """y [B, 1, C]: of the tokens that the mask keeps, their mean, sum or greatest, or the last."""
    kept = np.ones(x.shape[:2], bool) if mask is None else KEPT[masking](mask)
    if how == "last":
        return _last(x, kept, fill)
    if how == "max":
        least = np.float32(-np.inf if fill is None else fill)
        return np.asarray(np.where(kept[..., None], x, least).max(axis=1, keepdims=True))
    total = np.where(kept[..., None], x, np.float32(0)).sum(axis=1, keepdims=True)
    if how == "sum":
        return np.asarray(total)
    count = kept.sum(axis=1)[:, None, None].astype(np.float32)
    divisor = np.maximum(count, np.float32(epsilon))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(total / (divisor if how == "mean" else np.sqrt(divisor)))


def _last(x: Array, kept: Array, fill: float | None) -> Array:
    """Where nothing is kept fill, or the very last token."""
    places = x.shape[1] - 1 - np.argmax(kept[:, ::-1], axis=1)
    found = x[np.arange(len(x)), places][:, None]
    some = kept.any(axis=1)[:, None, None]
    return found if fill is None else np.where(some, found, np.float32(fill))


def masked(x: Array, mask: Array, *, input: Quantization | None = None) -> Array:
    """x [B, S, C], stored as it was, where the mask [B, S] keeps a token, else 0."""
    nothing = np.array(0 if input is None else input.zero_point, x.dtype)
    return np.asarray(np.where(mask_of_ones(mask)[..., None], x, nothing))


KEPT: Mapping[str, Callable[[Array], Array]] = {  # by masking: a mask -> bool, keys that count
    "keys": mask_of_ones,
    "lengths": first_keys,
}


def affine(x: Array, other: Array | None, gamma: Array, beta: Array) -> Array:
    """(x + other) gamma + beta, channel by channel."""
    total = x if other is None else x + other
    return np.asarray(total * gamma + beta)


def l2_norm(x: Array, *, epsilon: float = 0.0) -> Array:
    """x divided by its length over the last axis, or by epsilon where that is greater."""
    length = np.sqrt(np.square(x).sum(axis=-1, keepdims=True))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(x / np.maximum(length, np.float32(epsilon)))


def channels(x: Array, *, count: int, first: int = 0) -> Array:
    """y [..., count]: adjacent channels of x."""
    return x[..., first : first + count]


def log1p(x: Array) -> Array:
    """log(x + 1), rounded after each."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.log(x + x.dtype.type(1)))


OPERATORS = [
    Operator("Affine", affine, domain="engine", traits=EACH | TAME | HEAVY),
    Operator("Attention", attention, domain="engine", traits=HEAVY),
    Operator("Channels", channels, domain="engine", traits=MOVES),
    Operator("Embedding", embedding, domain="engine", traits=HEAVY, lookups=((0, 2), (1, 4))),
    Operator("L2Norm", l2_norm, domain="engine", traits=SAME | HEAVY),
    Operator("LayerNorm", layer_norm, domain="engine", traits=HEAVY),
    Operator("Log1p", log1p, domain="engine", traits=SAME | EACH | ACTIVATES | HEAVY),
    Operator("Linear", linear, domain="engine", traits=HEAVY),
    Operator("Lookup", lookup, domain="engine", traits=SAME | EACH | TAME),
    Operator("Mask", masked, domain="engine", traits=HEAVY),
    Operator("Pool", pool, domain="engine", traits=HEAVY),
    Operator("Probabilities", probabilities, domain="engine", traits=HEAVY),
    Operator("Rotary", rotary, domain="engine", traits=HEAVY),
    Operator("Select", select, domain="engine", traits=MOVES),
    Operator("Trigram", trigram, domain="engine", traits=HEAVY, lookups=((0, 2), (1, 4))),
]
