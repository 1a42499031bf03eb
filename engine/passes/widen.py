"""float16 is how a file is stored, not how it is computed: all of it becomes float32.

Constants are widened, which is exact; Casts between the types do nothing any more; what a graph
declares as float16 is cast where it comes in and where it goes out.  Results are nearer to exact
arithmetic than the file's own, which rounds after every operator.  The float64 that torch's half
exports have between two float16 becomes float32 as well.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import pi, sqrt
from typing import Any

import numpy as np

from ..graph import Graph, Node
from .shapes import infer

__all__ = ["widen"]

LIMITED = {"IsInf"}  # what is infinite only as float16 ends at 65504 would answer otherwise
# factors of activations by what float16 makes of them: what is meant is the number itself
ROUNDED = {float(np.float16(n)): n for n in (sqrt(2), sqrt(0.5), sqrt(2 / pi), 0.044715)}


def widen(graph: Graph) -> Graph:
    """The graph in float32; as it is where there is no float16, or its limit is asked for."""
    types = {value.name: value.dtype for value in graph.outputs}
    types |= {name: fact.dtype for name, fact in infer(graph).items() if fact.dtype}
    if "float16" not in types.values() or any(node.kind in LIMITED for node in graph):
        return graph
    declared = dict.fromkeys(value.name for value in (*graph.inputs, *graph.outputs))
    halves = {name: f"{name}.float32" for name in declared if types[name] == "float16"}
    given = [value.name for value in graph.inputs if value.name in halves]
    made = [name for name in halves if name not in given]
    other = {"float16", "float64"} - {types[name] for name in declared if name not in halves}
    nodes = [Node("Cast", (name,), (halves[name],), {"to": "float32"}) for name in given]
    nodes += [_widened(node, halves, other) for node in graph]
    nodes += [Node("Cast", (halves[name],), (name,), {"to": "float16"}) for name in made]
    constants = {halves.get(name, name): _wide(a, other) for name, a in graph.constants.items()}
    return graph.changed(nodes=tuple(nodes), constants=constants)


def _widened(node: Node, names: Mapping[str, str], types: Collection[str]) -> Node:
    """The node in float32, which reads and makes `names` instead; types: those that go."""
    return node.changed(
        inputs=tuple(names.get(name, name) for name in node.inputs),
        outputs=tuple(names.get(name, name) for name in node.outputs),
        attributes={key: _wide(value, types) for key, value in node.attributes.items()},
    )


def _wide(value: Any, types: Collection[str]) -> Any:
    """A tensor, or the name of a type (`to`, `dtype`), in float32 where it is one of `types`."""
    if not isinstance(value, np.ndarray):
        return "float32" if isinstance(value, str) and value in types else value
    if value.dtype.name not in types:
        return value
    if value.size == 1:
        value = np.full(value.shape, ROUNDED.get(value.item(), value.item()))
    with np.errstate(over="ignore"):  # float16 has no room for such a float64 either
        return value.astype(np.float32)
