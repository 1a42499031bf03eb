"""Steps as they are emitted, and what their kernels need to find ready."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..codegen.isa import Isa
from ..graph import Graph, Node
from ..kernels import KERNELS
from .memory import FORMS, Buffer
from .steps import Step

__all__ = ["Planner", "float32"]

Array = NDArray[Any]


class Planner:
    """The steps that have been emitted so far."""

    def __init__(self, graph: Graph, isa: Isa, results: Sequence[str] = ()) -> None:
        """results: names of the call's results, in their order."""
        self.graph, self.isa, self.results = graph, isa, tuple(results)
        self.steps: list[Step] = []
        self.layers: list[dict[str, Any]] = []
        self.made: dict[str, Buffer] = {}  # values rounded, interleaved or in another type
        self.tables: dict[tuple[str, ...], Array] = {}  # by the constants they were made of

    def emit(
        self,
        node: Node,
        kernel: str,
        variant: tuple[Any, ...],
        params: Mapping[str, Any],
        domain: str,
        **how: Any,
    ) -> None:
        """Add a step; params: by the names of the kernel's record, buffers without the bytes of
        their tiles; how: further fields of the Step.
        """
        record = KERNELS[kernel].params
        sizes = {
            f"{each}_tile": param.tile_bytes
            for each, param in params.items()
            if isinstance(param, Buffer) and f"{each}_tile" in record.names
        }
        packed = record.pack(**params, **sizes)
        name = node.name or node.outputs[0]
        self.steps.append(Step(name, kernel, variant, packed, domain, **how))

    def layer(self, node: Node, **facts: Any) -> None:
        """A line of describe(), for the step emitted last."""
        line = {
            "name": node.name or node.outputs[0],
            "op": node.op,
            "pattern": "",
            "zero_ratio": 0.0,
        }
        self.layers.append({**line, "kernel": self.steps[-1].kernel_name, **facts})

    def array(self, name: str) -> Array:
        """A constant."""
        return self.graph.constants[name]

    def optional(self, name: str) -> Array | None:
        """A constant, or None for an input left out."""
        return self.array(name) if name else None

    def formed(self, x: Buffer, form: str, width: int) -> Buffer:
        """x as a kernel wants it (FORMS), `width` tokens together; made once."""
        if x.form:
            assert (x.form, x.lanes) == (form, width), f"{x.name} was made for other readers"
            return x
        kernel, dtype = FORMS[form]
        name = f"{x.name}.{form}{width}"
        if name not in self.made:
            y = Buffer(name, x.domain, -(-x.channels // 4) * 4, dtype, form)
            variant = (x.lanes, width) if dtype == "u8" else (x.lanes, width, form)
            params = {"x": x, "y": y, "inputs": x.channels}
            self.emit(Node(form, (x.name,), (name,), name=name), kernel, variant, params, x.domain)
            self.made[name] = y
        return self.made[name]

    def quantized_tokens(self, x: Buffer) -> tuple[Buffer, Buffer]:
        """x in bytes, a scale for each token; and those scales and zero points.  Made once."""
        name = f"{x.name}.bytes"
        if name not in self.made:
            y = Buffer(name, x.domain, x.channels, "u8")
            scales = Buffer(f"{name}.scales", x.domain, 2, "f32")
            params = {"x": x, "y": y, "channels": x.channels, "scales": scales}
            node = Node("QuantizeTokens", (x.name,), (name,), name=name)
            width = self.isa.block_width(x.lanes)
            self.emit(node, "quantize_tokens", (x.lanes, width), params, x.domain)
            self.made[name], self.made[scales.name] = y, scales
        return self.made[name], self.made[f"{name}.scales"]


def float32(array: Array) -> Array:
    """In one piece and in float32; the same memory where it is so already."""
    return np.ascontiguousarray(array, np.float32)
