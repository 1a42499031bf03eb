"""`engine compare a b`: both models step by step; the first value in which they part.

Values are matched by their name, else by their operator's: passes keep the name of what a fusion
makes, so an ONNX file as read can be compared with its IR.  Quantised values are compared as the
numbers they stand for.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import models, onnx_reader, reference
from ..errors import InputError
from ..graph import Graph, Node, Quantization
from ..ops.numbers import dequantized
from ..runtime import Session

__all__ = ["Difference", "add_arguments", "differences", "main"]

Array = NDArray[Any]


@dataclass(frozen=True)
class Difference:
    """One value that both models make: by which operators, and how far apart."""

    value: str
    first: str
    second: str
    difference: float
    largest: float  # magnitude in the first model, to judge the difference by


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("first", type=Path, help="ONNX file or IR folder")
    parser.add_argument("second", type=Path, help="the other one; may be the same")
    parser.add_argument("--inputs", type=Path, help=".npz with an array per input; else random")
    parser.add_argument("--tolerance", type=float, default=1e-3, help="largest difference (1e-3)")
    parser.add_argument("--as-read", action="store_true", help="the first before any pass")
    parser.add_argument(
        "--kernels", action="store_true", help="the second by kernels, outputs only"
    )
    parser.add_argument("--json", action="store_true", help="every value compared, as JSON")


def main(arguments: argparse.Namespace) -> int:
    """Exit status 1 where the models part."""
    read = onnx_reader.read if arguments.as_read else models.read
    first, second = read(arguments.first), models.read(arguments.second)
    feeds = _feeds(first, arguments.inputs)
    found = list(differences(first, second, feeds, kernels=arguments.kernels))
    apart = [row for row in found if not row.difference <= arguments.tolerance]
    if arguments.json:
        sys.stdout.write(json.dumps([asdict(row) for row in found], indent=1) + "\n")
    else:
        sys.stdout.write(_report(found, apart, arguments.tolerance))
    return 1 if apart else 0


def differences(
    first: Graph, second: Graph, feeds: Mapping[str, Array], *, kernels: bool = False
) -> Iterator[Difference]:
    """Values that both models make in the same shape, in the second model's order."""
    origins = {key: value for value in _values(first, feeds) for key in reversed(value.keys)}
    for value in _by_kernels(second, feeds) if kernels else _values(second, feeds):
        key = next((key for key in value.keys if key in origins), None)
        if key is not None and origins[key].array.shape == value.array.shape:
            origin = origins[key]
            apart = np.abs(origin.array.astype(np.float64) - value.array)
            largest = float(np.abs(origin.array).max(initial=0))
            yield Difference(key, origin.op, value.op, float(apart.max(initial=0)), largest)


@dataclass(frozen=True)
class Made:
    """A value under its own name and its operator's, as the numbers it stands for."""

    keys: tuple[str, ...]
    op: str
    array: Array


def _values(graph: Graph, feeds: Mapping[str, Array]) -> list[Made]:
    made: list[Made] = []
    stored: dict[str, Quantization] = {}  # how a value is quantised

    def keep(node: Node, outputs: tuple[Array, ...]) -> None:
        how = node.attributes.get("output")
        if node.op == "Select":
            how = stored.get(node.inputs[0])
        for name, array in zip(node.outputs, outputs, strict=False):
            if isinstance(how, Quantization) and name and array.dtype == how.dtype:
                stored[name] = how
                array = dequantized(array, how)
            if name and array.dtype.kind in "fiub":
                own = (f"{node.name}:{node.op}",) if node.name and name == node.outputs[0] else ()
                made.append(Made((name, *own), node.op, array))

    reference.run(graph, feeds, keep)
    return made


def _by_kernels(graph: Graph, feeds: Mapping[str, Array]) -> list[Made]:
    found = Session(graph).run(feeds)
    return [Made((name,), "kernels", array) for name, array in found.items()]


def _feeds(graph: Graph, path: Path | None) -> dict[str, Array]:
    if path is None:
        return {value.name: _made_up(value.dtype, value.shape) for value in graph.inputs}
    try:
        with np.load(path) as content:
            names = {value.name: value.dtype for value in graph.inputs}
            return {name: content[name].astype(dtype) for name, dtype in names.items()}
    except (OSError, ValueError, KeyError) as error:
        expected = ", ".join(value.name for value in graph.inputs)
        raise InputError(f"{path}: {error}; expected an .npz with {expected}") from error


def _made_up(dtype: str, shape: tuple[int | str, ...]) -> Array:
    """Two sentences of 16 tokens where lengths are free; ids 0 and 1, which every input takes."""
    random = np.random.default_rng(0)
    free = [2, *[16] * len(shape)]
    lengths = [n if isinstance(n, int) else free[i] for i, n in enumerate(shape)]
    if np.dtype(dtype).kind == "f":
        return random.normal(size=lengths).astype(dtype)
    tokens = random.integers(0, 2, lengths).astype(dtype)
    tokens[..., :1] = 1  # a mask needs a first token
    return tokens


def _report(found: list[Difference], apart: list[Difference], tolerance: float) -> str:
    if not found:
        return "no value has the same name and shape in both models\n"
    if not apart:
        worst = max(found, key=lambda row: row.difference)
        return f"{len(found)} values agree within {tolerance}; worst: {_line(worst)}\n"
    return f"first of {len(apart)} values (of {len(found)}) that part: {_line(apart[0])}\n"


def _line(row: Difference) -> str:
    return (
        f"'{row.value}' ({row.first} and {row.second}): {row.difference:.3g} apart,"
        f" values up to {row.largest:.3g}"
    )
