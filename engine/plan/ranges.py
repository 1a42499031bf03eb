"""Whether bytes, 16 bits and float32 hold what kernels on bytes make of a node."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..graph import Node, Quantization
from .quantized import operand_quantizations, stored

__all__ = [
    "attention_is_bytes",
    "norm_in_range",
    "softmax_of",
    "sums_in_range",
    "why_not_bytes",
    "why_not_rounded",
]

Array = NDArray[Any]
MOST_STEPS = 1 << 15  # of its quantisation that a value is away from 0: packs read 16 bits
MOST_SCORE = 1e38  # in float32, above LEAST of kernels/attention/floats.py
MOST_ROUNDED = 1 << 15  # MAGIC rounds to a byte what is below it


def norm_in_range(gamma: Array, beta: Array) -> bool:
    """Whether a normalised value, at most the root of their number, stays within MOST_STEPS; gamma
    and beta in steps.
    """
    return bool((np.abs(gamma) * np.sqrt(gamma.size) + np.abs(beta) < MOST_STEPS).all())


def sums_in_range(
    node: Node, weight: Array, scale: Array, bias: Array | None, source: Quantization
) -> bool:
    """Whether what a Linear rounds to a byte stays within MOST_STEPS whatever x is; source: how x
    is stored.  A product without `output` is clipped by its kernel.
    """
    product, output = node.attributes.get("product"), node.attributes.get("output")
    if output is None:
        return True
    farthest = max(source.zero_point, 255 - source.zero_point) * source.scale
    most = np.abs(weight.astype(np.int16)).sum(1, dtype=np.int64) * np.abs(farthest * scale)
    if product is None and bias is not None:
        most = most + np.abs(bias)
    return bool((most / (product or output).scale + 255 < MOST_STEPS).all())


def attention_is_bytes(node: Node) -> bool:
    """Whether everything attention_u8 needs is quantised; scores may be or not.  It knows nothing
    of positions.
    """
    if node.key_positions or node.query_positions:
        return False
    a = node.attributes
    probabilities = stored(a.get("probabilities"))
    needed = ("query", "key", "value", "probabilities", "output")
    return (
        all(a.get(name) is not None for name in needed)
        and a.get("product") in (None, a.get("output"))
        and probabilities is not None
        and probabilities.zero_point == 0
    )


def softmax_of(node: Node) -> str:
    """Which softmax of kernels/attention/bytes.py an attention on bytes has.

    "bytes" takes no greatest score off: exps go from exp(-span) for byte 0 to 1 for byte 255, and
    their least total is exp(-span).  Both, and what turns that into probabilities, 1 / (total *
    their scale), have to be normal numbers of float32.
    """
    scores, probabilities = node.attributes.get("scores"), node.attributes["probabilities"]
    if node.bias:
        return "floats_biased" if scores is None else "wide_biased"
    if scores is None:
        return "floats"
    if any(node.attributes.get(name) is not None for name in ("scaled", "masked")):
        return "rounded"
    span = 255 * float(scores.scale) * float(node.attributes["scale"])
    float32 = np.finfo(np.float32)
    most = min(-np.log(float32.tiny), np.log(float32.max) + np.log(float(probabilities.scale)))
    return "bytes" if span < most - 1 else "wide"


def why_not_bytes(node: Node, depth: int) -> str:
    """Why the kernels on bytes would not be right for an attention; empty where they are."""
    scale, (query, key, value) = float(node.attributes["scale"]), operand_quantizations(node)
    probabilities, output = (stored(node.attributes[name]) for name in ("probabilities", "output"))
    assert probabilities is not None and output is not None
    if scale <= 0:
        return f"scores are multiplied by {scale}"
    again = [name for name in ("scaled", "masked") if node.attributes.get(name) is not None]
    if again and node.attributes.get("scores") is None:
        return f"scores are rounded as {again[0]} only"
    if again and node.bias:
        return "scores with a bias are rounded again"
    furthest = 255 * 255 * depth * query.scale * key.scale * scale
    if node.attributes.get("scores") is None and furthest > MOST_SCORE:
        return f"scores may reach {furthest:.3g}"
    if 1 / probabilities.scale + 1 > MOST_ROUNDED:
        return f"a step of probabilities is {probabilities.scale}"
    most = 255 * float(value.scale) / float(output.scale)  # a probability may be rounded to twice
    if 2 * most + 256 > MOST_ROUNDED:
        return f"a step of values is {value.scale}, one of the result {output.scale}"
    return ""


def why_not_rounded(node: Node) -> str:
    """Why the kernels that round scores by positions would not be right; empty where they are."""
    how = node.attributes
    needed = ["query", "key", "value", "scores", "probabilities", "output"]
    needed += ["key_positions", "query_scores"] if node.key_positions else []
    needed += ["query_positions", "key_scores"] if node.query_positions else []
    again = [name for name in ("scaled", "masked") if how.get(name) is not None]
    if not (node.key_positions or node.query_positions) or again:
        return "partly quantised attention"
    if floats := [name for name in needed if how.get(name) is None]:
        return f"partly quantised attention: {floats[0]} is not"
    probabilities = stored(how["probabilities"])
    if probabilities is None or probabilities.zero_point:
        return "a probability of 0 is not stored as 0"
    if how.get("product") not in (None, how["output"]):
        return "the weighted sum is rounded twice"
    return ""
