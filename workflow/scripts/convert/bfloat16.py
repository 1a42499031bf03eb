"""fp32 ONNX to bf16 ONNX: weights of products become BFLOAT16 initialisers, each with a Cast.

Rounding is to the nearest, ties to even; arithmetic stays in float, so any runtime can check it.
"""

import argparse
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from workflow.rulebook.command_line import add_options
from workflow.rulebook.writing import run_main, whole

PRODUCTS = ("MatMul", "Gemm")


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    """The upper 16 bits of fp32 after rounding to nearest, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    quiet = (bits >> 16) | 0x40
    return np.where(np.isnan(values), quiet, rounded).astype(np.uint16)


def convert(model: onnx.ModelProto) -> onnx.ModelProto:
    """A new model; a weight that several nodes share is converted once, for its products only."""
    converted = onnx.ModelProto()
    converted.CopyFrom(model)
    graph = converted.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    casts: dict[str, onnx.NodeProto] = {}
    for node in graph.node:
        if node.op_type not in PRODUCTS:
            continue
        for position, name in enumerate(node.input[:2]):
            if name in weights and weights[name].data_type == TensorProto.FLOAT:
                casts.setdefault(name, _cast(name))
                node.input[position] = casts[name].output[0]
    for name in casts:
        tensor = weights[name]
        bits = to_bfloat16(numpy_helper.to_array(tensor))
        graph.initializer.append(
            helper.make_tensor(
                f"{name}_bf16", TensorProto.BFLOAT16, tensor.dims, bits.tobytes(), raw=True
            )
        )
    _put_first(graph, list(casts.values()))
    _drop_unused(graph, set(casts))
    return converted


def _cast(name: str) -> onnx.NodeProto:
    return helper.make_node(
        "Cast", [f"{name}_bf16"], [f"{name}_float"], name=f"{name}_cast", to=TensorProto.FLOAT
    )


def _put_first(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *rest])


def _drop_unused(graph: onnx.GraphProto, names: set[str]) -> None:
    used = {name for node in graph.node for name in node.input}
    for tensor in [t for t in graph.initializer if t.name in names - used]:
        graph.initializer.remove(tensor)


def main(arguments: argparse.Namespace) -> None:
    model = convert(onnx.load(arguments.model))
    with whole(arguments.out) as partial:
        onnx.save(model, partial)
    print(f"{arguments.out}: bf16, {arguments.out.stat().st_size} bytes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser, model=Path, out=Path)
    run_main(main, parser)
