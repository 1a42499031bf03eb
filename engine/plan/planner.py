"""The walk over the choices: node by node to steps."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..graph import Graph, Node, Value
from ..kernels import KERNELS
from ..kernels.context import ROW_TILES, TILES
from .choose import Activation, Choice, Choices, ElementwiseChoice
from .choose.facts import block_width
from .memory import FORMS, Buffer
from .mixing import mixes_tokens
from .program import Plan, Result
from .steps import Refusal, Step

__all__ = ["Emitter", "Planner", "float32"]

log = logging.getLogger(__name__)
Array = NDArray[Any]
COUNTED = {"tokens": TILES, "rows": ROW_TILES}


class Planner:
    """The steps that have been emitted so far."""

    def __init__(self, choices: Choices, emitters: Mapping[type[Choice], Emitter]) -> None:
        self.graph, self.isa, self.choices = choices.graph, choices.isa, choices
        self.emitters = emitters
        self.steps: list[Step] = []
        self.layers: list[dict[str, Any]] = []
        self._forms: dict[str, Buffer] = {}  # a value rounded, interleaved or in another type

    # --- the walk
    def emit_all(self) -> None:
        """The steps of all nodes that kernels make."""
        for node in self.graph:
            choice = self.choices.of[node.outputs[0]]
            if not isinstance(choice, Refusal):
                self.emit_node(node, choice)

    def emit_node(self, node: Node, choice: Choice) -> None:
        """The steps of a node."""
        self.emitters[type(choice)](self, node, choice)

    def plan(self) -> Plan:
        """The plan of choices that are no refusal."""
        choices = self.choices
        assert choices.embedding is not None
        self.emit_all()
        results = [self._output(name, n) for n, name in enumerate(choices.outputs)]
        fallback = self._fallback(choices.fallback, results)
        attributes, inputs = choices.embedding.attributes, choices.embedding.inputs
        return Plan(
            self.isa,
            tuple(self.steps),
            tuple(results),
            fallback,
            choices.inputs,
            tuple(self.layers),
            first_position=int(attributes.get("position_offset", 0)),
            padding_id=attributes.get("padding_id"),
            most_positions=self._rows(inputs[3]),
            vocabulary=self._rows(inputs[2]),
            kinds=self._rows(inputs[4]),
            places=choices.places,
            mixes=self._mixes(fallback, results),
        )

    def _mixes(self, fallback: Graph | None, results: list[Result]) -> str:
        """How the fallback would read what kernels leave out, or nothing."""
        tokens, mask = [r.name for r in results if r.domain == "tokens"], self.choices.mask
        reason = mixes_tokens(fallback, tokens, mask) if fallback is not None and mask else None
        if reason:
            log.info("%s: %s; calls with masked tokens are NumPy's", self.graph.name, reason)
        return reason or ""

    def _rows(self, table: str) -> int:
        return len(self.graph.constants[table]) if table else 1

    def _output(self, name: str, number: int) -> Result:
        value = self.choices.values[name]
        buffer = value.buffer
        result = Result(name, buffer.domain, value.channels, value.kept_axis)
        kernel = "output_tokens" if buffer.domain == "tokens" else "output_rows"
        params = (buffer, buffer.tile_bytes, number, result.channels)
        self.emit(Node("Output", (name,), (), name=name), kernel, (), params, buffer.domain)
        return result

    def _fallback(self, nodes: tuple[Node, ...], results: list[Result]) -> Graph | None:
        names = {result.name for result in results}
        if not nodes and names.issuperset(value.name for value in self.graph.outputs):
            return None
        lengths = next(v.shape for v in self.graph.inputs if v.name == self.choices.inputs[0])
        named = dict(zip(("batch", "sequence"), lengths, strict=True))  # as other inputs have it
        inputs = tuple(
            Value(each.name, "float32", tuple(named.get(str(n), n) for n in each.shape))
            for each in results
        )
        kept = tuple(value for value in self.graph.inputs if value.name not in names)
        return self.graph.changed(inputs=(*kept, *inputs), nodes=nodes).without_dead_nodes()

    # --- what emitters use
    def emit(
        self,
        node: Node,
        kernel: str,
        variant: tuple[Any, ...],
        params: tuple[Any, ...] | Mapping[str, Any],
        domain: str,
        *,
        units: int = 1,
        macs: int = 0,
        skipped_macs: int = 0,
        own_tiles: bool = True,
        **facts: Any,
    ) -> None:
        """Add a step; params: by the names of the kernel's record, buffers without the bytes of
        their tiles; facts are kept with it.
        """
        name = node.name or node.outputs[0]
        counted = COUNTED[domain]
        if isinstance(params, Mapping):
            record = KERNELS[kernel].params
            sizes = {
                f"{each}_tile": param.tile_bytes
                for each, param in params.items()
                if isinstance(param, Buffer) and f"{each}_tile" in record.names
            }
            params = tuple(record.pack(**params, **sizes).values())
        self.steps.append(
            Step(
                name, kernel, variant, params, counted, units, macs, skipped_macs, own_tiles, facts
            )
        )

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
        if name not in self._forms:
            y = Buffer(name, x.domain, -(-x.channels // 4) * 4, dtype, form)
            variant = (x.lanes, width) if dtype == "u8" else (x.lanes, width, form)
            params = (x, x.tile_bytes, y, y.tile_bytes, x.channels)
            self.emit(Node(form, (x.name,), (name,), name=name), kernel, variant, params, x.domain)
            self._forms[name] = y
        return self._forms[name]

    def quantized_tokens(self, x: Buffer) -> tuple[Buffer, Buffer]:
        """x in bytes, a scale for each token; and those scales and zero points.  Made once."""
        name = f"{x.name}.bytes"
        if name not in self._forms:
            y = Buffer(name, x.domain, x.channels, "u8")
            scales = Buffer(f"{name}.scales", x.domain, 2, "f32")
            params = (x, x.tile_bytes, y, y.tile_bytes, x.channels, scales, scales.tile_bytes)
            node = Node("QuantizeTokens", (x.name,), (name,), name=name)
            width = block_width(self.isa, x.lanes)
            self.emit(node, "quantize_tokens", (x.lanes, width), params, x.domain)
            self._forms[name], self._forms[scales.name] = y, scales
        return self._forms[name], self._forms[f"{name}.scales"]

    def in_floats(self, node: Node, x: Activation) -> Buffer:
        """x as float32 for a node; itself where it is so already.  Made once."""
        if x.buffer.dtype == "f32":
            return x.buffer
        name, source = f"{x.buffer.name}.float", x.buffer
        if name not in self._forms:
            self._forms[name] = Buffer(name, source.domain, -(-x.channels // 4) * 4, "f32")
            y = Activation(self._forms[name], x.channels)
            self.emit_node(node, ElementwiseChoice(y, x, "none"))
        return self._forms[name]


Emitter = Callable[[Planner, Node, Any], None]


def float32(array: Array) -> Array:
    """In one piece and in float32; the same memory where it is so already."""
    return np.ascontiguousarray(array, np.float32)
