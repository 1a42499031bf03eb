"""A call of a plan: the memory it uses, the CALL that describes it, compiled code that does it."""

from __future__ import annotations

import ctypes
import struct
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, ResourceError
from ..kernels import kernel
from ..kernels.call import CALL
from ..kernels.context import TILE
from ..machine.topology import usable
from ..plan import Plan, Program, Result
from .inputs import Inputs
from .workers import NO_ROOM, Room

__all__ = ["Caller"]

Array = NDArray[Any]
Returned = TypeVar("Returned")
CALLED = ctypes.CFUNCTYPE(None, ctypes.c_int64)  # a kernel that reads one: half the time to begin
MOST_SHAPES = 4096  # of calls, whose programs and results are known
MOST_PLACES = (1 << 31) - 1  # of tokens in a batch: kernels keep them in int32
# An array is a Python object, then the address of its elements (PyArrayObject_fields in NumPy's
# ndarraytypes.h): kernels look there, which takes a tenth of the time of asking the array.
ELEMENTS = object.__basicsize__
ARENA_GUARD = 4096  # rows of padded outputs may reach past the last tile
# The arrays' addresses, and all that is the same for every call of a shape.
FILLED = struct.Struct(f"{CALL.batch // 8}q{CALL.size - CALL.batch}s")


@dataclass(frozen=True, slots=True)
class _Known:
    """What a call of one shape needs."""

    filled: bytes  # the CALL from its batch on
    results: list[tuple[int, ...]]  # their shapes
    of_tokens: bool


class Caller:
    """Calls of one plan, which wait for one another; a fork's child goes on with memory of its own.

    A call sets all that it depends on, and compiled code, once it has begun, ends before Python
    goes on: an exception finds either nothing begun or nothing left to do.
    """

    def __init__(self, plan: Plan, inputs: Inputs, threads: int, cpus: tuple[int, ...]) -> None:
        """threads: workers, the caller among them; cpus: where they are pinned, if not empty."""
        self.plan, self.threads = plan, threads
        self.room = NO_ROOM
        self.programs: dict[tuple[int, bool], Program] = {}
        self._inputs, self._cpus = inputs, cpus
        self._pack_tokens = plan.pack_tokens
        self._lock, self._owner = threading.RLock(), 0
        self._call = self.compiled(profiled=False)

    def compiled(self, *, profiled: bool) -> Any:
        """The code of a whole call."""
        return CALLED(kernel(self.plan.isa, "call", profiled).address)

    @property
    def pack_tokens(self) -> int:
        """Tokens that go through the steps together, unless a sentence alone has more."""
        return self._pack_tokens

    @pack_tokens.setter
    def pack_tokens(self, tokens: int) -> None:
        self._pack_tokens = tokens
        self.room.known.clear()

    def in_turn(self, function: Callable[..., Returned], *arguments: Any) -> Returned:
        """One call after the other.  One that a signal's handler makes in the midst of its own
        thread's call gets a room of its own.
        """
        me = threading.get_ident()
        if self._owner == me:
            self.room = NO_ROOM
        with self._lock:
            before, self._owner = self._owner, me
            try:
                return function(*arguments)
            finally:
                self._owner = before

    def run(
        self, shape: tuple[int, ...], arrays: Sequence[Array | None], call: Any = None
    ) -> list[Array] | None:
        """The results; None where a sentence has nothing, or not its first token, to attend to.

        In turn only.  call: the code, if not that of every call.

        Raises:
            InputError: a token is outside the vocabulary, or the model has other lengths.
            ResourceError: the system does not give the memory or the threads.
        """
        ids, types, mask = arrays
        room = self.room
        known = room.known.get(shape)
        if known is None:
            room, known = self._learn(*shape)
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
        FILLED.pack_into(
            room.call,
            0,
            id(ids) + ELEMENTS,
            0 if types is None else id(types) + ELEMENTS,
            0 if mask is None else id(mask) + ELEMENTS,
            known.filled,
        )
        (call or self._call)(room.address)
        if room.call.wrong:
            assert ids is not None
            raise self._inputs.out_of_range(room.call.wrong - 1, ids, types)
        return None if room.call.odd else results

    # --- what a shape needs, made on its first call
    def _learn(self, batch: int, length: int) -> tuple[Room, _Known]:
        if batch * length > MOST_PLACES:
            raise InputError(f"{batch} sentences of {length}: more than {MOST_PLACES} tokens")
        if sys.is_finalizing():
            raise ResourceError(
                f"no threads or memory for {batch} x {length}: the interpreter ends"
            )
        self._inputs.check_lengths(batch, length)
        ways = self.ways(length)
        room = self._room_for(ways, batch)
        results = [_shape(result, batch, length) for result in self.plan.results]
        of_tokens = any(result.domain != "rows" for result in self.plan.results)
        filled = _filled(self.plan, room, ways, batch, length)
        known = _Known(filled, results, of_tokens)
        if len(room.known) >= MOST_SHAPES:
            room.known.clear()
        room.known[batch, length] = known
        return room, known

    def ways(self, length: int) -> list[Program]:
        """The program of a worker alone, then that of those who share a pack, if there are any."""
        tokens = max(self._pack_tokens, -(-length // TILE) * TILE)
        return [self._program(tokens, shared=way) for way in (False, True)[: min(self.threads, 2)]]

    def _program(self, tokens: int, *, shared: bool) -> Program:
        program = self.programs.get((tokens, shared))
        if program is None:
            program = self.programs[tokens, shared] = self.plan.program(tokens, shared=shared)
        return program

    def _room_for(self, ways: Sequence[Program], batch: int) -> Room:
        """The one that is there, or a larger one instead."""
        room, tokens = self.room, ways[0].tokens
        arena_bytes = max(program.arena_bytes for program in ways) + ARENA_GUARD
        if tokens > room.tokens or arena_bytes > room.arena_bytes:
            tokens = max(tokens, room.tokens)
            room = Room.make(
                self.plan.isa,
                (tokens, max(arena_bytes, room.arena_bytes), batch),
                scratch_bytes=self.plan.scratch_bytes(tokens),
                threads=self.threads,
                results=len(self.plan.results),
                cpus=self._cpus or (usable() if self.threads > 1 else ()),
            )
        elif batch > room.batch:
            room = room.widened(batch)
        self.move(room)
        return room

    # --- how it ends, and begins again
    def move(self, room: Room) -> None:
        """Ends the threads that are left, which tracebacks may hold for long."""
        before, self.room = self.room.pool, room
        if before is not None and before is not room.pool:
            before.end()

    def close(self) -> None:
        """Ends the threads and gives back the memory; the next call takes them again."""
        self.in_turn(self.move, NO_ROOM)

    def after_fork(self) -> None:
        """In the child: another thread may have had the lock, and the threads stayed behind."""
        self._lock, self._owner = threading.RLock(), 0
        if self.room.pool is not None:  # a call goes on if its own signal's handler has forked
            self.room.pool.leave()
        self.room = NO_ROOM


def _filled(plan: Plan, room: Room, ways: Sequence[Program], batch: int, length: int) -> bytes:
    """A CALL from its batch on."""
    assert room.pool is not None, "a room that was made"
    alone, shared = ways[0], ways[-1]
    call = CALL.structure(
        batch=batch,
        length=length,
        outputs=ctypes.addressof(room.table),
        pack_tokens=alone.tokens,
        steps=alone.address,
        step_count=len(alone.steps),
        sharing=1,
        packs=room.packs.ctypes.data,
        counts=room.counts.ctypes.data,
        first_position=plan.first_position,
        padding_id=-1 if plan.padding_id is None else plan.padding_id,
        vocabulary=plan.vocabulary,
        kinds=plan.kinds,
        control=room.pool.address,
        late=plan.late,
        shared_steps=shared.address,
        output_count=len(plan.results),
        first_context=room.workers[0].address,
    )
    return bytes(call)[CALL.batch :]


def _shape(result: Result, batch: int, length: int) -> tuple[int, ...]:
    lengths = {"batch": batch, "sequence": length}
    return tuple(n if isinstance(n, int) else lengths[n] for n in result.shape)
