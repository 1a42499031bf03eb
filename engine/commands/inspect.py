"""`engine inspect ir/`: a line per operator: what it is, how it is stored, what runs it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from ..codegen import isa
from ..errors import ModelError
from ..formats import models, store
from ..graph import Graph, Node
from ..ops import not_finite
from ..plan import make_choices, make_plan

REFERENCE = "reference"  # instead of a kernel
__all__ = ["Layer", "add_arguments", "layers", "main"]


@dataclass(frozen=True)
class Layer:
    """One operator as shown; empty where a column says nothing about it."""

    name: str
    op: str
    shape: str
    type: str
    pattern: str
    zero_ratio: float | None
    kernel: str
    bytes: int
    reason: str = ""  # why no kernel runs it
    not_finite: tuple[str, ...] = ()  # sentences: constants with NaN or infinity


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, help="IR folder, conf.yaml or ONNX file")
    parser.add_argument("--weight", type=Path, help="model.bin, where it is not beside conf.yaml")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.add_argument(
        "--why", action="store_true", help="for an ONNX file: what each fusion nearly matched"
    )


def main(arguments: argparse.Namespace) -> int:
    if arguments.why:
        if arguments.model.suffix != ".onnx":
            raise ModelError(
                f"{arguments.model}: --why needs the ONNX file: in an IR fusions are over"
            )
        sys.stdout.write("\n".join(models.reasons(arguments.model)) + "\n")
        return 0
    found = layers(models.read(arguments.model, arguments.weight))
    if arguments.json:
        sys.stdout.write(json.dumps([asdict(layer) for layer in found], indent=1) + "\n")
    else:
        sys.stdout.write(_table(found))
    return 0


def layers(graph: Graph) -> list[Layer]:
    """A row per operator; a constant's bytes count where it is read first.

    The kernel is the one this machine runs, empty where the plan needs none; "reference" is NumPy.
    """
    kernels = _kernels(graph)
    odd = {each.name: str(each) for each in not_finite(graph)}
    counted: set[str] = set()
    rows = []
    for node in graph:
        constants = [n for n in node.inputs if n in graph.constants and n not in counted]
        counted.update(constants)
        size = sum(_size(graph, name) for name in constants)
        kernel, reason = kernels[_name(node)]
        found = tuple(odd[name] for name in constants if name in odd)
        rows.append(replace(_layer(node, graph, kernel, size), reason=reason, not_finite=found))
    return rows


def _size(graph: Graph, name: str) -> int:
    constants = graph.constants
    return constants.size(name) if isinstance(constants, store.Stored) else constants[name].nbytes


def _kernels(graph: Graph) -> dict[str, tuple[str, str]]:
    """By the name of a node: its kernel, and why it has none."""
    choices, plan = make_choices(graph, isa.chosen()), make_plan(graph, isa.chosen())
    if plan is None:
        whole = choices.refusal.reason if choices.refusal else ""
        return {_name(n): (REFERENCE, choices.reason(n) or whole) for n in graph}
    planned = {row["name"]: str(row["kernel"]) for row in plan.layers}
    reasons = {_name(node): choices.reason(node) for node in choices.graph}
    return {
        name: (REFERENCE if reason else planned.get(name, ""), reason)
        for name, reason in reasons.items()
    }


def _name(node: Node) -> str:
    return node.name or node.outputs[0]


def _layer(node: Node, graph: Graph, kernel: str, size: int) -> Layer:
    weights = [graph.constants[name] for name in node.inputs if name in graph.constants]
    largest = max(weights, key=np.size, default=None)
    attributes = node.attributes
    return Layer(
        _name(node),
        node.op,
        "" if largest is None else "x".join(str(n) for n in largest.shape),
        str(attributes.get("precision") or ("" if largest is None else largest.dtype)),
        str(attributes.get("pattern", "")),
        attributes.get("zero_ratio"),
        kernel,
        size,
    )


HEAD = ("name", "op", "shape", "type", "pattern", "zeros", "kernel", "bytes")


def _table(found: Sequence[Layer]) -> str:
    rows = [HEAD, *(_cells(layer) for layer in found)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEAD))]
    right = {HEAD.index("zeros"), HEAD.index("bytes")}
    lines = [
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    sparse = sum(layer.pattern not in ("", "dense") for layer in found)
    total = sum(layer.bytes for layer in found)
    lines.append(f"{len(found)} operators, {sparse} sparse, {total} bytes")
    refused = [layer for layer in found if layer.reason]
    lines += [f"{layer.name} is left to the reference: {layer.reason}" for layer in refused[:1]]
    lines += [sentence for layer in found for sentence in layer.not_finite]
    return "\n".join(lines) + "\n"


def _cells(layer: Layer) -> tuple[str, ...]:
    zeros = "" if layer.zero_ratio is None else f"{layer.zero_ratio:.3f}"
    return (
        layer.name, layer.op, layer.shape, layer.type, layer.pattern, zeros, layer.kernel,
        str(layer.bytes),
    )  # fmt: skip
