"""Whether the nodes of a graph are what their operators take: after reading, after every pass,
before a plan is made.

An operator of the engine is held against its row (`operators`): what of types, shapes and storage
is known of each value is followed through the graph.  ONNX's own are held against the signature of
their meaning: how many inputs, which attributes of which type.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from ..errors import ModelError
from ..graph import Graph, Node, Quantization
from .operators import ATTRIBUTE_KINDS, DECLARED, Attribute, Declaration, Found, Input
from .rows import kinds
from .table import TYPES, Operator, Trait

__all__ = ["checked", "fits_meaning"]

_SAME = kinds(Trait.SAME)
TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype")  # name a type
WHOLE_TYPE = Attribute(f"one of {', '.join(TYPES)}, bfloat16", lambda v: v in (*TYPES, "bfloat16"))


@dataclass(frozen=True)
class Known:
    """What is known of a value; None where it is not.  `stored` counts where `is_ours`."""

    dtype: str | None = None
    shape: tuple[int | str, ...] | None = None
    stored: Quantization | None = None
    is_ours: bool = False  # its storage is known: an operator of the engine or QuantizeLinear
    constant: bool = False

    def __str__(self) -> str:
        shape = "of unknown shape" if self.shape is None else f"[{', '.join(map(str, self.shape))}]"
        return f"{self.dtype or 'unknown'}{' ' * (self.shape is None)}{shape}"


def checked(graph: Graph) -> Graph:
    """The graph itself, if it is sound (`Graph.check`) and every node fits its operator.

    Raises:
        ModelError: names graph, node, input or attribute, what was found and what was expected.
    """
    graph.check()
    known = {value.name: Known(value.dtype, value.shape) for value in graph.inputs}
    for node in graph.nodes:
        if node.kind in DECLARED:
            known[node.outputs[0]] = _of_ours(graph, node, DECLARED[node.kind], known)
        else:
            known.update(dict.fromkeys(node.outputs, _of_others(graph, node, known)))
    return graph


def _of_others(graph: Graph, node: Node, known: Mapping[str, Known]) -> Known:
    """A QuantizeLinear's storage, the shape where it stays; else nothing."""
    shape = known.get(node.inputs[0], Known()).shape if node.kind in _SAME else None
    names = [name for name in node.inputs[1:] if name]
    is_plain = node.kind == "QuantizeLinear" and not node.attributes.get("output_dtype")
    if not is_plain or not names or not all(map(graph.constant_is_scalar, names)):
        return Known(shape=shape)
    scale, *given = (graph.constants[name] for name in names)
    zero = given[0] if given else np.zeros((), np.uint8)
    if zero.dtype.name not in ("uint8", "int8"):
        return Known(shape=shape)
    how = Quantization(float(scale.reshape(())), int(zero.reshape(())), zero.dtype.name)
    return Known(how.dtype, shape, how, True)


# --- the engine's ---
def _of_ours(graph: Graph, node: Node, row: Declaration, known: Mapping[str, Known]) -> Known:
    """What is known of the node's result."""
    place = f"{graph.name}: {node}"
    _check_attributes(place, node, row.attributes)
    given = _inputs(place, node, row)
    values = {name: _found(graph, value, known) for name, value in given.items() if value}
    lengths: dict[str, int] = {}
    for each in row.inputs:
        if each.name in values:
            _check_input(place, node, each, given[each.name], values[each.name], lengths)
    found = Found(node.attributes, lengths, {name: v.dtype or "" for name, v in values.items()})
    for rule in row.rules:
        if (reason := rule(found)) is not None:
            raise ModelError(f"{place}: {reason}")
    return _result(node, row, values, lengths)


def _inputs(place: str, node: Node, row: Declaration) -> dict[str, str]:
    """Value by the name of the input."""
    names = [each.name for each in row.inputs]
    least = len(names) - row.may_end
    if not least <= len(node.inputs) <= len(names) or len(node.outputs) != 1 or not node.outputs[0]:
        raise ModelError(
            f"{place}: {len(node.inputs)} inputs, outputs {list(node.outputs)}; expected"
            f" {', '.join(names)} ('' where one is left out), and one output"
        )
    values = dict(zip(names, (*node.inputs, *[""] * len(names)), strict=False))
    for each in row.inputs:
        if not each.optional and not values[each.name]:
            raise ModelError(f"{place}: input '{each.name}' is left out")
    return values


def _found(graph: Graph, name: str, known: Mapping[str, Known]) -> Known:
    if name in graph.constants:
        value = graph.constant(name)
        return Known(value.dtype, value.shape, constant=True)
    return known.get(name, Known())


def _check_input(
    place: str, node: Node, declared: Input, name: str, value: Known, lengths: dict[str, int]
) -> None:
    def wrong(expected: str) -> ModelError:
        return ModelError(
            f"{place}: input '{declared.name}' ('{name}') is {value}; expected {expected}"
        )

    if declared.constant and not value.constant:
        raise wrong("a constant")
    how = node.attributes.get(declared.stored) if declared.stored else None
    types = declared.types if how is None else (how.dtype,)
    if value.dtype is not None and value.dtype not in types:
        raise wrong(" or ".join(types))
    if declared.stored and value.is_ours and value.stored != how:
        raise wrong(f"what is stored as {how}, not as {value.stored}")
    if value.shape is not None and not _shape_fits(declared.shape, value.shape, lengths):
        sizes = ", ".join(f"{n} = {lengths[n]}" for n in declared.shape if n in lengths)
        given = sizes and f" with {sizes}"
        raise wrong(f"[{', '.join(declared.shape)}] of lengths from 1 up{given}")


def _shape_fits(
    declared: tuple[str, ...], shape: tuple[int | str, ...], lengths: dict[str, int]
) -> bool:
    """Letters that are new get their lengths."""
    letters = declared[1:] if declared[0] == "..." else declared
    front = len(shape) - len(letters)
    if front < 0 or (front and letters is declared):
        return False
    pairs = [(a, n) for a, n in zip(letters, shape[front:], strict=True) if isinstance(n, int)]
    return all(n > 0 and lengths.setdefault(letter, n) == n for letter, n in pairs)


def _result(
    node: Node, row: Declaration, values: Mapping[str, Known], lengths: Mapping[str, int]
) -> Known:
    first = values[row.inputs[0].name]
    how = node.attributes.get("output")
    if "output" not in row.attributes:  # it passes on what it reads
        read = values[row.follows] if row.follows else first
        dtype, how, is_ours = read.dtype, read.stored, read.is_ours
    elif how is not None:
        dtype, is_ours = how.dtype, True
    else:
        was_stored = not row.follows or node.attributes.get(row.inputs[0].stored) is not None
        dtype, is_ours = ("float32" if was_stored else first.dtype), True
    return Known(dtype, _shape(row, first, lengths), how, is_ours)


def _shape(
    row: Declaration, first: Known, lengths: Mapping[str, int]
) -> tuple[int | str, ...] | None:
    """Of the result; first: what is known of the first input."""
    if first.shape is None:
        known = None if "..." in row.output else row.output
        return known and tuple(_length(name, lengths, {}) for name in known)
    letters = tuple(name for name in row.output if name != "...")
    named = dict(zip(row.inputs[0].shape[::-1], first.shape[::-1], strict=False))
    front = first.shape[: len(first.shape) - len(letters)] if "..." in row.output else ()
    return (*front, *(_length(name, lengths, named) for name in letters))


def _length(letter: str, lengths: Mapping[str, int], named: Mapping[str, int | str]) -> int | str:
    return 1 if letter == "1" else lengths.get(letter, named.get(letter, letter))


# --- attributes ---
def _check_attributes(place: str, node: Node, expected: Mapping[str, Attribute]) -> None:
    for name, value in node.attributes.items():
        if name not in expected:
            raise ModelError(f"{place}: attribute '{name}'; expected {', '.join(expected)}")
        _check_attribute(place, name, value, expected[name])
    for name, attribute in expected.items():
        if attribute.required and name not in node.attributes:
            raise ModelError(f"{place}: attribute '{name}' is not there; {attribute.expected}")


def _check_attribute(place: str, name: str, value: Any, attribute: Attribute) -> None:
    if not attribute.allows(value):
        shown = repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:57]}..."
        raise ModelError(f"{place}: attribute '{name}' is {shown}; expected {attribute.expected}")


# --- ONNX's ---
@dataclass(frozen=True)
class Signature:
    """What a meaning takes: inputs from `least` to `most`, attributes by name."""

    least: int
    most: int
    attributes: Mapping[str, Attribute]
    required: frozenset[str]  # attributes that have no default
    is_open: bool  # it takes attributes of any name


def fits_meaning(node: Node, operator: Operator, place: str) -> Node:
    """The node itself, if its operator's meaning can be called with what it has.

    Raises:
        ModelError: the number of its inputs or outputs, or an attribute, is another.
    """
    takes = _signature(operator.meaning)
    count = len(node.inputs)
    most = takes.most if operator.domain != "com.microsoft" else max(takes.most, count)
    missing = count < takes.least or not all(node.inputs[: takes.least])
    if missing or count > most or not any(node.outputs):
        raise ModelError(
            f"{place}: {node if node.outputs else node.op}: inputs {list(node.inputs)}, outputs"
            f" {list(node.outputs)}; expected {takes.least} to {takes.most} inputs, and an output"
        )
    lacking = sorted(takes.required.difference(node.attributes))
    if lacking:
        raise ModelError(f"{place}: {node}: attribute '{lacking[0]}' is left out")
    for name, value in node.attributes.items():
        attribute = takes.attributes.get(name)
        if attribute is not None and name in TYPE_ATTRIBUTES:
            attribute = WHOLE_TYPE
        if attribute is None and not takes.is_open and operator.domain != "com.microsoft":
            known = ", ".join(takes.attributes) or "none"
            raise ModelError(f"{place}: {node}: attribute '{name}'; expected {known}")
        if attribute is not None and value is not None:
            _check_attribute(f"{place}: {node}", name, value, attribute)
    return node


@cache
def _signature(meaning: Callable[..., Any]) -> Signature:
    if isinstance(meaning, np.ufunc):
        return Signature(meaning.nin, meaning.nin, {}, frozenset(), False)
    parameters = inspect.signature(meaning).parameters.values()
    positional = [p for p in parameters if p.kind == p.POSITIONAL_OR_KEYWORD]
    kinds = {p.kind for p in parameters}
    any_number = inspect.Parameter.VAR_POSITIONAL in kinds
    least = sum(p.default is p.empty and "None" not in str(p.annotation) for p in positional)
    keywords = [p for p in parameters if p.kind == p.KEYWORD_ONLY and p.name != "outputs"]
    attributes = {
        p.name: ATTRIBUTE_KINDS[str(p.annotation).removesuffix(" | None")] for p in keywords
    }
    required = frozenset(p.name for p in keywords if p.default is p.empty)
    most = 1 << 31 if any_number else len(positional)
    return Signature(
        max(least, int(any_number)),
        most,
        attributes,
        required,
        inspect.Parameter.VAR_KEYWORD in kinds,
    )
