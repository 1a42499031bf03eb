"""Operators that only move numbers, and what a chain of them does, found by moving 0, 1, 2 ...

An exporter has many ways to split channels into heads (Reshape and Transpose in some order, through
three dimensions or four).  Instead of a pattern for each, the chain runs on numbered elements and
the result is compared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineError
from ..graph import Graph, Node, Quantization
from ..ops import Trait, is_quantization, kinds
from ..ops.numbers import dequantized, quantized
from ..ops.reference import MOST_ELEMENTS, evaluate
from .match import Search
from .shapes import Fact

__all__ = ["MOVEMENTS", "Chain", "chain_above", "differs", "lengths", "moved", "splits_heads"]

Array = NDArray[Any]
MOVEMENTS, VIEWS = kinds(Trait.MOVES), kinds(Trait.VIEWS)


@dataclass(frozen=True)
class Chain:
    """Views, scalings and quantisations between a source and a result, in the order they run."""

    source: str
    nodes: tuple[Node, ...]
    factor: float
    quantization: Quantization | None
    result: str


def chain_above(value: str, search: Search, *, rescale: bool = True) -> Chain:
    """From a value up to what is neither a view, a scaling nor a quantisation.  rescale: whether a
    factor of it can be made up for.
    """
    nodes: list[Node] = []
    while True:
        node = search.producer.get(value)
        if node is None or not (
            node.kind in VIEWS or node.kind == "engine.FakeQuantize" or scaling(node, search)
        ):
            return folded(value, tuple(reversed(nodes)), search, rescale=rescale)
        nodes.append(node)
        swapped = node.kind == "Mul" and node.inputs[0] in search.graph.constants
        value = node.inputs[1 if swapped else 0]


def scaling(node: Node, search: Search) -> float | None:
    """The factor of x * c or x / c with a constant scalar."""
    if node.kind not in ("Mul", "Div"):
        return None
    for i, name in enumerate(node.inputs):
        array = search.graph.constants.get(name)
        if (
            array is not None
            and array.size == 1
            and array.ndim <= 1
            and (i == 1 or node.kind == "Mul")
        ):
            number = float(array.reshape(()))
            return number if node.kind == "Mul" else 1 / number
    return None


def folded(source: str, nodes: tuple[Node, ...], search: Search, *, rescale: bool = True) -> Chain:
    """Scalings multiplied together; a quantisation after a factor c has its scale divided by c.

    A chain has one quantisation: where there are two it starts after the first, unless the second
    keeps all bytes of it, which then stand for something else (rescale).
    """
    factor, how, place = 1.0, None, 0
    for i, node in enumerate(nodes):
        if node.kind == "engine.FakeQuantize":
            given = divided(node.attributes["quantization"], factor)
            if how is None:
                how, place = given, i
            elif rescale and keeps_bytes(how, given):
                factor *= given.scale / how.scale
            else:
                rest = nodes[place + 1 :]
                return folded(nodes[place].outputs[0], rest, search, rescale=rescale)
        factor *= scaling(node, search) or 1.0
    if factor <= 0:  # a quantised range cannot be turned round
        return Chain(nodes[-1].outputs[0] if nodes else source, (), 1.0, None, source)
    return Chain(source, nodes, factor, how, nodes[-1].outputs[0] if nodes else source)


def divided(how: Quantization, factor: float) -> Quantization:
    """Of what is multiplied by the factor before: that of the number itself."""
    return replace(how, scale=how.scale / factor)


def keeps_bytes(first: Quantization, second: Quantization) -> bool:
    """Whether what is rounded by one is as many steps from 0 when the other rounds it again."""
    if first.dtype != second.dtype or not (is_quantization(first) and is_quantization(second)):
        return False
    least = np.iinfo(first.dtype).min
    steps = np.arange(least, least + 256).astype(first.dtype)
    again = quantized(dequantized(steps, first), second)
    return first.zero_point == second.zero_point and np.array_equal(again, steps)


def lengths(facts: Mapping[str, Fact], values: Sequence[str]) -> dict[str, int] | None:
    """A small number for each free length in the values' shapes; None where a shape is unknown, or
    so large that its elements are not numbered.
    """
    names: dict[str, int] = {}
    primes = iter((2, 3, 5, 7, 11, 13))
    for value in values:
        shape = facts[value].shape if value in facts else None
        if shape is None:
            return None
        for length in shape:
            for part in length.split("*") if isinstance(length, str) else ():
                if not part.isdigit() and part not in names:
                    names[part] = next(primes, 17)
        if math.prod(size(shape, names)) > MOST_ELEMENTS:
            return None
    return names


def size(shape: Sequence[int | str], names: Mapping[str, int]) -> tuple[int, ...]:
    """A shape with its free lengths replaced."""
    return tuple(
        length
        if isinstance(length, int)
        else int(np.prod([names.get(p) or int(p) for p in length.split("*")]))
        for length in shape
    )


def moved(
    nodes: Sequence[Node],
    source: Array,
    graph: Graph,
    facts: Mapping[str, Fact],
    names: Mapping[str, int],
) -> Array | None:
    """What the views of a chain make of an array; None where they do not fit it."""
    for node in nodes:
        if node.kind not in VIEWS:
            continue
        inputs = [source, *(known(name, graph, facts, names) for name in node.inputs[1:])]
        if any(array is None for array in inputs):
            return None
        try:
            source = evaluate(node, inputs, graph.opset)[0]
        except EngineError:
            return None
    return source


def differs(got: Array | None, wanted: Array) -> bool:
    """Not the same numbers, batch and heads taken together or apart."""
    if got is None or got.size != wanted.size or got.shape[-2:] != wanted.shape[-2:]:
        return True
    return not np.array_equal(got.reshape(wanted.shape), wanted)


def splits_heads(
    chain: Chain,
    order: Sequence[int],
    heads: int,
    graph: Graph,
    facts: Mapping[str, Fact],
    names: Mapping[str, int],
) -> bool:
    """Whether a chain splits [batch, tokens, channels] into heads, its axes batch, tokens, heads
    and depth in this order.
    """
    batch, tokens, channels = size(facts[chain.source].shape or (), names)
    numbered = np.arange(batch * tokens * channels).reshape(batch, tokens, channels)
    split = numbered.reshape(batch, tokens, heads, channels // heads).transpose(order)
    return not differs(moved(chain.nodes, numbered, graph, facts, names), split)


def known(
    name: str, graph: Graph, facts: Mapping[str, Fact], names: Mapping[str, int]
) -> Array | None:
    """A constant, or the contents of a shape with its free lengths replaced."""
    contents = facts[name].contents if name in facts else None
    if name in graph.constants or contents is None:
        return graph.constants.get(name)
    parts = [part for length in contents if isinstance(length, str) for part in length.split("*")]
    if any(part not in names and not part.isdigit() for part in parts):
        return None
    return np.array(size(contents, names), np.int64)
