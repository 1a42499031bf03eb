"""Operators of com.microsoft, against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper

from engine.graph import Node, Quantization
from engine.ops import find, reference

random = np.random.default_rng(7)
U8 = Quantization(0.05, 120)
S8 = Quantization(0.01, -5, "int8")


def floats(*shape: int) -> np.ndarray:
    return random.normal(size=shape).astype(np.float32)


def run(op: str, *inputs: np.ndarray | None, domain: str = "engine", **attributes: Any) -> Any:
    node = Node(op, tuple("" for _ in inputs), ("y",), attributes, "tested", domain)
    return reference.evaluate(node, inputs)[0]


def runtime(
    op: str, inputs: list[np.ndarray | None], *, output: str = "y", **attributes: Any
) -> np.ndarray:
    pytest.importorskip("onnxruntime")
    from workflow.scripts.convert import onnx_runtime

    names = ["" if x is None else f"i{i}" for i, x in enumerate(inputs)]
    outputs = ["y", "lengths"] if "EmbedLayer" in op else ["y"]
    node = helper.make_node(op, names, outputs, domain="com.microsoft", **attributes)
    given = {name: x for name, x in zip(names, inputs, strict=True) if x is not None}
    # weights of integer products are constants, or no option makes these exact on every CPU
    weights = {name: x for name, x in given.items() if x.dtype == np.int8}
    fed = {name: x for name, x in given.items() if name not in weights}
    constants = [numpy_helper.from_array(x, name) for name, x in weights.items()]
    values = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
        for name, x in fed.items()
    ]
    made = helper.make_empty_tensor_value_info(output)
    graph = helper.make_graph([node], "g", values, [made], constants)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8)
    session = onnx_runtime.session(model.SerializeToString())
    return np.asarray(session.run(None, fed)[0])


def whole(dtype: str, *shape: int) -> np.ndarray:
    limits = np.iinfo(dtype)
    return random.integers(limits.min, limits.max + 1, shape).astype(dtype)


def scalar(value: float, dtype: str = "float32") -> np.ndarray:
    return np.array(value, dtype)


A, B = whole("uint8", 3, 8), whole("int8", 8, 4)
ADDENDS = (whole("uint8", 2, 4), scalar(0.1), scalar(7, "uint8"),
           whole("uint8", 2, 4), scalar(0.2), scalar(9, "uint8"))  # fmt: skip
MICROSOFT: list[tuple[str, list[np.ndarray | None], dict[str, Any], float]] = [
    ("Gelu", [floats(3, 4)], {}, 1e-6),
    ("BiasGelu", [floats(3, 4), floats(4)], {}, 1e-6),
    ("FastGelu", [floats(3, 4), floats(4)], {}, 1e-6),
    ("QuickGelu", [floats(3, 4)], {"alpha": 1.5}, 1e-6),
    ("SkipLayerNormalization", [floats(2, 3, 4), floats(2, 3, 4), floats(4), floats(4), floats(4)],
     {"epsilon": 1e-5}, 1e-5),
    ("SkipSimplifiedLayerNormalization",
     [floats(2, 3, 4), floats(2, 3, 4), floats(4), floats(4)], {"epsilon": 1e-5}, 1e-5),
    ("Attention", [floats(2, 3, 8), floats(8, 24), floats(24)], {"num_heads": 2}, 1e-5),
    ("Attention", [floats(2, 3, 8), floats(8, 24), floats(24),
                   np.array([[1, 1, 0], [1, 1, 1]], np.int32)], {"num_heads": 2}, 1e-5),
    ("MultiHeadAttention", [floats(2, 3, 8), floats(2, 3, 8), floats(2, 3, 8), floats(24),
                            np.array([1, 3], np.int32)], {"num_heads": 2, "scale": 0.3}, 1e-5),
    ("QEmbedLayerNormalization",
     [np.array([[1, 2]], np.int32), np.array([[0, 1]], np.int32), whole("int8", 4, 8),
      whole("int8", 5, 8), whole("int8", 2, 8), whole("int8", 8), whole("int8", 8),
      np.array([[1, 0]], np.int32), *[scalar(0.02)] * 5,
      scalar(0, "int8"), scalar(9, "int8"), *[scalar(0, "int8")] * 3], {}, 1e-5),
    ("QAttention", [whole("uint8", 2, 3, 8), whole("int8", 8, 24), floats(24),
                    scalar(0.01), scalar(0.02), np.array([[1, 1, 0], [1, 1, 1]], np.int32),
                    scalar(128, "uint8"), scalar(0, "int8")], {"num_heads": 2}, 1e-4),
    ("EmbedLayerNormalization",
     [np.array([[1, 2]], np.int32), np.array([[0, 1]], np.int32), floats(4, 8), floats(5, 8),
      floats(2, 8), floats(8), floats(8)], {"epsilon": 1e-5}, 1e-5),
    ("EmbedLayerNormalization",
     [np.array([[1, 2, 3]], np.int32), np.zeros((1, 3), np.int32), floats(4, 8), floats(5, 8),
      floats(2, 8), floats(8), floats(8), np.array([[1, 2, 1]], np.int32)], {}, 1e-5),
    ("FusedMatMul", [floats(2, 4, 3), floats(2, 4, 5)], {"transA": 1, "alpha": 0.5}, 1e-6),
    ("DynamicQuantizeMatMul", [floats(3, 8), B, scalar(0.01), scalar(0, "int8"), floats(4)],
     {}, 1e-4),
    ("MatMulIntegerToFloat", [A, B, scalar(0.1), scalar(0.02), scalar(5, "uint8")], {}, 1e-4),
    ("MatMulNBits", [floats(3, 40), whole("uint8", 5, 3, 8), floats(5, 3), whole("uint8", 5, 2)],
     {"K": 40, "N": 5, "bits": 4, "block_size": 16}, 1e-3),
    ("MatMulNBits", [floats(3, 40), whole("uint8", 5, 3, 16), floats(5, 3)],
     {"K": 40, "N": 5, "bits": 8, "block_size": 16}, 1e-2),
    ("QGemm", [A, scalar(0.1), scalar(7, "uint8"), B, np.full(4, 0.02, np.float32),
               np.zeros(4, np.int8), whole("int16", 4).astype(np.int32), scalar(0.5),
               scalar(99, "uint8")], {}, 0),
    ("QLinearAdd", [*ADDENDS, scalar(0.3), scalar(11, "uint8")], {}, 1),
    ("QLinearConcat", [scalar(0.3), scalar(11, "uint8"), *ADDENDS], {"axis": 0}, 0),
    ("QLinearMul", [*ADDENDS, scalar(3.0), scalar(11, "uint8")], {}, 1),
    ("QLinearSigmoid", [A, scalar(0.05), scalar(99, "uint8"), scalar(1 / 256), scalar(0, "uint8")],
     {}, 1),
    ("QLinearSoftmax", [A, scalar(0.05), scalar(99, "uint8"), scalar(1 / 256), scalar(0, "uint8")],
     {"axis": -1, "opset": 17}, 1),
]  # fmt: skip


@pytest.mark.parametrize(
    ("op", "inputs", "attributes", "tolerance"), MICROSOFT, ids=[row[0] for row in MICROSOFT]
)
def test_microsoft(
    op: str, inputs: list[np.ndarray | None], attributes: dict[str, Any], tolerance: float
) -> None:
    found = run(op, *inputs, domain="com.microsoft", **attributes)
    expected = runtime(op, inputs, **attributes)
    assert found.dtype == expected.dtype
    difference = found.astype(np.float64) - expected.astype(np.float64)
    assert np.abs(difference).max() <= tolerance


def test_lengths_are_numbers_of_ones() -> None:
    ids, mask = np.zeros((3, 4), np.int32), np.array([[1, 1, 2, 0], [0, 1, 0, 1], [-1, 1, 1, 1]])
    inputs = [ids, ids, *(floats(4, 8) for _ in range(3)), floats(8), floats(8), np.int32(mask)]
    found = find("com.microsoft", "EmbedLayerNormalization", 17).meaning(*inputs)[1]
    expected = runtime("EmbedLayerNormalization", inputs, output="lengths")
    assert found.tolist() == expected.tolist() == [2, 2, 3]


@pytest.mark.parametrize("given", ["each", "first"])
@pytest.mark.parametrize(
    ("interleaved", "shape"), [(0, (2, 5, 24)), (1, (2, 5, 24)), (0, (2, 3, 5, 8))]
)
def test_rotary_positions(interleaved: int, shape: tuple[int, ...], given: str) -> None:
    x, (cos, sin) = floats(*shape), floats(2, 9, 4)
    places = random.integers(0, 9, (2, 5)) if given == "each" else np.array([3])
    inputs = [x, places, cos, sin]
    how = {"interleaved": interleaved}
    got = run("RotaryEmbedding", *inputs, domain="com.microsoft", **how)
    wanted = runtime("RotaryEmbedding", list(inputs), **how)
    np.testing.assert_allclose(got, wanted, atol=1e-6)
