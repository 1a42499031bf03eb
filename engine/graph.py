"""The graph all stages share: nodes in order, named values, constants as arrays.

A Graph is data.  Passes take one and return another; nothing here knows ONNX, files or kernels.
Values are named by strings; a value is a graph input, a constant or the output of exactly one node.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from .errors import ModelError

__all__ = ["BLOCKS", "Graph", "ModelMetadata", "Node", "Quantization", "Value"]

Array = NDArray[Any]
BLOCKS = {"4x1": (4, 1), "1x4": (1, 4)}  # pattern of a pruned weight -> outputs, inputs of a block
NO_ATTRIBUTES: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Quantization:
    """real = (stored - zero_point) * scale; stored in dtype ("uint8" | "int8"), rounded to nearest
    even, saturated."""

    scale: float
    zero_point: int
    dtype: str = "uint8"


@dataclass(frozen=True)
class Value:
    """A graph input or output; a dimension is a length, or a name ("batch") where it is free."""

    name: str
    dtype: str  # NumPy's name: "int64", "float32", ...
    shape: tuple[int | str, ...]


_input_names: dict[str, tuple[str, ...]] = {}  # by Node.kind


def name_inputs(kind: str, names: tuple[str, ...]) -> None:
    """What the inputs of an operator are called, as its row declares them (ops/operators.py)."""
    _input_names[kind] = names


@dataclass(frozen=True)
class Node:
    """One operation.  An input that is left out is the empty string, as in ONNX."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=lambda: NO_ATTRIBUTES)
    name: str = ""
    domain: str = ""  # "" is ONNX's own, "engine" the fused operators of docs/design.md

    @cached_property
    def kind(self) -> str:
        """Operator and domain: "MatMul" (ONNX's own), "engine.Linear", "com.microsoft.Attention".

        What an operator is asked by: a domain may give any meaning to a name that others have too.
        """
        return f"{self.domain}.{self.op}" if self.domain else self.op

    def __getattr__(self, name: str) -> str:
        """An input by the name that its operator gives it: `node.weight`; "" where it is left out.

        Raises:
            AttributeError: lists the names there are.
        """
        if name.startswith("_") or "domain" not in self.__dict__:  # one that is being unpickled
            raise AttributeError(name)
        names = _input_names.get(self.kind, ())
        if name not in names:
            raise AttributeError(f"{self} has no input {name!r}: {', '.join(names) or 'no names'}")
        place = names.index(name)
        return self.inputs[place] if place < len(self.inputs) else ""

    def __str__(self) -> str:
        return f"node '{self.name or ''.join(self.outputs[:1])}' ({self.op})"

    def changed(self, **fields: Any) -> Node:
        """The same node with some fields replaced."""
        return replace(self, **fields)


@dataclass(frozen=True)
class ModelMetadata:
    """What a model's file says of itself; the fields that ONNX Runtime shows."""

    graph_name: str = ""
    producer_name: str = "engine"
    description: str = ""
    graph_description: str = ""
    domain: str = ""
    version: int = 0
    custom_metadata_map: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Graph:
    """Nodes in an order in which they can run."""

    name: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    nodes: tuple[Node, ...]
    constants: Mapping[str, Array]
    opset: int = 17
    has_bfloat16: bool = False  # the file stores some tensors so; their values are float32 here
    metadata: ModelMetadata | None = None  # an IR has none

    def constant(self, name: str) -> Value:
        """Name, type and shape of a constant, for which blocks on disk are not expanded."""
        described = getattr(self.constants, "described", None)  # those of an IR: store.Stored
        if described is not None:
            return cast(Value, described(name))
        array = self.constants[name]
        return Value(name, array.dtype.name, array.shape)

    def numbers(self, name: str) -> Array:
        """Of a constant, in any order; the zeros between blocks on disk are left out."""
        numbers = getattr(self.constants, "numbers", None)
        return cast(Array, numbers(name)) if numbers is not None else self.constants[name]

    def constant_is_scalar(self, name: str) -> bool:
        """Whether it is a constant of one element, whatever its rank."""
        return name in self.constants and self.elements(name) == 1

    def elements(self, name: str) -> int:
        """Of a constant."""
        return math.prod(int(length) for length in self.constant(name).shape)

    @cached_property
    def constant_elements(self) -> int:
        """Of all constants together."""
        return sum(map(self.elements, self.constants))

    def producer(self) -> dict[str, Node]:
        """Value name -> the node that makes it."""
        return {out: node for node in self.nodes for out in node.outputs if out}

    def consumers(self) -> dict[str, list[Node]]:
        """Value name -> nodes that read it, in order; graph outputs are not counted."""
        table: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                if name:
                    table.setdefault(name, []).append(node)
        return table

    def changed(self, **fields: Any) -> Graph:
        """The same graph with some fields replaced."""
        return replace(self, **fields)

    def live_nodes(self) -> tuple[Node, ...]:
        """Those that the outputs need."""
        live = {value.name for value in self.outputs}
        kept: list[Node] = []
        for node in reversed(self.nodes):
            if live.intersection(node.outputs):
                kept.append(node)
                live.update(name for name in node.inputs if name)
        return tuple(reversed(kept))

    def without_dead_nodes(self) -> Graph:
        """Only what the outputs need: nodes and constants that nothing reads are dropped."""
        nodes = self.live_nodes()
        live = {value.name for value in self.outputs}.union(*(node.inputs for node in nodes))
        constants = {name: self.constants[name] for name in self.constants if name in live}
        return self.changed(nodes=nodes, constants=constants)

    def check(self) -> Graph:
        """The graph itself, if every value is made once and before it is read.  What operators take
        is held against their rows by `ops.checked`.

        Raises:
            ModelError: names the node and the value that break the rule.
        """
        made = {value.name for value in self.inputs} | set(self.constants)
        if len(made) != len(self.inputs) + len(self.constants) or "" in made:
            names = [value.name for value in self.inputs]
            raise ModelError(f"{self.name}: inputs {names}: one is twice, a constant or nameless")
        for node in self.nodes:
            self._check_order(node, made)
        self._check_outputs(made)
        return self

    def _check_outputs(self, made: set[str]) -> None:
        types: dict[str, str] = {}
        for value in self.outputs:  # one may be twice, as torch writes hidden states
            if value.name not in made:
                raise ModelError(f"{self.name}: output '{value.name}' is made by no node")
            if types.setdefault(value.name, value.dtype) != value.dtype:
                found = f"{types[value.name]} and {value.dtype}"
                raise ModelError(f"{self.name}: output '{value.name}' is {found}")

    def _check_order(self, node: Node, made: set[str]) -> None:
        """The node reads what is made and makes what is not yet."""
        if not node.outputs:
            raise ModelError(f"{self.name}: {node}, which reads {list(node.inputs)}, makes nothing")
        for name in node.inputs:
            if name and name not in made:
                raise ModelError(
                    f"{self.name}: {node} reads '{name}', which nothing before it makes"
                )
        for name in node.outputs:
            if name and name in made:
                raise ModelError(f"{self.name}: {node} makes '{name}' a second time")
            made.add(name)

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)


def is_scalar(array: Array | None) -> bool:
    """One element, whatever the rank."""
    return array is not None and np.size(array) == 1
