"""Attention kernels against the NumPy meaning, sentences of many lengths packed end to end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.codegen.isa import Isa
from engine.graph import Node, Quantization
from engine.kernels import KERNELS, kernel
from engine.kernels.attention.records import ATTENTION_BYTES, KEYS, NO_WINDOW
from engine.kernels.harness import Harness, from_tiles, to_tiles
from engine.kernels.linear.records import REARRANGE
from engine.ops.fused import attention
from engine.plan.attention import bias_entries, fours_of, position_entries
from engine.plan.operands import aligned_copy
from engine.plan.quantized import attention_constants, key_factors, score_roundings
from engine.plan.ranges import softmax_of

from .fixtures import SETS, rows_of, sets

Array = NDArray[Any]
PACKS = ([1], [31], [37, 1, 128], [200], [5, 16, 16, 27, 64, 70])
QUANTISED = {
    "query": Quantization(0.0207, 120),
    "key": Quantization(0.02, 131),
    "value": Quantization(0.02, 126),
    "probabilities": Quantization(1 / 255, 0),
    "output": Quantization(0.01, 128),
}


def meaning(lengths: list[int], q: Array, k: Array, v: Array, attributes: dict[str, Any]) -> Array:
    """Sentence by sentence; q has all tokens, or one a sentence."""
    ends = np.cumsum(lengths)
    found = []
    for number, (end, length) in enumerate(zip(ends, lengths, strict=True)):
        tokens = slice(end - length, end)
        queries = tokens if len(q) == ends[-1] else slice(number, number + 1)
        found.append(attention(q[None, queries], k[None, tokens], v[None, tokens], **attributes)[0])
    return np.concatenate(found)


def put(harness: Harness, x: Array, lanes: int, rest: Any) -> tuple[int, int]:
    """Place and bytes of a tile; `rest` in the lanes after the last token."""
    tiles = to_tiles(x, lanes).copy()
    tiles[to_tiles(np.ones(x.shape, bool), lanes) == 0] = rest
    return harness.put(tiles)[0], tiles[0].nbytes


def rounded(
    harness: Harness, isa: Isa, place: tuple[int, int], channels: int, form: str
) -> tuple[int, int]:
    """Place and bytes of a tile of what round_rows makes of tokens."""
    tiles = -(-int(harness.starts[-1]) // 64)
    y, _ = harness.room((tiles, channels, 64), np.uint16)
    block = harness.params(
        REARRANGE, x=place[0], x_tile=place[1], y=y, y_tile=128 * channels, inputs=channels
    )
    harness.run(kernel(isa, "round_rows", 64, 64, form), block, 0, tiles)
    return y, 128 * channels


def bias_params(
    harness: Harness, bias: Array | None, rows: bool, scale: float = 1.0
) -> dict[str, int]:
    entries = bias_entries(bias, scale, rows=rows)
    return entries | ({} if bias is None else {"bias": harness.address(entries["bias"])})


def run_floats(
    name: str,
    isa: Isa,
    lengths: list[int],
    q: Array,
    k: Array,
    v: Array,
    heads: int,
    width: int,
    *,
    varying: Array | None = None,
    read: Array | None = None,
    bias: Array | None = None,
    window: int = NO_WINDOW,
    positions: Sequence[Array | None] = (),
    roundings: Array | None = None,
    scale: float | None = None,
) -> Array:
    """varying, read: as in run_bytes; what is in other channels nobody may read; bias: by distance,
    [heads, 2 P - 1]; positions: of keys and of queries, [2 P - 1, channels]; roundings: of whole
    steps, as score_roundings makes them.
    """
    lanes, channels = (64 if width else 16), q.shape[1]
    depth = channels // heads
    harness = Harness((sum(lengths) + 64) * channels * 40 + (1 << 14), lengths)
    y, result = harness.room((-(-len(q) // lanes), channels, lanes), np.float32)
    if varying is not None:
        q, k = (np.where(varying.ravel().repeat(4), x, np.float32(np.nan)) for x in (q, k))
    if read is not None:
        v = np.where(read.ravel().repeat(4), v, np.float32(np.nan))
    places = [put(harness, x, n, np.nan) for x, n in ((q, lanes), (k, 64), (v, 64))]
    if name == "attention_bf16":
        forms = zip(places, ("pairs", "pairs", "words"), strict=True)
        places = [rounded(harness, isa, place, channels, form) for place, form in forms]
    made, fours = (harness.address(fours_of(mask, heads, depth)) for mask in (read, varying))
    operands = {
        **dict(zip(("q", "q_tile", "k", "k_tile", "v", "v_tile"), sum(places, ()), strict=True)),
        "y": y,
        "y_tile": 4 * lanes * channels,
        "heads": heads,
        "scale": depth**-0.5 if scale is None else scale,
        "window": window,
    }
    entries = bias_params(harness, bias, not width, depth**-0.5)
    entries |= position_entries(positions, heads, rows=not width, roundings=roundings)
    addressed = ("of_keys", "of_queries", *([] if roundings is None else ["roundings"]))
    entries |= {each: harness.address(entries[each]) for each in addressed if positions}
    record = KERNELS[name].params
    block = harness.params(record, **operands, **entries, made=made, fours=fours)
    variant: tuple[Any, ...] = (depth, width) if width else (depth,)
    variant += (roundings is not None,) if positions else ()
    harness.run(kernel(isa, name, *variant), block, 0, heads * len(result))
    return from_tiles(result, len(q))


@pytest.mark.parametrize(
    ("slow", "name", "width", "depth"),
    rows_of(
        [
            ("attention_f32", 64, 16),
            ("attention_f32", 16, 32),
            ("attention_f32_rows", 0, 32),
            ("attention_bf16", 64, 32),
            ("attention_bf16", 16, 16),
        ],
        [("attention_f32", 32, 64), ("attention_f32_rows", 0, 64), ("attention_bf16", 32, 64)],
    ),
)
def test_floats(slow: bool, name: str, width: int, depth: int) -> None:
    heads = 2
    for lengths in PACKS:
        random = np.random.default_rng(len(lengths))
        k, v = (random.normal(size=(sum(lengths), heads * depth)).astype(np.float32) for _ in "kv")
        q = random.normal(size=(sum(lengths) if width else len(lengths), heads * depth))
        q = (3 * q).astype(np.float32)
        low = name == "attention_bf16"  # an exp near the middle of two is rounded either way
        attributes = {"heads": heads, "scale": depth**-0.5}
        attributes["precision"] = "bfloat16" if low else "float32"
        wanted = meaning(lengths, q, k, v, attributes)
        for isa in sets(slow=slow and not low):  # elsewhere plans have attention_f32
            got = run_floats(name, isa, lengths, q, k, v, heads, width)
            apart, place = np.abs(got - wanted), f"{isa.name} {lengths}"
            np.testing.assert_array_less(apart, 2e-3 if low else 5e-6, err_msg=place)
            assert np.median(apart) < 1e-6, place
        fours = random.random((2, heads, depth // 4)) < 0.6
        same = np.where(fours[0].ravel().repeat(4), k, np.float32(0.3))  # from token to token
        wanted = meaning(lengths, q, same, v, attributes)
        there = fours[1].ravel().repeat(4)
        got = run_floats(
            name, SETS[-1], lengths, q, same, v, heads, width, varying=fours[0], read=fours[1]
        )
        np.testing.assert_allclose(got[:, there], wanted[:, there], atol=2e-3 if low else 5e-6)


@pytest.mark.parametrize(
    ("name", "width", "reach"),
    [("attention_f32", 64, 90), ("attention_f32", 16, 3), ("attention_f32_rows", 0, 90),
     ("attention_bf16", 64, 0), ("attention_bf16", 16, 90)],
)  # fmt: skip
def test_a_bias_by_distance_in_floats(name: str, width: int, reach: int) -> None:
    """Further away than the table reaches, too; one is that of a window."""
    heads, depth = 2, 16
    for lengths in PACKS:
        random = np.random.default_rng(len(lengths))
        q, k, v = random.normal(size=(3, sum(lengths), heads * depth)).astype(np.float32)
        bias = (3 * random.normal(size=(heads, 2 * reach + 1))).astype(np.float32)
        if reach == 90:
            bias[1, :-100] = np.finfo(np.float32).min
        q = q if width else q[: len(lengths)]
        low = "bfloat16" if name == "attention_bf16" else "float32"
        attributes = {"heads": heads, "scale": depth**-0.5, "precision": low, "bias": bias}
        wanted = meaning(lengths, q, k, v, attributes)
        for isa in sets(slow=False):
            got = run_floats(name, isa, lengths, q, k, v, heads, width, bias=bias)
            atol = 5e-6 if low == "float32" else 2e-3
            np.testing.assert_allclose(got, wanted, atol=atol, err_msg=f"{isa.name} {lengths}")


@pytest.mark.parametrize(
    ("name", "width", "far"),
    [("attention_positions", 64, 90), ("attention_positions", 16, 3),
     ("attention_positions_rows", 0, 90)],
)  # fmt: skip
def test_positions(name: str, width: int, far: int) -> None:
    heads, depth = 2, 16
    for lengths in PACKS:
        random = np.random.default_rng(len(lengths))
        q, k, v = random.normal(size=(3, sum(lengths), heads * depth)).astype(np.float32)
        tables = random.normal(size=(2, 2 * far + 1, heads * depth)).astype(np.float32)
        q = q if width else q[: len(lengths)]
        positions = [tables[0], None if far == 3 else tables[1]]
        named = dict(zip(("of_keys", "of_queries"), positions, strict=True))
        wanted = meaning(lengths, q, k, v, {"heads": heads, "scale": depth**-0.5, **named})
        for isa in sets(slow=False):
            got = run_floats(name, isa, lengths, q, k, v, heads, width, positions=positions)
            np.testing.assert_allclose(got, wanted, atol=2e-5, err_msg=f"{isa.name} {lengths}")


POSITIONS = {
    **{name: QUANTISED[name] for name in ("query", "key", "value", "probabilities")},
    "key_positions": Quantization(0.015, 3, "int8"),
    "query_positions": Quantization(0.017, 119),
    "scores": Quantization(0.09, 125),
    "query_scores": Quantization(0.08, 130),
    "key_scores": Quantization(0.07, -4, "int8"),
}


@pytest.mark.parametrize(
    ("name", "width", "far"),
    [("attention_positions", 64, 90), ("attention_positions", 16, 3),
     ("attention_positions_rows", 0, 90)],
)  # fmt: skip
def test_rounded_positions(name: str, width: int, far: int) -> None:
    """Sums are exact: what differs is a score, or a probability, in the middle of two steps."""
    heads, depth, how = 2, 16, dict(POSITIONS)
    if far == 3:
        del how["query_positions"], how["key_scores"]
    node = Node("Attention", (), ("y",), {"heads": heads, "scale": 0.3, **how}, "", "engine")

    def steps(x: Array | None, part: str) -> Any:
        return x if x is None else x.astype(np.float32) - how[part].zero_point

    for lengths in PACKS:
        random = np.random.default_rng(len(lengths))
        q, k, v = random.integers(0, 256, (3, sum(lengths), heads * depth)).astype(np.uint8)
        q = q if width else q[: len(lengths)]
        tables = random.integers(-120, 120, (2, 2 * far + 1, heads * depth))
        given = [tables[0].astype(np.int8), None if far == 3 else (tables[1] + 128).astype("u1")]
        named = dict(zip(("of_keys", "of_queries"), given, strict=True))
        wanted = meaning(lengths, q, k, v, {**node.attributes, **named})
        qkv = [steps(x, name) for x, name in ((q, "query"), (k, "key"), (v, "value"))]
        names = ("key_positions", "query_positions")
        positions = [steps(x, name) for x, name in zip(given, names, strict=True)]
        for isa in sets(slow=False):
            if width and isa.block_width() != width:
                continue
            got = run_floats(
                name, isa, lengths, *qkv, heads, width, positions=positions,
                roundings=score_roundings(node), scale=0.3,
            )  # fmt: skip
            apart = np.abs(got - wanted)
            assert apart.max() < 0.05 and (apart > 1e-5).mean() < 0.02, f"{isa.name} {lengths}"


def run_bytes(
    isa: Isa,
    lengths: list[int],
    q: Array,
    k: Array,
    v: Array,
    node: Node,
    *,
    rows: bool,
    varying: Array | None,
    read: Array | None,
    bias: Array | None = None,
) -> Array:
    """varying, read: bool [heads, depth / 4], which fours of queries and keys differ from token to
    token and which of the context are made; None for all.  What is in others nobody may read.
    """
    lanes, channels, heads = (16 if rows else 64), q.shape[1], node.attributes["heads"]
    depth, tiles = channels // heads, -(-sum(lengths) // 64)
    harness = Harness((sum(lengths) + 64) * channels * 8 + (1 << 15), lengths)
    y, result = harness.room((-(-len(q) // lanes), channels, lanes), np.uint8)
    factor, extra = key_factors(node, np.full(heads, depth))
    if varying is not None:
        same = ~varying.ravel().repeat(4)
        less = [int(node.attributes[name].zero_point) for name in ("query", "key")]
        known = np.where(same, (q[0].astype(int) - less[0]) * (k[0].astype(int) - less[1]), 0)
        extra = key_factors(node, 4 * varying.sum(1))[1] + known.reshape(heads, -1).sum(1)
        q, k = np.where(same, np.uint8(0xA5), q), np.where(same, np.uint8(0x7E), k)
    if read is not None:
        v = np.where(read.ravel().repeat(4), v, np.uint8(0xC3))
    places = [put(harness, x, n, 0x5A) for x, n in ((q, lanes), (k, 64), (v ^ np.uint8(128), 64))]
    keys, _ = harness.room((tiles, channels, 64), np.uint8)
    sums, _ = harness.room((tiles, heads, 64), np.int32)
    made, fours = (harness.address(fours_of(mask, heads, depth)) for mask in (read, varying))
    extra_at = harness.address(extra.astype(np.int32))
    turn = harness.params(
        KEYS, k=places[1][0], k_tile=places[1][1], keys=keys, key_sums=sums, heads=heads,
        flip=-0x7F7F7F80, factor=factor, extra=extra_at, fours=fours,
    )  # fmt: skip
    which = "all" if varying is None and read is None else "some"
    harness.run(kernel(isa, "interleave_keys", depth, which), turn, 0, tiles * heads)
    constants = aligned_copy(attention_constants(node))
    block = harness.params(
        ATTENTION_BYTES, q=places[0][0], q_tile=places[0][1], keys=keys, key_sums=sums,
        v=places[2][0], v_tile=places[2][1], y=y, y_tile=lanes * channels, heads=heads,
        constants=constants.ctypes.data, made=made, fours=fours, **bias_params(harness, bias, rows),
        window=node.attributes.get("window", NO_WINDOW),
    )  # fmt: skip
    name = "attention_u8_rows" if rows else "attention_u8"
    softmax = softmax_of(node)
    variant = (depth, softmax) if rows else (depth, isa.block_width(), softmax, which)
    harness.run(kernel(isa, name, *variant), block, 0, heads * len(result))
    return from_tiles(result, len(q))


@pytest.mark.parametrize(
    ("name", "quantised"),
    [("attention_u8", True), ("attention_u8", False), ("attention_u8_rows", True)],
)
def test_a_bias_by_distance_on_bytes(name: str, quantised: bool) -> None:
    """Scores that are rounded first, or not; neighbours count nothing."""
    heads, depth, rows = 2, 16, name.endswith("rows")
    node = node_of("wide" if quantised else "floats", heads, depth, span=12.0)
    node = node.changed(inputs=("q", "k", "v", "", "bias"))
    for lengths in (*PACKS, CROWD):
        random = np.random.default_rng(len(lengths))
        bias = (2 * random.normal(size=(heads, 181))).astype(np.float32)
        q, k, v = random.integers(0, 256, (3, sum(lengths), heads * depth)).astype(np.uint8)
        q = q[: len(lengths)] if rows else q
        wanted = meaning(lengths, q, k, v, {**node.attributes, "bias": bias})
        run = partial(run_bytes, node=node, rows=rows, varying=None, read=None, bias=bias)
        results = [run(isa, lengths, q, k, v) for isa in sets(slow=False)]
        off = np.abs(results[0].astype(int) - wanted)
        assert off.max() <= 2 and (off > 0).mean() < 0.05, lengths
        np.testing.assert_array_equal(results[0], results[-1])
    check_alone(partial(run, SETS[-1]), q, k, v, name)


def node_of(softmax: str, heads: int, depth: int, *, span: float) -> Node:
    """span: what the scores of random bytes range over, and bytes of scores, if there are any."""
    step, scale = span / 255, depth**-0.5
    usual = 74**2 * depth**0.5 * QUANTISED["key"].scale * scale  # of a score, a query's step 1
    query = Quantization(40 * step / usual, 120)
    scores = None if softmax == "floats" else Quantization(step / scale, 128)
    attributes = {**QUANTISED, "query": query, "scores": scores, "product": None}
    attributes.update(heads=heads, scale=scale)
    if softmax == "rounded":
        attributes["scaled"] = Quantization(1.7 * step, -3, "int8")
        attributes["masked"] = Quantization(2.3 * step, 140)
    return Node("Attention", ("q", "k", "v"), ("y",), attributes, domain="engine")


@pytest.mark.parametrize(
    ("slow", "name", "softmax", "depth", "channels"),
    rows_of(
        [
            ("attention_u8", "bytes", 32, "all"),
            ("attention_u8", "bytes", 64, "some"),
            ("attention_u8", "wide", 32, "all"),
            ("attention_u8_rows", "floats", 32, "some"),
            ("attention_u8", "rounded", 32, "all"),
            ("attention_u8_rows", "rounded", 32, "all"),
        ],
        [
            ("attention_u8", "floats", 64, "all"),
            ("attention_u8", "floats", 32, "some"),
            ("attention_u8_rows", "bytes", 64, "all"),
            ("attention_u8", "bytes", 16, "all"),
            ("attention_u8", "wide", 64, "some"),
            ("attention_u8_rows", "wide", 32, "all"),
        ],
    ),
)
def test_bytes(slow: bool, name: str, softmax: str, depth: int, channels: str) -> None:
    heads, rows = 3, name.endswith("rows")
    node = node_of(softmax, heads, depth, span=200 if softmax == "wide" else 4)
    attributes = node.attributes
    assert softmax_of(node) == softmax
    for lengths in PACKS:
        random = np.random.default_rng(len(lengths))
        k, v = (
            random.integers(0, 256, (sum(lengths), heads * depth)).astype(np.uint8) for _ in "kv"
        )
        queries = len(lengths) if rows else sum(lengths)
        q = random.integers(0, 256, (queries, heads * depth)).astype(np.uint8)
        varying = read = None
        compared = np.ones(heads * depth, bool)
        if channels == "some":  # of the last head no queries and keys
            varying, read = (random.random((heads, depth // 4)) < share for share in (0.4, 0.5))
            varying[-1] = False
            same, compared = ~varying.ravel().repeat(4), read.ravel().repeat(4)
            q[:, same], k[:, same] = q[0, same], k[0, same]
        wanted = meaning(lengths, q, k, v, attributes)[:, compared]
        results = [
            run_bytes(isa, lengths, q, k, v, node, rows=rows, varying=varying, read=read)[
                :, compared
            ]
            for isa in sets(slow=slow)
        ]
        off = np.abs(results[0].astype(int) - wanted)
        assert off.max() <= 2 and (off > 0).mean() < 0.05, lengths
        for isa, other in zip(sets(slow=slow), results, strict=True):
            np.testing.assert_array_equal(results[0], other, err_msg=f"{isa.name} {lengths}")


# --- a window
@pytest.mark.parametrize("window", [0, 5, 70])
@pytest.mark.parametrize("width", [64, 16])
def test_a_window_of_floats(width: int, window: int) -> None:
    heads, depth, random = 2, {64: 16, 16: 32}[width], np.random.default_rng(window)
    for lengths in PACKS:
        q, k, v = random.normal(size=(3, sum(lengths), heads * depth)).astype(np.float32)
        attributes = {"heads": heads, "scale": depth**-0.5, "window": window}
        wanted = meaning(lengths, 3 * q, k, v, attributes)
        for isa in sets(slow=False):
            how: Any = {"window": window}
            got = run_floats("attention_f32", isa, lengths, 3 * q, k, v, heads, width, **how)
            np.testing.assert_allclose(got, wanted, atol=5e-6, err_msg=f"{isa.name} {lengths}")


@pytest.mark.parametrize("window", [0, 5, 70])
@pytest.mark.parametrize(("softmax", "span"), [("bytes", 4), ("wide", 200), ("floats", 4)])
def test_a_window_of_bytes(softmax: str, span: float, window: int) -> None:
    heads, depth, random = 2, 32, np.random.default_rng(window)
    node = node_of(softmax, heads, depth, span=span)
    assert softmax_of(node) == softmax
    node = node.changed(attributes={**node.attributes, "window": window})
    for lengths in PACKS:
        q, k, v = random.integers(0, 256, (3, sum(lengths), heads * depth)).astype(np.uint8)
        wanted = meaning(lengths, q, k, v, dict(node.attributes))
        for isa in sets(slow=False):
            got = of_bytes("attention_u8", node, isa)(lengths, q, k, v)
            off = np.abs(got.astype(int) - wanted)
            assert off.max() <= 2 and (off > 0).mean() < 0.05, (isa.name, lengths)
    isa = SETS[-1]
    q, k, v = random.integers(0, 256, (3, sum(CROWD), heads * depth)).astype(np.uint8)
    check_alone(of_bytes("attention_u8", node, isa), q, k, v, isa.name)


# --- a sentence by itself
CROWD = [5, 37, 1, 130, 66, 3, 64, 2, 127]  # begin in all places of four, odd ones, other tiles
ALONE = [
    ("attention_u8", "bytes", 32, 60.0),
    ("attention_u8", "wide", 32, 90.0),
    ("attention_u8", "wide", 32, 500.0),
    ("attention_u8", "floats", 32, 90.0),
    ("attention_u8_rows", "bytes", 32, 60.0),
    ("attention_u8_rows", "wide", 32, 90.0),
    ("attention_u8_rows", "floats", 32, 90.0),
]


def of_bytes(name: str, node: Node, isa: Isa) -> Callable[..., Array]:
    def run(lengths: list[int], q: Array, k: Array, v: Array) -> Array:
        rows = name.endswith("rows")
        return run_bytes(isa, lengths, q, k, v, node, rows=rows, varying=None, read=None)

    return run


def parts_of(lengths: list[int], one_query: bool) -> list[tuple[slice, slice]]:
    """Each sentence's queries and tokens."""
    ends = np.cumsum(lengths)
    tokens = [slice(end - length, end) for end, length in zip(ends, lengths, strict=True)]
    return [(slice(n, n + 1) if one_query else part, part) for n, part in enumerate(tokens)]


def check_alone(run: Callable[..., Array], q: Array, k: Array, v: Array, what: str) -> None:
    """Every sentence of the crowd is bit for bit what it is alone."""
    together = run(CROWD, q, k, v)
    for length, (queries, tokens) in zip(CROWD, parts_of(CROWD, len(q) == len(CROWD)), strict=True):
        alone = run([length], q[queries], k[tokens], v[tokens])
        np.testing.assert_array_equal(together[queries], alone, err_msg=f"{what} {length}")


@pytest.mark.parametrize(("name", "softmax", "depth", "span"), ALONE, ids=str)
def test_neighbours_count_nothing_in_bytes(
    name: str, softmax: str, depth: int, span: float
) -> None:
    """Not even where their scores are far above all of the sentence's own."""
    heads, random = 2, np.random.default_rng(int(span))
    node = node_of(softmax, heads, depth, span=span)
    assert softmax_of(node) == softmax
    q, k, v = random.integers(0, 256, (3, sum(CROWD), heads * depth)).astype(np.uint8)
    for _, tokens in parts_of(CROWD, False)[::2]:  # a key that is near the zero point scores least
        k[tokens] = 131 + (k[tokens].astype(int) - 131) // 16
    if name.endswith("rows"):
        q = q[: len(CROWD)]
    for isa in sets(slow=False):
        check_alone(of_bytes(name, node, isa), q, k, v, isa.name)


@pytest.mark.parametrize(
    ("name", "width"),
    [("attention_f32", 64), ("attention_f32", 16), ("attention_f32_rows", 0),
     ("attention_bf16", 64)],
)  # fmt: skip
@pytest.mark.parametrize("size", [1.0, 100.0])
def test_neighbours_count_nothing_in_floats(name: str, width: int, size: float) -> None:
    heads, depth, random = 2, 32, np.random.default_rng(int(size))
    q, k, v = random.normal(size=(3, sum(CROWD), heads * depth)).astype(np.float32)
    q *= np.float32(size)
    if name.endswith("rows"):
        q = q[: len(CROWD)]
    for isa in sets(slow=False):

        def run(lengths: list[int], *arrays: Array, isa: Isa = isa) -> Array:
            return run_floats(name, isa, lengths, *arrays, heads, width)

        check_alone(run, q, k, v, isa.name)


@pytest.mark.parametrize("name", ["attention_f32", "attention_f32_rows", "attention_bf16"])
def test_what_neighbours_make_of_nothing_stays_theirs(name: str) -> None:
    """A NaN or an infinity in a neighbour's keys or values: times 0 it would be NaN."""
    heads, depth, random = 2, 32, np.random.default_rng(1)
    q, k, v = random.normal(size=(3, sum(CROWD), heads * depth)).astype(np.float32)
    queries, tokens = zip(*parts_of(CROWD, name.endswith("rows")), strict=True)
    q = q[: queries[-1].stop]
    width = 0 if name.endswith("rows") else 64
    wanted = run_floats(name, SETS[-1], CROWD, q, k, v, heads, width)
    for number in range(0, len(CROWD), 2):
        k[tokens[number]], v[tokens[number]] = np.nan, np.inf
    got = run_floats(name, SETS[-1], CROWD, q, k, v, heads, width)
    for number in range(1, len(CROWD), 2):
        np.testing.assert_array_equal(got[queries[number]], wanted[queries[number]])


@pytest.mark.parametrize("name", ["attention_u8", "attention_u8_rows"])
@pytest.mark.parametrize("softmax", ["bytes", "wide", "floats"])
def test_any_number_of_keys(name: str, softmax: str) -> None:
    """Of the queries the last few, and their neighbour's, a sentence of one token."""
    heads, depth = 1, 32
    node = node_of(softmax, heads, depth, span=100 if softmax == "wide" else 50)
    for length in (511, 513, 530, 1000, 2048, 4096):
        random, lengths = np.random.default_rng(length), [1, length]
        q, k, v = random.integers(0, 256, (3, length + 1, depth)).astype(np.uint8)
        some = slice(-40, None)
        if name.endswith("rows"):
            q, some = q[-2:], slice(None)
        got = of_bytes(name, node, SETS[-1])(lengths, q, k, v)[some]
        queries, tokens = parts_of(lengths, len(q) == 2)[1]
        last = q[queries][-40:]
        wanted = attention(last[None], k[None, tokens], v[None, tokens], **node.attributes)[0]
        off = np.abs(got[-len(last) :].astype(int) - wanted)
        assert off.max() <= 1 and (off > 0).mean() < 0.05, length
