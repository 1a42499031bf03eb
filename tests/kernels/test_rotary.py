"""The rotary kernel against its operator's meaning, sentences packed end to end."""

from __future__ import annotations

import numpy as np
import pytest

from engine.kernels import kernel
from engine.kernels.harness import Harness, from_tiles, to_tiles
from engine.kernels.params import ROTARY
from engine.ops.fused import rotary

from .fixtures import sets, tiles_at

PACKS = ([1], [31], [37, 1, 128], [5, 16, 64, 70])


def table_of(cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    rows = np.concatenate([cos, sin], axis=1)
    return np.pad(rows, ((0, 0), (0, -rows.shape[1] % 16)), constant_values=np.nan)


@pytest.mark.parametrize("lanes", [64, 16])
@pytest.mark.parametrize(
    ("depth", "pairs", "interleaved"), [(16, 8, 0), (32, 16, 1), (32, 10, 0), (64, 12, 1)]
)
def test_pairs_are_turned(depth: int, pairs: int, interleaved: int, lanes: int) -> None:
    """In the "rows" domain each lane is a sentence's one token, by the table's one row."""
    heads, random = 3, np.random.default_rng(depth)
    for lengths in PACKS:
        lengths = lengths if lanes == 64 else [1] * len(lengths)
        cos, sin = random.normal(size=(2, max(lengths), pairs)).astype(np.float32)
        x = random.normal(size=(sum(lengths), heads * depth)).astype(np.float32)
        sentences = np.split(x[None], np.cumsum(lengths)[:-1], axis=1)
        how = {"heads": heads, "interleaved": interleaved}
        wanted = [rotary(each, cos, sin, **how)[0] for each in sentences]  # type: ignore[arg-type]
        harness = Harness(8 * x.size + (1 << 16) * heads * depth, lengths)
        tiles = to_tiles(x, lanes)
        y, result = harness.room(tiles.shape, np.float32)
        table = table_of(cos, sin)
        block = harness.params(
            ROTARY, **tiles_at(x=(harness.put(tiles)[0], tiles), y=(y, result)), heads=heads,
            depth=depth, pairs=pairs, step=1 + interleaved, gap=1 if interleaved else pairs,
            table=harness.address(table), row_bytes=4 * table.shape[1],
        )  # fmt: skip
        for isa in sets(slow=False):
            result[...] = np.nan
            harness.run(kernel(isa, "rotary", lanes), block, 0, len(tiles))
            got = from_tiles(result, len(x))
            np.testing.assert_allclose(got, np.concatenate(wanted), atol=1e-6, err_msg=isa.name)
