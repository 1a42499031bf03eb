"""Spellings vanish: what is known before the run is computed, what does nothing is dropped.

Case 1: every input is constant: the result is computed (but for a constant's DequantizeLinear,
        whose 8 bits are wanted).
Case 2: the contents follow from shapes: Shape -> Gather -> Concat with whole numbers only.
Case 3: the target of a Reshape is known but for free lengths: they become 0 (as the input) or -1.
Case 4: a length that a graph input has is read from that input, not from what is computed of it.
Case 5: Identity, Dropout, Cast to the same type; Reshape, Expand, Transpose, Slice without effect.
Case 6: the same operator on the same inputs is computed once.
Case 7: detours are made short (shorten.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineError
from ..graph import Graph, Node
from ..ops.reference import MOST_ELEMENTS, evaluate
from .shapes import UNKNOWN, Fact, infer
from .shorten import shorten

__all__ = ["clean", "merge_twins", "substitute"]

Array = NDArray[Any]
MOST_FOLDED = 16  # elements of what is computed for each element of the file's constants
RANDOM = {
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Bernoulli",
    "Multinomial",
}
DEQUANTIZE = {"DequantizeLinear", "com.microsoft.DequantizeLinear"}


def clean(graph: Graph) -> Graph:
    """The graph without what can be known before the run."""
    before, most = -1, MOST_FOLDED * graph.constant_elements + MOST_ELEMENTS
    while before != len(graph.nodes):
        before = len(graph.nodes)
        graph = fold(graph, most)
        graph = drop_idle(lengths_from_inputs(fix_reshapes(graph))).without_dead_nodes()
        graph = merge_twins(graph)
        shorter = shorten(graph)
        if shorter is not graph:
            graph, before = shorter, -1
    return graph


# --- cases 1 and 2 ---
def fold(graph: Graph, most: int = MOST_ELEMENTS) -> Graph:
    """Nodes whose result is known become constants, which all together have at most `most`
    elements; what more there is the run computes.
    """
    facts, constants, room = infer(graph), dict(graph.constants), most - graph.constant_elements
    kept: list[Node] = []
    for node in graph.nodes:
        result = known_contents(node, facts) or computed(node, constants, graph.opset, room)
        if result is None:
            kept.append(node)
        else:
            constants.update(zip(node.outputs, result, strict=False))
            room -= sum(array.size for array in result)
    return graph.changed(nodes=tuple(kept), constants=constants).without_dead_nodes()


def known_contents(node: Node, facts: Mapping[str, Fact]) -> tuple[Array, ...] | None:
    fact = facts[node.outputs[0]]
    numbers = [c for c in fact.contents or () if isinstance(c, int)]
    if fact.contents is None or fact.shape is None or fact.dtype is None or len(node.outputs) > 1:
        return None
    if len(numbers) != len(fact.contents):
        return None
    return (np.array(numbers, fact.dtype).reshape([len(numbers)] if fact.shape else []),)


def computed(
    node: Node, constants: Mapping[str, Array], opset: int, most: int
) -> tuple[Array, ...] | None:
    """The results of a node whose inputs are all constant."""
    if node.kind in RANDOM or any(name and name not in constants for name in node.inputs):
        return None
    if node.kind in DEQUANTIZE and constants[node.inputs[0]].dtype.itemsize == 1:
        return None
    inputs = [constants[name] if name else None for name in node.inputs]
    try:
        return evaluate(node, inputs, opset, most)
    except EngineError:  # left in place: the run reports it with its message if it is reached
        return None


# --- case 3 ---
def fix_reshapes(graph: Graph) -> Graph:
    facts, constants = infer(graph), dict(graph.constants)
    nodes = []
    for node in graph.nodes:
        target = reshape_target(node, facts)
        if target is not None:
            name = f"{node.outputs[0]}.shape"
            constants[name] = np.array(target, np.int64)
            node = node.changed(inputs=(node.inputs[0], name), attributes={})
        nodes.append(node)
    return graph.changed(nodes=tuple(nodes), constants=constants).without_dead_nodes()


def reshape_target(node: Node, facts: Mapping[str, Fact]) -> list[int] | None:
    if (
        node.kind != "Reshape"
        or node.attributes.get("allowzero", 0)
        and 0 in (facts[node.inputs[1]].contents or ())
    ):
        return None
    wanted, source = facts[node.inputs[1]].contents, facts[node.inputs[0]].shape or ()
    if wanted is None or all(isinstance(length, int) for length in wanted):
        return None
    target: list[int] = []
    for i, length in enumerate(wanted):
        if isinstance(length, int):
            target.append(length)
        elif i < len(source) and source[i] == length:
            target.append(0)
        else:
            target.append(-1)
    return target if target.count(-1) <= 1 else None


# --- case 4 ---
def lengths_from_inputs(graph: Graph) -> Graph:
    """Gather or Slice of a computed value's Shape becomes Gather of an input's Shape."""
    facts, producer, constants = infer(graph), graph.producer(), dict(graph.constants)
    nodes: list[Node] = []
    for node in graph.nodes:
        source = producer.get(node.inputs[0]) if node.kind in ("Gather", "Slice") else None
        place = None
        if source is not None and source.kind == "Shape" and source.inputs[0] in producer:
            place = place_of(facts[node.outputs[0]], graph)
        if place is None:
            nodes.append(node)
            continue
        name, axis, shape = place
        index, whole = f"{node.outputs[0]}.axis", f"{node.outputs[0]}.shape_of_input"
        constants[index] = np.full(shape, axis, np.int64)
        nodes.append(Node("Shape", (name,), (whole,)))
        nodes.append(Node("Gather", (whole, index), node.outputs, {"axis": 0}, node.name))
    return graph.changed(nodes=tuple(nodes), constants=constants)


def place_of(fact: Fact, graph: Graph) -> tuple[str, int, tuple[int, ...]] | None:
    """The graph input and axis with the free length that a value holds, and the value's shape."""
    if fact.contents is None or len(fact.contents) != 1 or fact.dtype != "int64":
        return None
    for value in graph.inputs:
        if isinstance(fact.contents[0], str) and fact.contents[0] in value.shape:
            return value.name, value.shape.index(fact.contents[0]), () if fact.shape == () else (1,)
    return None


# --- case 5 ---
def drop_idle(graph: Graph) -> Graph:
    """Nodes that hand on their first input unchanged are taken out."""
    facts = infer(graph)
    idle = {
        node.outputs[0]: node.inputs[0]
        for node in graph.nodes
        if IDLE.get(node.kind, never)(node, graph, facts) and is_dead(node, graph)
    }
    return substitute(graph, idle)


def is_dead(node: Node, graph: Graph) -> bool:
    """Only the first output is used."""
    used = (
        {name for other in graph.nodes for name in other.inputs} if len(node.outputs) > 1 else set()
    )
    return not used.intersection(node.outputs[1:])


def never(node: Node, graph: Graph, facts: Mapping[str, Fact]) -> bool:
    return False


def always(node: Node, graph: Graph, facts: Mapping[str, Fact]) -> bool:
    return True


def same_type(node: Node, graph: Graph, facts: Mapping[str, Fact]) -> bool:
    return facts.get(node.inputs[0], UNKNOWN).dtype == node.attributes["to"]


def same_shape(node: Node, graph: Graph, facts: Mapping[str, Fact]) -> bool:
    before, after = facts.get(node.inputs[0], UNKNOWN).shape, facts[node.outputs[0]].shape
    return before is not None and before == after


def same_order(node: Node, graph: Graph, facts: Mapping[str, Fact]) -> bool:
    order = node.attributes.get("perm")
    return order is not None and tuple(order) == tuple(range(len(order)))


def not_training(node: Node, graph: Graph, facts: Mapping[str, Fact]) -> bool:
    training = node.inputs[2] if len(node.inputs) > 2 else ""
    return not training or not np.any(graph.constants.get(training, np.True_))


def neutral(number: float) -> Callable[[Node, Graph, Mapping[str, Fact]], bool]:
    """x * 1, x / 1, x + 0 with a scalar that cannot change the shape."""

    def idle(node: Node, graph: Graph, facts: Mapping[str, Fact]) -> bool:
        array = graph.constants.get(node.inputs[1])
        return array is not None and array.ndim == 0 and float(array) == number

    return idle


IDLE: dict[str, Callable[[Node, Graph, Mapping[str, Fact]], bool]] = {
    "Identity": always,
    "Dropout": not_training,
    "Cast": same_type,
    "Reshape": same_shape,
    "Expand": same_shape,
    "Slice": lambda n, g, f: same_shape(n, g, f) and forward(n, g),
    "Transpose": same_order,
    "Mul": neutral(1),
    "Div": neutral(1),
    "Add": neutral(0),
    "Sub": neutral(0),
    "Concat": lambda n, g, f: len(n.inputs) == 1,
}


def forward(node: Node, graph: Graph) -> bool:
    """A Slice whose steps are not negative."""
    steps = graph.constants.get(node.inputs[4]) if len(node.inputs) > 4 else np.array([1])
    return steps is not None and bool((steps > 0).all())


def substitute(graph: Graph, replaced: Mapping[str, str]) -> Graph:
    """Readers of a key read its value instead; a graph's output keeps its name."""
    outputs = {value.name for value in graph.outputs}
    made = {name for node in graph.nodes for name in node.outputs}
    final: dict[str, str] = {}
    renamed: dict[str, str] = {}
    for old, new in replaced.items():
        while new in final:
            new = final[new]
        if old not in outputs:
            final[old] = new
        elif new in made and new not in outputs and new not in renamed:
            renamed[new] = old
    dropped = set(final) | set(renamed.values())
    rename = {**final, **renamed}

    def current(name: str) -> str:
        while name in rename:
            name = rename[name]
        return name

    nodes = tuple(
        node.changed(
            inputs=tuple(map(current, node.inputs)),
            outputs=tuple(renamed.get(o, o) for o in node.outputs),
        )
        for node in graph.nodes
        if not (node.outputs[0] in dropped and node.outputs[0] in replaced)
    )
    return graph.changed(nodes=nodes)


# --- case 6 ---
def merge_twins(graph: Graph) -> Graph:
    """Equal operators on equal inputs become one."""
    first: dict[Any, Node] = {}
    replaced: dict[str, str] = {}
    for node in graph.nodes:
        inputs = tuple(replaced.get(name, name) for name in node.inputs)
        key = (
            node.kind,
            inputs,
            frozenset((k, as_key(v)) for k, v in node.attributes.items()),
        )
        twin = first.setdefault(key, node)
        if twin is not node and len(twin.outputs) == len(node.outputs) and node.kind not in RANDOM:
            outputs = {value.name for value in graph.outputs}
            if not outputs.intersection(node.outputs):
                replaced.update(zip(node.outputs, twin.outputs, strict=True))
    nodes = tuple(
        node.changed(inputs=tuple(replaced.get(name, name) for name in node.inputs))
        for node in graph.nodes
        if node.outputs[0] not in replaced
    )
    return graph.changed(nodes=nodes)


def as_key(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    return tuple(value) if isinstance(value, list) else value
