"""Selection, dense rows, outputs, activations and quantisation, against the NumPy meaning."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.codegen.isa import Isa
from engine.codegen.simd import MAGIC
from engine.kernels import kernel
from engine.kernels import params as records
from engine.kernels.harness import Harness, from_tiles, to_tiles
from engine.ops import fused
from engine.ops.numbers import quantized
from engine.ops.quantized import dynamic_quantize_linear
from engine.plan.operands import rows_operand
from engine.plan.quantized import FLIP

from .fixtures import (
    NANS,
    OUTPUT,
    SPECIALS,
    TOKENS,
    TYPES,
    X,
    close,
    quantise,
    rows_of,
    sets,
    tiles_at,
)

Array = NDArray[Any]


@pytest.mark.parametrize(("slow", "kind"), rows_of([("u8",), ("f32",)], []))
def test_select(slow: bool, kind: str) -> None:
    lengths = [5, 64, 1, 37] * 5
    x = quantise(np.random.default_rng(0), (sum(lengths), 12), kind)
    for isa in sets(slow=slow):
        harness = Harness(1 << 17, lengths)
        place, tiles = harness.put(to_tiles(x))
        y, result = harness.room((2, 12, 16), TYPES[kind])
        at, code = tiles_at(x=(place, tiles), y=(y, result)), kernel(isa, "select", kind)
        last = harness.params(records.SELECT, **at, channels=12, index=-1, behind=1)
        harness.run(code, last, 0, 2)
        np.testing.assert_array_equal(from_tiles(result, len(lengths)), x[harness.starts[1:] - 1])
        params = harness.params(records.SELECT, **at, channels=12, index=0, behind=0)
        harness.run(code, params, 0, 2)
        np.testing.assert_array_equal(from_tiles(result, len(lengths)), x[harness.starts[:-1]])

        result[...], harness.context["first_row"] = 7, 9  # rows of other packs wait
        harness.run(code, params, 0, 2)
        rows = from_tiles(result, 9 + len(lengths))
        np.testing.assert_array_equal(rows[9:], x[harness.starts[:-1]])
        assert (rows[:9] == 7).all()


@pytest.mark.parametrize(
    ("slow", "kind", "activation"),
    rows_of([("f32", "tanh"), ("u8", "none")], [("f32", "gelu")]),
)
def test_dense_rows(slow: bool, kind: str, activation: str) -> None:
    sentences, inputs, outputs = 19, 37, 70
    random = np.random.default_rng(0)
    x = quantise(random, (sentences, inputs), kind)
    weight, bias = random.normal(size=(outputs, inputs)), random.normal(size=outputs)
    bias[:16] = SPECIALS[:16]
    operand = rows_operand(weight.astype(np.float32), bias.astype(np.float32))
    wanted = fused.linear(x, weight.astype(np.float32), None, bias.astype(np.float32),
                          input=X if kind == "u8" else None,
                          activation=None if activation == "none" else activation)  # fmt: skip
    for isa in sets(slow=slow):
        harness = Harness(1 << 17, [1] * sentences)
        place, tiles = harness.put(to_tiles(x, 16))
        padded = operand.shape[1]
        y, result = harness.room((2, padded, 16), np.float32)
        params = harness.params(
            records.DENSE_ROWS,
            **tiles_at(x=(place, tiles), y=(y, result)),
            inputs=inputs,
            outputs=padded,
            weights=harness.address(operand),
            x_scale=float(X.scale),
            x_zero=X.zero_point,
        )
        harness.run(kernel(isa, "dense_rows", kind, activation), params, 0, 4)
        close(from_tiles(result, sentences)[:, :outputs], wanted, isa.name)


ORDER = np.array([9, 7, 120], np.int32)  # of sentences: packs may be finished in any order


@pytest.mark.parametrize(("slow", "name"), rows_of([("output_tokens",), ("output_rows",)], []))
def test_outputs(slow: bool, name: str) -> None:
    lengths, channels = [5, 70, 31], 37
    rows = name == "output_rows"
    x = quantise(
        np.random.default_rng(0), (len(lengths) if rows else sum(lengths), channels), "f32"
    )
    places = np.concatenate([100 * n + np.arange(count) for n, count in enumerate(lengths)])
    for isa in sets(slow=slow):
        harness, result = Harness(1 << 17, lengths), np.zeros((300, channels), np.float32)
        harness.context["places"] = harness.address(places.astype(np.int32))
        harness.context["outputs"] = harness.address(np.array([0, result.ctypes.data]))
        harness.context["row_sentences"] = harness.address(ORDER)
        place, tiles = harness.put(to_tiles(x, 16 if rows else 64))
        params = harness.params(
            records.OUTPUT, **tiles_at(x=(place, tiles)), number=1, channels=channels
        )
        harness.run(kernel(isa, name), params, 0, len(tiles))
        wanted = np.zeros_like(result)
        wanted[ORDER if rows else places] = x
        np.testing.assert_array_equal(result, wanted)


def test_look_up() -> None:
    random = np.random.default_rng(0)
    table, x = (random.integers(0, 256, size).astype(np.uint8) for size in (256, (70, 12)))
    for isa in sets(slow=False):
        harness = Harness(1 << 18)
        place, tiles = harness.put(to_tiles(x))
        y, result = harness.room(tiles.shape, np.uint8)
        params = harness.params(
            records.LOOK_UP,
            **tiles_at(x=(place, tiles), y=(y, result)),
            channels=12,
            table=harness.address(table),
        )
        harness.run(kernel(isa, "look_up", 64), params, 0, len(tiles))
        np.testing.assert_array_equal(from_tiles(result, 70), table[x])


@pytest.mark.parametrize(
    ("slow", "x_kind", "activation", "y_kind"),
    rows_of(
        [("u8", "gelu", "u8"), ("f32", "none", "u8")],
        [("u8", "none", "f32"), ("f32", "tanh", "f32")],
    ),
)
def test_elementwise(slow: bool, x_kind: str, activation: str, y_kind: str) -> None:
    channels = 12
    for tokens in TOKENS:
        x = quantise(np.random.default_rng(tokens), (tokens, channels), x_kind)
        real = (x.astype(np.float32) - X.zero_point) * np.float32(X.scale) if x_kind == "u8" else x
        wanted = fused.activation_of(None if activation == "none" else activation, real)
        if y_kind == "u8":
            wanted = np.rint(wanted / np.float32(OUTPUT.scale)) + OUTPUT.zero_point
            wanted = np.clip(wanted, 0, 255).astype(np.uint8)
        for isa in sets(slow=slow):
            harness = Harness(1 << 18)
            place, tiles = harness.put(to_tiles(x))
            y, result = harness.room(tiles.shape, TYPES[y_kind])
            params = harness.params(
                records.ELEMENTWISE,
                **tiles_at(x=(place, tiles), y=(y, result)),
                channels=channels,
                x_scale=float(X.scale),
                x_shift=float(-X.scale * X.zero_point),
                y_factor=1 / OUTPUT.scale,
                y_zero=OUTPUT.zero_point + MAGIC,
                flip=0,
            )
            harness.run(
                kernel(isa, "elementwise", 64, x_kind, activation, y_kind), params, 0, len(tiles)
            )
            close(from_tiles(result, tokens), wanted, (isa.name, tokens))


@pytest.mark.parametrize(("slow", "lanes", "operation"), rows_of([(64, "mul"), (16, "add")], []))
def test_combine(slow: bool, lanes: int, operation: str) -> None:
    channels, random = 12, np.random.default_rng(0)
    for tokens in TOKENS:
        x, other = random.normal(size=(2, tokens, channels)).astype(np.float32)
        x[-1], other[0] = np.resize(SPECIALS, channels), np.resize(SPECIALS[::-1], channels)
        with np.errstate(all="ignore"):
            wanted = x + other if operation == "add" else x * other
        for isa in sets(slow=slow):
            harness = Harness(1 << 18)
            operands = {n: harness.put(to_tiles(a, lanes)) for n, a in (("x", x), ("other", other))}
            tiles = operands["x"][1]
            y, result = harness.room(tiles.shape, np.float32)
            given = tiles_at(**operands, y=(y, result))
            params = harness.params(records.COMBINE, **given, channels=channels)
            harness.run(kernel(isa, "combine", lanes, operation), params, 0, len(tiles))
            np.testing.assert_array_equal(from_tiles(result, tokens), wanted)


@pytest.mark.parametrize(("slow", "lanes", "adds"), rows_of([(64, True), (16, False)], []))
def test_affine(slow: bool, lanes: int, adds: bool) -> None:
    channels, random = 12, np.random.default_rng(0)
    gamma, beta = random.normal(size=(2, channels)).astype(np.float32)
    for tokens in TOKENS:
        x, other = random.normal(size=(2, tokens, channels)).astype(np.float32)
        x[-1] = np.resize(SPECIALS, channels)
        with np.errstate(all="ignore"):
            wanted = fused.affine(x, other if adds else None, gamma, beta)
        for isa in sets(slow=slow):
            harness = Harness(1 << 18)
            operands = {n: harness.put(to_tiles(a, lanes)) for n, a in (("x", x), ("other", other))}
            tiles = operands["x"][1]
            y, result = harness.room(tiles.shape, np.float32)
            given = tiles_at(**operands, y=(y, result))
            norm = harness.address(np.stack([gamma, beta], axis=1))
            params = harness.params(records.AFFINE, **given, channels=channels, norm=norm)
            harness.run(kernel(isa, "affine", lanes, adds), params, 0, len(tiles))
            got = from_tiles(result, tokens)
            np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6, err_msg=isa.name)


@pytest.mark.parametrize("activation", ["none", "gelu", "gelu_tanh", "tanh", "relu", "swish"])
@pytest.mark.parametrize("isa", sets(slow=True), ids=str)
def test_elementwise_of_special_numbers(isa: Isa, activation: str) -> None:
    """Floats as ONNX has them; bytes saturate however large x is, and NaN is the least byte."""
    x = np.resize(np.concatenate([SPECIALS, np.float32([1e4, -1e4, 3e6, -3e6])]), (70, 12))
    with np.errstate(all="ignore"):
        wanted = fused.activation_of(None if activation == "none" else activation, x)
    for y_kind, flip in (("f32", 0), ("u8", 0), ("u8", FLIP)):
        harness = Harness(1 << 18)
        place, tiles = harness.put(to_tiles(x))
        y, result = harness.room(tiles.shape, TYPES[y_kind])
        params = harness.params(
            records.ELEMENTWISE,
            **tiles_at(x=(place, tiles), y=(y, result)),
            channels=12,
            x_scale=1.0,
            x_shift=0.0,
            y_factor=1 / OUTPUT.scale,
            y_zero=OUTPUT.zero_point + MAGIC,
            flip=flip,
        )
        code = kernel(isa, "elementwise", 64, "f32", activation, y_kind)
        harness.run(code, params, 0, len(tiles))
        got = from_tiles(result, 70)
        if y_kind == "u8":
            np.testing.assert_array_equal(got ^ (128 if flip else 0), quantized(wanted, OUTPUT))
        else:
            np.testing.assert_allclose(got, wanted, atol=3e-6, rtol=3e-7)


@pytest.mark.parametrize(("slow", "lanes", "width"), rows_of([(64, 64)], [(64, 16), (16, 16)]))
def test_quantize_tokens(slow: bool, lanes: int, width: int) -> None:
    channels = 53
    for tokens in TOKENS:
        random = np.random.default_rng(tokens)
        x = (random.normal(size=(tokens, channels)) * random.uniform(0.01, 30, (tokens, 1))).astype(
            np.float32
        )
        x[-1] = np.abs(x[-1]) if tokens % 2 else 0
        odd = np.flatnonzero(np.arange(tokens) % 5 == 3)  # a channel of these tokens is none
        x[odd, random.integers(0, channels, len(odd))] = np.resize(
            [np.inf, *NANS, -np.inf], len(odd)
        )
        with np.errstate(invalid="ignore"):
            stored, scale, zero = dynamic_quantize_linear(x, axis=-1)
        scale = np.where(np.isfinite(scale), scale, np.float32(np.nan))
        for isa in sets(slow=slow):
            harness = Harness(1 << 18, [tokens])
            place, tiles = harness.put(to_tiles(x, lanes))
            y, result = harness.room(tiles.shape, np.uint8)
            at, scales = harness.room((len(tiles), 2, lanes), np.float32)
            params = harness.params(
                records.QUANTIZE_TOKENS,
                **tiles_at(x=(place, tiles), y=(y, result)),
                channels=channels,
                **tiles_at(scales=(at, scales)),
            )
            harness.run(kernel(isa, "quantize_tokens", lanes, width), params, 0, len(tiles))
            np.testing.assert_array_equal(scales[:, 0].ravel()[:tokens], scale.ravel())
            got = from_tiles(result, tokens), scales[:, 1].view(np.int32).ravel()[:tokens]
            for found, wanted in zip(got, (stored, zero.ravel()), strict=True):
                sound = np.delete(found, odd, 0), np.delete(wanted, odd, 0)
                np.testing.assert_array_equal(*sound)
