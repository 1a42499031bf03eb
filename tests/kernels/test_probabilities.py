"""Probabilities that are handed over, against the NumPy meaning."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.codegen.isa import Isa
from engine.graph import Quantization
from engine.kernels import kernel
from engine.kernels.attention.records import PROBABILITIES
from engine.kernels.harness import Harness, aligned, to_tiles
from engine.ops.fused import probabilities
from engine.plan.attention import bias_entries, fours_of
from engine.plan.quantized import roundings

from .fixtures import sets

Array = NDArray[Any]
HEADS, LENGTH = 2, 130
PACKS = ([1], [31, 37, 1], [128, 5, 16, 16, 70])
HOWS = {
    "scores": Quantization(0.1, 120),
    "scaled": Quantization(0.02, 128),
    "masked": Quantization(0.03, -3, "int8"),
    "probabilities": Quantization(1 / 255, 0),
}


def places_of(lengths: list[int], *, holes: bool) -> Array:
    """Rows of [batch * LENGTH] that the tokens of a pack came from."""
    random, found = np.random.default_rng(0), []
    for number, length in enumerate(lengths):
        places = np.sort(random.permutation(LENGTH)[:length]) if holes else np.arange(length)
        found.append(number * LENGTH + places)
    return np.concatenate(found).astype(np.int32)


def handed(isa: Isa, lengths: list[int], q: Array, k: Array, width: int, **how: Any) -> Array:
    """[batch, heads, LENGTH, LENGTH]; how: places, bias, hows."""
    depth = q.shape[1] // HEADS
    harness = Harness(1 << 20, lengths)
    result = aligned((len(lengths), HEADS, LENGTH, LENGTH), np.float32)
    outputs = aligned(1, np.int64)
    outputs[0] = result.ctypes.data
    context = {
        "length": LENGTH,
        "outputs": outputs.ctypes.data,
        "places": how["places"].ctypes.data,
    }
    for name, value in context.items():
        harness.context[name] = value
    named: dict[str, Any] = {}
    for name, x in (("q", q), ("k", k)):
        tiles = to_tiles(x).copy()
        tiles[to_tiles(np.ones(x.shape, bool)) == 0] = np.nan
        named |= {name: harness.put(tiles)[0], f"{name}_tile": tiles[0].nbytes}
    entries = bias_entries(how.get("bias"), depth**-0.5, rows=False)
    if how.get("bias") is not None:
        entries["bias"] = harness.address(entries["bias"])
    hows = how.get("hows")
    params = harness.params(
        PROBABILITIES,
        **named,
        **entries,
        number=0,
        heads=HEADS,
        scale=depth**-0.5,
        fours=harness.address(fours_of(None, HEADS, depth)),
        roundings=harness.address(roundings(list(hows.values()))) if hows else 0,
    )
    units = HEADS * -(-sum(lengths) // 64)
    harness.run(kernel(isa, "output_probabilities", depth, width), params, 0, units)
    return result


def meant(lengths: list[int], q: Array, k: Array, places: Array, **how: Any) -> Array:
    scale = (q.shape[1] // HEADS) ** -0.5
    found = np.zeros((len(lengths), HEADS, LENGTH, LENGTH), np.float32)
    ends = np.cumsum(lengths)
    for number, (end, length) in enumerate(zip(ends, lengths, strict=True)):
        here = slice(end - length, end)
        p = probabilities(q[None, here], k[None, here], heads=HEADS, scale=scale, **how)[0]
        there = places[here] - number * LENGTH
        found[number][:, there[:, None], there] = p
    return found


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize(("width", "depth"), [(64, 16), (16, 32)])
def test_probabilities(width: int, depth: int, holes: bool) -> None:
    for lengths in PACKS:
        random = np.random.default_rng(len(lengths))
        q, k = random.normal(size=(2, sum(lengths), HEADS * depth)).astype(np.float32)
        places = places_of(lengths, holes=holes)
        wanted = meant(lengths, 3 * q, k, places)
        for isa in sets(slow=False):
            got = handed(isa, lengths, 3 * q, k, width, places=places)
            np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-6, err_msg=str(lengths))


def test_a_bias_by_distance() -> None:
    lengths, random = PACKS[1], np.random.default_rng(0)
    q, k = random.normal(size=(2, sum(lengths), 32)).astype(np.float32)
    bias = random.normal(size=(HEADS, 15)).astype(np.float32)
    places = places_of(lengths, holes=False)
    wanted = meant(lengths, q, k, places, bias=bias)
    for isa in sets(slow=False):
        got = handed(isa, lengths, q, k, 64, places=places, bias=bias)
        np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-6)


@pytest.mark.parametrize("only", [None, "scores", "probabilities"])
def test_roundings(only: str | None) -> None:
    """A number near the middle of two may be rounded either way: few are."""
    hows: dict[str, Any] = {n: how if only in (None, n) else None for n, how in HOWS.items()}
    lengths, random = PACKS[2], np.random.default_rng(0)
    q, k = random.normal(size=(2, sum(lengths), 32)).astype(np.float32)
    places = places_of(lengths, holes=False)
    wanted = meant(lengths, q, k, places, **hows)
    for isa in sets(slow=False):
        got = handed(isa, lengths, q, k, 64, places=places, hows=hows)
        apart = np.abs(got - wanted)
        assert apart.max() < 0.05 and (apart > 1e-5).mean() < 2e-3
