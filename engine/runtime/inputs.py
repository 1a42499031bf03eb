"""What a caller feeds, as kernels read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..graph import Graph
from ..ops import reference
from ..ops.fused import mask_of_ones
from ..plan import Plan

__all__ = ["Inputs", "typed"]

Array = NDArray[Any]
INT64 = np.dtype(np.int64)  # arrays have this very object


class Inputs:
    """The inputs of a graph whose plan reads ids, types and mask."""

    def __init__(self, graph: Graph, plan: Plan) -> None:
        self._graph, self._plan = graph, plan
        self._known = {value.name for value in graph.inputs}
        self._floats = {value.name for value in graph.inputs if value.dtype.startswith("float")}
        self._has_unread = not self._known.issubset(plan.inputs)
        offset = plan.first_position if plan.padding_id is None else plan.padding_id + 1
        self._longest = plan.most_positions - offset

    def checked(self, feeds: Mapping[str, Array]) -> tuple[tuple[int, ...], list[Array | None]]:
        """[batch, length]; ids, types and mask as kernels read them: int64, in one piece.

        Raises:
            InputError: an input is missing, unknown or of the wrong shape or type.
        """
        arrays: list[Array | None] = []
        shape: tuple[int, ...] | None = None
        for name in self._plan.inputs:
            if not name:
                arrays.append(None)
                continue
            array = feeds.get(name)
            if (
                type(array) is not np.ndarray
                or array.dtype is not INT64
                or not array.flags.c_contiguous
            ):
                array = _as_integers(name, feeds, floats=name in self._floats)
            if shape is None:
                shape = array.shape
            if array.ndim != 2 or array.shape != shape:
                first = self._plan.inputs[0]
                raise InputError(
                    f"input '{name}' is {list(array.shape)}: expected [batch, length]"
                    f"{'' if name == first else _like(first, shape)}"
                )
            arrays.append(array)
        assert shape is not None, "a plan reads ids"
        if self._has_unread or not self._known.issuperset(feeds):
            self._check_others(feeds)
        if not 0 < shape[1] <= self._longest:
            raise InputError(
                f"length {shape[1]}: the model has positions for 1 to {self._longest} tokens"
            )
        return shape, arrays

    def _check_others(self, feeds: Mapping[str, Array]) -> None:
        """Those that the plan does not read."""
        if unknown := sorted(set(feeds) - self._known):
            raise InputError(
                f"unknown input {unknown[0]!r}: the model has"
                f" {', '.join(value.name for value in self._graph.inputs)}"
            )
        for name in (self._plan.numbered, *self._plan.handed.values()):
            if name not in ("", *feeds):
                raise _missing(name, feeds)
        reference.check_shapes(self._graph, {name: np.asarray(x) for name, x in feeds.items()})

    def check_lengths(self, batch: int, length: int) -> None:
        """The model may fix them, or have one name for both; inputs of the fallback have their own.

        Raises:
            InputError: these are others.
        """
        known: dict[int | str, int] = {}
        for value in (value for value in self._graph.inputs if value.name in self._plan.inputs):
            for wanted, found in zip(value.shape, (batch, length), strict=False):
                fixed = wanted if isinstance(wanted, int) else known.setdefault(wanted, found)
                if fixed != found:
                    raise InputError(
                        f"input '{value.name}' is {[batch, length]}: the model has"
                        f" {list(value.shape)}"
                    )

    def out_of_range(self, place: int, ids: Array, types: Array | None) -> InputError:
        """The error of an id or a type that no table has; place: of the token in the batch."""
        row, token = divmod(place, ids.shape[1])
        kind = "" if types is None else f", type {types[row, token]} of {self._plan.kinds}"
        return InputError(
            f"sentence {row}, token {token}: id {ids[row, token]} of a vocabulary of"
            f" {self._plan.vocabulary}{kind}"
        )


def typed(graph: Graph, feeds: Mapping[str, Array]) -> dict[str, Array]:
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


def _as_integers(name: str, feeds: Mapping[str, Array], *, floats: bool) -> Array:
    """floats: a mask that the model declares so."""
    if name not in feeds:
        raise _missing(name, feeds)
    array = np.asarray(feeds[name])
    if array.dtype.kind == "f" and floats:
        array = mask_of_ones(array)
    if array.dtype.kind not in "iub":
        raise InputError(f"input '{name}' is {array.dtype}: expected integers")
    return np.ascontiguousarray(array, np.int64)


def _missing(name: str, feeds: Mapping[str, Array]) -> InputError:
    got = ", ".join(map(repr, feeds)) or "nothing"
    return InputError(f"input '{name}' is missing: got {got}")


def _like(name: str, shape: tuple[int, ...]) -> str:
    return f", and '{name}' is {list(shape)}"
