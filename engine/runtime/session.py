"""load() and Session: a model ready to run, whatever batch and length comes."""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
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
from ..kernels.ahead import compile_ahead
from ..ops import not_finite, reference
from ..ops.elementwise import cast
from ..plan import PACK_TOKENS, Plan, make_plan, ready_plan
from .call import Caller
from .inputs import Inputs, typed
from .stepwise import check
from .workers import give_back

__all__ = ["Session", "Timed", "load"]

log = logging.getLogger(__name__)
Array = NDArray[Any]


def load(
    path: str | Path | bytes,
    *,
    threads: int | None = None,
    weight: str | Path | None = None,
    cpus: Sequence[int] = (),
) -> Session:
    """A session for an ONNX file or its bytes, an IR folder, or a conf.yaml with its model.bin
    (weight).

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
    packs: Array  # PACK [packs]


class Session:
    """A frozen model.  Safe to use from several threads: calls wait for each other.

    Also in the children of a fork, whatever the parent's threads were doing, and after any
    exception: a call sets all that it depends on, and compiled code, once it has begun, ends before
    Python goes on.  So Ctrl-C is answered when the call in progress has ended.
    """

    _whole = False  # make channels too that nobody reads: for tests
    _caller: Caller | None = None

    def __init__(
        self, graph: Graph, *, threads: int | None = None, cpus: Sequence[int] = ()
    ) -> None:
        """threads: workers, the caller among them (default: the setting, 1); cpus: where they are
        pinned, worker n to cpus[n % len], if the system lets it (default: those the process has, a
        thread of each core before second ones).
        """
        self.graph, self.threads = graph, _checked_threads(threads)
        self.isa = isa.chosen()
        with loading:
            self.plan: Plan | None = self._planned()
            if self.plan is not None:
                compile_ahead(self.isa, self.plan.kernels)
        self._check = bool(settings.current().check)
        if self.plan is not None:
            self._inputs = Inputs(graph, self.plan)
            self._caller = Caller(self.plan, self._inputs, self.threads, tuple(cpus))
            self._names = [result.name for result in self.plan.results]
            self._cast = {r.name: r.dtype for r in self.plan.results if r.dtype != "float32"}
        _sessions.add(self)

    def _planned(self) -> Plan | None:
        is_finite = partial(_warned_of, self.graph)
        if self._whole:
            return make_plan(self.graph, self.isa, whole=True, finite=is_finite())
        return ready_plan(self.graph, self.isa, is_finite)

    @property
    def pack_tokens(self) -> int:
        """Tokens that go through the steps together, unless a sentence alone has more."""
        return PACK_TOKENS if self._caller is None else self._caller.pack_tokens

    @pack_tokens.setter
    def pack_tokens(self, tokens: int) -> None:
        if self._caller is not None:
            self._caller.pack_tokens = tokens

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
            plan, caller = self.plan, self._caller
            if plan is None or caller is None:
                return self._by_reference(feeds)
            if self._check:
                check(self.graph, feeds)
            shape, arrays = self._inputs.checked(feeds)
            if plan.refuses(arrays[2], feeds):
                return self._by_reference(feeds)
            results = caller.in_turn(caller.run, shape, arrays)
            if results is None:
                return self._apart(plan, feeds)
            made = dict(zip(self._names, results, strict=True))
            for name, dtype in self._cast.items():
                made[name] = cast(made[name], to=dtype)
            if plan.fallback is not None:
                made = self._run_fallback(plan.fallback, feeds, made)
            return {**made, **self._handed(plan, feeds)} if plan.handed else made
        except MemoryError as error:
            raise ResourceError(f"memory for a call: {error or 'no more'}") from error

    def timed(self, feeds: Mapping[str, Array]) -> Timed:
        """Run once, with a clock around every step.

        Raises:
            InputError: as `run`; or nothing of the model runs in kernels.
        """
        if self._caller is None:
            raise InputError("no step of this model runs in kernels")
        return self._caller.in_turn(_timed, self._caller, *self._inputs.checked(feeds))

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
        return reference.run(self.graph, typed(self.graph, feeds))

    def _run_fallback(
        self, fallback: Graph, feeds: Mapping[str, Array], made: dict[str, Array]
    ) -> dict[str, Array]:
        """What no kernel has: op by op on the arrays the program made."""
        return reference.run(fallback, {**typed(fallback, feeds), **made})

    def _handed(self, plan: Plan, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs that are inputs, in the type that the graph declares."""
        types = {value.name: value.dtype for value in self.graph.inputs}
        return {name: np.array(feeds[given], types[given]) for name, given in plan.handed.items()}

    def prepare(self) -> None:
        """What the first call would do: load the kernels, or compile them, and lay out memory.

        Raises:
            ResourceError: the system does not give the memory or the threads.
        """
        if self._caller is not None:
            self._caller.ways(1)

    # --- what it is
    @property
    def arena_bytes(self) -> int:
        """Memory of activations, over all workers; 0 before the first call."""
        workers = () if self._caller is None else self._caller.room.workers
        return sum(worker.arena.nbytes for worker in workers)

    def describe(self) -> list[dict[str, Any]]:
        """Per layer: name, op, shape, dtype, pattern, zero_ratio, kernel, bytes; of operators that
        are left to NumPy name, op and the kernel "reference".
        """
        left = self.graph if self.plan is None else self.plan.fallback or ()
        layers = () if self.plan is None else self.plan.layers
        how = {"kernel": "reference"}
        numpy = [{"name": node.name or node.outputs[0], "op": node.op, **how} for node in left]
        return [*map(dict, layers), *numpy]

    # --- how it ends, and begins again
    def close(self) -> None:
        """End the threads and give back what calls use; a call after that takes it again."""
        if self._caller is not None:
            self._caller.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {"graph": self.graph, "threads": self.threads}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["graph"], threads=state["threads"])  # type: ignore[misc]


def _checked_threads(threads: int | None) -> int:
    threads = settings.current().threads if threads is None else threads
    if threads < 1:
        raise InputError(f"threads is {threads}: expected 1 or more")
    return threads


_sessions: weakref.WeakSet[Session] = weakref.WeakSet()  # for the children of a fork


def _begin_again() -> None:
    for session in list(_sessions):
        if session._caller is not None:
            session._caller.after_fork()


os.register_at_fork(after_in_child=_begin_again)


def _timed(caller: Caller, shape: tuple[int, ...], arrays: Sequence[Array | None]) -> Timed:
    batch, length = shape
    steps = [program.steps for program in caller.ways(length)]
    for each in steps:
        each["cycles"] = each["calls"] = 0
    caller.run(shape, arrays, caller.compiled(profiled=True))
    room = caller.room
    used = steps[int(room.call.sharing > 1)]
    packs, counts = room.packs[: room.call.pack_count], room.counts[:batch]
    return Timed(used["cycles"].copy(), used["calls"].copy(), counts.copy(), packs.copy())
