"""load() and Session: a model ready to run, whatever batch and length comes."""

from __future__ import annotations

import ctypes
import os
import struct
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import isa, models, reference, settings
from ..errors import InputError
from ..graph import Graph
from ..kernels import context as slots
from ..kernels import kernel
from ..plan import PACK_TOKENS, Plan, Program, make_plan
from .workers import CALL, Team, Worker, give_back, memory

__all__ = ["Session", "Timed", "load"]

Array = NDArray[Any]
CALL_SLOTS = 32
INT64 = np.dtype(np.int64)  # arrays have this very object
MOST_SHAPES = 4096  # of calls, whose programs and results are known
SLOTS_OF_A_CALL = struct.Struct("11q")  # the first, all set at once: kernels/drive.py
# An array is a Python object, then the address of its elements (PyArrayObject_fields in NumPy's
# ndarraytypes.h): kernels look there, which takes a tenth of the time of asking the array.
ELEMENTS = object.__basicsize__
ARENA_GUARD = 4096  # rows of padded outputs may reach past the last tile


def load(
    path: str | Path,
    *,
    threads: int | None = None,
    weight: str | Path | None = None,
    cpus: Sequence[int] = (),
) -> Session:
    """A session for an ONNX file, an IR folder, or a conf.yaml with its model.bin (weight).

    Raises:
        ModelError: the file is missing, damaged or needs what the engine lacks; names file and
        place.
    """
    session = Session(models.read(path, weight), threads=threads, cpus=cpus)
    give_back()
    return session


@dataclass(frozen=True)
class Timed:
    """One call: what each step of the plan took, by the caller's clock and for its share of the
    work.
    """

    cycles: Array  # int64 [steps], of the time stamp counter
    calls: Array  # int64 [steps]
    lengths: Array  # int32 [batch]: tokens that count
    packs: Array  # int32 [packs, 2]: first sentence, sentences


@dataclass(frozen=True, slots=True)
class _Known:
    """What a call of one shape needs."""

    program: Program
    shared: int  # address of the steps for workers that share a pack, 0 for one worker
    results: list[tuple[int, ...]]  # their shapes
    of_tokens: bool


class Session:
    """A frozen model.  Safe to use from several threads: calls wait for each other."""

    _whole = False  # make channels too that nobody reads

    def __init__(
        self, graph: Graph, *, threads: int | None = None, cpus: Sequence[int] = ()
    ) -> None:
        """threads: workers, the caller among them (default: the setting, 1); cpus: where they are
        pinned, worker n to cpus[n % len] (default: those the process has).
        """
        threads = settings.current().threads if threads is None else threads
        if threads < 1:
            raise InputError(f"threads is {threads}: expected 1 or more")
        self.graph, self.threads = graph, threads
        self.isa = isa.chosen()
        self.plan: Plan | None = make_plan(graph, self.isa, whole=self._whole)
        self._shapes: dict[tuple[int, ...], _Known] = {}
        self.pack_tokens = PACK_TOKENS if self.plan is None else self.plan.pack_tokens
        self._lock = threading.Lock()
        self._check = bool(settings.current().check)
        self._programs: dict[tuple[int, bool], Program] = {}
        self._workers: list[Worker] = []
        self._capacity = (0, 0)  # tokens and arena bytes of the workers
        self._call = memory(8 * CALL_SLOTS).view(np.int64)
        self._call_address = self._call.ctypes.data
        self._slots = (ctypes.c_int64 * CALL_SLOTS).from_buffer(self._call.data)
        self._packs = self._counts = np.zeros(0, np.int32)
        self._team = (
            Team(self.isa, threads, tuple(cpus) or available_cpus()) if threads > 1 else None
        )
        if self.plan is not None:
            self._run = CALL(kernel(self.isa, "call", False).address)
            self._known = {value.name for value in graph.inputs}
            self._names = [result.name for result in self.plan.results]
            self._table = (ctypes.c_int64 * len(self.plan.results))()
            self._table_address = ctypes.addressof(self._table)
            self._set_constants(self.plan)

    def _set_constants(self, plan: Plan) -> None:
        """The slots of the call (kernels/drive.py) that no call changes."""
        self._call[15:19] = (
            plan.first_position,
            -1 if plan.padding_id is None else plan.padding_id,
            plan.vocabulary,
            plan.kinds,
        )
        self._call[21:23] = 0 if self._team is None else self._team.address, plan.late
        self._call[24], self._call[27] = self.threads, len(plan.results)

    @property
    def pack_tokens(self) -> int:
        """Tokens that go through the steps together, unless a sentence alone has more."""
        return self._most_tokens

    @pack_tokens.setter
    def pack_tokens(self, tokens: int) -> None:
        self._most_tokens = tokens
        self._shapes.clear()

    # --- the call
    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name for inputs by name, integers [batch, length]; a mask's zeros are tokens
        that neither influence nor cost anything.  What stands at masked tokens of results [batch,
        length, ...] has no meaning: 0, or what the model's last operators make of 0.

        Raises:
            InputError: an input is missing, unknown, of the wrong shape, or holds a token outside
            the vocabulary.
        """
        plan = self.plan
        if plan is None:
            return self._by_reference(feeds)
        if self._check:
            self._check_steps(feeds)
        ids, types, mask = self._checked(plan, feeds)
        if plan.mixes and mask is not None and not mask.all():
            return self._by_reference(feeds)
        with self._lock:
            assert ids is not None
            results = self._run_plan(plan, ids, types, mask)
        if results is None:
            return self._by_reference(feeds)
        made = dict(zip(self._names, results, strict=True))
        return made if plan.tail is None else self._tail(plan.tail, feeds, made)

    def timed(self, feeds: Mapping[str, Array]) -> Timed:
        """Run once, with a clock around every step.

        Raises:
            InputError: as `run`; or nothing of the model runs in kernels.
        """
        if self.plan is None:
            raise InputError("no step of this model runs in kernels")
        ids, types, mask = self._checked(self.plan, feeds)
        assert ids is not None
        batch, length = ids.shape
        with self._lock:
            tokens, ways = self._pack_tokens(length), (False, True)[: min(self.threads, 2)]
            steps = [self._program(tokens, shared=way).steps for way in ways]
            for each in steps:
                each[:, 4:6] = 0
            run = CALL(kernel(self.isa, "call", True).address)
            self._run_plan(self.plan, ids, types, mask, run=run)
            used = steps[int(self._call[10] > 1)]
            packs = self._packs[: int(self._call[12])]
            return Timed(
                used[:, 4].copy(), used[:, 5].copy(), self._counts[:batch].copy(), packs.copy()
            )

    def _check_steps(self, feeds: Mapping[str, Array]) -> None:
        from .stepwise import check

        check(self.graph, feeds)

    def _by_reference(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        return reference.run(self.graph, _typed(self.graph, feeds))

    def _checked(self, plan: Plan, feeds: Mapping[str, Array]) -> list[Array | None]:
        """ids, types and mask as the kernels read them: int64, in one piece."""
        arrays: list[Array | None] = []
        shape: tuple[int, ...] | None = None
        for name in plan.inputs:
            if not name:
                arrays.append(None)
                continue
            array = feeds.get(name)
            if (
                type(array) is not np.ndarray
                or array.dtype is not INT64
                or not array.flags.c_contiguous
            ):
                array = _as_integers(name, feeds)
            if shape is None:
                shape = array.shape
            if array.ndim != 2 or array.shape != shape:
                raise InputError(
                    f"input '{name}' is {list(array.shape)}: expected [batch, length]"
                    f"{_like(plan.inputs[0], shape)}"
                )
            arrays.append(array)
        if not self._known.issuperset(feeds):
            unknown = sorted(set(feeds) - self._known)[0]
            raise InputError(
                f"unknown input {unknown!r}: the model has"
                f" {', '.join(value.name for value in self.graph.inputs)}"
            )
        assert shape is not None
        longest = plan.most_positions - (
            plan.first_position if plan.padding_id is None else plan.padding_id + 1
        )
        if not 0 < shape[1] <= longest:
            raise InputError(
                f"length {shape[1]}: the model has positions for 1 to {longest} tokens"
            )
        return arrays

    def _run_plan(
        self, plan: Plan, ids: Array, types: Array | None, mask: Array | None, run: Any = None
    ) -> list[Array] | None:
        batch, length = ids.shape
        known = self._shapes.get(ids.shape)
        if known is None:
            known = self._learn(plan, batch, length)
        program = known.program
        results, table = [], self._table
        for number, shape in enumerate(known.results):
            array = np.empty(shape, np.float32)
            results.append(array)
            table[number] = id(array) + ELEMENTS
        if not batch:
            return results
        if known.of_tokens and mask is not None:
            for array in results:
                array.fill(0)  # what stands at masked tokens
        call = self._slots  # a ctypes array: setting an item costs a third of what NumPy's does
        SLOTS_OF_A_CALL.pack_into(
            call,
            0,
            id(ids) + ELEMENTS,
            0 if types is None else id(types) + ELEMENTS,
            0 if mask is None else id(mask) + ELEMENTS,
            batch,
            length,
            self._table_address,
            0,
            program.tokens,
            program.address,
            len(program.steps),
            1,
        )
        if self._team is not None:
            call[23] = known.shared
            self._team.ready(self._workers)
        run, address = run or self._run, self._call_address
        run(address)
        if call[25]:
            assert self._team is not None
            self._team.wake()
            run(address)
        if call[19]:
            self._complain(call[19] - 1, ids, types)
        return None if call[20] else results  # None: no token, or not the first, to attend to

    def _learn(self, plan: Plan, batch: int, length: int) -> _Known:
        if len(self._counts) <= batch:
            self._make_room(batch)
        tokens = self._pack_tokens(length)
        program = self._program(tokens)
        shared = self._program(tokens, shared=True).address if self._team is not None else 0
        shapes = [_shape(result, batch, length) for result in plan.results]
        known = _Known(program, shared, shapes, any(r.domain == "tokens" for r in plan.results))
        if len(self._shapes) >= MOST_SHAPES:
            self._shapes.clear()
        self._shapes[batch, length] = known
        return known

    def _make_room(self, batch: int) -> None:
        """For the packs and the lengths of a batch."""
        self._packs = np.zeros((batch + 1, 2), np.int32)
        self._counts = np.zeros(batch + 1, np.int32)
        self._slots[11], self._slots[13] = self._packs.ctypes.data, self._counts.ctypes.data

    def _pack_tokens(self, length: int) -> int:
        return max(self.pack_tokens, -(-length // slots.TILE) * slots.TILE)

    def _complain(self, place: int, ids: Array, types: Array | None) -> None:
        assert self.plan is not None
        row, token = divmod(place, ids.shape[1])
        kind = "" if types is None else f", type {types[row, token]} of {self.plan.kinds}"
        raise InputError(
            f"sentence {row}, token {token}: id {ids[row, token]} of a vocabulary of"
            f" {self.plan.vocabulary}{kind}"
        )

    def _tail(
        self, tail: Graph, feeds: Mapping[str, Array], made: dict[str, Array]
    ) -> dict[str, Array]:
        """What no kernel has: op by op on the arrays the program made."""
        return reference.run(tail, {**_typed(tail, feeds), **made})

    def _program(self, tokens: int, *, shared: bool = False) -> Program:
        """The program for packs of `tokens`, with workers that can hold them."""
        program = self._programs.get((tokens, shared))
        if program is None:
            assert self.plan is not None
            program = self.plan.program(tokens, shared=shared)
            self._programs[tokens, shared] = program
            capacity = (
                max(tokens, self._capacity[0]),
                max(program.arena_bytes + ARENA_GUARD, self._capacity[1]),
            )
            if capacity != self._capacity:
                self._workers = []
                for _ in range(self.threads):
                    first = self._workers[0] if self._workers else None
                    self._workers.append(Worker(*capacity, first, ctypes.addressof(self._table)))
                self._capacity = capacity
                self._slots[26] = self._workers[0].address
        return program

    # --- what it is
    @property
    def arena_bytes(self) -> int:
        """Memory of activations, over all workers; 0 before the first call."""
        return sum(worker.arena.nbytes for worker in self._workers)

    def describe(self) -> list[dict[str, Any]]:
        """Per layer: name, op, shape, dtype, pattern, zero_ratio, kernel, bytes."""
        return [] if self.plan is None else [dict(layer) for layer in self.plan.layers]

    def __getstate__(self) -> dict[str, Any]:
        return {"graph": self.graph, "threads": self.threads}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["graph"], threads=state["threads"])  # type: ignore[misc]


def _typed(graph: Graph, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """What the graph knows of the feeds; integers of any width, as kernels take them."""
    arrays = {
        value.name: (np.asarray(feeds[value.name]), value.dtype)
        for value in graph.inputs
        if value.name in feeds
    }
    return {
        name: array.astype(dtype)
        if array.dtype.kind in "iub" and np.dtype(dtype).kind == "i"
        else array
        for name, (array, dtype) in arrays.items()
    }


def _shape(result: Any, batch: int, length: int) -> tuple[int, ...]:
    if result.domain == "tokens":
        return (batch, length, result.channels)
    return (batch, 1, result.channels) if result.keep_row_axis else (batch, result.channels)


def _as_integers(name: str, feeds: Mapping[str, Array]) -> Array:
    if name not in feeds:
        raise InputError(
            f"input '{name}' is missing: got {', '.join(map(repr, feeds)) or 'nothing'}"
        )
    array = np.asarray(feeds[name])
    if array.dtype.kind not in "iub":
        raise InputError(f"input '{name}' is {array.dtype}: expected integers")
    return np.ascontiguousarray(array, np.int64)


def _like(name: str, shape: tuple[int, ...]) -> str:
    return f", and '{name}' is {list(shape)}"


def available_cpus() -> tuple[int, ...]:
    """Those this process may use."""
    return tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else ()
