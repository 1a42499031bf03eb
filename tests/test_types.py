"""What a model declares is what it takes and returns: float16, float64, whole numbers, bool."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import engine
from engine.errors import InputError
from engine.ops import find
from tests.passes.sketch import Sketch, normal, onnx_type, save
from tests.passes.test_widths import CHANNELS, Odd, given

FEEDS = given({}, one_type=False)
FLOATS = ("float16", "float32", "float64")
CLOSE = {"float16": 2e-2, "float32": 5e-5, "float64": 5e-5}


def in_type(path: Path, dtype: str) -> Path:
    """The model with every float in another type."""
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.dtype == np.float32:
            array = np.maximum(array, -1e4).astype(dtype)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        if value.type.tensor_type.elem_type == onnx_type("float32"):
            value.type.tensor_type.elem_type = onnx_type(dtype)
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i == onnx_type("float32"):
                attribute.i = onnx_type(dtype)
    onnx.save(model, path)
    return path


def ends_in(path: Path, dtype: str) -> Path:
    """The model with its results cast at the end."""
    model = onnx.load(path)
    for value in model.graph.output:
        made = value.name
        value.name, value.type.tensor_type.elem_type = f"{made}.cast", onnx_type(dtype)
        cast = onnx.helper.make_node("Cast", [made], [value.name], to=onnx_type(dtype))
        model.graph.node.append(cast)
    onnx.save(model, path)
    return path


def takes(path: Path, **dtypes: str) -> Path:
    model = onnx.load(path)
    for value in model.graph.input:
        value.type.tensor_type.elem_type = onnx_type(dtypes.get(value.name, "int64"))
    onnx.save(model, path)
    return path


def assert_as_declared(path: Path, feeds: dict[str, np.ndarray], atol: float) -> engine.Session:
    from tests.passes.exported import runtime

    session = engine.load(path)
    got, real = session.run(feeds), FEEDS["mask"] == 1
    for name, wanted in runtime(path, feeds).items():
        assert (got[name].dtype, got[name].shape) == (wanted.dtype, wanted.shape)
        keep = real[..., None] if wanted.ndim == 3 else True
        difference = np.where(keep, got[name].astype(np.float64) - wanted, 0)
        assert np.abs(difference).max() <= atol
    return session


@pytest.mark.parametrize("dtype", [*FLOATS, "int32", "int64", "uint8", "bool"])
def test_results_are_cast_at_the_end(dtype: str, tmp_path: Path) -> None:
    """Behind kernels."""
    path = ends_in(Odd().save(tmp_path / "cast.onnx"), dtype)
    session = assert_as_declared(path, FEEDS, CLOSE.get(dtype, 1.0))
    assert session.plan is not None


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_a_model_of_another_float(dtype: str, tmp_path: Path) -> None:
    """float16 is widened; no operator of ours has float64: nothing is fused.  (ONNX Runtime has no
    Erf of float64.)"""
    from tests.passes.exported import runtime

    path = Odd().save(tmp_path / "other.onnx")
    wanted = runtime(path, FEEDS)
    session = engine.load(in_type(path, dtype))
    if dtype == "float16":
        assert session.plan is not None and session.plan.fallback is None
    else:
        assert {node.kind for node in session.graph if node.domain == "engine"} <= {"engine.Select"}
    for name, got in session.run(FEEDS).items():
        assert got.dtype == dtype
        np.testing.assert_allclose(got[0], wanted[name][0], atol=CLOSE[dtype])


@pytest.mark.parametrize("dtype", ["int32", "uint8", "bool", "int16", "uint64"])
def test_a_mask_of_any_whole_type(dtype: str, tmp_path: Path) -> None:
    path = takes(Odd().save(tmp_path / "mask.onnx"), mask=dtype)
    feeds = {**FEEDS, "mask": FEEDS["mask"].astype(dtype)}
    session = assert_as_declared(path, feeds, CLOSE["float32"])
    assert session.plan is not None and session.plan.fallback is None


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_mask_of_floats(dtype: str, tmp_path: Path) -> None:
    path = takes(Odd().save(tmp_path / "mask.onnx"), mask=dtype)
    feeds = {**FEEDS, "mask": FEEDS["mask"].astype(dtype)}
    session = assert_as_declared(path, feeds, CLOSE["float32"])
    with pytest.raises(InputError, match="mask"):
        session.run({**feeds, "mask": feeds["mask"].astype("complex64")})


def test_ids_of_32_bits(tmp_path: Path) -> None:
    path = takes(Odd().save(tmp_path / "ids.onnx"), ids="int32", types="int32")
    feeds = {**FEEDS, **{name: FEEDS[name].astype(np.int32) for name in ("ids", "types")}}
    assert_as_declared(path, feeds, CLOSE["float32"])


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_a_part_in_another_float(dtype: str, tmp_path: Path) -> None:
    """Cast, LayerNormalization, Gelu and a product in the type, Cast back: none of it is ours."""
    s = Sketch(x=("float32", ("batch", "sequence", CHANNELS)))
    low = s.Cast("x", to=dtype)
    arrays = [normal(*shape).astype(dtype) for shape in ((CHANNELS,), (CHANNELS,), (CHANNELS, 3))]
    names = [f"weight{i}" for i in range(3)]
    s.constants.update(zip(names, arrays, strict=True))
    y = s.MatMul(s.LayerNormalization(low, *names[:2]), names[2])
    path = save(s.graph(s.Cast(y, to="float32"), s.Softmax("x", axis=-1)), tmp_path / "part.onnx")
    x = normal(2, 6, CHANNELS)
    assert_as_declared(path, {"x": x}, CLOSE[dtype])


# --- operators keep the type of what they are given ---
UNARY = [
    "Abs", "Ceil", "Cos", "Erf", "Exp", "Floor", "Gelu", "Identity", "LeakyRelu", "Log",
    "LogSoftmax", "Neg", "Reciprocal", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp",
    "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Relu",
    "Round", "Sigmoid", "Sign", "Sin", "Softmax", "Softplus", "Sqrt", "Tanh",
]  # fmt: skip
BINARY = ["Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Mean", "Sum", "MatMul", "Gemm"]
CALLS: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(UNARY, (1,)),
    **dict.fromkeys(BINARY, (2,)),
    "Clip": (3,),
    "CumSum": (1, np.array(0)),
    "LayerNormalization": (3,),
    "RMSNormalization": (2,),
}


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", CALLS)
def test_an_operator_keeps_its_type(name: str, dtype: str) -> None:
    count, *rest = CALLS[name]
    arrays = [(np.abs(normal(4, 4, seed=i)) + 0.5).astype(dtype) for i in range(count)]
    made = find("", name, 22).meaning(*arrays, *rest)
    assert np.asarray(made[0] if isinstance(made, tuple) else made).dtype == dtype


@pytest.mark.parametrize("dtype", ["int32", "int64"])
@pytest.mark.parametrize("name", ["Abs", "Neg", "Sign", "Add", "Mul", "Div", "Pow", "Max"])
def test_whole_numbers_stay_whole(name: str, dtype: str) -> None:
    arrays = [np.arange(1, 5).astype(dtype)] * (1 if name in UNARY else 2)
    assert np.asarray(find("", name, 22).meaning(*arrays)).dtype == dtype


def contributed(name: str, x: np.ndarray) -> tuple[Any, ...]:
    """Inputs of an operator of com.microsoft, x [2, 4, 4]."""
    ids, row = np.array([[0, 1, 2, 3]] * 2), x[0, 0]
    return {
        "Attention": (x, np.concatenate([x[0]] * 3, axis=1), None, np.array([[1, 1, 0, 0]] * 2)),
        "BiasGelu": (x, row),
        "EmbedLayerNormalization": (ids, ids % 2, x[0], x[1], x[0], row, row),
        "FastGelu": (x, row),
        "FusedGemm": (x[0], x[1], row),
        "FusedMatMul": (x, x),
        "Gelu": (x,),
        "MultiHeadAttention": (x, x, x, None, np.array([[1, 1, 0, 0]] * 2)),
        "QuickGelu": (x,),
        "SkipLayerNormalization": (x, x, row, row),
    }[name]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    "name",
    ["Attention", "BiasGelu", "EmbedLayerNormalization", "FastGelu", "FusedGemm", "FusedMatMul",
     "Gelu", "MultiHeadAttention", "QuickGelu", "SkipLayerNormalization"],
)  # fmt: skip
def test_a_contributed_operator_keeps_its_type(name: str, dtype: str) -> None:
    inputs = contributed(name, normal(2, 4, 4).astype(dtype))
    more = {"num_heads": 2} if "Attention" in name else {}
    made = find("com.microsoft", name, 17).meaning(*inputs, **more)
    assert np.asarray(made[0] if isinstance(made, tuple) else made).dtype == dtype
