"""One walk over the operators of the original: what each name stands for, and the graph so far.

Letters of axes: b batch, s sequence, t tokens (b s), h heads, d channels of a head,
c channels (h d).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import IntegrityError, UnsupportedError
from ...graph import Graph, Node, Quantization, Value
from ...ops.operators import DECLARED
from .content import Content, Operator

__all__ = [
    "Activation",
    "Gathered",
    "Input",
    "Positions",
    "Scores",
    "Translation",
    "permuted",
    "plain",
]

Array = NDArray[Any]
STORAGE: dict[str, dict[str, int | None]] = {  # attribute -> input it is about; None: the result
    kind: {
        **{each.stored: place for place, each in enumerate(row.inputs) if each.stored},
        "output": None,
    }
    for kind, row in DECLARED.items()
    if "output" in row.attributes
}


# --- what a name stands for ---
@dataclass(frozen=True)
class Input:
    """An input of the graph, of any shape; `mask`: as what is added to scores."""

    name: str
    mask: bool = False


@dataclass(frozen=True)
class Positions:
    """The table's first rows, one for each place."""

    table: str


@dataclass(frozen=True)
class Gathered:
    """A sum of rows of tables: (table, input) each."""

    tables: tuple[tuple[str, str], ...]
    positions: str = ""


@dataclass(frozen=True)
class Activation:
    """A value of the graph; `residual` and `bias` are for the LayerNorm behind it to add."""

    name: str
    channels: int
    axes: str  # "tc", "ct", "bsc", "bshd", "hdbs"; "1c", "c": the row of one token
    heads: int = 1
    residual: str = ""
    bias: str = ""


@dataclass(frozen=True)
class Scores:
    """Of attention; after the softmax with how it is stored."""

    query: Activation
    key: Activation
    mask: str
    scale: float
    scores: Quantization | None
    softmax: bool = False
    probabilities: Quantization | None = None


Meaning = Input | Positions | Gathered | Activation | Scores
Translate = Callable[["Translation", Operator], None]


class Translation:
    """One walk over the operators, in order."""

    def __init__(self, content: Content, operators: Mapping[str, Translate]) -> None:
        self.content, self.operators = content, operators
        self.meanings: dict[str, Meaning] = {name: Input(plain(name)) for name in content.inputs}
        self.stored: dict[str, Quantization] = {}  # value of the graph -> how it is kept
        self.constants: dict[str, Array] = {}
        self.nodes: list[Node] = []
        self.outputs: list[Value] = []

    def run(self) -> Graph:
        for operator in self.content.operators:
            if operator.type not in self.operators:
                known = ", ".join(sorted(self.operators))
                raise self.error(operator, f"no such operator is known; those are {known}")
            self.operators[operator.type](self, operator)
        shape = ("batch", "sequence")
        inputs = tuple(Value(plain(name), "int64", shape) for name in self.content.inputs)
        nodes = tuple(self.with_storage(node) for node in self.nodes)
        return Graph(self.content.name, inputs, tuple(self.outputs), nodes, self.constants)

    def with_storage(self, node: Node) -> Node:
        """The node with the quantisation of what it reads and makes."""
        read = dict(enumerate(node.inputs))  # without optional ones at the end
        how = {
            key: self.stored.get(node.outputs[0] if place is None else read.get(place, ""))
            for key, place in STORAGE.get(node.kind, {}).items()
        }
        return node.changed(attributes={**node.attributes, **how})

    # --- what the operators' functions use ---
    def error(self, operator: Operator, reason: str) -> UnsupportedError:
        return UnsupportedError(f"{self.content.place}: {operator}: {reason}")

    def meaning(self, operator: Operator, place: int, *kinds: type) -> Any:
        """What input number `place` stands for, if it is one of the kinds."""
        name = self.input(operator, place)
        found = self.meanings.get(name)
        if found is None and name not in self.content.tensors:
            raise IntegrityError(
                f"{self.content.place}: {operator} reads '{name}', which nothing before it makes"
            )
        if not isinstance(found, kinds):
            wanted = " or ".join(kind.__name__.lower() for kind in kinds)
            had = "a constant" if found is None else type(found).__name__.lower()
            raise self.error(operator, f"input '{name}' is {had}; expected {wanted}")
        return found

    def input(self, operator: Operator, place: int) -> str:
        if place >= len(operator.inputs):
            raise self.error(operator, f"{len(operator.inputs)} inputs; expected {place + 1}")
        return operator.inputs[place]

    def array(self, operator: Operator, name: str) -> Array:
        if name not in self.content.tensors:
            raise self.error(operator, f"'{name}' is not a constant")
        return self.content.array(name)

    def constant(self, operator: Operator, name: str) -> str:
        """A constant of the graph, as it lies in the file."""
        self.constants[plain(name)] = self.array(operator, name)
        return plain(name)

    def add_constant(self, name: str, array: Array) -> str:
        self.constants[name] = array
        return name

    def range(self, operator: Operator, least: str, greatest: str) -> tuple[Array, Array]:
        low, high = self.array(operator, least), self.array(operator, greatest)
        if low.shape != high.shape or not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise IntegrityError(f"{self.content.place}: {operator}: '{least}' is not a range")
        return low, high

    def quantization(self, operator: Operator, least: str, greatest: str) -> Quantization:
        """uint8 over one range, zero included."""
        low, high = self.range(operator, least, greatest)
        if low.size != 1 or not float(low.ravel()[0]) <= 0 <= float(high.ravel()[0]) or low == high:
            raise IntegrityError(
                f"{self.content.place}: {operator}: range '{least}' is {low.ravel()[:4]} to"
                f" {high.ravel()[:4]}; expected one from 0 or below to 0 or above"
            )
        scale = np.float32((np.float64(high.ravel()[0]) - low.ravel()[0]) / 255)
        zero_point = int(np.clip(np.rint(-low.ravel()[0] / scale), 0, 255))
        return Quantization(float(scale), zero_point)

    def emit(
        self, operator: Operator, op: str, inputs: tuple[str, ...], out: str, **how: Any
    ) -> None:
        self.nodes.append(Node(op, inputs, (out,), how, operator.name, "engine"))

    def mean(self, operator: Operator, meaning: Meaning) -> None:
        """What the operator's output stands for."""
        if len(operator.outputs) != 1:
            raise self.error(operator, f"{len(operator.outputs)} outputs; expected 1")
        self.meanings[operator.outputs[0]] = meaning


def plain(name: str) -> str:
    """Their names end in ":0"."""
    return name.removesuffix(":0")


def permuted(axes: str, order: tuple[int, ...]) -> str:
    """The letters in another order; "" where the order does not fit them."""
    return "".join(axes[i] for i in order) if sorted(order) == list(range(len(axes))) else ""
