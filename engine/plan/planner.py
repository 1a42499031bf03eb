"""The walk over the graph: node by node to steps, as far as handlers know the operators.

A handler raises Unplanned with a sentence where it has no kernel for a node; the plan ends there
and the tail takes over.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..codegen.isa import Isa
from ..graph import Graph, Node, Quantization, Value
from ..kernels import KERNELS
from ..kernels.context import ROW_TILES, TILES
from ..passes.lengths import alike
from .measured import Choice, Choices
from .memory import LINE, Buffer
from .mixing import mixes_tokens
from .program import Plan, Result
from .quantized import attention_is_bytes, stored
from .steps import Step, Unplanned
from .unread import channels_read, varying_fours

__all__ = ["Handler", "Planner"]

log = logging.getLogger(__name__)
Array = NDArray[Any]
COUNTED = {"tokens": TILES, "rows": ROW_TILES}
MOST_CHANNELS = (1 << 23) - LINE  # of a value: places in a tile and tables of outputs are int32
FORMS = {  # a form of x -> the kernel that makes it, and its type
    "quads": ("interleave_rows", "u8"),
    "rows": ("round_rows", "bf16"),
    "pairs": ("round_rows", "bf16"),
    "pieces": ("round_rows", "f32"),
    "words": ("round_rows", "bf16"),
}


class Planner:
    """What has been planned so far: steps, and where each value of the graph lies."""

    def __init__(
        self,
        graph: Graph,
        isa: Isa,
        choices: Choices | None = None,
        *,
        whole: bool = False,
        finite: bool = True,
    ) -> None:
        """whole: channels that nobody reads are made too; so is, unless constants are finite,
        whatever is multiplied by 0.
        """
        self.graph, self.isa, self.choices = graph, isa, choices
        self.finite = finite
        self.fixed_choice: Choice | None = None  # of a trial, whatever was measured
        self.buffers: dict[str, Buffer] = {}
        self.quantized: dict[str, Quantization | None] = {}  # by the buffer's name
        self.channels: dict[str, int] = {}  # by the buffer's name, which may have more
        self.kept_axis: set[str] = set()  # values of rows whose shape is [batch, 1, channels]
        self.steps: list[Step] = []
        self.layers: list[dict[str, Any]] = []
        self.inputs = {"ids": "", "types": "", "mask": ""}
        self.attended = False  # an attention is planned: all others have its mask
        self.embedding: Node | None = None
        self.of_rows: set[str] = set()  # values of one token a sentence, planned yet or not
        for node in graph:
            if node.kind == "engine.Select" or self.of_rows.intersection(node.inputs[:1]):
                self.of_rows.update(node.outputs)
        self.varying: dict[str, Array] = {}
        self.read: dict[str, Array] = {}
        if finite and not whole:
            # tiles multiply all channels of queries and keys in bytes
            self.varying = varying_fours(graph, in_bytes=not isa.has("amx-int8"))
            self.read = channels_read(graph, self.varying, self._block_read)
        self._forms: dict[str, Buffer] = {}  # a value rounded or interleaved for a kernel
        attentions = [node for node in graph if node.kind == "engine.Attention"]
        # what attention_u8 reads as its second operand: stored less 128
        self.flipped = {node.inputs[2] for node in attentions if attention_is_bytes(node)}
        self.less_128: set[str] = set()  # of the flipped, those that are made so

    # --- the walk
    def plan(self, handlers: Mapping[str, Handler]) -> Plan | None:
        """The plan as far as it goes; None where that is nowhere."""
        for number, node in enumerate(self.graph.nodes):
            try:
                handler = handlers.get(node.kind)
                if handler is None:
                    raise Unplanned("no kernel has this operator")
                if any(node.outputs[1:]):
                    raise Unplanned("more than one result")
                handler(self, node)
            except Unplanned as reason:
                log.info("%s: %s is left to NumPy: %s", self.graph.name, node, reason)
                return self._finished(self.graph.nodes[number:])
        return self._finished(())

    def _finished(self, rest: tuple[Node, ...]) -> Plan | None:
        if self.embedding is None:
            return None
        if not self._inputs_are_alike():
            log.info("%s: ids, types and mask have other shapes, so NumPy has it", self.graph.name)
            return None
        wanted = {name for node in rest for name in node.inputs}
        wanted.update(value.name for value in self.graph.outputs)
        handed = [name for name in self.buffers if name in wanted]
        if any(self.buffers[name].dtype != "f32" for name in handed):
            log.info("%s: the tail reads bytes, so NumPy has all of it", self.graph.name)
            return None
        results = [self._handed_over(name, number) for number, name in enumerate(handed)]
        tail = self._tail(rest, results)
        attributes, inputs = self.embedding.attributes, self.embedding.inputs
        return Plan(
            self.isa,
            tuple(self.steps),
            tuple(results),
            tail,
            (self.inputs["ids"], self.inputs["types"], self.inputs["mask"]),
            tuple(self.layers),
            first_position=int(attributes.get("position_offset", 0)),
            padding_id=attributes.get("padding_id"),
            most_positions=self._rows(inputs[3]),
            vocabulary=self._rows(inputs[2]),
            kinds=self._rows(inputs[4]),
            mixes=self._mixes(tail, results),
        )

    def _mixes(self, tail: Graph | None, results: list[Result]) -> str:
        """How the tail would read what kernels leave out, or nothing."""
        tokens, mask = [r.name for r in results if r.domain == "tokens"], self.inputs["mask"]
        reason = mixes_tokens(tail, tokens, mask) if tail is not None and mask else None
        if reason:
            log.info("%s: %s; calls with masked tokens are NumPy's", self.graph.name, reason)
        return reason or ""

    def _inputs_are_alike(self) -> bool:
        """Kernels read ids, types and mask as [batch, length]; in ONNX they may broadcast."""
        shapes = [v.shape for v in self.graph.inputs if v.name in self.inputs.values()]
        return all(len(shape) == 2 and alike(shape, shapes[0]) for shape in shapes)

    def _rows(self, table: str) -> int:
        return len(self.graph.constants[table]) if table else 1

    def _handed_over(self, name: str, number: int) -> Result:
        buffer = self.buffers[name]
        result = Result(name, buffer.domain, self.width(name), name in self.kept_axis)
        kernel = "output_tokens" if buffer.domain == "tokens" else "output_rows"
        params = (buffer, buffer.tile_bytes, number, result.channels)
        self.emit(Node("Output", (name,), (), name=name), kernel, (), params, buffer.domain)
        return result

    def _tail(self, nodes: tuple[Node, ...], results: list[Result]) -> Graph | None:
        names = {result.name for result in results}
        if not nodes and names.issuperset(value.name for value in self.graph.outputs):
            return None
        lengths = next(v.shape for v in self.graph.inputs if v.name == self.inputs["ids"])
        named = dict(
            zip(("batch", "sequence"), lengths, strict=True)
        )  # as the other inputs have it
        inputs = tuple(
            Value(each.name, "float32", tuple(named.get(str(n), n) for n in each.shape))
            for each in results
        )
        kept = tuple(value for value in self.graph.inputs if value.name not in names)
        return self.graph.changed(inputs=(*kept, *inputs), nodes=nodes).without_dead_nodes()

    def _block_read(self, node: Node) -> int:
        from .product import block_read  # it asks how this planner would make a product

        return block_read(self, node)

    # --- what handlers use
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
        spared: int = 0,
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
                if isinstance(param, Buffer) and f"{each}_tile" in record._fields
            }
            params = tuple(record.pack(**params, **sizes).values())
        self.steps.append(
            Step(name, kernel, variant, params, counted, units, macs, spared, own_tiles, facts)
        )

    def read_of(self, buffer: Buffer) -> Array | None:
        """bool: which channels of a value somebody reads; None for all."""
        read = self.read.get(buffer.name)
        return None if read is None else np.pad(read, (0, buffer.channels - len(read)))

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
        if name not in self.graph.constants:
            raise Unplanned(f"'{name}' is not a constant")
        return self.graph.constants[name]

    def optional(self, name: str) -> Array | None:
        """A constant, or None for an input left out."""
        return self.array(name) if name else None

    def buffer(self, name: str, *, less_128: bool = False) -> Buffer:
        """Where a value lies; less_128: the reader takes it as the second operand of a product."""
        buffer = self._lies_in(name)
        if (buffer.name in self.less_128) != less_128:
            raise Unplanned(f"'{name}' is read both as values of attention on bytes and otherwise")
        return buffer

    def width(self, name: str) -> int:
        """Channels of a value; its buffer may have more."""
        return self.channels[self._lies_in(name).name]

    def _lies_in(self, name: str) -> Buffer:
        if name not in self.buffers:
            raise Unplanned(f"'{name}' is not an activation")
        return self.buffers[name]

    def make(
        self,
        name: str,
        domain: str,
        channels: int,
        output: Quantization | None,
        *,
        group: int = 4,
        form: str = "",
    ) -> Buffer:
        """A new buffer for a value, in a form of FORMS if named; kernels write whole groups of
        channels.
        """
        if channels > MOST_CHANNELS:
            raise Unplanned(f"'{name}' has {channels} channels: kernels take {MOST_CHANNELS}")
        if output is not None and not self.finite:  # kernels on bytes know nothing of NaN
            raise Unplanned("some constants are not finite")
        dtype = FORMS[form][1] if form else "f32" if output is None else "u8"
        buffer = Buffer(name, domain, -(-channels // group) * group, dtype, form)
        self.buffers[name], self.quantized[name] = buffer, stored(output)
        self.channels[name] = channels
        return buffer

    def rename(self, old: str, new: str) -> None:
        """Another value in the same buffer."""
        self.buffers[new] = self.buffer(old)

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


Handler = Callable[[Planner, Node], None]


def block_width(isa: Isa, lanes: int) -> int:
    """Tokens of a register block of four outputs: as many as registers hold."""
    return min(lanes, 64 if isa.width == 512 else 16)


def float32(array: Array) -> Array:
    """In one piece and in float32; the same memory where it is so already."""
    return np.ascontiguousarray(array, np.float32)
