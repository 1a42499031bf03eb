"""Rows of all tokens, against the NumPy meaning."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.codegen.isa import Isa
from engine.kernels import kernel
from engine.kernels import params as records
from engine.kernels.harness import Harness, from_tiles, to_tiles
from engine.ops import fused

from .fixtures import SPECIALS, rows_of, sets, tiles_at

Array = NDArray[Any]
LENGTHS = (1, 31, 37, 128, 16, 2, 200)


def pooled(isa: Isa, x: Array, lengths: list[int], how: str, least: float, length: int) -> Array:
    """[sentences, channels]; x: tokens of all sentences, one behind the other."""
    harness = Harness(1 << 19, lengths)
    harness.context["length"] = length
    place, tiles = harness.put(to_tiles(x))
    tiles[-1][:, len(x) % 64 or 64 :] = np.nan  # lanes of no token
    y, rows = harness.room((-(-len(lengths) // 16), x.shape[1], 16), np.float32)
    params = harness.params(
        records.POOL,
        **tiles_at(x=(place, tiles), y=(y, rows)),
        channels=x.shape[1],
        least=least,
        root=int(how == "mean_sqrt_len"),
    )
    harness.run(kernel(isa, "pool", how.removesuffix("_sqrt_len")), params, 0, len(rows))
    return from_tiles(rows, len(lengths))


@pytest.mark.parametrize(
    ("slow", "how"), rows_of([("mean",), ("sum",), ("max",)], [("mean_sqrt_len",)])
)
def test_pool(slow: bool, how: str) -> None:
    x = np.random.default_rng(0).normal(size=(sum(LENGTHS), 12)).astype(np.float32)
    x[: len(SPECIALS), 3] = SPECIALS
    sentences = np.split(x, np.cumsum(LENGTHS)[:-1])
    with np.errstate(invalid="ignore", over="ignore"):
        wanted = [fused.pool(each[None], how=how)[0, 0] for each in sentences]
    for isa in sets(slow=slow):
        got = pooled(isa, x, list(LENGTHS), how, -np.inf, length=1)
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
        for each, row in zip(sentences, got, strict=True):  # the same bits alone
            alone = pooled(isa, each, [len(each)], how, -np.inf, length=1)[0]
            np.testing.assert_array_equal(alone, row)


@pytest.mark.parametrize("fill", [0.0, -1e9])
def test_a_maximum_is_not_less_than_what_masked_tokens_become(fill: float) -> None:
    x = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32) - 2
    mask = np.arange(9)[None] < 5
    for isa in sets(slow=False):
        got = pooled(isa, x[:5], [5], "max", fill, length=9)
        np.testing.assert_array_equal(got, fused.pool(x[None, :9], mask, how="max", fill=fill)[0])
        whole = pooled(isa, x[:9], [9], "max", fill, length=9)
        np.testing.assert_array_equal(whole[0], x[:9].max(axis=0))
