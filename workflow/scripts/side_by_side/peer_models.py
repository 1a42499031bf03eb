"""The forms of a model that DeepSparse 1.7 reads: an older opset, and its own kind of int8.

Its int8 is QuantizeLinear and MatMulInteger with attention in float32: ONNX Runtime's dynamic
quantisation with every run-time scale made a constant, which changes no work that is done.
"""

import argparse
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from workflow.rulebook.command_line import add_options
from workflow.rulebook.writing import run_main, whole

DOMAINS = ("", "ai.onnx", "com.microsoft")
IR_VERSION = 8  # of 2023
SCALE, ZERO = np.array(0.02, np.float32), np.array(128, np.uint8)


def legacy(model: onnx.ModelProto) -> onnx.ModelProto:
    keep = [each for each in model.opset_import if each.domain in DOMAINS]
    del model.opset_import[:]
    model.opset_import.extend(keep)
    model.ir_version = IR_VERSION
    return model


def with_constant_scales(model: onnx.ModelProto) -> onnx.ModelProto:
    nodes = []
    for node in model.graph.node:
        if node.op_type != "DynamicQuantizeLinear":
            nodes.append(node)
            continue
        quantised, scale, zero = node.output
        constants = [numpy_helper.from_array(SCALE, scale), numpy_helper.from_array(ZERO, zero)]
        model.graph.initializer.extend(constants)
        inputs = [node.input[0], scale, zero]
        nodes.append(helper.make_node("QuantizeLinear", inputs, [quantised], node.name))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def main(arguments: argparse.Namespace) -> None:
    with whole(arguments.fp32) as partial:
        onnx.save(legacy(onnx.load(arguments.model)), partial)
    with whole(arguments.int8) as partial:
        quantize_dynamic(
            arguments.model,
            partial,
            op_types_to_quantize=["MatMul", "Gemm"],
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
        onnx.save(with_constant_scales(legacy(onnx.load(partial))), partial)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser, model=Path, fp32=Path, int8=Path)
    run_main(main, parser)
