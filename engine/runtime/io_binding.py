"""ONNX Runtime's OrtValue and IOBinding: what a session reads and fills, on the CPU."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import index
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ..errors import FOREIGN, InputError
from ..formats.onnx_reader import TYPES

__all__ = ["IOBinding", "NodeArg", "OrtValue", "as_array", "known", "tensor_type"]

Array = NDArray[Any]
CPU = "cpu"
THEIRS = {"float32": "float", "float64": "double"}  # ONNX Runtime's names, where they differ
NUMBERS = {name: number for number, name in TYPES.items()}  # of types, as ONNX counts them


def tensor_type(dtype: str) -> str:
    """ "tensor(int64)" for "int64"."""
    return f"tensor({THEIRS.get(dtype, dtype)})"


def as_array(value: Any, name: str, dtype: str) -> Array:
    """A fed value: an array, what has `numpy()` (an OrtValue, a tensor), or lists of numbers, which
    become dtype.

    Raises:
        InputError: it makes no array; name is the input's.
    """
    if isinstance(value, np.ndarray):
        return value
    try:
        if hasattr(value, "numpy"):
            return np.asarray(value.numpy())
        return np.asarray(value).astype(dtype, casting="same_kind", copy=False)
    except (RuntimeError, *FOREIGN) as error:
        kind = type(value).__name__
        raise InputError(f"'{name}' as {kind}: expected an array of {dtype}: {error}") from error


def known(name: str, kind: str, names: Sequence[str]) -> str:
    """The name, if it is among the model's.

    Raises:
        InputError: lists those there are; kind: "input" or "output".
    """
    if name not in names:
        raise InputError(f"{kind} '{name}': the model has {', '.join(names)}")
    return name


class OrtValue:
    """An array by ONNX Runtime's name for it."""

    def __init__(self, array: Array) -> None:
        self._array = array

    def numpy(self) -> Array:
        return self._array

    def __array__(self, dtype: DTypeLike = None, copy: bool | None = None) -> Array:
        array = np.asarray(self._array, dtype)
        return array.copy() if copy else array

    def update_inplace(self, data: Any) -> None:
        """Copies data, an array or an OrtValue, into this one's memory.

        Raises:
            InputError: it has another shape or type.
        """
        data = as_array(data, "update", self._array.dtype.name)
        _check_fits(self, data, "update")
        np.copyto(self._array, data)

    def shape(self) -> list[int]:
        return list(self._array.shape)

    def data_type(self) -> str:
        return tensor_type(self._array.dtype.name)

    def element_type(self) -> int:
        return NUMBERS[self._array.dtype.name]

    def data_ptr(self) -> int:
        return int(self._array.ctypes.data)

    def tensor_size_in_bytes(self) -> int:
        return self._array.nbytes

    def device_name(self) -> str:
        return CPU

    def is_tensor(self) -> bool:
        return True

    def has_value(self) -> bool:
        return True


@dataclass(frozen=True)
class NodeArg:
    """An input or output: type as "tensor(int64)", free dimensions by name."""

    name: str
    type: str
    shape: list[int | str]


class Session(Protocol):
    """What a binding asks an InferenceSession for."""

    def get_inputs(self) -> list[NodeArg]: ...
    def get_outputs(self) -> list[NodeArg]: ...


class IOBinding:
    """What `InferenceSession.run_with_iobinding` reads, and where its results go.

    Arrays are read when the session runs.  Memory given by its address is the caller's: it has to
    be there until then.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.inputs: dict[str, Any] = {}
        self.outputs: dict[str, Any] = {}  # where a result goes; None: an array of its own
        self._results: dict[str, Any] = {}

    # --- inputs
    def bind_cpu_input(self, name: str, arr_on_cpu: Any) -> None:
        """An array, or what `as_array` takes.

        Raises:
            InputError: the model has no such input.
        """
        self.inputs[known(name, "input", [x.name for x in self.session.get_inputs()])] = arr_on_cpu

    def bind_input(
        self,
        name: str,
        device_type: str,
        device_id: int,
        element_type: Any,
        shape: Sequence[int],
        buffer_ptr: int,
    ) -> None:
        """element_type: NumPy's, or ONNX's number of it; buffer_ptr: an address.

        Raises:
            InputError: the model has no such input; another device; no such memory can be.
        """
        del device_id
        _check_device(name, device_type)
        self.bind_cpu_input(name, _memory(name, element_type, shape, buffer_ptr))

    def bind_ortvalue_input(self, name: str, ortvalue: Any) -> None:
        """An OrtValue, ours or ONNX Runtime's own.

        Raises:
            InputError: the model has no such input; another device.
        """
        _check_device(name, ortvalue.device_name())
        self.bind_cpu_input(name, ortvalue)

    def clear_binding_inputs(self) -> None:
        self.inputs.clear()

    # --- outputs
    def bind_output(
        self,
        name: str,
        device_type: str = CPU,
        device_id: int = 0,
        element_type: Any = None,
        shape: Sequence[int] | None = None,
        buffer_ptr: int | None = None,
    ) -> None:
        """A result in an array of its own, or at an address.

        Raises:
            InputError: as `bind_input`.
        """
        del device_id
        _check_device(name, device_type)
        if buffer_ptr is None:
            self._bind_output(name, None)
        elif element_type is None or shape is None:
            raise InputError(f"'{name}' at an address: expected its element_type and shape too")
        else:
            self._bind_output(name, OrtValue(_memory(name, element_type, shape, buffer_ptr)))

    def bind_ortvalue_output(self, name: str, ortvalue: Any) -> None:
        """A result in the memory of an OrtValue, ours or ONNX Runtime's own.

        Raises:
            InputError: the model has no such output; another device.
        """
        _check_device(name, ortvalue.device_name())
        self._bind_output(name, ortvalue)

    def _bind_output(self, name: str, place: Any) -> None:
        known(name, "output", [x.name for x in self.session.get_outputs()])
        self.outputs[name] = place
        self._results.pop(name, None)

    def clear_binding_outputs(self) -> None:
        self.outputs.clear()
        self._results.clear()

    # --- results
    def receive(self, arrays: Sequence[Array]) -> None:
        """What a run has made of the bound outputs, in their order.

        Raises:
            InputError: a result has not the shape or type of the memory bound for it.
        """
        for (name, place), array in zip(self.outputs.items(), arrays, strict=True):
            if place is not None:
                _check_fits(place, array, name)
                place.update_inplace(array)
            self._results[name] = OrtValue(array) if place is None else place

    def get_outputs(self) -> list[Any]:
        """Results of the last run, in the order in which outputs were bound.

        Raises:
            InputError: one was bound since.
        """
        for name in self.outputs:
            if name not in self._results:
                raise InputError(f"output '{name}' was bound after the last run")
        return [self._results[name] for name in self.outputs]

    def copy_outputs_to_cpu(self) -> list[Array]:
        """Arrays that the next run leaves alone.

        Raises:
            InputError: as `get_outputs`.
        """
        return [np.array(value.numpy()) for value in self.get_outputs()]

    def synchronize_inputs(self) -> None:
        """The CPU's memory needs none."""

    def synchronize_outputs(self) -> None:
        """The CPU's memory needs none."""


def _check_device(name: str, device: str) -> None:
    if str(device).lower() != CPU:
        raise InputError(f"'{name}' on device '{device}': this engine's memory is the {CPU}'s")


def _check_fits(place: Any, array: Array, name: str) -> None:
    wanted = list(place.shape()), place.data_type()
    if wanted != (found := (list(array.shape), tensor_type(array.dtype.name))):
        raise InputError(f"'{name}' is {found[1]} {found[0]}: bound to {wanted[1]} {wanted[0]}")


def _memory(name: str, element_type: Any, shape: Sequence[int], address: int) -> Array:
    """The caller's memory as an array [shape]."""
    try:
        dtype = np.dtype(TYPES[element_type] if isinstance(element_type, int) else element_type)
        lengths = tuple(map(index, shape))
        size = math.prod(lengths) * dtype.itemsize
        if dtype.kind not in "biuf" or min(lengths, default=0) < 0 or (size and address <= 0):
            raise ValueError("expected a type that NumPy and ONNX have, lengths and an address")
        return np.ndarray(lengths, dtype, memoryview((ctypes.c_char * size).from_address(address)))
    except FOREIGN as error:
        reason = f"{element_type} {shape} at address {address}: {error}"
        raise InputError(f"memory of '{name}': {reason}") from error
