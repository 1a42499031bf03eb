"""What is known of a graph while kernels are chosen for its nodes, one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...codegen.isa import Isa
from ...graph import Graph, Node, Quantization
from ..measured import Configuration
from ..memory import FORMS, LINE, Buffer
from ..quantized import stored
from ..steps import Refusal, Unplanned

__all__ = [
    "Activation",
    "Choice",
    "Facts",
    "Handed",
    "LinearKernel",
    "ProbabilitiesChoice",
    "row_values",
]

Array = NDArray[Any]
MOST_CHANNELS = (1 << 23) - LINE  # of a value: places in a tile and tables of outputs are int32


@dataclass(frozen=True)
class Activation:
    """A value of the graph that kernels make."""

    buffer: Buffer
    channels: int  # of the value; its buffer may have more
    quantization: Quantization | None = None  # of the bytes in the buffer
    kept_axis: bool = False  # rows whose shape is [batch, 1, channels]
    returned: str = "float32"  # the type in which a call returns it
    less_128: bool = False  # bytes stored less 128, as attention multiplies values
    flat: bool = False  # of one channel, which is no axis: [batch, sequence], [batch]

    @property
    def shape(self) -> tuple[str, bool, bool, int]:
        """What decides the shape of the value."""
        return self.buffer.domain, self.kept_axis, self.flat, self.channels

    @property
    def is_plain(self) -> bool:
        """Float32 or bytes in a buffer of its own, channels as the last axis."""
        return self.buffer.of is None and not self.flat and self.returned == "float32"


@dataclass(frozen=True)
class Choice:
    """How kernels make a node's result."""

    y: Activation


@dataclass(frozen=True)
class Handed:
    """An input of the graph that it gives out as it is: no kernel runs, nothing is computed."""

    value: str


@dataclass(frozen=True)
class ProbabilitiesChoice:
    """How a Probabilities is made, where it is handed over: it lies in no buffer."""

    node: Node
    query: Activation
    key: Activation
    mask: str  # the input of the graph that says which keys count, or ""
    heads: int
    depth: int  # channels of a head
    variant: tuple[int, int]
    returned: str = "float32"  # the type in which a call returns it


@dataclass(frozen=True)
class LinearKernel:
    """A kernel, the form (memory.FORMS) in which it reads x or "", and how its weights are packed;
    width: tokens of its register block; panels: of the inputs.
    """

    kernel: str
    form: str
    packing: str
    width: int
    tiles: bool = False
    panels: int = 1


def row_values(graph: Graph, given: Iterable[str]) -> frozenset[str]:
    """The values that have one token a sentence; given: those that do anyway."""
    found = set(given)
    for node in graph:
        if node.kind in ("engine.Select", "engine.Pool") or found.intersection(node.inputs):
            found.update(node.outputs)
    return frozenset(found)


@dataclass
class Facts:
    """The graph, the options, and what has been chosen so far."""

    graph: Graph
    isa: Isa
    configurations: Mapping[str, Configuration] | None  # by the text of a measured.Layer
    finite: bool  # whether all constants are: if not, 0 times a value is not left out
    rows: frozenset[str]  # values of one token a sentence
    byte_values: frozenset[str]  # what attention on bytes reads as its second operand
    kernels: Mapping[str, LinearKernel | Refusal] = field(default_factory=dict)  # of floats
    varying: Mapping[str, Array] = field(default_factory=dict)  # dead_channels.varying_fours
    live: Mapping[str, Array] = field(default_factory=dict)  # dead_channels.live_channels
    values: dict[str, Activation] = field(default_factory=dict)
    probabilities: dict[str, ProbabilitiesChoice] = field(default_factory=dict)
    embedding: Node | None = None
    mask: str | None = None  # that of all attentions; None before the first

    def array(self, name: str) -> Array:
        """A constant."""
        if name not in self.graph.constants:
            raise Unplanned(f"'{name}' is not a constant")
        return self.graph.constants[name]

    def optional(self, name: str) -> Array | None:
        """A constant, or None for an input left out."""
        return self.array(name) if name else None

    def value(self, name: str, *, less_128: bool = False, plain: bool = True) -> Activation:
        """An activation; less_128: the reader multiplies by bytes that are stored so; plain: it
        takes no others (Activation.is_plain).
        """
        if name not in self.values:
            raise Unplanned(f"'{name}' is not an activation")
        found = self.values[name]
        if plain and not found.is_plain:
            raise Unplanned(f"'{name}' is some channels of a value, or their number")
        if found.less_128 != less_128:
            raise Unplanned(f"'{name}' is read both as values of attention on bytes and otherwise")
        return found

    def result(
        self,
        name: str,
        domain: str,
        channels: int,
        output: Quantization | None,
        *,
        group: int = 4,
        form: str = "",
        kept_axis: bool = False,
    ) -> Activation:
        """A value in a buffer of its own, in a form of FORMS if named; kernels write whole groups
        of channels.
        """
        if channels > MOST_CHANNELS:
            raise Unplanned(f"'{name}' has {channels} channels: kernels take {MOST_CHANNELS}")
        if output is not None and not self.finite:  # kernels on bytes know nothing of NaN
            raise Unplanned("some constants are not finite")
        dtype = FORMS[form][1] if form else "f32" if output is None else "u8"
        buffer = Buffer(name, domain, -(-channels // group) * group, dtype, form)
        return Activation(buffer, channels, stored(output), kept_axis)

    def live_of(self, y: Activation) -> Array | None:
        """bool [channels of the buffer]: those that are read; None for all."""
        live = self.live.get(y.buffer.name)
        return None if live is None else np.pad(live, (0, y.buffer.channels - len(live)))
