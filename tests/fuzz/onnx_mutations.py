"""What is done to an ONNX file: its protobuf fields, and its bytes."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper

from tests.fuzz import bases
from tests.fuzz.mutations import damaged

__all__ = ["FILE", "onnx_file"]

FILE = "model.onnx"
OPERATORS = (
    "Add", "Mul", "MatMul", "Gather", "Softmax", "Reshape", "Transpose", "Cast", "Erf", "Concat",
    "Expand", "Range", "ConstantOfShape", "Tile", "Where", "Slice", "TopK", "OneHot", "CumSum",
    "Constant", "Einsum", "Gemm", "Identity", "LayerNormalization", "If", "Loop", "Nothing",
    "Squeeze", "Shape", "Split", "QuantizeLinear", "DequantizeLinear", "MatMulInteger", "Dropout",
)  # fmt: skip
ATTRIBUTES = ("axis", "perm", "axes", "to", "keepdims", "epsilon", "transB", "alpha", "block_size",
              "allowzero", "value", "approximate", "nothing")  # fmt: skip
INTEGERS = (0, 1, -1, 2, 3, -2, 16, 32, 100, 1 << 20, 1 << 40, (1 << 63) - 1, -(1 << 63))
NUMBERS = (0.0, -1.0, 1e-45, 1e38, math.inf, math.nan)
ARRAYS = (np.bool_, np.int8, np.uint8, np.int32, np.int64, np.float16, np.float32, np.float64)
LOCATIONS = ("../../etc/passwd", "/etc/passwd", "model.onnx", "", ".", "none", "a\0b", "a/../b")
NOT_SO = (ValueError, TypeError, IndexError, OverflowError, KeyError)
Model = onnx.ModelProto


def onnx_file(random: random.Random) -> tuple[dict[str, bytes], str]:
    kind = random.choice(bases.ONNX)
    content = bases.onnx_model(kind)
    if random.random() < 0.12:
        return {FILE: damaged(random, content)}, kind
    model = onnx.ModelProto.FromString(content)
    for _ in range(random.choice([1, 1, 1, 2, 3])):
        change = random.choice(CHANGES)
        try:
            change(random, model)
        except (*NOT_SO, onnx.checker.ValidationError):
            continue  # what there is left to change has not the form for it
    try:
        return {FILE: model.SerializeToString()}, kind
    except (DecodeError, ValueError):
        return {FILE: content}, kind


# --- tensors ---
def change_tensor(random: random.Random, model: Model) -> None:
    tensor = random.choice(model.graph.initializer)
    array, shape = numpy_helper.to_array(tensor), list(tensor.dims)
    axis = random.randrange(len(shape)) if shape else 0
    choices = [[1] * len(shape), [array.size], shape[::-1], shape[1:], [1, *shape], [*shape, 1], []]
    lengths = (0, 1, 2, 3, 16, 33, *(2 * n for n in shape[axis : axis + 1]))
    choices += [[*shape[:axis], length, *shape[axis + 1 :]] for length in lengths]
    shape = random.choice(choices)
    made = np.resize(array, shape) if array.size else np.zeros(shape)
    tensor.CopyFrom(numpy_helper.from_array(made.astype(array.dtype), tensor.name))


def change_type(random: random.Random, model: Model) -> None:
    tensor = random.choice(model.graph.initializer)
    array = numpy_helper.to_array(tensor)
    with np.errstate(all="ignore"):
        made = array.astype(random.choice(ARRAYS))
    tensor.CopyFrom(numpy_helper.from_array(made, tensor.name))


def change_numbers(random: random.Random, model: Model) -> None:
    """Those of small tensors, which steer shapes, as often as of others."""
    small = [t for t in model.graph.initializer if math.prod(t.dims) <= 8]
    tensor = random.choice(small if random.random() < 0.6 else model.graph.initializer)
    array = numpy_helper.to_array(tensor).copy()
    with np.errstate(all="ignore"):
        number = np.array(random.choice([*INTEGERS, *NUMBERS])).astype(array.dtype)
    array.reshape(-1)[random.randrange(array.size)] = number
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def forge_tensor(random: random.Random, model: Model) -> None:
    """Its parts contradict one another, or it lies elsewhere."""
    tensor, how = random.choice(model.graph.initializer), random.random()
    if how < 0.25:
        tensor.dims[random.randrange(len(tensor.dims))] = random.choice([*INTEGERS, 1 << 62])
    elif how < 0.5:
        tensor.raw_data = tensor.raw_data[: random.randrange(len(tensor.raw_data) + 1)]
    elif how < 0.65:
        tensor.data_type = random.randrange(26)
    elif how < 0.75:
        tensor.ClearField("raw_data")
        tensor.float_data.extend([1.0] * random.choice([0, 1, 32]))
    else:
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        entry = {
            "location": random.choice(LOCATIONS),
            "offset": random.choice(["0", "-1", "x", str(1 << 70), "16"]),
            "length": random.choice(["0", "-5", "4", str(1 << 62), "4096"]),
        }
        for key in random.sample(list(entry), random.randrange(4)):
            tensor.external_data.add(key=key, value=entry[key])


# --- nodes ---
def change_attribute(random: random.Random, model: Model) -> None:
    node, how = random.choice(model.graph.node), random.random()
    if how < 0.3 or not node.attribute:
        value: Any = random.choice([*INTEGERS, *NUMBERS, [0, 1], [1, 0], [], "x", [0.5]])
        node.attribute.append(helper.make_attribute(random.choice(ATTRIBUTES), value))
        return
    attribute = random.choice(node.attribute)
    if how < 0.4:
        node.attribute.remove(attribute)
    elif how < 0.5:
        attribute.type = random.randrange(15)
    elif attribute.type == onnx.AttributeProto.INT:
        attribute.i = random.choice(INTEGERS)
    elif attribute.type == onnx.AttributeProto.INTS:
        attribute.ints[random.randrange(len(attribute.ints))] = random.choice(INTEGERS)
    else:
        attribute.f = random.choice(NUMBERS)


def rewire(random: random.Random, model: Model) -> None:
    node = random.choice([node for node in model.graph.node if node.input])
    names = [name for each in model.graph.node for name in each.output]
    names += [each.name for each in (*model.graph.initializer, *model.graph.input)]
    how, place = random.random(), random.randrange(len(node.input))
    if how < 0.6:
        node.input[place] = random.choice([*names, "", "nothing"])
    elif how < 0.7:
        del node.input[place]
    elif how < 0.8:
        node.input.append(random.choice(names))
    elif how < 0.9:
        node.output.append(random.choice([*names, "more"]))
    else:
        del node.output[:]


def change_nodes(random: random.Random, model: Model) -> None:
    nodes, how = model.graph.node, random.random()
    node = random.choice(nodes)
    if how < 0.4:
        node.op_type = random.choice(OPERATORS)
    elif how < 0.5:
        node.domain = random.choice(["com.microsoft", "engine", "own", "ai.onnx", "x"])
    elif how < 0.65:
        nodes.remove(node)
    elif how < 0.75:
        nodes.append(node)
    elif how < 0.85:
        other = random.choice(nodes)
        kept = node.SerializeToString()
        node.CopyFrom(other)
        other.ParseFromString(kept)
    else:
        node.name = random.choice(["", "\0", "a" * 10000, "../x"])


def change_ends(random: random.Random, model: Model) -> None:
    values, how = random.choice([model.graph.input, model.graph.output]), random.random()
    value = random.choice(values)
    kind = value.type.tensor_type
    if how < 0.35:
        kind.shape.dim[random.randrange(len(kind.shape.dim))].dim_value = random.choice(INTEGERS)
    elif how < 0.5:
        kind.elem_type = random.randrange(25)
    elif how < 0.6:
        del kind.shape.dim[0]
    elif how < 0.7:
        kind.shape.dim.add().dim_param = "more"
    elif how < 0.8:
        value.name = random.choice(["", "x", random.choice(model.graph.node).output[0]])
    elif how < 0.9:
        values.append(value)
    else:
        values.remove(value)


def change_model(random: random.Random, model: Model) -> None:
    how = random.random()
    if how < 0.5 or not model.functions:
        versions = [0, 1, 11, 12, 13, 14, 18, 21, 28, 29, 1 << 40, -1]
        random.choice(model.opset_import).version = random.choice(versions)
        return
    function = random.choice(model.functions)
    if how < 0.7:
        node = random.choice(function.node)
        node.op_type, node.domain = random.choice(["Squash", "Inner", "Tanh", "Nothing"]), "own"
    elif how < 0.8:
        function.node.append(function.node[0])
    elif how < 0.9:
        function.input.append("a")
    else:
        model.functions.append(function)


CHANGES: tuple[Callable[[random.Random, Model], None], ...] = (
    change_tensor, change_tensor, change_type, change_numbers, change_numbers, forge_tensor,
    change_attribute, change_attribute, rewire, rewire, change_nodes, change_ends, change_model,
)  # fmt: skip
