"""Files in float16: kernels run all of it in float32, and results have the types declared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import engine
from engine.commands.inspect import layers
from engine.graph import Graph, Value
from engine.ops import reference
from engine.passes import clean, optimize
from engine.passes.widen import widen
from tests.passes.sketch import Sketch, assert_same, operators, results

Models = Callable[[str], Path]
DIALECTS = [
    "float16", "float16_inside", "float16_in_part", "float16_hidden", "float16_distilbert",
    "float16_roberta", "float16_sdpa_dynamo", "float16_optimised", "float16_fused",
    "half", "half_distilbert", "half_sdpa_dynamo",
]  # fmt: skip
ROUNDED = 5e-3  # a few steps of float16 at 2, after every operator of two layers
HALF = ("float16", ("batch", 4))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_kernels_run_all_of_it(model: Models, dialect: str, tmp_path: Path) -> None:
    from tests.passes import exported

    path = model(dialect)
    session = engine.load(path)
    assert session.plan is not None and session.plan.fallback is None
    assert not [layer for layer in layers(session.graph) if layer.kernel == "reference"]
    wide = exported.widened(path, tmp_path / "wide.onnx")
    for batch, tokens in [(1, 1), (1, 31), (3, 37)]:
        feeds = exported.feeds(path, batch, tokens)
        got, exact = session.run(feeds), exported.runtime(wide, feeds)
        real = feeds["attention_mask"] == 1
        for name, wanted in exported.runtime(path, feeds).items():
            keep = real if wanted.ndim == 3 else ...
            assert got[name].dtype == wanted.dtype
            here = got[name][keep].astype(np.float64)
            step = np.spacing(np.abs(here).astype(wanted.dtype)) / 2
            assert (np.abs(here - exact[name][keep]) <= 1e-4 + step).all()
            np.testing.assert_allclose(here, wanted[keep], rtol=0, atol=ROUNDED)


def test_numpy_goes_on_with_what_is_also_returned(model: Models, tmp_path: Path) -> None:
    """Hidden states in float16, and beside them something no kernel has, made of them."""
    from tests.passes import exported

    proto = onnx.load(model("float16_hidden"))
    hidden = proto.graph.output[0].name
    proto.graph.node.append(onnx.helper.make_node("Sin", [hidden], ["wave"]))
    wave = onnx.helper.make_tensor_value_info("wave", TensorProto.FLOAT16, [None, None, 32])
    proto.graph.output.append(wave)
    onnx.save(proto, path := tmp_path / "wave.onnx")
    session, feeds = engine.load(path), exported.feeds(path, 3, 20)
    assert session.plan is not None and session.plan.fallback is not None
    got, real = session.run(feeds), feeds["attention_mask"] == 1
    assert {array.dtype.name for array in got.values()} == {"float16"}
    np.testing.assert_allclose(got["wave"][real], np.sin(got[hidden][real]), atol=2e-3)


def declared(graph: Graph, *dtypes: str) -> Graph:
    """The graph with these types for its outputs."""
    pairs = zip(graph.outputs, dtypes, strict=True)
    return graph.changed(outputs=tuple(Value(v.name, dtype, v.shape) for v, dtype in pairs))


def halves(*numbers: float) -> np.ndarray:
    return np.array(numbers, np.float16)


def test_declared_types_stay() -> None:
    s = Sketch(x=HALF, y=("float32", ("batch", 4)))
    inner = s.Add(s.Mul("x", halves(2)), s.Cast("y", to="float16"))
    graph = declared(s.graph(inner, s.Cast(s.Neg(inner), to="float32")), "float16", "float32")
    wide = clean(widen(graph))
    assert sorted(operators(wide)) == ["Add", "Cast", "Cast", "Mul", "Neg"]
    assert (wide.inputs, wide.outputs) == (graph.inputs, graph.outputs)
    feeds = {"x": halves(*range(8)).reshape(2, 4), "y": np.ones((2, 4), np.float32)}
    assert [array.dtype for array in results(wide, **feeds)] == ["float16", "float32"]
    assert_same(graph, wide, 0, **feeds)


def test_what_goes_through_is_as_it_was() -> None:
    """An input that is an output, one value twice, a constant."""
    s = Sketch(x=HALF)
    y = s.Neg("x")
    graph = s.graph("x", y, y, s.constant(halves(1, 2), "c"))
    graph = declared(graph, *["float16"] * 4)
    feeds = {"x": halves(1, 2, 3, 4)[None]}
    wide = clean(widen(graph))
    assert_same(graph, wide, 0, **feeds)
    assert {array.dtype.name for array in results(wide, **feeds)} == {"float16"}


def test_constants_are_exact() -> None:
    """Subnormal, greatest, infinite; those in attributes too."""
    odd = halves(2.0**-24, -3 * 2.0**-24, 65504, -np.inf)
    s = Sketch(x=("float32", ("batch", 4)), shape=("int64", (1,)))
    filled = s.ConstantOfShape("shape", value=halves(0.1))
    y = s.Cast(s.Add(s.Max(s.Cast("x", to="float16"), odd), filled), to="float32")
    wide = clean(widen(s.graph(y)))
    assert sorted(operators(wide)) == ["Add", "ConstantOfShape", "Max"]
    x = np.full((1, 4), -np.inf, np.float32)
    (found,) = results(wide, x=x, shape=np.array([4]))
    np.testing.assert_array_equal(found[0], odd.astype(np.float32) + np.float32(np.float16(0.1)))


def test_infinite_weights_are_named(model: Models, caplog: pytest.LogCaptureFixture) -> None:
    from engine.formats import onnx_reader

    caplog.set_level("WARNING")
    graph = onnx_reader.read(model("float16"))
    name = next(n for n in graph.constants if n.endswith("LayerNorm.weight"))
    broken = graph.constants[name].copy()
    broken[0] = np.inf
    session = engine.Session(optimize(graph.changed(constants={**graph.constants, name: broken})))
    assert name in caplog.text
    feeds = {"input_ids": np.ones((1, 5), np.int64)}
    feeds |= {"attention_mask": feeds["input_ids"], "token_type_ids": 0 * feeds["input_ids"]}
    got, wanted = session.run(feeds), reference.run(session.graph, feeds)
    np.testing.assert_array_equal(np.isnan(got["logits"]), np.isnan(wanted["logits"]))


@pytest.mark.parametrize("number", [np.sqrt(2), np.sqrt(0.5), np.sqrt(2 / np.pi), 0.044715])
def test_factors_of_activations_are_themselves_again(number: float) -> None:
    s = Sketch(x=HALF)
    wide = widen(declared(s.graph(s.Mul("x", s.constant(np.float16(number), "c"))), "float16"))
    assert wide.constants["c"] == np.float32(number)


def test_float64_between_goes_too() -> None:
    """As torch writes the variance of halves; not where the graph declares it."""
    s = Sketch(x=HALF)
    square = s.Pow(s.Cast("x", to="float64"), s.constant(halves(2).astype(np.float32)))
    graph = declared(s.graph(s.Cast(square, to="float16")), "float16")
    assert sorted(operators(clean(widen(graph)))) == ["Cast", "Cast", "Pow"]
    graph = declared(s.graph(square), "float64")
    assert results(widen(graph), x=halves(1, 2, 3, 4)[None])[0].dtype == np.float64


def test_the_limit_of_float16_is_not_moved() -> None:
    """What overflows there and not in float32: NumPy runs it as it is."""
    s = Sketch(x=HALF)
    infinite = s.IsInf(s.Mul("x", halves(300)))
    graph = declared(s.graph(s.Where(infinite, "x", halves(0))), "float16")
    assert optimize(graph).constants.keys() == graph.constants.keys()
    (found,) = engine.Session(optimize(graph)).run({"x": halves(1, 200, 300, -400)[None]}).values()
    assert (found.dtype, found.tolist()) == (np.float16, [[0, 0, 300, -400]])


def test_no_float16_nothing_to_do() -> None:
    s = Sketch(x=("float64", ("batch", 4)))
    graph = declared(s.graph(s.Neg("x")), "float64")
    assert widen(graph) is graph
