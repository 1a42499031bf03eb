"""conf.yaml and model.bin of the original engine as operators and tensors, every field checked.

model.bin is a plain concatenation: no header, no padding, no checksum.  conf.yaml gives
[offset, length] of each constant; a tensor of the Input operator without a location is an input
of the model.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import IntegrityError, ModelError, UnsupportedError
from ...files.replacing import opened
from ..conf import Field, parse

__all__ = ["Content", "Operator", "Tensor", "integers", "load"]

Array = NDArray[Any]
DTYPES = {
    "fp32": "float32",
    "fp64": "float64",
    "fp16": "float16",
    "bf16": "uint16",
    "s32": "int32",
    "s8": "int8",
    "u8": "uint8",
}


@dataclass(frozen=True)
class Tensor:
    """A constant; dtype is theirs ("bf16" is held in uint16), place = offset, length in bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    place: tuple[int, int]


@dataclass(frozen=True)
class Operator:
    """One operator as written; attributes are text, numbers or truth values."""

    name: str
    type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]

    def __str__(self) -> str:
        return f"operator '{self.name}' ({self.type})"


@dataclass(frozen=True)
class Content:
    """The model as it lies on disk."""

    name: str
    place: str  # of conf.yaml, for messages
    inputs: tuple[str, ...]
    operators: tuple[Operator, ...]
    tensors: Mapping[str, Tensor]
    content: memoryview  # model.bin

    def array(self, name: str) -> Array:
        """A constant, read-only; bfloat16 as float32, all else a view of the file."""
        tensor = self.tensors[name]
        offset, length = tensor.place
        array = np.frombuffer(self.content[offset : offset + length], DTYPES[tensor.dtype]).reshape(
            tensor.shape
        )
        if tensor.dtype == "bf16":
            return (array.astype(np.uint32) << 16).view(np.float32)
        return array if array.flags.aligned else array.copy()


def load(content: bytes, text_path: Path, bin_path: Path) -> Content:
    """Operators and tensors.

    Raises:
        IntegrityError, ModelError: see `original_ir.read`.
    """
    place = str(text_path)
    model = Field(parse(content, place), place)["model"]
    operators = model["operator"]
    if not isinstance(operators.value, dict):
        raise operators.error("a map of operators")
    mapped = _map(bin_path)
    inputs: list[str] = []
    tensors: dict[str, Tensor] = {}
    found: list[Operator] = []
    for name in operators.value:
        field = operators[name]
        if field["type"].text() == "Input":
            _read_input(field["output"], inputs, tensors, bin_path, len(mapped))
        else:
            found.append(_operator(str(name), field))
    title = model.value.get("name", "model")
    return Content(str(title), place, tuple(inputs), tuple(found), tensors, mapped)


def _map(path: Path) -> memoryview:
    try:
        with opened(path) as file:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: {error}; expected the weights of an IR") from error


def _read_input(
    field: Field, inputs: list[str], tensors: dict[str, Tensor], path: Path, size: int
) -> None:
    if not isinstance(field.value, dict):
        raise field.error("a map of tensors")
    for key in field.value:
        name, item = str(key), field[key]
        if isinstance(item.value, dict) and "location" in item.value:
            tensors[name] = _tensor(name, item, path, size)
        else:
            item["dtype"].one_of(("s32",))
            inputs.append(name)


def _tensor(name: str, item: Field, path: Path, size: int) -> Tensor:
    dtype = item["dtype"].one_of(tuple(DTYPES))
    shape = item["shape"].shape()
    place = tuple(number.number() for number in item["location"].items())
    if len(place) != 2:
        raise item["location"].error("[offset, length]")
    expected = math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize
    if place[1] != expected:
        raise item["location"].error(f"a length of {expected} bytes for {dtype}{list(shape)}")
    if sum(place) > size:
        raise IntegrityError(
            f"{path}: {size} bytes; tensor '{name}' ends at {sum(place)} ({item.place})"
        )
    if "strides" in item.value and tuple(item["strides"].value or ()) not in ((), _dense(shape)):
        raise UnsupportedError(
            f"{item.place}: strides {item.value['strides']}; expected {list(_dense(shape))}"
        )
    return Tensor(name, dtype, shape, (place[0], place[1]))


def _dense(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


def _operator(name: str, field: Field) -> Operator:
    attributes = field.value.get("attr") or {}
    if not isinstance(attributes, dict):
        raise field["attr"].error("a map")
    for key, value in attributes.items():
        if not isinstance(value, str | int | float | bool):
            raise field["attr"][key].error("text or a number")
    return Operator(
        name, field["type"].text(), _names(field, "input"), _names(field, "output"), attributes
    )


def _names(field: Field, key: str) -> tuple[str, ...]:
    names = field.value.get(key) or {}
    if not isinstance(names, dict):
        raise field[key].error("a map with a name for each tensor")
    return tuple(str(name) for name in names)


def integers(operator: Operator, key: str) -> tuple[int, ...]:
    """An attribute like '4,64,-1, -1' or -1; () where it is not there."""
    text = str(operator.attributes.get(key, ""))
    try:
        return tuple(int(part) for part in text.split(",")) if text else ()
    except ValueError as error:
        raise IntegrityError(
            f"{operator}: {key} {text!r}; expected whole numbers with commas between"
        ) from error
