"""What an ONNX graph is to be fed: never assumed, read from the file."""

import onnx

from engine.graph import Value


def inputs_of(graph: onnx.GraphProto) -> list[Value]:
    """Inputs with their types and shapes; old files list weights among them, which are none."""
    weights = {tensor.name for tensor in graph.initializer}
    return [_value(each) for each in graph.input if each.name not in weights]


def _value(each: onnx.ValueInfoProto) -> Value:
    tensor = each.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    shape = tuple(
        size.dim_value if size.HasField("dim_value") else size.dim_param
        for size in tensor.shape.dim
    )
    return Value(each.name, dtype, shape)
