"""`engine compare a b`: two models or backends, step by step; the first value in which they part.

Values are matched by their name, else by their operator's: passes keep the name of what a fusion
makes, so an ONNX file as read can be compared with its IR.  Quantised values are compared as the
numbers they stand for, values of masked tokens not at all.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import settings
from ..errors import InputError, SettingError
from ..formats import models, onnx_reader
from ..graph import Graph, Node, Quantization
from ..measure.feeds import made_up, taken
from ..ops import reference
from ..ops.numbers import dequantized
from ..runtime import Session, stepwise

__all__ = ["BACKENDS", "Difference", "Made", "add_arguments", "differences", "main"]

Array = NDArray[Any]


@dataclass(frozen=True)
class Difference:
    """One value that both sides make: by which operators, and how far apart."""

    value: str
    first: str
    second: str
    difference: float
    largest: float  # magnitude on the first side, to judge the difference by
    place: tuple[int, ...]  # index of the difference


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("first", type=Path, help="ONNX file or IR folder")
    parser.add_argument("second", type=Path, help="the other one; may be the same")
    parser.add_argument("--inputs", type=Path, help=".npz with an array per input; else random")
    parser.add_argument("--tolerance", type=float, default=1e-3, help="largest difference (1e-3)")
    parser.add_argument("--as-read", action="store_true", help="the first before any pass")
    parser.add_argument(
        "--backends", default="reference", help=f"of both, or FIRST,SECOND: {', '.join(BACKENDS)}"
    )
    parser.add_argument("--kernels", action="store_true", help="the second by kernels")
    parser.add_argument("--isa", help="cap for the kernels of both, or FIRST,SECOND; both kernels")
    parser.add_argument("--json", action="store_true", help="every value compared, as JSON")


def main(arguments: argparse.Namespace) -> int:
    """Exit status 1 where the models part."""
    read = onnx_reader.read if arguments.as_read else models.read
    graphs = read(arguments.first), models.read(arguments.second)
    feeds = _feeds(graphs[0], arguments.inputs)
    caps = _pair(arguments.isa or "")
    backends = _pair("kernels" if arguments.isa else arguments.backends)
    if arguments.kernels:
        backends = (backends[0], "kernels")
    sides = []
    paths = (arguments.first, arguments.second)
    for graph, path, backend, isa in zip(graphs, paths, backends, caps, strict=True):
        if backend not in BACKENDS:
            raise SettingError(f"--backends {backend}: expected one of {', '.join(BACKENDS)}")
        with settings.override(**({"isa": isa} if isa else {})):
            sides.append(BACKENDS[backend](graph, path, feeds))
    found = list(differences(*sides))
    apart = [row for row in found if not row.difference <= arguments.tolerance]
    if arguments.json:
        sys.stdout.write(json.dumps([asdict(row) for row in found], indent=1) + "\n")
    else:
        sys.stdout.write(_report(found, apart, arguments.tolerance))
    return 1 if apart else 0


def _pair(text: str) -> tuple[str, str]:
    first, mark, second = text.partition(",")
    return first, second if mark else first


# --- what a side makes ---
@dataclass(frozen=True)
class Made:
    """A value under its own name and its operator's, as the numbers it stands for."""

    keys: tuple[str, ...]
    op: str
    array: Array
    real: Array | None = None  # bool [batch, length]: tokens that count


def _by_reference(graph: Graph, path: Path, feeds: Mapping[str, Array]) -> list[Made]:
    del path
    made: list[Made] = []
    stored: dict[str, Quantization] = {}  # how a value is quantised
    less = _without_bias(graph)

    def keep(node: Node, outputs: tuple[Array, ...]) -> None:
        how = node.attributes.get("output")
        if node.kind == "engine.Select":
            how = stored.get(node.inputs[0])
        for name, array in zip(node.outputs, outputs, strict=False):
            if isinstance(how, Quantization) and name and array.dtype == how.dtype:
                stored[name] = how
                array = dequantized(array, how)
            if name and array.dtype.kind in "fiub":
                made.append(Made(_keys(name, node, less), node.op, array))

    reference.run(graph, feeds, keep)
    return made


def _by_kernels(graph: Graph, path: Path, feeds: Mapping[str, Array]) -> list[Made]:
    """Each step's result, then the outputs."""
    del path
    stored, made = stepwise.quantizations(graph), []
    values, makers = stepwise.values(graph, feeds), graph.producer()
    less = _without_bias(graph)
    for name, value in values.items():
        array = dequantized(value.array, stored.get(name))
        made.append(Made(_keys(name, makers[name], less), value.kernel, array, value.real))
    outputs = Session(graph).run(feeds)
    return made + [Made((n,), "kernels", a) for n, a in outputs.items() if n not in values]


def _by_onnxruntime(graph: Graph, path: Path, feeds: Mapping[str, Array]) -> list[Made]:
    """Every value of the ONNX file."""
    del graph
    try:
        runtime = importlib.import_module("onnxruntime")
    except ImportError as error:
        how = "pip install 'sparse-engine[test]'"
        raise InputError(f"onnxruntime is not installed: {how}") from error
    options = runtime.SessionOptions()
    # exact integer products without VNNI: an optimisation of this level, which keeps outputs
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.add_session_config_entry("session.x64quantprecision", "1")
    content = onnx_reader.with_every_value(path)
    session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    fed = {value.name: feeds[value.name] for value in session.get_inputs()}
    arrays = zip(names, session.run(names, fed), strict=True)
    return [Made((name,), "onnxruntime", a) for name, a in arrays if a.dtype.kind in "fiub"]


def _without_bias(graph: Graph) -> set[str]:
    """Products whose bias the LayerNorm behind adds: not the value whose name they have."""
    norms = [node for node in graph if node.kind == "engine.LayerNorm"]
    return {node.x for node in norms if node.bias}


def _keys(name: str, node: Node, less: set[str]) -> tuple[str, ...]:
    """Its names; what the quantize pass stored has the name of the value it stands for."""
    own = (f"{node.name}:{node.op}",) if node.name and name == node.outputs[0] else ()
    plain = (name.removesuffix(".stored"),) if name.endswith(".stored") and name not in less else ()
    return (name, *plain, *own)


BACKENDS = {
    "reference": _by_reference,
    "kernels": _by_kernels,
    "onnxruntime": _by_onnxruntime,
}


def differences(first: Sequence[Made], second: Sequence[Made]) -> Iterator[Difference]:
    """Values that both sides make in the same shape, in the second's order."""
    origins = {key: value for value in first for key in reversed(value.keys)}
    for value in second:
        key = next((key for key in value.keys if key in origins), None)
        if key is None or origins[key].array.shape != value.array.shape:
            continue
        origin = origins[key]
        apart = np.abs(origin.array.astype(np.float64) - value.array)
        for real in (origin.real, value.real):
            if real is not None:
                apart = np.where(real[..., None], apart, 0)
        place = np.unravel_index(int(apart.argmax()), apart.shape) if apart.size else ()
        largest = float(np.abs(origin.array).max(initial=0))
        yield Difference(
            key, origin.op, value.op, float(apart.max(initial=0)), largest, tuple(map(int, place))
        )


def _feeds(graph: Graph, path: Path | None) -> dict[str, Array]:
    if path is None:
        return made_up(graph, 2, 16, holes=True)
    try:
        with np.load(path) as content:
            return taken(graph, content)
    except (OSError, ValueError) as error:
        expected = ", ".join(value.name for value in graph.inputs)
        raise InputError(f"{path}: {error}; expected an .npz with {expected}") from error


def _report(found: list[Difference], apart: list[Difference], tolerance: float) -> str:
    if not found:
        return "no value has the same name and shape in both models\n"
    if not apart:
        worst = max(found, key=lambda row: row.difference)
        return f"{len(found)} values agree within {tolerance}; worst: {_line(worst)}\n"
    return f"first of {len(apart)} values (of {len(found)}) that part: {_line(apart[0])}\n"


def _line(row: Difference) -> str:
    return (
        f"'{row.value}' ({row.first} and {row.second}): {row.difference:.3g} apart at"
        f" {list(row.place)}, values up to {row.largest:.3g}"
    )
