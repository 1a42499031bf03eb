"""Memory that Python fills and kernels read, declared once: a record is fields in order, each with
its type and its meaning.

A kernel reads a field at its offset, `load_i64(params + LINEAR.parts)`: a record is a tuple of
offsets, which Numba takes as constants.  Python fills it by name: `pack` orders the parameters of a
kernel (a missing or an unknown name is an error when the plan is made), `dtype` is the record as
NumPy knows it, `structure` as ctypes does.
"""

from __future__ import annotations

import ctypes
from collections import namedtuple
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = [
    "ADDRESS",
    "CACHE_LINE",
    "FLOAT",
    "OFFSET",
    "WHOLE",
    "Field",
    "aligned",
    "aligned_copy",
    "record",
]

CACHE_LINE = 64  # bytes

# Types of a parameter, 8 bytes each: what Python gives, and what a kernel finds there.
OFFSET = "offset"  # a Buffer: where it begins in the worker's arena
ADDRESS = "address"  # an array: where its elements are
WHOLE = "whole"  # an int
FLOAT = "float"  # a float, as float32 in the low four bytes
_SLOTS = (OFFSET, ADDRESS, WHOLE, FLOAT)


@dataclass(frozen=True)
class Field:
    """type: one of those above, or a NumPy type's name, of which `count` stand side by side;
    meaning: one line, with shape and unit.
    """

    name: str
    type: str
    meaning: str
    count: int = 1

    @property
    def element(self) -> np.dtype[Any]:
        """As NumPy has it."""
        return np.dtype(np.int64 if self.type in _SLOTS else self.type)

    @property
    def size(self) -> int:
        """Bytes of all its elements."""
        return self.element.itemsize * self.count


class _Record:
    """What every record can do; the items of the tuple are the fields' offsets in bytes, and last
    `size`, the bytes of a whole record.
    """

    __slots__ = ()
    declared: tuple[Field, ...]
    dtype: np.dtype[Any]  # of an array of records; elements side by side are an axis of their own
    structure: type[ctypes.Structure]  # items are read and set in a third of the time of NumPy's

    @property
    def names(self) -> tuple[str, ...]:
        """Of the fields."""
        return tuple(field.name for field in self.declared)

    def pack(self, **values: Any) -> Mapping[str, Any]:
        """The values in the fields' order.

        Raises:
            TypeError: a field is missing or unknown.
        """
        missing, unknown = set(self.names) - set(values), set(values) - set(self.names)
        if missing or unknown:
            name = type(self).__name__
            raise TypeError(f"{name}: {sorted(missing)} missing, {sorted(unknown)} unknown")
        return {name: values[name] for name in self.names}


def _dtype(fields: tuple[Field, ...]) -> np.dtype[Any]:
    shapes = [(field.count,) if field.count > 1 else () for field in fields]
    return np.dtype([(f.name, f.element, shape) for f, shape in zip(fields, shapes, strict=True)])


def _structure(name: str, fields: tuple[Field, ...]) -> type[ctypes.Structure]:
    kinds = [np.ctypeslib.as_ctypes_type(field.element) for field in fields]
    layout = [
        (field.name, kind * field.count if field.count > 1 else kind)
        for field, kind in zip(fields, kinds, strict=True)
    ]
    return type(name, (ctypes.Structure,), {"_fields_": layout, "_pack_": 1})


def record(name: str, *fields: Field) -> Any:
    """The record of these fields, one behind the other without gaps: a tuple of their offsets and
    of its size, by name.
    """
    offsets, at = [], 0
    for field in fields:
        offsets.append(at)
        at += field.size
    names = namedtuple(name, [*(field.name for field in fields), "size"])  # type: ignore[misc]
    known = {"declared": fields, "dtype": _dtype(fields), "structure": _structure(name, fields)}
    kind = type(name, (_Record, names), {"__slots__": (), **known})
    return kind(*offsets, at)


def aligned(shape: Sequence[int] | int, dtype: Any) -> np.ndarray[Any, Any]:
    """Zeros at the start of a cache line."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.zeros(size + CACHE_LINE, np.uint8)
    first = -raw.ctypes.data % CACHE_LINE
    return raw[first : first + size].view(dtype).reshape(shape)


def aligned_copy(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The same at the start of a cache line."""
    copy = aligned(array.shape, array.dtype)
    copy[...] = array
    return copy
