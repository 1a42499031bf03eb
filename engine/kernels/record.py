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
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["ADDRESS", "FLOAT", "OFFSET", "WHOLE", "Field", "record"]

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
    """What every record can do; the items of the tuple are the fields' offsets in bytes."""

    __slots__ = ()
    _fields: tuple[str, ...]
    declared: tuple[Field, ...]
    size: int  # bytes

    def pack(self, **values: Any) -> Mapping[str, Any]:
        """The values in the fields' order.

        Raises:
            TypeError: a field is missing or unknown.
        """
        missing, unknown = set(self._fields) - set(values), set(values) - set(self._fields)
        if missing or unknown:
            name = type(self).__name__
            raise TypeError(f"{name}: {sorted(missing)} missing, {sorted(unknown)} unknown")
        return {name: values[name] for name in self._fields}

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of an array of records; elements side by side are an axis of their own."""
        shapes = {field.name: (field.count,) if field.count > 1 else () for field in self.declared}
        return np.dtype([(each.name, each.element, shapes[each.name]) for each in self.declared])

    @property
    def structure(self) -> type[ctypes.Structure]:
        """For ctypes, whose items are read and set in a third of the time of NumPy's."""
        fields = []
        for field in self.declared:
            kind = np.ctypeslib.as_ctypes_type(field.element)
            fields.append((field.name, kind * field.count if field.count > 1 else kind))
        layout = {"_fields_": fields, "_pack_": 1}
        return type(type(self).__name__, (ctypes.Structure,), layout)


def record(name: str, *fields: Field) -> Any:
    """The record of these fields, one behind the other without gaps: a tuple of their offsets, by
    name.
    """
    offsets, at = [], 0
    for field in fields:
        offsets.append(at)
        at += field.size
    names = namedtuple(name, [field.name for field in fields])  # type: ignore[misc]
    kind = type(name, (_Record, names), {"__slots__": (), "declared": fields, "size": at})
    return kind(*offsets)
