"""Graphs written line by line, for tests of single passes.

sketch = Sketch(x=("float32", ("batch", "sequence", 8)))
y = sketch.Mul("x", 0.5)
graph = sketch.graph(y)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from engine.graph import Graph, Node, Value
from engine.ops import reference
from engine.passes.shapes import infer
from engine.passes.simulate import spelled_out

Array = np.ndarray


class Sketch:
    """Every operator is a method: inputs are value names, numbers or arrays (constants)."""

    def __init__(self, opset: int = 17, **inputs: tuple[str, tuple[int | str, ...]]) -> None:
        self.inputs = tuple(Value(name, *kind) for name, kind in inputs.items())
        self.constants: dict[str, Array] = {}
        self.nodes: list[Node] = []
        self.opset = opset

    def constant(self, array: Any, name: str = "") -> str:
        name = name or f"constant{len(self.constants)}"
        array = np.asarray(array)
        self.constants[name] = array.astype(np.float32) if array.dtype == np.float64 else array
        return name

    def __getattr__(self, op: str) -> Callable[..., Any]:
        if op.startswith("_"):
            raise AttributeError(op)

        def add(
            *inputs: Any, outputs: int = 1, name: str = "", domain: str = "", **attributes: Any
        ) -> Any:
            names = tuple(x if isinstance(x, str) else self.constant(x) for x in inputs)
            first = f"{op.lower()}{len(self.nodes)}"
            made = tuple(f"{first}.{i}" for i in range(outputs)) if outputs > 1 else (first,)
            self.nodes.append(Node(op, names, made, attributes, name, domain))
            return made if outputs > 1 else first

        return add

    def round_trip(self, x: str, scale: float, zero: int = 128, dtype: str = "uint8") -> str:
        """QuantizeLinear and DequantizeLinear."""
        how = (np.float32(scale), np.array(zero, dtype))
        return str(self.DequantizeLinear(self.QuantizeLinear(x, *how), *how))

    def graph(self, *outputs: str) -> Graph:
        values = tuple(Value(name, "float32", ("?",)) for name in outputs)
        return Graph(
            "sketch", self.inputs, values, tuple(self.nodes), self.constants, self.opset
        ).check()


def operators(graph: Graph) -> list[str]:
    return [node.op for node in graph.nodes]


def counts(graph: Graph) -> dict[str, int]:
    return dict(Counter(operators(graph)))


def only(graph: Graph, op: str) -> Node:
    """The one node of this operator."""
    (node,) = [node for node in graph.nodes if node.op == op]
    return node


def results(graph: Graph, **feeds: Array) -> list[Array]:
    """Every output, by the reference executor."""
    return list(reference.run(spelled_out(graph), feeds).values())


def assert_same(before: Graph, after: Graph, atol: float = 2e-6, **feeds: Array) -> None:
    """Both graphs compute the same."""
    after.check()
    for expected, got in zip(results(before, **feeds), results(after, **feeds), strict=True):
        assert got.shape == expected.shape
        np.testing.assert_allclose(got, expected, rtol=0, atol=atol)


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def save(graph: Graph, path: Path) -> Path:
    """The graph as an ONNX file."""
    kinds = {value.name: onnx_type(value.dtype) for value in (*graph.inputs, *graph.outputs)}
    ranks = {v.name: infer(graph)[v.name].rank or 0 for v in graph.outputs}
    outputs = [
        helper.make_tensor_value_info(name, kinds[name], [None] * rank)
        for name, rank in ranks.items()
    ]
    proto = helper.make_graph(
        [as_proto(node) for node in graph.nodes],
        graph.name,
        [helper.make_tensor_value_info(v.name, kinds[v.name], v.shape) for v in graph.inputs],
        outputs,
        [numpy_helper.from_array(array, name) for name, array in graph.constants.items()],
    )
    domains = {node.domain: 1 for node in graph.nodes if node.domain} | {"": graph.opset}
    opsets = [helper.make_opsetid(domain, version) for domain, version in domains.items()]
    onnx.save(helper.make_model(proto, opset_imports=opsets, ir_version=8), path)
    return path


def onnx_type(dtype: str) -> int:
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def as_proto(node: Node) -> onnx.NodeProto:
    attributes = {
        key: onnx_type(value) if key == "to" else value for key, value in node.attributes.items()
    }
    return helper.make_node(
        node.op, node.inputs, node.outputs, node.name or None, domain=node.domain, **attributes
    )
