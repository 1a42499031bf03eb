"""Every product against the NumPy meaning of Linear; bytes are the same on all instruction sets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.codegen.isa import Isa, chosen
from engine.graph import Node, Quantization
from engine.kernels.context import ROWS
from engine.kernels.linear.few_rows import FEW
from engine.ops.fused import linear
from engine.ops.numbers import round_to_bfloat16
from engine.plan.memory import Buffer
from engine.plan.operands import few_rows_params, linear_operands
from engine.plan.quantized import dynamic_constants, float_constants, of_bytes

from .fixtures import DOMAINS, KINDS, SPECIALS, Layer, mask_of, rows_of, sets

Array = NDArray[Any]
SHAPES = ((1, 4, 4), (31, 12, 5), (37, 16, 67), (128, 20, 32), (200, 36, 131))  # tokens, N, K
INPUT, PRODUCT = Quantization(0.02, 117), Quantization(0.07, 131)
OUTPUT = Quantization(0.05, 120)
QUANTISED = {  # epilogue -> what of the Linear is quantised, and whether it has a bias
    "plain": ({"output": OUTPUT}, False),
    "bytes": ({"output": OUTPUT}, True),
    "table": ({"product": PRODUCT, "output": OUTPUT}, True),
    "rounded": ({"product": PRODUCT}, True),
    "floats": ({}, True),
}


def int8_weight(
    random: np.random.Generator, shape: tuple[int, int], pattern: str, kind: str
) -> Array:
    whole = random.integers(-127, 128, shape).astype(np.int8)
    return np.where(mask_of(random, shape, pattern, kind), whole, np.int8(0))


def panels_of(pattern: str, inputs: int) -> int:
    """Layers with one panel, with some, with more panels than blocks of 4 inputs."""
    return {4: 1, 5: 3, 1029: 2}.get(inputs, 1 + inputs % 4) if pattern == "1x4" else 1


def run_bytes(
    isa: Isa,
    name: str,
    pattern: str,
    width: int,
    lanes: int,
    epilogue: str,
    activation: str,
    case: tuple[Any, ...],
    bias: Array | None = None,
) -> tuple[Array, Array]:
    """What the kernel gives and what Linear means; bias: another than random numbers."""
    tokens, outputs, inputs, kind = case
    random = np.random.default_rng(tokens)
    weight = int8_weight(random, (outputs, inputs), pattern, kind)
    if kind == "wide":
        weight = 2 * weight.astype(np.int16)
    scale = random.uniform(0.0005, 0.002, outputs).astype(np.float32)
    x = random.integers(0, 256, (tokens, inputs)).astype(np.uint8)
    quantised, has_bias = QUANTISED[epilogue]
    if has_bias and bias is None:
        bias = random.normal(size=outputs).round(1).astype(np.float32)
    attributes = {**quantised, "activation": None if activation == "none" else activation}
    node = Node("Linear", ("x", "w", "s", "b"), ("y",), attributes)
    constants = of_bytes(node, weight, scale, bias, INPUT, flip=False)
    assert constants.epilogue == epilogue
    with np.errstate(all="ignore"):
        wanted = linear(x, weight, scale, bias, input=INPUT, **attributes)
    dtype = "u8" if "output" in quantised else "f32"
    precision = "int16" if "s16" in name else "int8"
    y = Buffer("y", DOMAINS[lanes], outputs, dtype)
    operands = linear_operands(
        weight, pattern, precision, constants, y, panels=panels_of(pattern, inputs)
    )
    layer = Layer(x, outputs, np.uint8 if dtype == "u8" else np.float32, lanes)
    source = layer.source
    if pattern != "4x1":
        source = layer.made(isa, "interleave_rows", (lanes, width), 1, inputs=inputs)
    block = (lanes, width) if width else (lanes,)
    variant = (*block, constants.epilogue, constants.activation)
    return layer.run(isa, name, variant, source, operands), wanted


def test_outputs_of_one_bias_share_a_table() -> None:
    attributes = {**QUANTISED["table"][0], "activation": "gelu"}
    node = Node("Linear", ("x", "w", "s", "b"), ("y",), attributes)
    bias = np.array([0, 1, 0, -2, 1, 0, 0, -2], np.float32)
    weight, scale = np.ones((8, 4), np.int8), np.full(8, 0.001, np.float32)
    constants = of_bytes(node, weight, scale, bias, INPUT, flip=False)
    assert constants.table is not None and constants.which is not None
    assert constants.table.shape == (3, 256)
    same = bias[:, None] == bias
    assert np.array_equal(constants.which[:, None] == constants.which, same)


def cases(pattern: str) -> list[tuple[int, int, int, str]]:
    """The shapes, each with another kind of weight; without blocks of outputs odd ones too."""
    odd = 0 if pattern == "4x1" else 1
    kinds = (KINDS[i % len(KINDS)] for i in range(len(SHAPES)))
    usual = [(t, n + odd, k, kind) for (t, n, k), kind in zip(SHAPES, kinds, strict=True)]
    return [*usual, (3, 7, 1029, "sparse")] if pattern == "1x4" else usual


BYTES = [
    ("sparse_dot_u8s8_4x1", "4x1", 0, 64, "bytes", "none"),
    ("sparse_dot_u8s8_4x1", "4x1", 0, 64, "table", "none"),
    ("sparse_dot_u8s8_4x1", "4x1", 0, 64, "bytes", "gelu"),
    ("sparse_dot_u8s8_4x1", "4x1", 0, 16, "floats", "none"),
    ("narrow_dot_u8s8_4x1", "4x1", 16, 64, "bytes", "none"),
    ("sparse_dot_u8s8_1x4", "1x4", 64, 64, "bytes", "none"),
    ("sparse_dot_u8s8_1x4", "1x4", 16, 64, "rounded", "none"),
    ("dense_dot_u8s8", "dense", 64, 64, "bytes", "none"),
    ("dense_dot_u8s8", "dense", 16, 64, "plain", "none"),
]
MORE_BYTES = [
    ("sparse_dot_u8s16_4x1", "4x1", 16, 64, "bytes", "none"),
    ("sparse_dot_u8s8_4x1", "4x1", 0, 64, "plain", "none"),
    ("sparse_dot_u8s8_4x1", "4x1", 0, 64, "rounded", "gelu"),
    ("sparse_dot_u8s8_4x1", "4x1", 0, 64, "floats", "tanh"),
    ("sparse_dot_u8s8_4x1", "4x1", 0, 16, "table", "none"),
    ("narrow_dot_u8s8_4x1", "4x1", 32, 64, "table", "none"),
    ("narrow_dot_u8s8_4x1", "4x1", 16, 16, "floats", "gelu"),
    ("sparse_dot_u8s8_1x4", "1x4", 32, 64, "floats", "relu"),
    ("sparse_dot_u8s8_1x4", "1x4", 16, 16, "bytes", "gelu"),
    ("dense_dot_u8s8", "dense", 32, 64, "table", "none"),
    ("dense_dot_u8s8", "dense", 16, 16, "floats", "gelu_tanh"),
]


@pytest.mark.parametrize(
    ("slow", "name", "pattern", "width", "lanes", "epilogue", "activation"),
    rows_of(BYTES, MORE_BYTES),
)
def test_bytes(
    slow: bool, name: str, pattern: str, width: int, lanes: int, epilogue: str, activation: str
) -> None:
    for case in cases(pattern):
        results = {}
        for isa in sets(slow=slow):
            got, wanted = run_bytes(isa, name, pattern, width, lanes, epilogue, activation, case)
            results[isa.name] = got
            if got.dtype == np.uint8:  # a fraction of a half may go either way
                off = np.abs(got.astype(int) - wanted)
                assert off.max() <= 1 and (off > 0).mean() < 0.01, (isa.name, case)
            else:
                np.testing.assert_allclose(got, wanted, atol=2e-5, err_msg=f"{isa.name} {case}")
        first = next(iter(results.values()))
        assert all(np.array_equal(first, other) for other in results.values()), case


@pytest.mark.parametrize(
    ("name", "width"),
    [("sparse_dot_u8s8_4x1", 0), ("narrow_dot_u8s8_4x1", 16), ("sparse_dot_u8s16_4x1", 16)],
)
def test_weights_less_a_zero_point(name: str, width: int) -> None:
    for tokens, outputs, inputs in ((31, 7, 5), (128, 20, 37)):
        case = (tokens, outputs, inputs, "wide")
        got, wanted = run_bytes(chosen(), name, "4x1", width, 64, "bytes", "none", case)
        assert np.abs(got.astype(int) - wanted).max() <= 1


@pytest.mark.parametrize(
    ("slow", "name", "pattern", "width", "lanes", "epilogue", "activation"),
    rows_of(
        *([row for row in rows if row[4] in ("floats", "rounded")] for rows in (BYTES, MORE_BYTES))
    ),
)
def test_biases_that_are_not_finite(
    slow: bool, name: str, pattern: str, width: int, lanes: int, epilogue: str, activation: str
) -> None:
    """Bytes in, floats out."""
    for isa in sets(slow=slow):
        row, case = (name, pattern, width, lanes, epilogue, activation), (70, 16, 32, "full")
        got, wanted = run_bytes(isa, *row, case, SPECIALS[:16])
        np.testing.assert_allclose(got, wanted, atol=2e-5, rtol=3e-7, err_msg=isa.name)


@pytest.mark.parametrize(
    ("slow", "epilogue", "activation"),
    rows_of(
        [("table", "none"), ("bytes", "gelu"), ("bytes", "none")],
        [("plain", "none"), ("table", "gelu")],
    ),
)
def test_few_rows(slow: bool, epilogue: str, activation: str) -> None:
    """Rows one by one give what a tile of them gives, and other rows stay as they are."""
    for (outputs, inputs), kind in zip(
        ((4, 5), (20, 256), (64, 600), (36, 257)), KINDS, strict=True
    ):
        quantised, has_bias = QUANTISED[epilogue]
        random = np.random.default_rng(inputs)
        weight = int8_weight(random, (outputs, inputs), "4x1", kind)
        scale = random.uniform(0.0005, 0.002, outputs).astype(np.float32)
        bias = random.normal(size=outputs).astype(np.float32) if has_bias else None
        attributes = {**quantised, "activation": None if activation == "none" else activation}
        node = Node("Linear", ("x", "w", "s", "b"), ("y",), attributes)
        constants = of_bytes(node, weight, scale, bias, INPUT, flip=epilogue == "plain")
        operands = linear_operands(
            weight, "4x1", "int8", constants, Buffer("y", "rows", outputs, "u8")
        )
        more = few_rows_params(weight, constants, operands, ROWS)
        few = {name: _value(each) for name, each in more.items()}
        x = random.integers(0, 256, (40, inputs)).astype(np.uint8)
        for isa in sets(slow=slow):
            tile = Layer(x, outputs, np.uint8, ROWS)
            variant = (constants.epilogue, constants.activation)
            wanted = tile.run(isa, "sparse_dot_u8s8_4x1", (ROWS, *variant), tile.source, operands)
            for first, last in ((0, 1), (0, FEW), (0, 40), (3, 3 + FEW + 1), (15, 17), (16, 33)):
                layer = Layer(x, outputs, np.uint8, ROWS)
                layer.harness.context["first_row"] = first
                layer.harness.context["sentences"] = last - first
                got = layer.run(isa, "rows_dot_u8s8_4x1", variant, layer.source, operands, **few)
                case = f"{isa.name} {kind} {first}..{last}"
                np.testing.assert_array_equal(got[first:last], wanted[first:last], err_msg=case)
                if last - first <= FEW:
                    assert (np.delete(got, range(first, last), 0) == 0xA5).all(), case


def _value(parameter: int | Array) -> int:
    return parameter if isinstance(parameter, int) else parameter.ctypes.data


@pytest.mark.parametrize(
    ("slow", "name", "pattern", "width", "lanes"),
    rows_of([("dense_dot_u8s8", "dense", 64, 64), ("narrow_dot_u8s8_4x1", "4x1", 16, 64)],
            [("sparse_dot_u8s8_1x4", "1x4", 64, 64), ("narrow_dot_u8s8_4x1", "4x1", 64, 64)]),
)  # fmt: skip
def test_dynamic(slow: bool, name: str, pattern: str, width: int, lanes: int) -> None:
    for tokens, outputs, inputs, kind in cases(pattern):
        random = np.random.default_rng(tokens)
        weight = int8_weight(random, (outputs, inputs), pattern, kind)
        scale = random.uniform(0.0005, 0.002, outputs).astype(np.float32)
        bias = random.normal(size=outputs).astype(np.float32)
        x = random.normal(size=(tokens, inputs)).astype(np.float32)
        x[0] = 0
        wanted = linear(x, weight, scale, bias, dynamic="token")
        for isa in sets(slow=slow):
            got = run_dynamic(isa, name, pattern, width, lanes, (x, weight, scale, bias))
            np.testing.assert_allclose(got, wanted, atol=2e-5, err_msg=f"{isa.name} {kind}")


def run_dynamic(
    isa: Isa, name: str, pattern: str, width: int, lanes: int, operands: tuple[Array, ...]
) -> Array:
    x, weight, scale, bias = operands
    outputs = len(weight)
    layer = Layer(x, outputs, np.float32, lanes)
    scales, _ = layer.harness.room((layer.tiles, 2, lanes), np.float32)
    # rows of zeros, of scales: quantised as [K][lanes] bytes
    of_tokens = {"scales": scales, "scales_tile": 8 * lanes}
    inputs = x.shape[1]
    layer.source = layer.made(
        isa, "quantize_tokens", (lanes, width), 1, channels=inputs, **of_tokens
    )
    if pattern != "4x1":
        layer.source = layer.made(isa, "interleave_rows", (lanes, width), 1, inputs=inputs)
    constants = dynamic_constants(weight, scale, bias, "none")
    y, panels = Buffer("y", DOMAINS[lanes], outputs, "f32"), panels_of(pattern, x.shape[1])
    packed = linear_operands(weight, pattern, "int8", constants, y, panels=panels)
    variant = (lanes, width, "dynamic", "none")
    return layer.run(isa, name, variant, layer.source, packed, **of_tokens)


ROW = ("name", "pattern", "width", "lanes", "output", "activation")
FLOATS = [
    ("sparse_dot_f32_4x1", "4x1", 64, 64, "f32", "none"),
    ("sparse_dot_f32_4x1", "4x1", 16, 64, "f32", "gelu"),
    ("sparse_dot_f32_1x4", "1x4", 32, 64, "f32", "none"),
    ("dense_dot_f32", "dense", 64, 64, "f32", "none"),
    ("sparse_dot_bf16_4x1", "4x1", 64, 64, "f32", "none"),
    ("sparse_dot_bf16_1x4", "1x4", 64, 64, "f32", "none"),
    ("dense_dot_bf16", "dense", 16, 64, "f32", "none"),
    ("sparse_dot_bf16_4x1", "4x1", 64, 64, "rows", "gelu"),
    ("sparse_dot_bf16_4x1", "4x1", 64, 64, "pairs", "none"),
    ("sparse_dot_bf16_1x4", "1x4", 64, 64, "words", "none"),
    ("dense_dot_bf16", "dense", 16, 16, "pairs", "tanh"),
]
MORE_FLOATS = [
    ("sparse_dot_f32_4x1", "4x1", 16, 16, "f32", "tanh"),
    ("sparse_dot_f32_1x4", "1x4", 16, 16, "f32", "gelu_tanh"),
    ("dense_dot_f32", "dense", 16, 64, "f32", "relu"),
    ("dense_dot_f32", "dense", 16, 16, "f32", "none"),
    ("sparse_dot_bf16_4x1", "4x1", 16, 64, "f32", "gelu"),
    ("sparse_dot_bf16_4x1", "4x1", 16, 16, "f32", "none"),
    ("sparse_dot_bf16_1x4", "1x4", 16, 16, "f32", "none"),
    ("dense_dot_bf16", "dense", 64, 64, "f32", "gelu"),
    ("sparse_dot_bf16_4x1", "4x1", 16, 16, "rows", "none"),
    ("sparse_dot_bf16_4x1", "4x1", 64, 64, "words", "gelu"),
    ("dense_dot_bf16", "dense", 64, 64, "rows", "none"),
]


def run_floats(
    isas: list[Isa], row: tuple[Any, ...], x: Array, weight: Array, bias: Array, kind: str
) -> None:
    """Each instruction set makes what Linear means; row: one of FLOATS."""
    name, pattern, width, lanes, output, activation = row
    outputs, inputs = weight.shape
    precision = "bfloat16" if "bf16" in name else "float32"
    rounded = output in ("rows", "words", "pairs")
    how = {"activation": None if activation == "none" else activation, "precision": precision}
    with np.errstate(all="ignore"):
        wanted = linear(x, weight, None, bias, **how)
    if rounded:  # above the greatest bfloat16
        wanted = np.where(np.isinf(round_to_bfloat16(wanted)), round_to_bfloat16(wanted), wanted)
    operands = linear_operands(
        weight,
        pattern,
        precision,
        float_constants(outputs, bias, activation),
        Buffer("y", DOMAINS[lanes], outputs, *(("bf16", output) if rounded else (output,))),
        panels=panels_of(pattern, inputs),
    )
    for isa in isas:
        layer = Layer(x, outputs, np.uint16 if rounded else np.float32, lanes)
        source = layer.source
        if precision == "bfloat16":
            form = "rows" if pattern == "4x1" else "pairs"
            source = layer.made(isa, "round_rows", (lanes, width, form), 2, inputs=inputs)
        elif pattern == "1x4":
            source = layer.made(isa, "round_rows", (lanes, width, "pieces"), 4, inputs=inputs)
        variant, form = (lanes, width, output, activation), output if rounded else ""
        got = layer.run(isa, name, variant, source, operands, form=form)
        if rounded:
            got = (got.astype(np.uint32) << 16).view(np.float32)
        tolerance = {"atol": 1e-4, "rtol": 2**-8 if rounded else 3e-7}
        np.testing.assert_allclose(got, wanted, **tolerance, err_msg=f"{isa.name} {kind}")


def float_weight(
    random: np.random.Generator, shape: tuple[int, int], row: tuple[Any, ...], kind: str
) -> Array:
    weight = random.normal(size=shape).astype(np.float32)
    if "bf16" in row[0]:  # stored exact
        weight = (weight.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    return np.where(mask_of(random, shape, row[1], kind), weight, np.float32(0))


def sets_of(row: tuple[Any, ...], slow: bool) -> list[Isa]:
    return sets(slow=slow and not (row[4] in ("rows", "words", "pairs") and row[3] == 64))


@pytest.mark.parametrize(("slow", *ROW), rows_of(FLOATS, MORE_FLOATS))
def test_floats(
    slow: bool, name: str, pattern: str, width: int, lanes: int, output: str, activation: str
) -> None:
    row = (name, pattern, width, lanes, output, activation)
    for tokens, outputs, inputs, kind in cases(row[1]):
        random = np.random.default_rng(tokens)
        weight = float_weight(random, (outputs, inputs), row, kind)
        bias = random.normal(size=outputs).astype(np.float32)
        x = random.normal(size=(tokens, inputs)).astype(np.float32)
        run_floats(sets_of(row, slow), row, x, weight, bias, kind)


@pytest.mark.parametrize(("slow", *ROW), rows_of(FLOATS, MORE_FLOATS))
def test_floats_that_are_not_finite(
    slow: bool, name: str, pattern: str, width: int, lanes: int, output: str, activation: str
) -> None:
    """In the bias, in a weight that is there, and where all weights are, in x."""
    row = (name, pattern, width, lanes, output, activation)
    random = np.random.default_rng(0)
    weight = float_weight(random, (16, 32), row, "sparse" if row[1] != "dense" else "full")
    x = random.normal(size=(70, 32)).astype(np.float32)
    if row[1] == "dense":
        x[3, 1], x[66, 5], x[4, 2] = np.nan, np.inf, -np.inf
    bias = random.normal(size=16).astype(np.float32)
    for output, number in zip((13, 14, 15), (np.nan, np.inf, -np.inf), strict=True):
        weight[output, np.flatnonzero(weight[output])[:1]] = number
    for special in (bias, SPECIALS[:16]):
        run_floats(sets_of(row, slow), row, x, weight, special, "special")
