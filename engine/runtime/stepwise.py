"""A program run one step at a time, each step's result read back.

`values` gives what kernels made under the graph's names for it (`engine compare`).  `check`
(ENGINE_CHECK=1) puts what a step read into its operator's NumPy meaning and compares with what it
made, so one step's error is not the next one's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CheckError
from ..graph import Graph, Node, Quantization
from ..kernels import context as slots
from ..kernels import kernel
from ..kernels.drive import STEP_BYTES
from ..kernels.harness import from_tiles, in_order
from ..ops import reference
from ..ops.numbers import dequantized
from ..plan import Buffer, Plan
from ..plan.quantized import attention_is_bytes
from .session import Session
from .workers import KERNEL

__all__ = ["StepValue", "check", "quantizations", "values"]

Array = NDArray[Any]
TYPES = {"u8": np.uint8, "f32": np.float32, "bf16": np.uint16}
RESULTS = ("output_tokens", "output_rows")  # they only read
LESS_128 = np.uint8(128)
PASS_ON = ("engine.Select", "Squeeze", "Flatten", "Reshape")  # values of x, as x is stored
SAID_BY = {"engine.Embedding": 2, "engine.LayerNorm": 3}  # an input as wide as the result
STEPS_OF_8_BITS = 2  # near the middle of two a value may be rounded either way
RELATIVE = {"float32": 2e-3, "bfloat16": 2e-2}  # of the largest value


@dataclass(frozen=True)
class StepValue:
    """A value of the graph as a step left it, in the graph's type."""

    name: str
    kernel: str
    array: Array  # [batch, length, channels], 0 where a token is masked; rows [batch, 1, channels]
    real: Array | None  # bool [batch, length]: tokens that count; None for rows


def values(graph: Graph, feeds: Mapping[str, Array]) -> dict[str, StepValue]:
    """What each step makes, in order; nothing if no kernel takes part in this call."""
    session = Stepwise(graph)
    session.run(feeds)
    return session.made


class Stepwise(Session):
    """A session of one thread whose run stops after each step, which makes all its channels."""

    _whole = True

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph, threads=1)
        self.made: dict[str, StepValue] = {}
        self._check = False
        attentions = [node for node in graph if node.kind == "engine.Attention"]
        self._flipped = {node.inputs[2] for node in attentions if attention_is_bytes(node)}
        self._signed = {name for name, how in quantizations(graph).items() if how.dtype == "int8"}
        if self.plan is not None:
            self._prepare = KERNEL(kernel(self.isa, "prepare").address)
            self._whole_run = KERNEL(kernel(self.isa, "run", False).address)
            self._run = self._step_by_step  # type: ignore[assignment]

    def _step_by_step(self, address: int) -> None:
        assert self.plan is not None
        context = self._workers[0].address
        self._prepare(address, context, 0, 0)
        if self._call[19] or self._call[20]:
            return
        call, kept = self._call, self._call.copy()
        program = next(each for each in self._programs.values() if each.address == call[8])
        for pack in range(int(kept[12])):
            call[11], call[12] = kept[11] + 8 * pack, 1
            for number in range(len(self.plan.steps)):
                call[6], call[8], call[9], call[22] = 0, kept[8] + STEP_BYTES * number, 1, 1
                self._whole_run(address, context, 0, 0)
                self._keep(self.plan, number, program.offsets)
        call[:] = kept

    def _keep(self, plan: Plan, number: int, offsets: Mapping[Buffer, int]) -> None:
        """Copy what step `number` has made."""
        step, batch, length = plan.steps[number], int(self._call[3]), int(self._call[4])
        widths = _widths(self.graph)
        for buffer in dict.fromkeys(step.buffers()):
            if (
                step.kernel in RESULTS
                or plan.first_use(buffer) != number
                or buffer.name not in widths
            ):
                continue
            there = plan.places.get(buffer.name, slice(widths[buffer.name]))
            array = self._read(buffer, offsets[buffer])[:, there]
            places = self._places(buffer)
            if buffer.name not in self.made:
                rows = length if buffer.domain == "tokens" else 1
                whole = np.zeros((batch, rows, array.shape[1]), array.dtype)
                real = np.zeros((batch, rows), bool) if buffer.domain == "tokens" else None
                self.made[buffer.name] = StepValue(buffer.name, step.kernel_name, whole, real)
            found = self.made[buffer.name]
            found.array.reshape(-1, array.shape[1])[places] = array
            if found.real is not None:
                found.real.reshape(-1)[places] = True

    def _slot(self, slot: int) -> int:
        return int(self._workers[0].context[slot // 8])

    def _places(self, buffer: Buffer) -> Array:
        """Of the pack's tokens in the batch, or of its sentences."""
        worker = self._workers[0]
        if buffer.domain == "rows":
            array, count = self._slot(slots.ROW_SENTENCES), self._slot(slots.SENTENCES)
        else:
            array, count = self._slot(slots.PLACES), self._slot(slots.TOKENS)
        first = (array - worker.arrays.ctypes.data) // 4
        return worker.arrays.view(np.int32)[first : first + count]

    def _read(self, buffer: Buffer, offset: int) -> Array:
        """[tokens or sentences, channels] in the graph's type."""
        count = self._slot(slots.TOKENS if buffer.domain == "tokens" else slots.SENTENCES)
        tiles = -(-count // buffer.lanes)
        raw = self._workers[0].arena[offset : offset + tiles * buffer.tile_bytes]
        shape = (tiles, buffer.channels, buffer.lanes)
        array = from_tiles(
            in_order(raw.view(TYPES[buffer.dtype]), shape, buffer.form), count
        ).copy()
        if buffer.dtype == "bf16":
            return (array.astype(np.uint32) << 16).view(np.float32)
        if buffer.name in self._flipped:
            array ^= LESS_128
        return (array ^ LESS_128).view(np.int8) if buffer.name in self._signed else array


def _widths(graph: Graph) -> dict[str, int]:
    """Value -> its channels; a buffer may have more."""
    found: dict[str, int] = {}
    for node in graph:
        width = found.get(node.inputs[0], 0)
        if node.kind in SAID_BY:
            width = graph.constants[node.inputs[SAID_BY[node.kind]]].shape[-1]
        elif node.kind == "engine.Linear":
            width = len(graph.constants[node.inputs[1]])
        found.update(dict.fromkeys(node.outputs, width))
    return found


def quantizations(graph: Graph) -> dict[str, Quantization]:
    """Values that are stored in 8 bits, and how."""
    found: dict[str, Quantization] = {}
    for node in graph:
        how = node.attributes.get("output")
        if node.kind in PASS_ON:
            how = found.get(node.inputs[0])
        if isinstance(how, Quantization):
            found[node.outputs[0]] = how
    return found


# --- ENGINE_CHECK ---
def check(graph: Graph, feeds: Mapping[str, Array]) -> int:
    """Each step against its operator's NumPy meaning; the number of values compared.

    Raises:
        CheckError: the first step whose result differs: kernel, value, place, how far.
    """
    made = values(graph, feeds)
    known = {name: value.array for name, value in made.items()}
    for value in graph.inputs:
        known[value.name] = np.asarray(feeds[value.name]).astype(value.dtype)
    stored = quantizations(graph)
    compared = 0
    for node in graph:
        found = made.get(node.outputs[0])
        names = [name for name in node.inputs if name]
        if found is None or not all(name in known or name in graph.constants for name in names):
            continue
        inputs = [
            known[n] if n in known else graph.constants[n] if n else None for n in node.inputs
        ]
        meant = reference.evaluate(_as_kernels_mean(node), inputs, graph.opset)[0]
        _compare(f"{graph.name}: {node}", node, found, meant, stored.get(found.name))
        compared += 1
    return compared


def _as_kernels_mean(node: Node) -> Node:
    """Kernels quantise each token by itself where the graph says the whole tensor."""
    if not node.attributes.get("dynamic"):
        return node
    return node.changed(attributes={**node.attributes, "dynamic": "token"})


def _compare(
    place: str, node: Node, value: StepValue, meant: Array, how: Quantization | None
) -> None:
    made = dequantized(value.array, how).astype(np.float64)
    apart = np.abs(made - dequantized(meant.reshape(made.shape), how))
    if value.real is not None:
        apart = np.where(value.real[..., None], apart, 0)
    largest = float(np.abs(meant).max(initial=0)) if how is None else 0.0
    relative = RELATIVE.get(str(node.attributes.get("precision")), RELATIVE["float32"])
    limit = STEPS_OF_8_BITS * how.scale * 1.01 if how is not None else relative * max(1.0, largest)
    if not apart.max(initial=0) <= limit:
        sentence, token, channel = np.unravel_index(int(apart.argmax()), apart.shape)
        raise CheckError(
            f"{place}: kernel {value.kernel} differs from NumPy by {apart.max():.3g} (allowed"
            f" {limit:.3g}) in sentence {sentence}, token {token}, channel {channel} of"
            f" '{value.name}'"
        )
