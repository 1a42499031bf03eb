"""LayerNorm and embedding, which ends in one, against the NumPy meaning."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.codegen.isa import Isa
from engine.graph import Quantization
from engine.kernels import kernel
from engine.kernels import params as records
from engine.kernels.harness import Harness, aligned, from_tiles, to_tiles
from engine.ops import fused
from engine.plan.quantized import float_bias, norm_of_bytes, roundings

from .fixtures import (
    NANS,
    OUTPUT,
    RESIDUAL,
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


def exact_norm(x: Array, gamma: Array, beta: Array, epsilon: float) -> Array:
    """LayerNorm in float64."""
    deviation = x - x.mean(-1, keepdims=True)
    scale = np.sqrt((deviation**2).mean(-1, keepdims=True) + epsilon)
    return np.asarray(deviation / scale * gamma + beta)


OFFSETS = (0, 100, 4000, 40000, -3e6)  # of all channels, whose deviations are about 1


def layer_norm(
    isa: Isa,
    x: Array,
    residual: Array | None,
    bias: Array,
    norm: Array,
    lanes: int,
    output: str,
    total: Quantization | None = None,
    *,
    centred: bool = True,
) -> Array:
    """By the kernel that the planner would take; total: x + residual + bias is rounded."""
    tokens, channels = x.shape
    tiles = -(-tokens // lanes)
    harness = Harness(tiles * lanes * channels * 16 + 4096, [tokens])
    given: dict[str, Any] = dict.fromkeys(("residual", "residual_tile"), 0)
    for name, each in (("x", x), ("residual", residual)):
        if each is not None:
            given |= tiles_at(**{name: harness.put(to_tiles(each, lanes))})
    place, result = harness.room((tiles, channels, lanes), TYPES[output])
    given |= tiles_at(y=(place, result), floats=(place, result))
    sources = [
        X if x.dtype == np.uint8 else None,
        RESIDUAL if residual is not None and residual.dtype == np.uint8 else None,
    ]
    exact = norm_of_bytes(sources, bias, channels, 1e-12) if centred and not total else None
    norm = norm.astype(np.float64)
    if output == "u8":
        norm = norm / OUTPUT.scale + np.array([0, OUTPUT.zero_point])
    scaled = aligned(norm.shape, np.float32)
    scaled[...] = norm
    given |= {"channels": channels, "norm": scaled.ctypes.data, "share": 1 / channels}
    if exact is not None:
        params = harness.params(
            records.LAYER_NORM_BYTES,
            **given,
            bias=harness.address(exact.bias),
            weights=exact.weights,
            epsilon=float(exact.epsilon),
        )
        code = kernel(isa, "layer_norm_bytes", lanes, output)
    else:
        floats, scales = float_bias(sources, bias, channels)
        params = harness.params(
            records.LAYER_NORM_FLOATS,
            **given,
            bias=harness.address(np.asarray(floats)),
            x_scale=float(scales[0]),
            residual_scale=float(scales[1]),
            sum=harness.address(roundings([total])) if total else 0,
            epsilon=1e-12,
        )
        kinds = [
            {None: "none", np.dtype(np.uint8): "u8"}.get(None if e is None else e.dtype, "f32")
            for e in (x, residual)
        ]
        code = kernel(isa, "layer_norm_floats", lanes, *kinds, output, centred)
    harness.run(code, params, 0, tiles)
    return from_tiles(result, tokens)


@pytest.mark.parametrize(
    ("slow", "lanes", "x_kind", "residual_kind", "output"),
    rows_of(
        [(64, "u8", "u8", "u8"), (64, "f32", "f32", "f32"), (64, "f32", "u8", "u8")],
        [
            (64, "u8", "u8", "f32"),
            (16, "u8", "u8", "u8"),
            (16, "f32", "none", "f32"),
            (64, "f32", "none", "u8"),
        ],
    ),
)
def test_layer_norm(slow: bool, lanes: int, x_kind: str, residual_kind: str, output: str) -> None:
    channels = 36
    for tokens in TOKENS:
        random = np.random.default_rng(tokens)
        x = quantise(random, (tokens, channels), x_kind)
        residual = None if residual_kind == "none" else quantise(random, x.shape, residual_kind)
        bias, gamma, beta = random.normal(size=(3, channels)).astype(np.float32)
        wanted = fused.layer_norm(
            x, residual, bias, gamma, beta,
            input=X if x_kind == "u8" else None,
            residual=RESIDUAL if residual_kind == "u8" else None,
            output=OUTPUT if output == "u8" else None,
        )  # fmt: skip
        for isa in sets(slow=slow):
            got = layer_norm(isa, x, residual, bias, np.stack([gamma, beta], 1), lanes, output)
            close(got, wanted, (isa.name, tokens))


@pytest.mark.parametrize(
    ("slow", "lanes", "x_kind", "residual_kind", "output"),
    rows_of([(64, "f32", "none", "f32"), (16, "u8", "u8", "u8")], [(64, "f32", "u8", "f32")]),
)
def test_a_norm_that_is_not_centred(
    slow: bool, lanes: int, x_kind: str, residual_kind: str, output: str
) -> None:
    """A mean of squares that overflows leaves 0 of what is finite, NaN of what is not."""
    channels = 36
    for tokens in TOKENS:
        random = np.random.default_rng(tokens)
        x = quantise(random, (tokens, channels), x_kind)
        residual = None if residual_kind == "none" else quantise(random, x.shape, residual_kind)
        bias, gamma, beta = random.normal(size=(3, channels)).astype(np.float32)
        if x_kind == "f32" and residual is None:
            x[0, 3], x[-1, 5] = np.inf, np.nan
        with np.errstate(invalid="ignore"):
            wanted = fused.layer_norm(
                x, residual, bias, gamma, beta, centred=False,
                input=X if x_kind == "u8" else None,
                residual=RESIDUAL if residual_kind == "u8" else None,
                output=OUTPUT if output == "u8" else None,
            )  # fmt: skip
        for isa in sets(slow=slow):
            norm = np.stack([gamma, beta], 1)
            got = layer_norm(isa, x, residual, bias, norm, lanes, output, centred=False)
            close(got, wanted, (isa.name, tokens))


SUM = Quantization(0.07, 119)
INNER = {  # what layer_norm_rounded rounds in between
    "variance": Quantization(0.03, 0),
    "raised": Quantization(0.03, 0),
    "normalised": Quantization(0.02, 130),
    "scaled": Quantization(0.04, -3, "int8"),
}


def test_a_sum_that_is_rounded() -> None:
    random = np.random.default_rng(0)
    x, residual = (quantise(random, (37, 36), "u8") for _ in range(2))
    bias, gamma, beta = random.normal(size=(3, 36)).astype(np.float32)
    wanted = fused.layer_norm(
        x, residual, bias, gamma, beta, input=X, residual=RESIDUAL, sum=SUM, output=OUTPUT
    )
    norm = np.stack([gamma, beta], 1)
    for isa in sets(slow=False):
        close(layer_norm(isa, x, residual, bias, norm, 64, "u8", SUM), wanted, isa.name)


@pytest.mark.parametrize(
    ("slow", "lanes", "residual_kind"),
    rows_of([(64, "u8"), (64, "none")], [(16, "u8")]),
)
def test_layer_norm_rounded(slow: bool, lanes: int, residual_kind: str) -> None:
    """Every operator's result is a byte."""
    channels, norm = 36, "layer_norm_rounded"
    for tokens in TOKENS:
        random = np.random.default_rng(tokens)
        x = quantise(random, (tokens, channels), "u8")
        residual = None if residual_kind == "none" else quantise(random, x.shape, "u8")
        bias, gamma, beta = random.normal(size=(3, channels)).astype(np.float32)
        given = {"input": X, "residual": None, "sum": None}
        if residual is not None:
            given = {"input": X, "residual": RESIDUAL, "sum": SUM}
        wanted = fused.layer_norm(
            x, residual, bias, gamma, beta, epsilon=1e-3, **given, **INNER, output=OUTPUT
        )
        for isa in sets(slow=slow):
            harness = Harness(1 << 18, [tokens])
            place, tiles = harness.put(to_tiles(x, lanes))
            rest: dict[str, Any] = dict.fromkeys(("residual", "residual_tile", "sum"), 0)
            if residual is not None:
                rest = tiles_at(residual=harness.put(to_tiles(residual, lanes)))
                rest["sum"] = harness.address(roundings([SUM]))
            y, result = harness.room(tiles.shape, np.uint8)
            floats, scales = float_bias([X, given["residual"]], bias, channels)
            params = harness.params(
                records.LAYER_NORM_ROUNDED,
                **tiles_at(x=(place, tiles), y=(y, result)),
                **rest,
                floats=0,
                floats_tile=0,
                channels=channels,
                bias=harness.address(floats),
                norm=harness.address(np.stack([gamma, beta], 1)),
                x_scale=float(scales[0]),
                residual_scale=float(scales[1]),
                roundings=harness.address(roundings([*INNER.values(), OUTPUT])),
                epsilon=1e-3,
                share=1 / channels,
            )
            harness.run(kernel(isa, norm, lanes, residual_kind), params, 0, len(tiles))
            got = from_tiles(result, tokens).astype(int)
            off = np.abs(got - wanted)
            assert (off > 0).mean() < 0.02 and np.median(off) == 0, (isa.name, tokens)


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("isa", sets(slow=False), ids=str)
def test_layer_norm_of_a_large_offset(isa: Isa, offset: float) -> None:
    """A spread of deviations of 1 is found beside any offset, as float64 finds it."""
    random = np.random.default_rng(0)
    x = (offset + random.normal(size=(70, 100))).astype(np.float32)
    gamma, beta = random.normal(size=(2, 100)).astype(np.float32)
    norm, nothing = np.stack([gamma, beta], 1), np.zeros(100, np.float32)
    got = layer_norm(isa, x, None, nothing, norm, 64, "f32")
    np.testing.assert_allclose(got, exact_norm(x.astype(float), gamma, beta, 1e-12), atol=1e-5)


@pytest.mark.parametrize("isa", sets(slow=True), ids=str)
def test_norms_of_special_numbers(isa: Isa) -> None:
    """A channel that is none makes NaN of its token, gamma and beta of their channel."""
    random = np.random.default_rng(0)
    x = random.normal(size=(70, 64)).astype(np.float32)
    places = np.arange(3, 70, 9)  # tokens; each one's odd channel is another
    x[places, places % 64] = np.resize([*NANS, np.inf, -np.inf], len(places))
    gamma, beta = random.normal(size=(2, 64)).astype(np.float32)
    gamma[5], beta[7] = np.nan, np.inf
    wanted = np.array(
        exact_norm(np.where(np.isinf(x), np.nan, x).astype(float), gamma, beta, 1e-12)
    )
    norm, nothing = np.stack([gamma, beta], 1), np.zeros(64, np.float32)
    for residual in (None, np.zeros_like(x)):
        got = layer_norm(isa, x, residual, nothing, norm, 64, "f32")
        np.testing.assert_allclose(got, wanted, atol=1e-5)
    columns, zeros = np.stack([np.arange(70), np.zeros(70, int), np.zeros(70, int)]), 0 * x[5:6]
    got = embedding(isa, columns, [x, zeros, zeros], norm.T, "f32")
    np.testing.assert_allclose(got, wanted, atol=1e-5)


@pytest.mark.parametrize("isa", sets(slow=False), ids=str)
def test_layer_norm_of_equal_channels(isa: Isa) -> None:
    """No variance at all: beta, and no square root of less than nothing."""
    x = np.repeat(np.logspace(-3, 7, 64, dtype=np.float32)[:, None], 100, axis=1)
    gamma, beta = np.random.default_rng(0).normal(size=(2, 100)).astype(np.float32)
    norm, nothing = np.stack([gamma, beta], 1), np.zeros(100, np.float32)
    got = layer_norm(isa, x, None, nothing, norm, 64, "f32")
    assert not np.isnan(got).any()
    np.testing.assert_allclose(got[x[:, 0] < 1], np.tile(beta, (19, 1)), atol=1e-3)
    columns = np.stack([np.arange(64), np.zeros(64, int), np.zeros(64, int)])
    tables = [x, np.zeros((1, 100), np.float32), np.zeros((1, 100), np.float32)]
    assert not np.isnan(embedding(isa, columns, tables, norm.T, "f32")).any()


@pytest.mark.parametrize("channels", [36, 768])
@pytest.mark.parametrize("isa", sets(slow=False), ids=str)
def test_layer_norm_of_bytes_with_a_large_offset(isa: Isa, channels: int) -> None:
    """Bytes that differ by a few steps, biases far from 0, and a channel far from the others."""
    random = np.random.default_rng(0)
    x, residual = 240 + random.integers(0, 5, (2, 70, channels)).astype(np.uint8)
    x[:, 0] = 0
    bias = (5 + random.normal(size=channels) / 100).astype(np.float32)
    gamma, beta = random.normal(size=(2, channels)).astype(np.float32)
    got = layer_norm(isa, x, residual, bias, np.stack([gamma, beta], 1), 64, "f32")
    total = (x - 117.0) * X.scale + (residual - 131.0) * RESIDUAL.scale + bias
    np.testing.assert_allclose(got, exact_norm(total, gamma, beta, 1e-12), atol=2e-3)


def embedding(
    isa: Isa,
    columns: Array,
    tables: list[Array],
    norm: Array | None,
    output: str,
    total: Quantization | None = None,
    first: str = "types",
) -> Array:
    """columns: word, type and position of each token; norm: gamma and beta; total: word + first is
    rounded.
    """
    tokens, channels = columns.shape[1], tables[0].shape[1]
    rest, tiles = -channels % 64, -(-tokens // 64)
    harness = Harness(tiles * 64 * (channels + rest) * 12 + 4096, [tokens])
    y, result = harness.room((tiles, channels + rest, 64), TYPES[output])
    scaled = np.stack([np.ones(channels), np.zeros(channels)]) if norm is None else norm
    if output == "u8":
        scaled = scaled / OUTPUT.scale + np.array([[0], [OUTPUT.zero_point]])
    for name, column in zip(("ids", "types", "positions"), columns, strict=True):
        harness.context[name] = harness.address(column.astype(np.int32))
    operands = [np.pad(each, ((0, 0), (0, rest))) for each in (*tables, scaled)]
    words, positions, types, scaled = (
        harness.address(x.astype(np.float32)) if x.size else 0 for x in operands
    )
    params = harness.params(
        records.EMBEDDING,
        words=words,
        positions=positions,
        types=types,
        channels=channels + rest,
        **tiles_at(y=(y, result)),
        norm=scaled,
        epsilon=1e-6,
        share=1 / channels,
        last=64 - rest,
        rounding=harness.address(roundings([total])) if total else 0,
        positions_first=first == "positions",
    )
    harness.run(kernel(isa, "embedding", output, norm is not None), params, 0, tiles)
    return from_tiles(result, tokens)[:, :channels]


@pytest.mark.parametrize(
    ("slow", "output", "normalised", "channels"),
    rows_of([("u8", True, 64), ("f32", True, 72)], [("f32", False, 128), ("u8", True, 120)]),
)
def test_embedding(slow: bool, output: str, normalised: bool, channels: int) -> None:
    words = 50
    for tokens in TOKENS:
        random = np.random.default_rng(tokens)
        tables = [
            random.normal(size=(rows, channels)).astype(np.float32) for rows in (words, 256, 2)
        ]
        gamma, beta = random.normal(size=(2, channels)).astype(np.float32)
        ids, kinds = random.integers(0, words, (1, tokens)), random.integers(0, 2, (1, tokens))
        quantisation = OUTPUT if output == "u8" else None
        normal = (gamma, beta) if normalised else (None, None)
        wanted = fused.embedding(ids, kinds, *tables, *normal, epsilon=1e-6, output=quantisation)[0]
        columns = np.stack([ids[0], kinds[0], np.arange(tokens)])
        norm = np.stack([gamma, beta]) if normalised else None
        for isa in sets(slow=slow):
            close(embedding(isa, columns, tables, norm, output), wanted, (isa.name, tokens))


@pytest.mark.parametrize("normalised", [True, False])
def test_embedding_of_words_alone(normalised: bool) -> None:
    random, channels = np.random.default_rng(0), 72
    words = random.normal(size=(50, channels)).astype(np.float32)
    gamma, beta = random.normal(size=(2, channels)).astype(np.float32)
    ids, zeros = random.integers(0, 50, 70), np.zeros(70, int)
    norm, normal = (np.stack([gamma, beta]), (gamma, beta)) if normalised else (None, (None, None))
    wanted = fused.embedding(ids[None], None, words, None, None, *normal, epsilon=1e-6)[0]
    for isa in sets(slow=False):
        tables = [words, np.zeros((0, channels)), np.zeros((0, channels))]
        got = embedding(isa, np.stack([ids, zeros, zeros]), tables, norm, "f32")
        close(got, wanted, isa.name)


@pytest.mark.parametrize("first", ["types", "positions"])
def test_embedding_of_a_rounded_sum(first: str) -> None:
    random = np.random.default_rng(0)
    tables = [random.normal(size=(rows, 72)).astype(np.float32) for rows in (50, 37, 2)]
    ids, kinds = random.integers(0, 50, (1, 37)), random.integers(0, 2, (1, 37))
    wanted = fused.embedding(ids, kinds, *tables, sum=SUM, first=first, output=OUTPUT)[0]
    columns = np.stack([ids[0], kinds[0], np.arange(37)])
    for isa in sets(slow=False):
        close(embedding(isa, columns, tables, None, "u8", SUM, first), wanted, isa.name)


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (3, 2), (3, 37)])
@pytest.mark.parametrize("typed", [True, False])
def test_trigram(batch: int, length: int, typed: bool) -> None:
    """Words beside a token are those of its sentence, masked ones too; an id that another thread
    has changed since is one of the table."""
    random = np.random.default_rng(length)
    words, positions, types = (
        random.normal(size=shape).astype(np.float32) for shape in ((50, 16), (40, 32), (2, 32))
    )
    ids, kinds = random.integers(0, 50, (batch, length)), random.integers(0, 2, (batch, length))
    kept = np.flatnonzero(random.random(batch * length) < 0.7)
    kept = kept if len(kept) else np.array([0])
    wanted = fused.trigram(ids, kinds, words, positions, types if typed else None)
    ids[ids == 49], ids[ids == 0] = 99, -5
    for isa in sets(slow=False):
        tiles = -(-len(kept) // 64)
        harness = Harness(tiles * 64 * 80 * 4 + 4096, [len(kept)])
        y, result = harness.room((tiles, 80, 64), np.float32)
        columns = {"places": kept, "types": kinds.ravel()[kept], "positions": kept % length}
        for name, column in columns.items():
            harness.context[name] = harness.address(column.astype(np.int32))
        harness.context["batch_ids"], harness.context["length"] = harness.address(ids), length
        tables = {"words": words, "positions": positions, "types": types}
        places = {name: harness.address(each) for name, each in tables.items()}
        places["types"] *= typed
        sizes = {"vocabulary": 50, "width": 16, "rest": 32}
        params = harness.params(records.TRIGRAM, **places, **sizes, **tiles_at(y=(y, result)))
        harness.run(kernel(isa, "trigram"), params, 0, tiles)
        got = from_tiles(result, len(kept))
        np.testing.assert_array_equal(got, wanted.reshape(-1, 80)[kept], err_msg=isa.name)


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("isa", sets(slow=False), ids=str)
def test_embedding_of_a_large_offset(isa: Isa, offset: float) -> None:
    """In the positions, as in reports of models whose embeddings are not centred."""
    random = np.random.default_rng(0)
    tables = [random.normal(size=(rows, 120)).astype(np.float32) for rows in (50, 256, 2)]
    tables[1] += np.float32(offset)
    gamma, beta = random.normal(size=(2, 120)).astype(np.float32)
    columns = np.stack([random.integers(0, 50, 70), random.integers(0, 2, 70), np.arange(70)])
    got = embedding(isa, columns, tables, np.stack([gamma, beta]), "f32")
    words, kinds, places = columns
    total = ((tables[0][words] + tables[2][kinds]) + tables[1][places]).astype(float)
    np.testing.assert_allclose(got, exact_norm(total, gamma, beta, 1e-6), atol=1e-5)
