"""load() and Session: a model ready to run, whatever batch and length comes."""

from __future__ import annotations

import ctypes
import logging
import os
import struct
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import settings
from ..codegen import isa
from ..codegen.compile import loading
from ..errors import InputError, ResourceError
from ..formats import models
from ..graph import Graph
from ..kernels import context as slots
from ..kernels import kernel
from ..ops import not_finite, reference
from ..plan import PACK_TOKENS, Plan, Program, make_plan
from .workers import CALL, NO_ROOM, Room, Worker, give_back

__all__ = ["Session", "Timed", "load"]

log = logging.getLogger(__name__)
Array = NDArray[Any]
INT64 = np.dtype(np.int64)  # arrays have this very object
MOST_SHAPES = 4096  # of calls, whose programs and results are known
MOST_PLACES = (1 << 31) - 1  # of tokens in a batch: kernels keep them in int32
KNOWN_SLOTS = 23  # of a call, from its batch on: they are the same for all calls of a shape
SLOTS_OF_A_CALL = struct.Struct(f"3q{8 * KNOWN_SLOTS}s")  # all that there are: kernels/drive.py
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
    with loading:
        session = Session(models.read(path, weight), threads=threads, cpus=cpus)
    models.forget(session.graph)
    give_back()
    return session


def _warned_of(graph: Graph) -> bool:
    """Whether all constants are finite; a warning names those that are not."""
    found = not_finite(graph)
    if found:
        log.warning("%s: NaN may come out: %s", graph.name, "; ".join(map(str, found)))
    return not found


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

    slots: bytes  # of the call
    results: list[tuple[int, ...]]  # their shapes
    of_tokens: bool


class Session:
    """A frozen model.  Safe to use from several threads: calls wait for each other.

    Also in the children of a fork, whatever the parent's threads were doing, and after any
    exception: a call sets all that it depends on, and compiled code, once it has begun, ends before
    Python goes on.  So Ctrl-C is answered when the call in progress has ended.
    """

    _whole = False  # make channels too that nobody reads
    _room = NO_ROOM

    def __init__(
        self, graph: Graph, *, threads: int | None = None, cpus: Sequence[int] = ()
    ) -> None:
        """threads: workers, the caller among them (default: the setting, 1); cpus: where they are
        pinned, worker n to cpus[n % len] (default: those the process has), if the system lets it.
        """
        threads = settings.current().threads if threads is None else threads
        if threads < 1:
            raise InputError(f"threads is {threads}: expected 1 or more")
        self.graph, self.threads = graph, threads
        self.isa = isa.chosen()
        with loading:
            self.plan: Plan | None = make_plan(
                graph, self.isa, whole=self._whole, finite=_warned_of(graph)
            )
        self.pack_tokens = PACK_TOKENS if self.plan is None else self.plan.pack_tokens
        self._lock = threading.RLock()
        self._cpus = tuple(cpus)
        self._check = bool(settings.current().check)
        self._programs: dict[tuple[int, bool], Program] = {}
        if self.plan is not None:
            self._run = CALL(kernel(self.isa, "call", False).address)
            self._known = {value.name for value in graph.inputs}
            self._names = [result.name for result in self.plan.results]
            self._unread = not self._known.issubset(self.plan.inputs)  # some inputs of the graph
        _sessions.add(self)

    @property
    def pack_tokens(self) -> int:
        """Tokens that go through the steps together, unless a sentence alone has more."""
        return self._most_tokens

    @pack_tokens.setter
    def pack_tokens(self, tokens: int) -> None:
        self._most_tokens = tokens
        self._room.known.clear()

    # --- the call
    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name for inputs by name, integers [batch, length]; a mask's zeros are tokens
        that neither influence nor cost anything.  What stands at masked tokens of results [batch,
        length, ...] has no meaning: 0, or what the model's last operators make of 0.

        Where another thread changes the inputs meanwhile, the outputs are those of no sentence in
        particular; nothing else comes to harm.

        Raises:
            InputError: an input is missing, unknown, of the wrong shape, or holds a token outside
            the vocabulary.
            ResourceError: the system does not give the memory or the threads.
        """
        try:
            plan = self.plan
            if plan is None:
                return self._by_reference(feeds)
            if self._check:
                self._check_steps(feeds)
            shape, arrays = self._checked(plan, feeds)
            if self._unread:
                reference.check_shapes(self.graph, {n: np.asarray(x) for n, x in feeds.items()})
            mask = arrays[2]
            if plan.mixes and mask is not None and not mask.all():
                return self._by_reference(feeds)
            with self._turn():
                results = self._run_plan(plan, shape, arrays)
            if results is None:
                return self._apart(plan, feeds)
            made = dict(zip(self._names, results, strict=True))
            return made if plan.fallback is None else self._run_fallback(plan.fallback, feeds, made)
        except MemoryError as error:
            raise ResourceError(f"memory for a call: {error or 'no more'}") from error

    def timed(self, feeds: Mapping[str, Array]) -> Timed:
        """Run once, with a clock around every step.

        Raises:
            InputError: as `run`; or nothing of the model runs in kernels.
        """
        if self.plan is None:
            raise InputError("no step of this model runs in kernels")
        (batch, length), arrays = self._checked(self.plan, feeds)
        with self._turn():
            steps = [program.steps for program in self._ways(length)]
            for each in steps:
                each[:, 4:6] = 0
            run = CALL(kernel(self.isa, "call", True).address)
            self._run_plan(self.plan, (batch, length), arrays, run)
            room, call = self._room, self._call
            used, packs = steps[int(call[10] > 1)], room.packs[: int(call[12])]
            return Timed(
                used[:, 4].copy(), used[:, 5].copy(), room.counts[:batch].copy(), packs.copy()
            )

    def _turn(self) -> threading.RLock:
        """Where calls wait for each other.  One that a signal's handler makes in the midst of its
        own thread's call gets a room of its own.
        """
        if self._lock._is_owned():  # type: ignore[attr-defined]
            self._room = NO_ROOM
        return self._lock

    def _check_steps(self, feeds: Mapping[str, Array]) -> None:
        from .stepwise import check

        check(self.graph, feeds)

    def _apart(self, plan: Plan, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Sentences whose first token is masked, or all of them, one by one by the reference; the
        others without them, or they would not have the outputs that they have alone.
        """
        if plan.fallback is not None:  # its outputs may be of no sentence in particular
            return self._by_reference(feeds)
        odd = np.asarray(feeds[plan.inputs[2]])[:, 0] == 0
        outputs: dict[str, Array] = {}
        for rows in (np.flatnonzero(~odd), *np.flatnonzero(odd)[:, None]):
            some = {name: np.asarray(array)[rows] for name, array in feeds.items()}
            made = self._by_reference(some) if odd[rows].any() else self.run(some)
            for name, array in made.items():
                whole = np.empty((len(odd), *array.shape[1:]), array.dtype)
                outputs.setdefault(name, whole)[rows] = array
        return outputs

    def _by_reference(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        return reference.run(self.graph, _typed(self.graph, feeds))

    def _checked(
        self, plan: Plan, feeds: Mapping[str, Array]
    ) -> tuple[tuple[int, ...], list[Array | None]]:
        """The shape; ids, types and mask as the kernels read them: int64, in one piece."""
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
        return shape, arrays

    def _run_plan(
        self,
        plan: Plan,
        shape: tuple[int, ...],
        arrays: Sequence[Array | None],
        run: Any = None,
    ) -> list[Array] | None:
        ids, types, mask = arrays
        room = self._room
        known = room.known.get(shape)
        if known is None:
            room, known = self._learn(plan, *shape)
        results, table = [], room.table
        for number, size in enumerate(known.results):
            array = np.empty(size, np.float32)
            results.append(array)
            table[number] = id(array) + ELEMENTS
        if not shape[0]:
            return results
        if known.of_tokens and mask is not None:
            for array in results:
                array.fill(0)  # what stands at masked tokens
        call = room.call  # a ctypes array: its items take a third of the time that NumPy's do
        SLOTS_OF_A_CALL.pack_into(
            call,
            0,
            id(ids) + ELEMENTS,
            0 if types is None else id(types) + ELEMENTS,
            0 if mask is None else id(mask) + ELEMENTS,
            known.slots,
        )
        (run or self._run)(room.address)
        if call[19]:
            assert ids is not None
            self._complain(call[19] - 1, ids, types)
        return None if call[20] else results  # None: no token, or not the first, to attend to

    # --- what a shape needs, made on its first call
    def _learn(self, plan: Plan, batch: int, length: int) -> tuple[Room, _Known]:
        if batch * length > MOST_PLACES:
            raise InputError(f"{batch} sentences of {length}: more than {MOST_PLACES} tokens")
        if sys.is_finalizing():
            raise ResourceError(
                f"no threads or memory for {batch} x {length}: the interpreter ends"
            )
        self._check_lengths(plan, batch, length)
        ways = self._ways(length)
        room = self._room_for(plan, ways, batch)
        results = [_shape(result, batch, length) for result in plan.results]
        of_tokens = any(result.domain == "tokens" for result in plan.results)
        known = _Known(_slots(plan, room, ways, batch, length), results, of_tokens)
        if len(room.known) >= MOST_SHAPES:
            room.known.clear()
        room.known[batch, length] = known
        return room, known

    def _check_lengths(self, plan: Plan, batch: int, length: int) -> None:
        """The model may fix them, or name both alike; the fallback's inputs have their own."""
        known: dict[int | str, int] = {}
        for value in (value for value in self.graph.inputs if value.name in plan.inputs):
            for wanted, found in zip(value.shape, (batch, length), strict=False):
                fixed = wanted if isinstance(wanted, int) else known.setdefault(wanted, found)
                if fixed != found:
                    raise InputError(
                        f"input '{value.name}' is {[batch, length]}: the model has"
                        f" {list(value.shape)}"
                    )

    def _ways(self, length: int) -> list[Program]:
        """The program of a worker alone, then that of those who share a pack, if there are any."""
        tokens = self._pack_tokens(length)
        return [self._program(tokens, shared=way) for way in (False, True)[: min(self.threads, 2)]]

    def _program(self, tokens: int, *, shared: bool) -> Program:
        program = self._programs.get((tokens, shared))
        if program is None:
            assert self.plan is not None
            program = self._programs[tokens, shared] = self.plan.program(tokens, shared=shared)
        return program

    def _room_for(self, plan: Plan, ways: Sequence[Program], batch: int) -> Room:
        """The session's, or a larger one instead."""
        room, tokens = self._room, ways[0].tokens
        arena_bytes = max(program.arena_bytes for program in ways) + ARENA_GUARD
        if tokens > room.tokens or arena_bytes > room.arena_bytes:
            tokens = max(tokens, room.tokens)
            room = Room.make(
                self.isa,
                (tokens, max(arena_bytes, room.arena_bytes), batch),
                scratch_bytes=plan.scratch_bytes(tokens),
                threads=self.threads,
                results=len(plan.results),
                cpus=self._cpus or available_cpus(),
            )
        elif batch > room.batch:
            room = room.widened(batch)
        self._move(room)
        return room

    def _move(self, room: Room) -> None:
        """Ends the team that is left, which tracebacks may hold for long."""
        before, self._room = self._room.team, room
        if before is not None and before is not room.team:
            before.end()

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

    def _run_fallback(
        self, fallback: Graph, feeds: Mapping[str, Array], made: dict[str, Array]
    ) -> dict[str, Array]:
        """What no kernel has: op by op on the arrays the program made."""
        return reference.run(fallback, {**_typed(fallback, feeds), **made})

    # --- what it is
    @property
    def arena_bytes(self) -> int:
        """Memory of activations, over all workers; 0 before the first call."""
        return sum(worker.arena.nbytes for worker in self._room.workers)

    @property
    def _workers(self) -> tuple[Worker, ...]:
        return self._room.workers

    @property
    def _call(self) -> Array:
        """The slots of the last call."""
        return np.frombuffer(self._room.call, np.int64)

    def describe(self) -> list[dict[str, Any]]:
        """Per layer: name, op, shape, dtype, pattern, zero_ratio, kernel, bytes."""
        return [] if self.plan is None else [dict(layer) for layer in self.plan.layers]

    # --- how it ends, and begins again
    def close(self) -> None:
        """End the threads and give back what calls use; a call after that takes it again."""
        with self._turn():
            self._move(NO_ROOM)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _after_fork(self) -> None:
        """In the child: another thread may have had the lock, and the team stayed behind."""
        self._lock = threading.RLock()
        if self._room.team is not None:  # a call goes on if its own signal's handler has forked
            self._room.team.leave()
        self._room = NO_ROOM

    def __getstate__(self) -> dict[str, Any]:
        return {"graph": self.graph, "threads": self.threads}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["graph"], threads=state["threads"])  # type: ignore[misc]


_sessions: weakref.WeakSet[Session] = weakref.WeakSet()  # for the children of a fork


def _begin_again() -> None:
    for session in list(_sessions):
        session._after_fork()


os.register_at_fork(after_in_child=_begin_again)


def _slots(plan: Plan, room: Room, ways: Sequence[Program], batch: int, length: int) -> bytes:
    """Of a call (kernels/drive.py), from its batch on."""
    assert room.team is not None, "a room that was made"
    alone, shared = ways[0], ways[-1]
    slots = np.zeros(KNOWN_SLOTS + 3, np.int64)
    slots[3:6] = batch, length, ctypes.addressof(room.table)
    slots[7:11] = alone.tokens, alone.address, len(alone.steps), 1
    slots[11], slots[13] = room.packs.ctypes.data, room.counts.ctypes.data
    slots[15:17] = plan.first_position, -1 if plan.padding_id is None else plan.padding_id
    slots[17:19] = plan.vocabulary, plan.kinds
    slots[21:24] = room.team.address, plan.late, shared.address
    slots[24:26] = len(plan.results), room.workers[0].address
    return slots[3:].tobytes()


def _typed(graph: Graph, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """What the graph knows of the feeds; integers of any width and bool, as kernels take them."""
    arrays = {
        value.name: (np.asarray(feeds[value.name]), value.dtype)
        for value in graph.inputs
        if value.name in feeds
    }
    return {
        name: array.astype(dtype)
        if array.dtype.kind in "iub" and np.dtype(dtype).kind in "iub"
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
