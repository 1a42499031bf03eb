"""Embedding and LayerNorm: whether their results fit in bytes, and sums in exact integers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...graph import Node, Quantization
from ..quantized import ExactNorm, norm_of_bytes, roundings, stored
from ..ranges import norm_in_range
from ..steps import Unplanned
from .elementwise import ThroughFloats, through_floats
from .facts import Activation, Choice, Facts

__all__ = [
    "EmbeddingChoice",
    "NormChoice",
    "RoundedNormChoice",
    "TrigramChoice",
    "choose_embedding",
    "choose_layer_norm",
    "choose_trigram",
]

Array = NDArray[Any]
ROUNDED = ("variance", "raised", "normalised", "scaled")
CHANNELS = 64  # the embedding kernel takes rows in pieces of so many
SIXTEEN = 16  # that of trigrams


@dataclass(frozen=True)
class EmbeddingChoice(Choice):
    """norm: float64 [2, channels], gamma and beta in steps of the result."""

    node: Node
    norm: Array


@dataclass(frozen=True)
class TrigramChoice(Choice):
    """Rows of three words, and of a position and a type."""


@dataclass(frozen=True)
class NormChoice(Choice):
    """norm: float64 [channels, 2], gamma and beta in steps of the result; exact: where the sums
    are integers; sum: where they are rounded.
    """

    x: Activation
    residual: Activation | None
    norm: Array
    exact: ExactNorm | None
    sum: Quantization | None = None


@dataclass(frozen=True)
class RoundedNormChoice(Choice):
    """norm: float32 [channels, 2], gamma and beta; roundings: ROUNDING [5]; sum: of x and the
    residual.
    """

    x: Activation
    residual: Activation | None
    norm: Array
    roundings: Array
    sum: Quantization | None


def choose_embedding(facts: Facts, node: Node) -> EmbeddingChoice | ThroughFloats:
    """In float32 where bytes would not hold the result.

    Raises:
        Unplanned: no kernel does this.
    """
    if facts.embedding is not None:
        raise Unplanned("a second embedding")
    tables = [facts.array(name) for name in (node.words, node.positions, node.types) if name]
    channels, output = tables[0].shape[1], node.attributes.get("output")
    norm = np.stack([np.ones(channels), np.zeros(channels)])
    if node.gamma:
        norm = np.stack([facts.array(node.gamma), facts.array(node.beta)]).astype(np.float64)
    if (result := stored(output)) is not None:
        norm = norm / result.scale + np.array([[0], [result.zero_point]])
        most = 1.0 if node.gamma else sum(float(np.abs(each).max()) for each in tables)
        if not norm_in_range(*most * norm):
            return through_floats(facts, node, choose_embedding)
    y = facts.result(node.outputs[0], "tokens", channels, output, group=CHANNELS)
    return EmbeddingChoice(y, node, norm)


def choose_trigram(facts: Facts, node: Node) -> TrigramChoice:
    """Rows in whole sixteens of channels.

    Raises:
        Unplanned: no kernel does this.
    """
    if facts.embedding is not None:
        raise Unplanned("a second embedding")
    widths = [facts.array(name).shape[1] for name in (node.words, node.positions)]
    if any(width % SIXTEEN for width in widths):
        raise Unplanned(f"rows of {widths} channels: kernels take whole sixteens")
    channels = 3 * widths[0] + widths[1]
    return TrigramChoice(facts.result(node.outputs[0], "tokens", channels, None))


def choose_layer_norm(facts: Facts, node: Node) -> NormChoice | RoundedNormChoice | ThroughFloats:
    """In exact integers where x and the residual are bytes.

    Raises:
        Unplanned: no kernel does this.
    """
    x, residual = facts.value(node.x), None
    if node.residual:
        residual = facts.value(node.residual)
        if x.shape != residual.shape:
            raise Unplanned("the residual has another shape")
    if any(node.attributes.get(name) is not None for name in ROUNDED):
        return _rounded(facts, node, x, residual)
    bias = facts.optional(node.bias)
    norm = np.stack([facts.array(name) for name in (node.gamma, node.beta)], axis=1).astype(
        np.float64
    )
    output = stored(node.attributes.get("output"))
    if output is not None:
        norm = norm / output.scale + np.array([0, output.zero_point])
        if not norm_in_range(*norm.T):
            return through_floats(facts, node, choose_layer_norm)
    y = facts.result(node.outputs[0], x.buffer.domain, x.channels, output)
    sources = [each.quantization if each else None for each in (x, residual)]
    epsilon = float(node.attributes.get("epsilon", 1e-12))
    how = node.attributes.get("sum")
    exact = None
    if how is None and node.attributes.get("centred", True):
        exact = norm_of_bytes(sources, bias, x.channels, epsilon)
    return NormChoice(replace(y, kept_axis=x.kept_axis), x, residual, norm, exact, how)


def _rounded(
    facts: Facts, node: Node, x: Activation, residual: Activation | None
) -> RoundedNormChoice:
    """Where the graph rounds after every operator."""
    hows = [node.attributes.get(name) for name in (*ROUNDED, "output")]
    if None in hows or not node.attributes.get("centred", True):
        raise Unplanned("partly rounded between its operators")
    if any(each and each.buffer.dtype != "u8" for each in (x, residual)):
        raise Unplanned("rounded between its operators, and x or the residual in float32")
    norm = np.stack([facts.array(name) for name in (node.gamma, node.beta)], axis=1)
    y = facts.result(node.outputs[0], x.buffer.domain, x.channels, hows[-1])
    y = replace(y, kept_axis=x.kept_axis)
    norm, how = norm.astype(np.float32), node.attributes.get("sum")
    return RoundedNormChoice(y, x, residual, norm, roundings(hows), how)
