"""AMX kernels, executed: on the CPU where it has tiles, else in the emulator, instructions counted.

Each is compared with NumPy over a grid of shapes, and int8 ones bit by bit with the kernels that
other instruction sets use.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.codegen import isa
from engine.codegen.simd import MAGIC
from engine.kernels import kernel
from engine.kernels.attention.records import ATTENTION_BYTES, CONSTANTS, KEYS, NO_WINDOW
from engine.kernels.harness import Harness, from_tiles, to_tiles
from engine.kernels.linear.records import (
    FLOAT_OUTPUT,
    LINEAR,
    OUTPUT,
    REARRANGE,
    TABLE_OUTPUT,
)
from engine.pack.amx import PackedTiles, pack_tiles
from engine.pack.vectors import Packed, pack_linear, to_bfloat16
from engine.plan.attention import fours_of
from engine.plan.operands import placed
from tests.instruction_sets import reachable

AMX, VNNI = reachable("amx_bf16"), reachable("avx512_vnni")
FLIP = -0x7F7F7F80

# tokens, inputs, outputs: whole tiles and tails of tokens and outputs; dense reads whole blocks
SHAPES = [(64, 64, 32), (64, 256, 256), (1, 64, 4), (63, 128, 20), (150, 320, 100)]
TAILS = [(1, 4, 4), (65, 132, 36), (63, 77, 60)]  # of inputs, for 16x1
LARGE = [(128, 1024, 256), (128, 256, 1024), (64, 768, 768), (200, 3072, 64)]
CASES = [
    *(("dense", *shape) for shape in SHAPES),
    *(("16x1", *shape) for shape in SHAPES + TAILS),
    *(
        pytest.param(name, *shape, marks=pytest.mark.slow)
        for name in ("dense", "16x1")
        for shape in LARGE
    ),
]


def sparse(weight: np.ndarray, density: float, rows: int, random: np.random.Generator) -> None:
    """Zeros blocks of rows x 1."""
    kept = random.random((-(-len(weight) // rows), weight.shape[1])) < density
    weight *= np.repeat(kept, rows, axis=0)[: len(weight)]


def check_counts(amx: Any, packed: PackedTiles, *, tiles: int, lanes: int) -> None:
    """The products of the packing were all done in tiles, and the tiles given back."""
    if amx is None:
        return  # on real tiles nothing counts
    products = packed.products * tiles * lanes // 64
    assert amx.count["tdpbsud"] + amx.count["tdpbf16ps"] == products > 0
    assert amx.count["ldtilecfg"] == amx.count["tilerelease"] == 1
    assert not amx.configured


def prepared(
    harness: Harness, which: isa.Isa, x_at: int, x: np.ndarray, *, form: str, lanes: int
) -> tuple[int, int]:
    """Offset and bytes a tile of x, interleaved, or bfloat16 in this form."""
    if x.dtype == np.uint8:
        code = kernel(which, "interleave_rows", lanes, lanes)
    else:
        code = kernel(which, "round_rows", lanes, lanes, form)
    tiles, inputs = -(-len(x) // lanes), x.shape[1]
    row = -(-inputs // 4) * 4 * lanes * (1 if x.dtype == np.uint8 else 2)
    at, _ = harness.room((tiles, row), np.uint8)
    x_row = x.itemsize * inputs * lanes
    params = harness.params(REARRANGE, x=x_at, x_tile=x_row, y=at, y_tile=row, inputs=inputs)
    harness.run(code, params, 0, tiles)
    return at, row


def run_dot(
    name: str,
    which: isa.Isa,
    packed: Packed,
    x: np.ndarray,
    records: np.ndarray,
    outputs: int,
    *,
    variant: tuple[str, str],
    lanes: int = 64,
    parts: int = 1,
    dtype: Any = np.float32,
    tables: np.ndarray | None = None,
) -> np.ndarray:
    """y [tokens, outputs]."""
    harness = Harness(1 << 24, [len(x)])
    row = x.itemsize * x.shape[1] * lanes
    tiles, rows = -(-len(x) // lanes), -(-outputs // 4) * 4
    x_at, _ = harness.put(to_tiles(x, lanes))
    if name.startswith("amx_dot") and name != "amx_dot_u8s8_16x1":
        form = "rows" if name.endswith("16x1") else "pairs"
        x_at, row = prepared(harness, which, x_at, x, form=form, lanes=lanes)
    y_at, y = harness.room((tiles, rows, lanes), dtype)
    table, held = placed([packed], [records], tables)
    activations = {"x": x_at, "x_tile": row, "y": y_at, "y_tile": rows * lanes * y.itemsize}
    params = harness.params(LINEAR, **activations, part_count=parts, parts=harness.address(table))
    harness.run(kernel(which, name, lanes, *variant), params, 0, tiles * parts)
    assert held  # read until here
    return from_tiles(y, len(x))[:, :outputs]


def starts(packed: Packed, values: np.ndarray) -> np.ndarray:
    """Records with scale 1 and these starts (int32 or float32)."""
    padded = np.zeros(int(packed.outputs.max()) + 1, values.dtype)
    padded[: len(values)] = values
    record = OUTPUT if values.dtype == np.int32 else FLOAT_OUTPUT
    records = np.zeros(len(packed.outputs) + 1, record.dtype)  # one behind the last
    records["scale"], records["start"][:-1] = 1, padded[packed.outputs]
    return records


@pytest.mark.parametrize("lanes", [64, 16])
@pytest.mark.parametrize(("pattern", "tokens", "inputs", "outputs"), CASES)
def test_bytes_are_exact(amx, pattern, tokens, inputs, outputs, lanes):
    random = np.random.default_rng(tokens + inputs + outputs)
    weight = random.integers(-128, 128, (outputs, inputs)).astype(np.int8)
    sparse(weight, 0.4, 16, random)
    weight[0, 0] = 1  # never nothing at all
    x = random.integers(0, 256, (tokens, inputs)).astype(np.uint8)
    start = random.integers(-1000, 1000, outputs).astype(np.int32)
    packed = pack_tiles(weight, pattern, precision="int8", lanes=lanes, parts=2, out_bytes=4)
    name = "amx_dot_u8s8" if pattern == "dense" else "amx_dot_u8s8_16x1"
    y = run_dot(
        name,
        AMX,
        packed,
        x,
        starts(packed, start),
        outputs,
        variant=("floats", "none"),
        lanes=lanes,
        parts=2,
    )
    assert np.array_equal(y, x.astype(np.int64) @ weight.T.astype(np.int64) + start)
    check_counts(amx, packed, tiles=-(-tokens // lanes), lanes=lanes)


@pytest.mark.parametrize("lanes", [64, 16])
@pytest.mark.parametrize(("pattern", "tokens", "inputs", "outputs"), CASES)
def test_bfloat16_is_close(amx, pattern, tokens, inputs, outputs, lanes):
    random = np.random.default_rng(tokens + inputs + outputs)
    weight = random.standard_normal((outputs, inputs)).astype(np.float32)
    sparse(weight, 0.4, 16, random)
    weight[0, 0] = 1
    x = random.standard_normal((tokens, inputs)).astype(np.float32)
    bias = random.standard_normal(outputs).astype(np.float32)
    packed = pack_tiles(weight, pattern, precision="bfloat16", lanes=lanes, parts=2, out_bytes=4)
    name = "amx_dot_bf16" if pattern == "dense" else "amx_dot_bf16_16x1"
    y = run_dot(
        name,
        AMX,
        packed,
        x,
        starts(packed, bias),
        outputs,
        variant=("f32", "none"),
        lanes=lanes,
        parts=2,
    )
    x, weight = (
        (to_bfloat16(z).astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        for z in (x, weight)
    )
    size = np.abs(x) @ np.abs(weight).T + np.abs(bias)
    assert (np.abs(y - (x @ weight.T + bias)) <= 1e-6 * size).all()
    check_counts(amx, packed, tiles=-(-tokens // lanes), lanes=lanes)


def epilogue_records(name: str, packed: Packed, outputs: int) -> np.ndarray:
    """Scales, starts and shifts that spread results over the bytes."""
    random = np.random.default_rng(7)
    scale = random.uniform(1e-4, 2e-4, outputs).astype(np.float32)
    start = random.integers(-9000, 9000, outputs).astype(np.int32)
    shift = random.uniform(-1, 1, outputs).astype(np.float32)
    if name in ("table", "plain"):
        scale, shift = scale * 40, np.full(outputs, 128 + MAGIC, np.float32)
    record = TABLE_OUTPUT if name == "table" else OUTPUT
    behind = np.zeros(len(packed.outputs) + 1, record.dtype)
    records = behind[:-1]
    records["scale"], records["start"] = scale[packed.outputs], start[packed.outputs]
    records["shift"] = shift[packed.outputs]
    if name == "table":
        records["table"] = 256 * packed.outputs
    else:
        records["a"], records["b"], records["flip"] = 3, 117 + MAGIC, FLIP
    return behind


@pytest.mark.parametrize(
    ("epilogue", "activation", "pattern"),
    [
        ("table", "none", "dense"),
        ("table", "none", "16x1"),
        ("plain", "none", "dense"),
        ("bytes", "gelu", "dense"),
        ("rounded", "relu", "16x1"),
    ],
)
def test_epilogues_give_the_same_bits_as_without_tiles(amx, epilogue, activation, pattern):
    tokens, inputs, outputs = 70, 64, 48
    random = np.random.default_rng(3)
    weight = random.integers(-127, 128, (outputs, inputs)).astype(np.int8)
    x = random.integers(0, 256, (tokens, inputs)).astype(np.uint8)
    table = random.integers(0, 256, (outputs, 256)).astype(np.uint8)
    size = 4 if epilogue == "rounded" else 1
    results = []
    for name, which, packed in (
        (
            "sparse_dot_u8s8_4x1",
            VNNI,
            pack_linear(weight, "4x1", precision="int8", out_bytes=size),
        ),
        (
            "amx_dot_u8s8" if pattern == "dense" else "amx_dot_u8s8_16x1",
            AMX,
            pack_tiles(weight, pattern, precision="int8", out_bytes=size),
        ),
    ):
        results.append(
            run_dot(
                name,
                which,
                packed,
                x,
                epilogue_records(epilogue, packed, outputs),
                outputs,
                variant=(epilogue, activation),
                dtype=np.float32 if size == 4 else np.uint8,
                tables=table if epilogue == "table" else None,
            )
        )
    assert np.array_equal(*results)
    assert len(np.unique(results[0])) > 20
    check_counts(amx, packed, tiles=2, lanes=64)


def test_empty_blocks_are_no_work(amx):
    weight = np.zeros((64, 256), np.int8)
    weight[5, 100] = 3
    packed = pack_tiles(weight, "dense", precision="int8", out_bytes=4)
    x = np.arange(64 * 256, dtype=np.uint32).reshape(64, 256).astype(np.uint8)
    records = starts(packed, np.arange(64, dtype=np.int32))
    y = run_dot("amx_dot_u8s8", AMX, packed, x, records, 64, variant=("floats", "none"))
    assert np.array_equal(y, x.astype(np.int64) @ weight.T.astype(np.int64) + np.arange(64))
    if amx is not None:
        assert amx.count["tdpbsud"] == 8  # one of 2 x 4 blocks


@pytest.mark.parametrize("pattern", ["dense", "16x1"])
def test_weights_that_are_all_zero_leave_the_start(amx, pattern):
    packed = pack_tiles(
        np.zeros((40, 64), np.int8), pattern, precision="int8", out_bytes=4, parts=4
    )
    x, start = np.full((5, 64), 255, np.uint8), np.arange(40, dtype=np.int32)
    name = "amx_dot_u8s8" if pattern == "dense" else "amx_dot_u8s8_16x1"
    variant = ("floats", "none")
    y = run_dot(name, AMX, packed, x, starts(packed, start), 40, variant=variant, parts=4)
    assert np.array_equal(y, np.tile(start, (5, 1)))
    assert amx is None or amx.count["tdpbsud"] == 0


# --- attention
def attend(
    which: isa.Isa,
    names: tuple[str, str],
    lengths: list[int],
    *,
    heads: int,
    depth: int,
    softmax: str,
) -> np.ndarray:
    """Bytes [tokens, heads * depth] of random queries, keys and values."""
    random = np.random.default_rng(depth + len(lengths))
    tokens, channels = sum(lengths), heads * depth
    query, key, value = random.integers(0, 256, (3, tokens, channels)).astype(np.uint8)
    tiles = -(-tokens // 64)
    constants = np.zeros(1, CONSTANTS.dtype)
    constants["query_factor"], constants["value_zero"] = -3, 7
    constants["score_scale"], constants["score_shift"] = 1 / (150 * depth), 128 + MAGIC
    constants["probability_factor"] = 255
    constants["value_scale"], constants["output_zero"] = 1 / 40, 100 + MAGIC
    step = np.arange(-15, 1) * 0.04
    constants["coarse"], constants["fine"] = np.exp(16 * step), np.exp(step)
    harness = Harness(1 << 22, lengths)
    row = channels * 64
    q, k, v = (harness.put(to_tiles(z))[0] for z in (query, key, value))
    keys, _ = harness.room((tiles, channels, 64), np.uint8)
    sums, _ = harness.room((tiles, heads, 64), np.int32)
    y_at, y = harness.room((tiles, channels, 64), np.uint8)
    extra = harness.address(np.full(heads, depth * 120 * 131, np.int32))
    fours = harness.address(fours_of(None, heads, depth))
    turned = harness.params(
        KEYS, k=k, k_tile=row, keys=keys, key_sums=sums, heads=heads, flip=FLIP, factor=-120,
        extra=extra, fours=fours,
    )  # fmt: skip
    keys_variant, variant = (depth, "all"), (depth, which.block_width(), softmax, "all")
    if names[0].startswith("amx"):
        keys_variant, variant = (depth,), (depth, softmax)
    harness.run(kernel(which, names[0], *keys_variant), turned, 0, tiles * heads)
    params = harness.params(
        ATTENTION_BYTES, q=q, q_tile=row, keys=keys, key_sums=sums, v=v, v_tile=row, y=y_at,
        y_tile=row, heads=heads, constants=harness.address(constants), made=fours, fours=fours,
        bias=0, reach=0, window=NO_WINDOW,
    )  # fmt: skip
    harness.run(kernel(which, names[1], *variant), params, 0, tiles * heads)
    return from_tiles(y, tokens)


@pytest.mark.parametrize(
    ("lengths", "heads", "depth", "softmax"),
    [
        pytest.param([64], 1, 64, "bytes", marks=pytest.mark.slow),
        ([3, 25, 40, 100, 1, 7], 2, 32, "bytes"),
        ([3, 25, 40, 100, 1, 7], 2, 32, "floats"),
        ([3, 25, 40, 100, 1, 7], 2, 32, "wide"),
        pytest.param([200, 13], 1, 16, "bytes", marks=pytest.mark.slow),
        pytest.param([128], 4, 64, "floats", marks=pytest.mark.slow),
        pytest.param([70, 70], 2, 128, "bytes", marks=pytest.mark.slow),
        pytest.param([512], 1, 64, "bytes", marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_attention_gives_the_same_bytes_as_without_tiles(amx, lengths, heads, depth, softmax):
    plain, tiles = (
        attend(which, names, lengths, heads=heads, depth=depth, softmax=softmax)
        for which, names in (
            (VNNI, ("interleave_keys", "attention_u8")),
            (AMX, ("amx_transpose_keys", "amx_attention_u8")),
        )
    )
    assert np.array_equal(plain, tiles)
    assert plain.std() > 10
    if amx is not None:
        assert amx.count["tdpbsud"] > 0
        assert amx.count["ldtilecfg"] == amx.count["tilerelease"] == 1
        assert not amx.configured
