"""A plan as bytes: its steps in JSON, then the arrays that their parameters point to; and back.

    16 digits   length of the JSON
    JSON        to a multiple of 64 bytes of the file
    arrays      each at a multiple of 64 from here on, with a line behind it, as kernels read ahead;
                the first line is nobody's

An array is [where, offset, bytes]: "here", or "model" for one that lies in a mapped model.bin as
kernels read it.  The addresses in a table of parts (PART) are offsets, 0 for none.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..codegen.isa import Isa
from ..files.cache import DIGEST
from ..formats.store import Stored
from ..graph import Graph, Value
from ..kernels import KERNELS
from ..kernels.linear.records import PART
from ..kernels.record import ADDRESS, aligned_copy
from .heads import with_whole_heads
from .memory import Buffer
from .operands import Operands
from .program import Plan, Result
from .steps import Step

__all__ = ["NotFlatError", "as_plan", "as_pieces"]

Array = NDArray[Any]


def _names(kind: type[Any], but: str) -> tuple[str, ...]:
    """Of the fields of a dataclass, but some."""
    return tuple(each.name for each in fields(kind) if each.name not in but.split())


LINE = 64  # bytes
NUMBER = 16  # digits
MOST_WHOLE = 1 << 40  # of a parameter: above it are addresses, which mean nothing elsewhere
ADDRESSES = tuple(each.name for each in PART.declared if each.type == ADDRESS)

# Fields that JSON has as they are: all others than those that are written by name.
OF_A_PLAN = _names(Plan, "isa steps results fallback layers places pack_tokens")
OF_A_STEP = _names(Step, "params operands")
OF_OPERANDS = _names(Operands, "parts keep")


class NotFlatError(ValueError):
    """A plan that points to what is none of its arrays."""


# --- plan -> bytes
def as_pieces(plan: Plan, graph: Graph) -> list[bytes | memoryview]:
    """One behind the other they are the file.

    Raises:
        NotFlatError: a parameter or a table of parts points elsewhere.
    """
    writer = _Writer(graph.constants if isinstance(graph.constants, Stored) else None)
    fallback = plan.fallback
    steps = [writer.step(step) for step in plan.steps]
    content = {
        **{name: getattr(plan, name) for name in OF_A_PLAN},
        "steps": steps,
        "buffers": writer.buffers,
        "results": [asdict(result) for result in plan.results],
        "layers": [dict(layer) for layer in plan.layers],
        "places": {name: where.tolist() for name, where in plan.places.items()},
        "fallback": [node.outputs[0] for node in fallback] if fallback else None,
        "inputs_left": [asdict(value) for value in fallback.inputs] if fallback else [],
        "outputs_left": [value.name for value in fallback.outputs] if fallback else [],
    }
    text = json.dumps(content, default=_plain).encode()
    head = f"{len(text):0{NUMBER}d}".encode() + text
    begin = bytes(-(DIGEST + len(head)) % LINE + LINE)
    return [head, begin, *writer.content()]


def _plain(number: Any) -> Any:
    """A NumPy scalar as Python's."""
    if not isinstance(number, np.generic):
        raise NotFlatError(f"a {type(number).__name__} is not written")
    return number.item()


class _Writer:
    """Arrays and buffers met so far."""

    def __init__(self, model: Stored | None) -> None:
        self.buffers: list[list[Any]] = []
        self._model = model
        self._numbers: dict[Buffer, int] = {}
        self._places: dict[tuple[int, int], int] = {}  # of arrays, by address and bytes
        self._arrays: list[Array] = []
        self._end = LINE

    def content(self) -> Iterator[bytes | memoryview]:
        for array in self._arrays:
            if array.nbytes:
                yield array.reshape(-1).view(np.uint8).data
            yield bytes(_room(array.nbytes) - array.nbytes)

    def step(self, step: Step) -> dict[str, Any]:
        made = {name: getattr(step, name) for name in OF_A_STEP}
        operands = step.operands
        if operands is not None:
            kept = [self.array(each) for each in operands.keep]
            has_panels = KERNELS[step.kernel].pattern == "1x4"
            made["operands"] = {
                **{name: getattr(operands, name) for name in OF_OPERANDS},
                "keep": kept,
                "first": int(has_panels),
                "parts": self.array(self._offsets(operands, int(has_panels))),
            }
        made["params"] = [
            [name, self.param(value, operands)] for name, value in step.params.items()
        ]
        return made

    def param(self, value: Any, operands: Operands | None) -> Any:
        if isinstance(value, Buffer):
            return {"buffer": self.buffer(value)}
        if isinstance(value, np.ndarray):
            is_parts = operands is not None and value is operands.parts
            return {"parts": 0} if is_parts else {"array": self.array(value)}
        if isinstance(value, float | np.floating):
            return {"float": float(value)}
        if abs(int(value)) > MOST_WHOLE:
            raise NotFlatError(f"parameter {int(value)} is an address")
        return int(value)

    def buffer(self, buffer: Buffer) -> int:
        if buffer not in self._numbers:
            of = None if buffer.of is None else self.buffer(buffer.of)
            b = buffer
            self._numbers[buffer] = len(self.buffers)
            self.buffers.append([b.name, b.domain, b.channels, b.dtype, b.form, of, b.first])
        return self._numbers[buffer]

    def array(self, array: Array) -> list[Any]:
        assert array.flags.c_contiguous, "a kernel is given the address of an array in one piece"
        at = None if self._model is None else self._model.place(array)
        if at is not None:
            return ["model", at, array.nbytes]
        key = array.ctypes.data, array.nbytes
        if key not in self._places:
            self._places[key] = self._end
            self._arrays.append(array)
            self._end += _room(array.nbytes)
        return ["here", self._places[key], array.nbytes]

    def _offsets(self, operands: Operands, first: int) -> Array:
        """The table of parts, from row `first` on with offsets for addresses."""
        table = operands.parts.copy()
        held = [(each.ctypes.data, each.nbytes, self.array(each)[1]) for each in operands.keep]
        for name in ADDRESSES:
            column = table[name][first:]
            column[:] = [_offset(int(address), held) for address in column]

        return table


def _room(size: int) -> int:
    """Bytes of an array and what is behind it."""
    return size + LINE + -size % LINE


def _offset(address: int, held: Sequence[tuple[int, int, int]]) -> int:
    """Of what lies there, one array behind whose end nothing more is read; 0 for none."""
    if not address:
        return 0
    for slack in (0, 1):  # the end of an array may be another's beginning
        for begin, size, place in held:
            if begin <= address < begin + size + slack:
                return place + address - begin
    raise NotFlatError(f"a part points to {address:#x}, where none of its arrays is")


# --- bytes -> plan
def as_plan(content: memoryview, graph: Graph, isa: Isa) -> Plan:
    """The plan of that graph, whose arrays are views of the content.

    Raises:
        ValueError, LookupError, TypeError: it makes no sense.
    """
    size = int(bytes(content[:NUMBER]))
    told = json.loads(bytes(content[NUMBER : NUMBER + size]))
    begin = -(-(DIGEST + NUMBER + size) // LINE) * LINE - DIGEST
    reader = _Reader(content[begin:], graph, told["buffers"])
    return Plan(
        isa=isa,
        steps=tuple(map(reader.step, told["steps"])),
        results=tuple(Result(**each) for each in told["results"]),
        fallback=None if told["fallback"] is None else _fallback(graph, told),
        layers=tuple(map(_with_tuples, told["layers"])),
        places={name: np.array(where, np.int64) for name, where in told["places"].items()},
        **_with_tuples({name: told[name] for name in OF_A_PLAN}),
    )


def _with_tuples(fields_: dict[str, Any]) -> dict[str, Any]:
    """JSON has lists."""
    return {key: tuple(v) if isinstance(v, list) else v for key, v in fields_.items()}


def _fallback(graph: Graph, told: dict[str, Any]) -> Graph:
    """The nodes that make those results, of the graph as it is planned."""
    graph, wanted, outputs = with_whole_heads(graph)[0], told["fallback"], told["outputs_left"]
    return graph.changed(
        inputs=tuple(Value(**_with_tuples(each)) for each in told["inputs_left"]),
        outputs=tuple(value for value in graph.outputs if value.name in outputs),
        nodes=tuple(node for node in graph if node.outputs[0] in wanted),
    ).without_dead_nodes()


class _Reader:
    """Arrays and buffers of a file."""

    def __init__(self, data: memoryview, graph: Graph, buffers: Sequence[Sequence[Any]]) -> None:
        self._data = np.frombuffer(data, np.uint8)
        self._model = graph.constants if isinstance(graph.constants, Stored) else None
        self.buffers: list[Buffer] = []
        for name, domain, channels, dtype, form, of, first in buffers:
            whole = None if of is None else self.buffers[of]
            self.buffers.append(Buffer(name, domain, channels, dtype, form, whole, first))

    def array(self, told: Sequence[Any]) -> Array:
        """uint8 [bytes], bounds checked."""
        where, at, size = told
        if where == "model" and self._model is not None:
            return self._model.piece(at, size)
        if where != "here" or at < LINE or at % LINE or size < 0 or at + size > len(self._data):
            raise ValueError(f"array {told}: expected one within {len(self._data)} bytes")
        return self._data[at : at + size]

    def step(self, told: dict[str, Any]) -> Step:
        operands = self._operands(told["operands"]) if "operands" in told else None
        params = {name: self._param(value, operands) for name, value in told["params"]}
        record = KERNELS[told["kernel"]].params
        if record is None or tuple(params) != record.names:
            raise ValueError(f"{told['kernel']}: parameters {', '.join(params)}")
        rest = _with_tuples({name: told[name] for name in OF_A_STEP})
        return Step(**rest, params=params, operands=operands)

    def _param(self, told: Any, operands: Operands | None) -> Any:
        if not isinstance(told, dict):
            return int(told)
        ((kind, value),) = told.items()
        if kind == "parts" and operands is not None:
            return operands.parts
        if kind == "buffer":
            return self.buffers[value]
        return float(value) if kind == "float" else self.array(value)

    def _operands(self, told: dict[str, Any]) -> Operands:
        keep, parts = map(self.array, told["keep"]), self.array(told["parts"])
        table, base = aligned_copy(parts.view(PART.dtype)), self._data.ctypes.data
        for name in ADDRESSES:
            column = table[name][told["first"] :]
            if ((column < 0) | (column > len(self._data))).any():
                raise ValueError(f"{name} of a part lie outside of {len(self._data)} bytes")
            column[column > 0] += base
        rest = {name: told[name] for name in OF_OPERANDS}
        return Operands(**rest, parts=table, keep=tuple(keep))
