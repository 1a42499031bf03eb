"""Patterns: mathematics written as Python, matched against a graph from a result to its inputs.

    def gelu(op: Operators, x: Tensor) -> Pattern:
        return 0.5 * x * (op.Erf(x / SQRT2) + 1.0)

A parameter is a variable: Tensor takes any value, Constant only constants, Scalar constants of one
element.  Add and Mul match in either order, `either` takes the first spelling that fits, a pattern
object that occurs twice stands for one value.  Each failure reports a sentence; the one that came
furthest is the near miss.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ..graph import Graph, Node
from .shapes import Fact, infer

__all__ = [
    "Constant",
    "Found",
    "Maybe",
    "Missing",
    "Operators",
    "Pattern",
    "Scalar",
    "Search",
    "Tensor",
    "Viewed",
    "either",
    "op",
    "pattern_of",
    "sum_of",
]

COMMUTATIVE = {"Add", "Mul"}


class Search:
    """A graph with its tables, and the near miss of the attempts made on it."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.producer = graph.producer()
        self.consumers = graph.consumers()
        self.outputs = {value.name for value in graph.outputs}
        self.reached = -1
        self.reason = ""
        self.place: Node | None = None
        self.notes: dict[Any, Any] = {}  # what guards found that takes long

    @cached_property
    def facts(self) -> dict[str, Fact]:
        """Shapes and contents, worked out where a guard asks for them."""
        return infer(self.graph)

    def miss(self, found: Found, reason: str, *, value: str = "", node: Node | None = None) -> None:
        """Remember why an attempt ended if none came further."""
        if len(found.nodes) > self.reached:
            self.reached, self.reason = len(found.nodes), reason
            self.place = node or self.producer.get(value)


@dataclass(frozen=True)
class Found:
    """Values and nodes of the graph that stand for parts of a pattern so far."""

    values: dict[Pattern, str] = field(default_factory=dict)
    nodes: tuple[Node, ...] = ()

    def bound(self, pattern: Pattern, value: str) -> Found:
        return Found({**self.values, pattern: value}, self.nodes)

    def joined(self, node: Node) -> Found:
        return Found(self.values, (*self.nodes, node))


class Pattern:
    """Something a value may be.  Arithmetic on patterns builds patterns."""

    name = ""

    def named(self, name: str) -> Pattern:
        """The same pattern; the match gives its value under this name."""
        self.name = name
        return self

    def find(self, value: str, found: Found, search: Search) -> Iterator[Found]:
        """Every way in which the value fits."""
        bound = found.values.get(self)
        if bound is None:
            yield from self.fit(value, found.bound(self, value), search)
        elif bound == value:
            yield found
        else:
            search.miss(found, f"expected '{bound}' again, found '{value}'", value=value)

    def fit(self, value: str, found: Found, search: Search) -> Iterator[Found]:
        raise NotImplementedError

    def parts(self) -> Sequence[Pattern]:
        return ()

    def __add__(self, other: Pattern | float) -> Pattern:
        return Operator("Add", (self, wrap(other)))

    def __radd__(self, other: float) -> Pattern:
        return Operator("Add", (wrap(other), self))

    def __sub__(self, other: Pattern | float) -> Pattern:
        return Operator("Sub", (self, wrap(other)))

    def __mul__(self, other: Pattern | float) -> Pattern:
        return Operator("Mul", (self, wrap(other)))

    def __rmul__(self, other: float) -> Pattern:
        return Operator("Mul", (wrap(other), self))

    def __truediv__(self, other: Pattern | float) -> Pattern:
        return Operator("Div", (self, wrap(other)))


class Tensor(Pattern):
    """Any value."""

    def fit(self, value: str, found: Found, search: Search) -> Iterator[Found]:
        if value:
            yield found
        else:
            search.miss(found, f"'{self.name}' is left out")


class Constant(Pattern):
    """A value known before the run."""

    def fit(self, value: str, found: Found, search: Search) -> Iterator[Found]:
        if value in search.graph.constants:
            yield found
        else:
            search.miss(found, f"'{self.name}' is not constant: '{value}'", value=value)


class Scalar(Pattern):
    """A constant of one element."""

    def fit(self, value: str, found: Found, search: Search) -> Iterator[Found]:
        array = search.graph.constants.get(value)
        if array is not None and np.size(array) == 1:
            yield found
        else:
            search.miss(found, f"'{self.name}' is not a constant scalar: '{value}'", value=value)


class Number(Pattern):
    """A constant scalar of a given value, as exactly as float32 holds it."""

    def __init__(self, number: float) -> None:
        self.number = number

    def fit(self, value: str, found: Found, search: Search) -> Iterator[Found]:
        array = search.graph.constants.get(value)
        if array is not None and np.size(array) == 1:
            if np.isclose(float(np.reshape(array, ())), self.number, rtol=1e-5, atol=0):
                yield found
                return
            search.miss(found, f"'{value}' is {np.reshape(array, ())}, expected {self.number:.6g}")
        else:
            search.miss(found, f"'{value}' is not the number {self.number:.6g}", value=value)


class Operator(Pattern):
    """The first output of a node; kind: as Node.kind has it."""

    def __init__(
        self, kind: str, inputs: Sequence[Pattern], attributes: dict[str, Any] | None = None
    ) -> None:
        self.kind = kind
        self.inputs = tuple(inputs)
        self.attributes = attributes or {}

    def parts(self) -> Sequence[Pattern]:
        return self.inputs

    def fit(self, value: str, found: Found, search: Search) -> Iterator[Found]:
        node = search.producer.get(value)
        if node is None or node.kind != self.kind:
            search.miss(found, f"expected {self.kind}, found {node or repr(value)}", node=node)
            return
        for name, wanted in self.attributes.items():
            if not same(node.attributes.get(name), wanted):
                got = node.attributes.get(name)
                search.miss(found, f"{node} has {name} = {got}, expected {wanted}", node=node)
                return
        given = [name for i, name in enumerate(node.inputs) if any(node.inputs[i:])]
        given += [""] * (len(self.inputs) - len(given))
        if len(given) != len(self.inputs):
            search.miss(
                found, f"{node} has {len(given)} inputs, expected {len(self.inputs)}", node=node
            )
            return
        orders = [given, given[::-1]] if self.kind in COMMUTATIVE else [given]
        for order in orders:
            yield from find_all(self.inputs, order, found.joined(node), search)


class Output(Pattern):
    """A further output of a node."""

    def __init__(self, operator: Operator, index: int) -> None:
        self.operator, self.index = operator, index

    def parts(self) -> Sequence[Pattern]:
        return (self.operator,)

    def fit(self, value: str, found: Found, search: Search) -> Iterator[Found]:
        node = search.producer.get(value)
        if (
            node is not None
            and len(node.outputs) > self.index
            and node.outputs[self.index] == value
        ):
            yield from self.operator.find(node.outputs[0], found, search)
        else:
            search.miss(found, f"expected output {self.index} of {self.operator.kind}", node=node)


class Either(Pattern):
    """The first of several spellings that fits."""

    def __init__(self, spellings: Sequence[Pattern]) -> None:
        self.spellings = tuple(spellings)

    def parts(self) -> Sequence[Pattern]:
        return self.spellings

    def fit(self, value: str, found: Found, search: Search) -> Iterator[Found]:
        for spelling in self.spellings:
            yield from spelling.find(value, found, search)


class Sum(Pattern):
    """A tree of Add whose leaves are the terms, in any order and any grouping."""

    def __init__(self, terms: Sequence[Pattern]) -> None:
        self.terms = tuple(terms)

    def parts(self) -> Sequence[Pattern]:
        return self.terms

    def fit(self, value: str, found: Found, search: Search) -> Iterator[Found]:
        for leaves, nodes in splits(value, len(self.terms), search):
            start = Found(found.values, (*found.nodes, *nodes))
            for order in itertools.permutations(leaves):
                yield from find_all(self.terms, order, start, search)


def splits(
    value: str, count: int, search: Search
) -> Iterator[tuple[tuple[str, ...], tuple[Node, ...]]]:
    """The ways to read a value as a sum of so many terms: terms, Add nodes."""
    node = search.producer.get(value)
    if count == 1:
        yield (value,), ()
    elif node is not None and node.kind == "Add":
        for left in range(1, count):
            for a, first in splits(node.inputs[0], left, search):
                for b, second in splits(node.inputs[1], count - left, search):
                    yield (*a, *b), (node, *first, *second)


class Missing(Pattern):
    """An input that is left out."""

    def fit(self, value: str, found: Found, search: Search) -> Iterator[Found]:
        if value:
            search.miss(found, f"'{value}' stands where nothing is expected", value=value)
        else:
            yield found


class Maybe(Pattern):
    """Any value, or none."""

    def fit(self, value: str, found: Found, search: Search) -> Iterator[Found]:
        yield found


class Viewed(Pattern):
    """What is left when some operators (Reshape, Transpose ...) are looked through."""

    def __init__(self, inner: Pattern, operators: Collection[str]) -> None:
        self.inner, self.operators = inner, operators

    def parts(self) -> Sequence[Pattern]:
        return (self.inner,)

    def fit(self, value: str, found: Found, search: Search) -> Iterator[Found]:
        yield from self.inner.find(value, found, search)
        node = search.producer.get(value)
        while node is not None and node.kind in self.operators:
            found, node = found.joined(node), search.producer.get(node.inputs[0])
            yield from self.inner.find(found.nodes[-1].inputs[0], found, search)


def find_all(
    patterns: Sequence[Pattern], values: Sequence[str], found: Found, search: Search
) -> Iterator[Found]:
    """Every way in which the values fit the patterns one by one."""
    if not patterns:
        yield found
        return
    for first in patterns[0].find(values[0], found, search):
        yield from find_all(patterns[1:], values[1:], first, search)


class Operators:
    """op.Sqrt(x), op.ReduceMean(x, axes=(-1,)), op.DynamicQuantizeLinear(x, outputs=3); the
    engine's own: op.engine.Linear(x, weight).
    """

    def __init__(self, domain: str = "") -> None:
        self._prefix = f"{domain}." if domain else ""

    @property
    def engine(self) -> Operators:
        return Operators("engine")

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def make(*inputs: Pattern | float, outputs: int = 1, **attributes: Any) -> Any:
            operator = Operator(self._prefix + name, [wrap(x) for x in inputs], attributes)
            if outputs == 1:
                return operator
            return (operator, *(Output(operator, i) for i in range(1, outputs)))

        return make


op = Operators()


def either(*spellings: Pattern) -> Pattern:
    """The first spelling that fits."""
    return Either(spellings)


def sum_of(*terms: Pattern) -> Pattern:
    """The terms added in any order and any grouping."""
    return Sum(terms)


def wrap(value: Pattern | float) -> Pattern:
    return value if isinstance(value, Pattern) else Number(float(value))


def same(got: Any, wanted: Any) -> bool:
    if isinstance(wanted, (tuple, list)):
        return got is not None and tuple(np.atleast_1d(got)) == tuple(wanted)
    return bool(got == wanted)


KINDS: dict[str, type[Pattern]] = {"Tensor": Tensor, "Constant": Constant, "Scalar": Scalar}


def pattern_of(function: Callable[..., Pattern]) -> Pattern:
    """The pattern that a function describes; parameters become variables of the annotated kind."""
    parameters = list(inspect.signature(function).parameters.values())[1:]
    variables = [KINDS[str(p.annotation).rsplit(".")[-1]]().named(p.name) for p in parameters]
    return function(op, *variables)


def names_in(pattern: Pattern, table: dict[str, list[Pattern]]) -> dict[str, list[Pattern]]:
    """Every named part of a pattern, by name; two spellings may use one name."""
    if pattern.name and pattern not in table.setdefault(pattern.name, []):
        table[pattern.name].append(pattern)
    for part in pattern.parts():
        names_in(part, table)
    return table
