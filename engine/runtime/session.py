"""load() and Session: a model ready to run, whatever batch and length comes."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import isa, passes, reference
from ..errors import InputError
from ..graph import Graph
from ..kernels import kernel
from ..plan import Plan, Program, make_plan
from .workers import KERNEL, Worker, memory

__all__ = ["Session", "load"]

Array = NDArray[Any]
PACK_TOKENS = 128  # a pack's activations and a layer's weights fit in L2 together
CALL_SLOTS = 24
ARENA_GUARD = 4096  # rows of padded outputs may reach past the last tile


def load(path: str | Path, *, threads: int = 1, weight: str | Path | None = None) -> Session:
    """A session for an ONNX file, an IR folder, or a conf.yaml with its model.bin (weight).

    Raises:
        ModelError: the file is missing, damaged or needs what the engine lacks; names file and place.
    """
    return Session(read_model(path, weight), threads=threads)


def read_model(path: str | Path, weight: str | Path | None = None) -> Graph:
    """The graph of engine operators of an ONNX file or an IR."""
    path = Path(path)
    if path.suffix == ".onnx":
        from .. import onnx_reader

        return passes.optimize(onnx_reader.read(path))
    from .. import store

    return store.read(path, weight) if weight is not None else store.read(path)


class Session:
    """A frozen model.  Safe to use from several threads: calls wait for each other."""

    def __init__(self, graph: Graph, *, threads: int = 1) -> None:
        if threads < 1:
            raise InputError(f"threads is {threads}: expected 1 or more")
        self.graph, self.threads = graph, threads
        self.isa = isa.chosen()
        self.plan: Plan | None = make_plan(graph, self.isa)
        self._lock = threading.Lock()
        self._programs: dict[int, tuple[Program, list[Worker]]] = {}
        self._call = np.zeros(CALL_SLOTS, np.int64)
        self._packs = np.zeros((0, 2), np.int32)
        if self.plan is not None:
            self._prepare = KERNEL(kernel(self.isa, "prepare").address)
            self._run = KERNEL(kernel(self.isa, "run", False).address)

    # --- the call
    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name for inputs by name, integers [batch, length]; a mask's zeros are tokens that neither influence nor cost anything.

        Raises:
            InputError: an input is missing, unknown, of the wrong shape, or holds a token outside the vocabulary.
        """
        if self.plan is None:
            return self._by_reference(feeds)
        ids, types, mask = self._checked(feeds)
        with self._lock:
            results = self._run_plan(self.plan, ids, types, mask)
        if results is None:
            return self._by_reference(feeds)
        return self._finish(self.plan, feeds, results)

    def _by_reference(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        known = {value.name for value in self.graph.inputs}
        return reference.run(self.graph, {name: np.asarray(array) for name, array in feeds.items() if name in known})

    def _checked(self, feeds: Mapping[str, Array]) -> tuple[Array, Array | None, Array | None]:
        assert self.plan is not None
        arrays: list[Array | None] = []
        shape: tuple[int, ...] = ()
        for name in self.plan.inputs:
            if not name:
                arrays.append(None)
                continue
            if name not in feeds:
                raise InputError(f"input '{name}' is missing: got {', '.join(map(repr, feeds)) or 'nothing'}")
            array = np.asarray(feeds[name])
            if array.ndim != 2 or array.dtype.kind not in "iub":
                raise InputError(f"input '{name}' is {array.dtype} {list(array.shape)}: expected integers [batch, length]")
            shape = shape or array.shape
            if array.shape != shape:
                raise InputError(f"input '{name}' is {list(array.shape)}, but '{self.plan.inputs[0]}' is {list(shape)}")
            arrays.append(np.ascontiguousarray(array, np.int64))
        if unknown := set(feeds) - {value.name for value in self.graph.inputs}:
            raise InputError(f"unknown input {sorted(unknown)[0]!r}: the model has {', '.join(value.name for value in self.graph.inputs)}")
        longest = self.plan.most_positions - self.plan.first_position
        if not 0 < shape[1] <= longest:
            raise InputError(f"length {shape[1]}: the model has positions for 1 to {longest} tokens")
        ids = arrays[0]
        assert ids is not None
        return ids, arrays[1], arrays[2]

    def _run_plan(self, plan: Plan, ids: Array, types: Array | None, mask: Array | None) -> list[Array] | None:
        batch, length = ids.shape
        results = [np.empty(_shape(result, batch, length), np.float32) for result in plan.results]
        if not batch:
            return results
        if mask is not None and any(result.domain == "tokens" for result in plan.results):
            for array in results:
                array.fill(0)
        program, workers = self._program(-(-max(length, PACK_TOKENS) // 64) * 64)
        if len(self._packs) <= batch:
            self._packs, self._counts = np.zeros((batch + 1, 2), np.int32), np.zeros(batch + 1, np.int32)
        table = np.array([array.ctypes.data for array in results], np.int64)
        address = [0 if array is None else array.ctypes.data for array in (ids, types, mask)]
        self._call[:20] = (
            *address, batch, length, table.ctypes.data, 0, program.tokens, program.steps.ctypes.data, len(program.steps), 1,
            self._packs.ctypes.data, 0, self._counts.ctypes.data, 0, plan.first_position, -1 if plan.padding_id is None else plan.padding_id,
            plan.vocabulary, plan.kinds, 0,
        )  # fmt: skip
        call = self._call.ctypes.data
        self._prepare(call, 0, 0, 0)
        if wrong := int(self._call[19]):
            row, place = divmod(wrong - 1, length)
            kind = "" if types is None else f", type {types[row, place]} of {plan.kinds}"
            raise InputError(f"sentence {row}, token {place}: id {ids[row, place]} of a vocabulary of {plan.vocabulary}{kind}")
        if self._call[20]:  # no token to attend to, or no first token to read: rare, and left to the reference
            return None
        for worker in workers:
            worker.results(table.ctypes.data)
        self._run(call, workers[0].address, 0, 1)
        return results

    def _finish(self, plan: Plan, feeds: Mapping[str, Array], results: list[Array]) -> dict[str, Array]:
        made = {result.name: array for result, array in zip(plan.results, results, strict=True)}
        if plan.tail is None:
            return {value.name: made[value.name] for value in self.graph.outputs}
        known = {value.name for value in plan.tail.inputs}
        return reference.run(plan.tail, {**{name: np.asarray(array) for name, array in feeds.items() if name in known}, **made})

    def _program(self, tokens: int) -> tuple[Program, list[Worker]]:
        assert self.plan is not None
        if tokens not in self._programs:
            program = self.plan.program(tokens)
            self._programs[tokens] = program, [Worker(tokens, memory(program.arena_bytes + ARENA_GUARD)) for _ in range(self.threads)]
        return self._programs[tokens]

    # --- what it is
    def describe(self) -> list[dict[str, Any]]:
        """Per layer: name, op, shape, dtype, pattern, zero_ratio, kernel, bytes."""
        return [] if self.plan is None else [dict(layer) for layer in self.plan.layers]

    def __getstate__(self) -> dict[str, Any]:
        return {"graph": self.graph, "threads": self.threads}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["graph"], threads=state["threads"])  # type: ignore[misc]


def _shape(result: Any, batch: int, length: int) -> tuple[int, ...]:
    if result.domain == "tokens":
        return (batch, length, result.channels)
    return (batch, 1, result.channels) if result.keep_row_axis else (batch, result.channels)
