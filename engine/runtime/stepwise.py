"""A program run one step at a time, each step's result read back.

`values` gives what kernels made under the graph's names for it (`engine compare`).  `check`
(ENGINE_CHECK=1) puts what a step read into its operator's NumPy meaning and compares with what it
made, so one step's error is not the next one's.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..codegen.elements import DTYPES
from ..codegen.isa import chosen
from ..errors import CheckError
from ..graph import Graph, Node, Quantization
from ..kernels import KERNELS, kernel
from ..kernels.call import CALL, PACK, STEP
from ..kernels.harness import from_tiles, in_order
from ..ops import Trait, kinds, reference
from ..ops.numbers import dequantized
from ..ops.operators import DECLARED
from ..plan import Buffer, make_plan
from ..plan.ranges import attention_is_bytes
from .call import Caller
from .inputs import Inputs
from .workers import Worker

__all__ = ["StepValue", "check", "quantizations", "values"]

Array = NDArray[Any]
LESS_128 = np.uint8(128)
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
    plan = make_plan(graph, chosen(), whole=True)
    if plan is None:
        return {}
    inputs = Inputs(graph, plan)
    shape, arrays = inputs.checked(feeds)
    if plan.refuses(arrays[2], feeds):
        return {}
    stepwise = Stepwise(graph, Caller(plan, inputs, 1, ()))
    stepwise.run(shape, arrays)
    return stepwise.made


class Stepwise:
    """Calls of a plan in one thread that stop after each step; the plan makes all channels."""

    def __init__(self, graph: Graph, caller: Caller) -> None:
        self.made: dict[str, StepValue] = {}
        self._graph, self._caller, self._plan = graph, caller, caller.plan
        self._widths = _widths(graph)
        attentions = [node for node in graph if node.kind == "engine.Attention"]
        self._flipped = {node.value for node in attentions if attention_is_bytes(node)}
        self._signed = {name for name, how in quantizations(graph).items() if how.dtype == "int8"}
        self._prepare = kernel(self._plan.isa, "prepare").function()
        self._run_steps = kernel(self._plan.isa, "run", False).function()

    def run(self, shape: tuple[int, ...], arrays: Sequence[Array | None]) -> None:
        """Fills `made`; with nothing where a sentence has nothing, or not its first token, to
        attend to.
        """
        self._caller.run(shape, arrays, self._step_by_step)

    @property
    def _worker(self) -> Worker:
        return self._caller.room.workers[0]

    def _step_by_step(self, address: int) -> None:
        """What compiled code does with a CALL, a pack and a step at a time."""
        call, context = self._caller.room.call, self._worker.address
        self._prepare(address, context, 0, 0)
        if call.wrong or call.odd:
            return
        kept = bytes(call)
        programs = self._caller.programs.values()
        program = next(each for each in programs if each.address == call.steps)
        packs, count = call.packs, call.pack_count
        for pack in range(count):
            call.packs, call.pack_count = packs + PACK.size * pack, 1
            for number in range(len(self._plan.steps)):
                call.taken, call.steps = 0, program.address + STEP.size * number
                call.step_count = call.late = 1
                self._run_steps(address, context, 0, 0)
                self._keep(number, program.offsets, (call.batch, call.length))
        ctypes.memmove(address, kept, CALL.size)

    def _keep(self, number: int, offsets: Mapping[Buffer, int], shape: tuple[int, int]) -> None:
        """Copy what step `number` has made."""
        step = self._plan.steps[number]
        if KERNELS[step.kernel].only_reads:
            return
        for buffer in dict.fromkeys(step.buffers()):
            maker = self._plan.steps[self._plan.first_use(buffer)]  # Concat's result has several
            if maker.name == step.name and buffer.name in self._widths:
                self._keep_value(step.kernel_name, buffer, offsets[buffer], shape)

    def _keep_value(
        self, kernel_name: str, buffer: Buffer, offset: int, shape: tuple[int, int]
    ) -> None:
        name, (batch, length) = buffer.name, shape
        there = self._plan.places.get(name, slice(self._widths[name]))
        array, of_tokens = self._read(buffer, offset)[:, there], buffer.domain == "tokens"
        if name not in self.made:
            rows = length if of_tokens else 1
            whole = np.zeros((batch, rows, array.shape[1]), array.dtype)
            real = np.zeros((batch, rows), bool) if of_tokens else None
            self.made[name] = StepValue(name, kernel_name, whole, real)
        found, places = self.made[name], self._places(buffer)
        found.array.reshape(-1, array.shape[1])[places] = array
        if found.real is not None:
            found.real.reshape(-1)[places] = True

    def _count(self, buffer: Buffer) -> int:
        """Tokens of the pack, or sentences."""
        context = self._worker.context
        return int(context.tokens if buffer.domain == "tokens" else context.sentences)

    def _places(self, buffer: Buffer) -> Array:
        """Of the pack's tokens in the batch, or of its sentences."""
        worker = self._worker
        context = worker.context
        address = context.places if buffer.domain == "tokens" else context.row_sentences
        first = (address - worker.arrays.ctypes.data) // worker.arrays.itemsize
        return worker.arrays[first : first + self._count(buffer)]

    def _read(self, buffer: Buffer, offset: int) -> Array:
        """[tokens or sentences, channels] in the graph's type."""
        count = self._count(buffer)
        tiles = -(-count // buffer.lanes)
        raw = self._worker.arena[offset : offset + tiles * buffer.tile_bytes]
        shape = (tiles, buffer.channels, buffer.lanes)
        array = from_tiles(
            in_order(raw.view(DTYPES[buffer.dtype]), shape, buffer.form), count
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
        wide = DECLARED[node.kind].widest if node.kind in DECLARED else None
        if wide is not None:
            width = graph.constants[node.inputs[wide]].shape[-1]
        elif node.kind == "engine.Linear":
            width = len(graph.constants[node.weight])
        elif node.kind == "engine.Trigram":
            words, rest = (graph.constants[name].shape[1] for name in (node.words, node.positions))
            width = 3 * words + rest
        elif node.kind == "Concat":
            width = sum(found.get(name, 0) for name in node.inputs)
        elif node.kind in ("engine.Channels", "ArgMax"):
            width = node.attributes.get("count", 1)
        found.update(dict.fromkeys(node.outputs, width))
    return found


def quantizations(graph: Graph) -> dict[str, Quantization]:
    """Values that are stored in 8 bits, and how."""
    found: dict[str, Quantization] = {}
    for node in graph:
        how = node.attributes.get("output")
        if node.kind in kinds(Trait.MOVES):
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
