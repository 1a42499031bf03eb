"""Runs a graph operator by operator with the NumPy meanings of `ops`.

Slow and plain: kernels, passes and plans are compared with it; it runs what no kernel fits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import FOREIGN, EngineError, InputError, ModelError
from ..graph import Graph, Node
from . import find

__all__ = ["MOST_ELEMENTS", "check_feeds", "evaluate", "run", "steps"]

Array = NDArray[Any]
MOST_ELEMENTS = 1 << 24  # of one result, where a graph and its inputs do not give more
GROWTH = 1 << 10  # elements of a result for each element of the inputs and the constants
SMALL_GRAPH = 1 << 20  # elements that any result may have


def evaluate(
    node: Node, arrays: Sequence[Array | None], opset: int = 17, most: int = MOST_ELEMENTS
) -> tuple[Array, ...]:
    """The node's outputs for its inputs (None where one is left out).

    Raises:
        UnsupportedError: the operator is lacking.
        ModelError: the operator rejects these inputs or attributes, or its result would have more
        than `most` elements; the message names the node.
    """
    operator = find(node.domain, node.op, opset)
    attributes = dict(node.attributes)
    if operator.counts_outputs:
        attributes["outputs"] = len(node.outputs)
    try:
        if operator.makes is not None and (count := operator.makes(*arrays, **attributes)) > most:
            raise ModelError(f"makes or goes through {count} elements; expected at most {most}")
        with np.errstate(all="ignore"):  # NaN and infinity are results, not warnings
            result = operator.meaning(*arrays, **attributes)
    except EngineError as error:
        raise type(error)(f"{node}: {error}") from error
    except FOREIGN as error:
        shown = ", ".join("-" if x is None else f"{x.dtype}{list(x.shape)}" for x in arrays)
        reason = str(error) or type(error).__name__
        raise ModelError(f"{node}: {reason} (inputs: {shown})") from error
    outputs = result if isinstance(result, tuple) else (result,)
    if any(node.outputs[len(outputs) :]):
        raise ModelError(f"{node}: {len(node.outputs)} outputs; expected at most {len(outputs)}")
    return tuple(np.asarray(output) for output in outputs)


def run(
    graph: Graph,
    feeds: Mapping[str, Array],
    observe: Callable[[Node, tuple[Array, ...]], None] | None = None,
) -> dict[str, Array]:
    """Output name -> array.  `observe` sees each node with its outputs as they are made."""
    values = dict(check_feeds(graph, feeds))
    wanted = {value.name for value in graph.outputs}
    values.update((name, array) for name, array in graph.constants.items() if name in wanted)
    results = {name: values[name] for name in wanted if name in values}
    for node, outputs in steps(graph, values):
        if observe is not None:
            observe(node, outputs)
        results.update(
            (name, array)
            for name, array in zip(node.outputs, outputs, strict=False)
            if name in wanted
        )
    return {value.name: results[value.name] for value in graph.outputs}


def affordable(graph: Graph, feeds: Mapping[str, Array]) -> int:
    """The elements that one result may have: bounded by what the file and the caller brought."""
    return SMALL_GRAPH + GROWTH * (graph.constant_elements + sum(x.size for x in feeds.values()))


def steps(graph: Graph, values: dict[str, Array]) -> Iterator[tuple[Node, tuple[Array, ...]]]:
    """Each node with its outputs; `values`, at first the inputs, holds what is still to be read."""
    most = affordable(graph, values)
    last = {name: index for index, node in enumerate(graph.nodes) for name in node.inputs}
    for index, node in enumerate(graph.nodes):
        arrays = [_value(graph, values, name) for name in node.inputs]
        outputs = evaluate(node, arrays, graph.opset, most)
        yield node, outputs
        made = zip(node.outputs, outputs, strict=False)
        values.update((name, array) for name, array in made if last.get(name, -1) > index)
        for name in node.inputs:
            if last[name] == index:
                values.pop(name, None)


def _value(graph: Graph, values: Mapping[str, Array], name: str) -> Array | None:
    if not name:
        return None
    return values[name] if name in values else graph.constants[name]


def check_feeds(graph: Graph, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
    """The feeds as arrays, if they have the names, types and shapes the graph asks for.

    Raises:
        InputError: names the input, what was fed and what was expected.
    """
    expected = {value.name: value for value in graph.inputs}
    unknown, missing = sorted(set(feeds) - set(expected)), sorted(set(expected) - set(feeds))
    if unknown or missing:
        raise InputError(
            f"{graph.name}: inputs missing: {missing}, unknown: {unknown};"
            f" expected {sorted(expected)}"
        )
    arrays = {name: np.asarray(array) for name, array in feeds.items()}
    for name, array in arrays.items():
        if array.dtype != (wanted := expected[name].dtype):
            raise InputError(f"input '{name}': type {array.dtype}, expected {wanted}")
    check_shapes(graph, arrays)
    return arrays


def check_shapes(graph: Graph, arrays: Mapping[str, Array]) -> None:
    """Lengths that the graph fixes, and those that have one name, of the inputs that are given.

    Raises:
        InputError: names the input, what was fed and what was expected.
    """
    expected = {value.name: value for value in graph.inputs}
    lengths: dict[str, tuple[int, str]] = {}
    for name, array in arrays.items():
        _check_shape(name, array.shape, expected[name].shape, lengths)


def _check_shape(
    name: str,
    shape: tuple[int, ...],
    expected: tuple[int | str, ...],
    lengths: dict[str, tuple[int, str]],
) -> None:
    """lengths: those that have names, and who said so."""
    if len(shape) != len(expected):
        raise InputError(f"input '{name}': shape {shape}, expected {expected}")
    for found, wanted in zip(shape, expected, strict=True):
        known, source = wanted, "the model"
        if isinstance(wanted, str):
            known, source = lengths.setdefault(wanted, (found, f"'{name}'"))
        if found != known:
            raise InputError(
                f"input '{name}': shape {shape}, but '{wanted}' is {known} by {source}"
            )
