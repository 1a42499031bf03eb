"""Arithmetic of `ops.numbers`, the fused operators of docs/design.md, and com.microsoft's."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from engine.errors import ModelError, UnsupportedError
from engine.graph import Graph, Node, Quantization
from engine.ops import OPERATORS, find, not_finite, reference
from engine.ops.numbers import dequantized, erf, exact_in_bfloat16, quantized, round_to_bfloat16

random = np.random.default_rng(7)
U8 = Quantization(0.05, 120)
S8 = Quantization(0.01, -5, "int8")


def floats(*shape: int) -> np.ndarray:
    return random.normal(size=shape).astype(np.float32)


def run(op: str, *inputs: np.ndarray | None, domain: str = "engine", **attributes: Any) -> Any:
    node = Node(op, tuple("" for _ in inputs), ("y",), attributes, "tested", domain)
    return reference.evaluate(node, inputs)[0]


# --- the table ---
def test_rows_are_unique() -> None:
    keys = [(row.domain, row.name, row.since) for row in OPERATORS]
    assert len(keys) == len(set(keys))


def test_the_row_by_opset() -> None:
    assert find("", "Softmax", 12) is not find("", "Softmax", 13)
    assert find("", "Softmax", 13) is find("", "Softmax", 21)
    with pytest.raises(
        UnsupportedError, match="operator com.microsoft.Beam .*supported: Attention"
    ):
        find("com.microsoft", "Beam", 17)
    with pytest.raises(UnsupportedError, match="operator own.Op .*supported: Abs"):
        find("own", "Op", 17)


# --- numbers ---
def test_erf_is_the_error_function() -> None:
    x = np.concatenate([np.linspace(-7, 7, 20001), floats(1000) * 1e-3, [0.46875, 4, -4, 1e-300]])
    expected = np.array([math.erf(value) for value in x])
    np.testing.assert_allclose(erf(x), expected, rtol=1e-15, atol=0)
    assert erf(np.array([np.inf, -np.inf, 1e200])).tolist() == [1, -1, 1]
    assert np.isnan(erf(np.array(np.nan)))
    assert erf(np.float32([0.5])).dtype == np.float32


@given(st.floats(width=32))
def test_bfloat16_is_the_nearest(value: float) -> None:
    found = float(round_to_bfloat16(np.array([value], np.float32))[0])
    tensor = helper.make_tensor("t", TensorProto.BFLOAT16, [1], [value])
    expected = float(numpy_helper.to_array(tensor).astype(np.float32)[0])
    assert found == expected or (math.isnan(value) and math.isnan(found))
    if not math.isnan(found):
        assert exact_in_bfloat16(np.array([found], np.float32))


def test_bfloat16_ties_go_to_even() -> None:
    steps = np.float32(2.0**-8) * np.array([1, 3], np.float32)
    assert round_to_bfloat16(1 + steps).tolist() == [1.0, 1 + 2.0**-6]


def test_quantize_rounds_to_even_and_saturates() -> None:
    how = Quantization(0.5, 3)
    x = np.array([0.25, 0.75, 1.25, -100, 1000, np.nan], np.float32)
    assert quantized(x, how).tolist() == [3, 5, 5, 0, 255, 0]
    assert quantized(x, None) is x


@given(st.integers(0, 255))
def test_a_stored_value_survives(stored: int) -> None:
    array = np.array([stored], np.uint8)
    assert quantized(dequantized(array, U8), U8) == array


# --- Linear ---
@pytest.mark.parametrize("activation", [None, "relu", "tanh", "gelu", "gelu_tanh", "swish"])
def test_linear_float32(activation: str | None) -> None:
    x, weight, bias = floats(2, 3, 8), floats(4, 8), floats(4)
    y = x @ weight.T + bias
    c = math.sqrt(2 / math.pi)
    expected = {
        None: y,
        "relu": np.maximum(y, 0),
        "swish": y / (1 + np.exp(-y)),
        "tanh": np.tanh(y),
        "gelu": y * (1 + np.vectorize(math.erf)(y / math.sqrt(2))) / 2,
        "gelu_tanh": y * (1 + np.tanh(c * (y + 0.044715 * y**3))) / 2,
    }
    found = run("Linear", x, weight, None, bias, activation=activation, precision="float32")
    np.testing.assert_allclose(found, expected[activation], atol=1e-6)
    assert found.dtype == np.float32


def test_linear_int8_is_exact() -> None:
    x = random.integers(0, 256, (5, 512)).astype(np.uint8)
    weight = random.integers(-127, 128, (8, 512)).astype(np.int8)
    scale, bias = np.abs(floats(8)) / 100, floats(8)
    sums = (x.astype(np.int64) - U8.zero_point) @ weight.T.astype(np.int64)
    expected = (sums * (np.float32(U8.scale) * scale.astype(np.float64))).astype(np.float32)
    found = run("Linear", x, weight, scale, None, input=U8, precision="int8")
    np.testing.assert_array_equal(found, expected)
    how = Quantization(3.0, 128)
    stored = run("Linear", x, weight, scale, None, input=U8, output=how, precision="int8")
    np.testing.assert_array_equal(stored, quantized(expected, how))
    both = run("Linear", x, weight, scale, bias, input=U8, product=how, precision="int8")
    np.testing.assert_array_equal(both, dequantized(stored, how) + bias)


@pytest.mark.parametrize("dynamic", ["tensor", "token"])
def test_linear_dynamic(dynamic: str) -> None:
    x, weight = floats(2, 5, 16), random.integers(-127, 128, (4, 16)).astype(np.int8)
    scale = np.full(4, 0.01, np.float32)
    found = run("Linear", x, weight, scale, None, dynamic=dynamic, precision="int8")
    groups = [x] if dynamic == "tensor" else [row[None] for row in x.reshape(-1, 16)]
    expected = []
    for group in groups:
        stored, step, zero = (
            np.asarray(part) for part in find("", "DynamicQuantizeLinear", 17).meaning(group)
        )
        centered = (stored.astype(np.float32) - zero) * step
        expected.append(centered.reshape(-1, 16) @ (weight * scale[:, None]).T)
    np.testing.assert_allclose(found.reshape(-1, 4), np.concatenate(expected), atol=1e-5)


def test_linear_bfloat16_rounds_x() -> None:
    x, weight = floats(3, 8), round_to_bfloat16(floats(4, 8))
    found = run("Linear", x, weight, None, None, precision="bfloat16")
    np.testing.assert_allclose(found, round_to_bfloat16(x) @ weight.T, atol=1e-6)


def test_quantising_saturates_and_makes_the_least_number_of_nan() -> None:
    x = np.array([np.nan, np.inf, -np.inf, 3e38, -3e38, 0, -0.0, 1e-45], np.float32)
    assert quantized(x, U8).tolist() == [0, 255, 0, 255, 0, 120, 120, 120]
    assert quantized(x, S8).tolist() == [-128, 127, -128, 127, -128, -5, -5, -5]
    for how in (U8, S8):
        zero = np.array(how.zero_point, how.dtype)
        theirs = onnx_runtimes(
            "QuantizeLinear", x, np.array(how.scale, np.float32), zero, result=zero.dtype
        )
        np.testing.assert_array_equal(quantized(x, how), theirs)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dynamic", ["tensor", "token"])
def test_dynamic_linear_of_what_is_no_number(dynamic: str, value: float) -> None:
    """No range, no numbers: all of the token (or of the tensor) is NaN."""
    x, weight = floats(3, 8), np.ones((4, 8), np.int8)
    x[1, 5] = value
    found = run("Linear", x, weight, np.ones(4, np.float32), None, dynamic=dynamic)
    assert np.isnan(found).any(1).tolist() == [dynamic == "tensor", True, dynamic == "tensor"]
    assert np.isnan(found[1]).all()


# --- LayerNorm, Embedding, Select ---
def normalised(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    deviation = x - x.mean(-1, keepdims=True)
    return deviation / np.sqrt((deviation**2).mean(-1, keepdims=True) + 1e-12) * gamma + beta


def test_layer_norm() -> None:
    x, skip, bias, gamma, beta = floats(2, 3, 8), floats(2, 3, 8), floats(8), floats(8), floats(8)
    found = run("LayerNorm", x, skip, bias, gamma, beta, epsilon=1e-12)
    np.testing.assert_allclose(found, normalised(x + bias + skip, gamma, beta), atol=1e-5)
    stored, stored_skip = quantized(x, U8), quantized(skip, S8)
    total = dequantized(stored, U8) + bias + dequantized(stored_skip, S8)
    how = Quantization(0.1, 128)
    found = run(
        "LayerNorm", stored, stored_skip, bias, gamma, beta,
        epsilon=1e-12, input=U8, residual=S8, output=how,
    )  # fmt: skip
    assert found.dtype == np.uint8
    difference = dequantized(found, how) - normalised(total, gamma, beta)
    assert np.abs(difference).max() <= 0.0501


def test_embedding() -> None:
    ids, types = np.array([[5, 6, 1], [7, 1, 1]]), np.array([[0, 1, 0], [1, 0, 0]])
    words, positions, kinds = floats(9, 4), floats(8, 4), floats(2, 4)
    gamma, beta = floats(4), floats(4)
    total = words[ids] + positions[[2, 3, 4]] + kinds[types]
    found = run("Embedding", ids, types, words, positions, kinds, None, None, position_offset=2)
    np.testing.assert_allclose(found, total, atol=1e-6)
    found = run("Embedding", ids, None, words, positions, None, gamma, beta, padding_id=1)
    real = words[ids] + positions[[[2, 3, 1], [2, 1, 1]]]
    np.testing.assert_allclose(found, normalised(real, gamma, beta), atol=1e-5)


def test_select_keeps_the_axis() -> None:
    x = floats(2, 3, 4)
    np.testing.assert_array_equal(run("Select", x, index=1), x[:, 1:2])


# --- Attention ---
def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Head by head, in float64, masked keys left out."""
    y = np.zeros(q.shape)
    for b in range(len(q)):
        keep = mask[b] != 0 if mask[b].any() else np.ones(len(mask[b]), bool)
        for head in (slice(0, 4), slice(4, 8)):
            s = q[b, :, head].astype(np.float64) @ k[b][keep, head].T * 0.5
            s = s if mask[b].any() else s * 0
            p = np.exp(s) / np.exp(s).sum(-1, keepdims=True)
            y[b, :, head] = p @ v[b][keep, head]
    return y


@pytest.mark.parametrize("queries", [1, 6])
def test_attention(queries: int) -> None:
    q, k, v = floats(3, queries, 8), floats(3, 6, 8), floats(3, 6, 8)
    mask = np.array([[1] * 6, [1, 0, 1, 1, 0, 0], [0] * 6])
    found = run("Attention", q, k, v, mask, heads=2, scale=0.5)
    np.testing.assert_allclose(found, attention(q, k, v, mask), atol=1e-6)


def test_quantised_attention() -> None:
    q, k, v = (quantized(floats(2, 6, 8), U8) for _ in range(3))
    mask = np.array([[1] * 6, [1, 1, 0, 0, 0, 0]])
    probabilities, output = Quantization(1 / 255, 0), Quantization(0.02, 128)
    found = run(
        "Attention", q, k, v, mask, heads=2, scale=0.5, query=U8, key=U8, value=U8,
        probabilities=probabilities, output=output,
    )  # fmt: skip
    expected = attention(*(dequantized(x, U8) for x in (q, k, v)), mask)
    assert found.dtype == np.uint8
    assert np.abs(dequantized(found, output) - expected).max() < 0.05


# --- reductions of float16, and beside a large offset ---
def onnx_runtimes(
    op: str, *inputs: np.ndarray, result: Any = None, **attributes: Any
) -> np.ndarray:
    """ONNX Runtime's result, by default of the type of the first input."""
    pytest.importorskip("onnxruntime")
    from workflow.scripts.convert import onnx_runtime

    kinds = [helper.np_dtype_to_tensor_dtype(x.dtype) for x in inputs]
    names = [f"x{i}" for i in range(len(inputs))]
    values = [helper.make_tensor_value_info(*pair, None) for pair in zip(names, kinds, strict=True)]
    kind = kinds[0] if result is None else helper.np_dtype_to_tensor_dtype(np.dtype(result))
    out = helper.make_tensor_value_info("y", kind, None)
    node = helper.make_node(op, names, ["y"], **attributes)
    graph = helper.make_graph([node], "one", values, [out])
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=9)
    session = onnx_runtime.session(model.SerializeToString())
    return np.asarray(session.run(None, dict(zip(names, inputs, strict=True)))[0])


HALF = [  # operator, its attributes, float16 whose sums or squares are none
    ("ReduceL2", {"axes": [1]}, 300 + floats(2, 4000)),
    ("ReduceSumSquare", {"axes": [1]}, floats(2, 4000)),
    ("ReduceMean", {"axes": [1]}, 60000 + floats(2, 4000)),
    ("ReduceLogSumExp", {"axes": [1]}, floats(2, 30000)),
    ("Softmax", {"axis": 1}, floats(2, 30000) / 8),
    ("LogSoftmax", {"axis": 1}, floats(2, 30000) / 8),
]


@pytest.mark.parametrize(("op", "how", "x"), HALF, ids=[row[0] for row in HALF])
def test_float16_is_reduced_in_float32(op: str, how: dict[str, Any], x: np.ndarray) -> None:
    x = x.astype(np.float16)
    found, wide = run(op, x, domain="", **how), run(op, x.astype(np.float32), domain="", **how)
    assert found.dtype == np.float16 and np.isfinite(found).all()
    np.testing.assert_array_equal(found, wide.astype(np.float16))
    np.testing.assert_allclose(found, onnx_runtimes(op, x, **how), rtol=1e-3, atol=6e-8)


@pytest.mark.parametrize("offset", [0, 500])
def test_layer_normalization_of_float16(offset: float) -> None:
    """epsilon is below float16's least number, squares of deviations above its greatest."""
    x = (offset + 300 * floats(5, 96)).astype(np.float16)
    x[0] = 7
    gamma, beta = floats(2, 96).astype(np.float16)
    found = reference.evaluate(
        Node("LayerNormalization", ("",) * 3, ("y",), {"epsilon": 1e-12}), (x, gamma, beta)
    )
    assert [each.dtype for each in found] == [np.float16, np.float32, np.float32]
    np.testing.assert_array_equal(found[0][0], beta)
    wanted = onnx_runtimes("LayerNormalization", x, gamma, beta, epsilon=1e-12)
    np.testing.assert_allclose(found[0], wanted, atol=4e-3)


def test_running_sum_of_float16() -> None:
    x = np.full(3000, 0.1, np.float16)
    found = run("CumSum", x, np.array(0), domain="")
    np.testing.assert_allclose(found, np.arange(1, 3001) * float(x[0]), rtol=1e-3)


@pytest.mark.parametrize("offset", [0, 4000, 40000, -3e6])
def test_layer_norm_beside_a_large_offset(offset: float) -> None:
    """As good as ONNX Runtime, and as float64 up to what float32 can hold."""
    x, ones = (offset + floats(6, 768)).astype(np.float32), np.ones(768, np.float32)
    wide = x.astype(float)
    deviation = wide - wide.mean(1, keepdims=True)
    wanted = deviation / np.sqrt((deviation**2).mean(1, keepdims=True) + 1e-12)
    off = np.abs(run("LayerNorm", x, None, None, ones, 0 * ones, epsilon=1e-12) - wanted).max()
    theirs = onnx_runtimes("LayerNormalization", x, ones, 0 * ones, epsilon=1e-12)
    assert off <= max(2e-6, np.abs(theirs - wanted).max())


# --- constants that are not finite ---
def constants(domain: str, **arrays: np.ndarray) -> Graph:
    """A graph in which one node reads them all."""
    node = Node("Read", ("x", *arrays), ("y",), {}, "", domain)
    return Graph("g", (), (), (node, node.changed(outputs=("z",))), arrays)


def test_constants_that_are_not_finite_are_named() -> None:
    broken, masks = floats(3, 4), np.float32([0, -np.inf])
    broken[1, 2:], broken[2, 0] = np.inf, np.nan
    graph = constants(
        "engine", whole=np.arange(3), fine=floats(4), broken=broken, masks=masks,
        large=np.full(3, 3e38, np.float32), half=np.full(9, 6e4, np.float16),
    )  # fmt: skip
    read = "node 'y' (Read), constant"
    assert list(map(str, not_finite(graph))) == [
        f"{read} 'broken': 3 of 12 numbers are not finite, the first at [1, 2]: inf",
        f"{read} 'masks': 1 of 2 numbers are not finite, the first at [1]: -inf",
    ]


def test_minus_infinity_is_what_masks_are_made_of() -> None:
    masks, nan = np.float32([0, -np.inf]), np.float32([-np.inf, np.nan])
    (found,) = not_finite(constants("", masks=masks, nan=nan))
    assert (found.name, found.count, found.first) == ("nan", 1, (1,))


@pytest.mark.parametrize("op", ["Flatten", "LayerNormalization", "Softmax"])
@pytest.mark.parametrize("axis", [2, -3, 1 << 40, -(1 << 40)])
def test_axes_that_are_none_are_refused(op: str, axis: int) -> None:
    """At once: an axis far away must not be counted up to."""
    axis = axis + 1 if (op, axis) == ("Flatten", 2) else axis  # behind the last is one of Flatten
    inputs = [floats(2, 3), floats(3), floats(3)][: 3 if op == "LayerNormalization" else 1]
    node = Node(op, tuple("xyz"[: len(inputs)]), ("out",), {"axis": axis})
    with pytest.raises(ModelError, match=f"node .*{op}.*axis"):
        reference.evaluate(node, inputs, opset=11 if op == "Softmax" else 17)
