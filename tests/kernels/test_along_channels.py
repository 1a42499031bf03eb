"""What is made of all channels of a token, or of a row, against the NumPy meaning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.codegen.isa import Isa
from engine.kernels import KERNELS, kernel
from engine.kernels.harness import Harness, from_tiles, to_tiles
from engine.ops import fused, reduce

from .fixtures import TOKENS, close, rows_of, sets, tiles_at

Array = NDArray[Any]
Meaning = Callable[[Array], Array]
MEANINGS: dict[str, tuple[Meaning, dict[str, float]]] = {  # and further parameters
    "l2_norm": (lambda x: fused.l2_norm(x, epsilon=1e-12), {"epsilon": 1e-12}),
    "softmax": (reduce.softmax, {}),
    "log_softmax": (reduce.log_softmax, {}),
    "argmax": (lambda x: np.argmax(x, axis=-1, keepdims=True).astype(np.float32), {}),
}


def made(isa: Isa, name: str, x: Array, lanes: int, **more: float) -> Array:
    harness = Harness(1 << 18)
    place, tiles = harness.put(to_tiles(x, lanes))
    channels = 1 if name == "argmax" else x.shape[1]
    y, result = harness.room((len(tiles), channels, lanes), np.float32)
    at = tiles_at(x=(place, tiles), y=(y, result))
    params = harness.params(KERNELS[name].params, **at, channels=x.shape[1], **more)
    harness.run(kernel(isa, name, lanes), params, 0, len(tiles))
    return from_tiles(result, len(x))


@pytest.mark.parametrize(
    ("slow", "name", "lanes"), rows_of([(n, k) for n in MEANINGS for k in (64, 16)], [])
)
def test_of_all_channels(slow: bool, name: str, lanes: int) -> None:
    meaning, more = MEANINGS[name]
    for tokens in TOKENS:
        x = 5 * np.random.default_rng(tokens).normal(size=(tokens, 37)).astype(np.float32)
        x[0], x[-1, 3:20] = 0, 30  # equals
        for isa in sets(slow=slow):
            close(made(isa, name, x, lanes, **more), meaning(x), (isa.name, tokens))


@pytest.mark.parametrize("name", MEANINGS)
def test_of_special_numbers(name: str) -> None:
    meaning, more = MEANINGS[name]
    x = np.random.default_rng(0).normal(size=(16, 9)).astype(np.float32)
    for row, numbers in enumerate(([np.nan], [0, np.nan], [np.inf], [-np.inf], [1, np.inf])):
        x[row, : len(numbers)], x[row + 5, -1] = numbers, numbers[-1]
    x[10], x[11, 1], x[11, 4] = -np.inf, np.nan, np.nan
    with np.errstate(invalid="ignore"):
        wanted = meaning(x)
    for isa in sets(slow=False):
        np.testing.assert_allclose(made(isa, name, x, 16, **more), wanted, atol=1e-6)
