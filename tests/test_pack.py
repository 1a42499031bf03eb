"""Packed weights hold the layer: what the kernels read, put together again, is the weight."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from engine.graph import BLOCKS
from engine.pack.vectors import (
    PER_PRODUCT,
    STEPS_AHEAD,
    Packed,
    pack_linear,
    pack_panels,
    to_bfloat16,
)

Array = NDArray[Any]
LANES = 64


def values_of(packed: Packed) -> Array:
    """The stored weights as float64."""
    if packed.weights.dtype == np.uint16:  # bfloat16
        return (packed.weights.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return packed.weights.astype(np.float64)


def steps_of(packed: Packed) -> list[tuple[Array, Array, Array]]:
    """Outputs, offsets and weights of each step, in the order in which a kernel walks them."""
    found = []
    for header, outputs, at in zip(packed.headers, packed.outputs, packed.starts[:-1], strict=True):
        for step in range(at, at + header["steps"]):
            offsets = packed.offsets[step] if packed.pattern != "dense" else np.empty(0)
            found.append((outputs, offsets, values_of(packed)[step]))
    return found


def unpacked(packed: list[Packed], shape: tuple[int, int], m: int) -> Array:
    """The weight [outputs, inputs] that the steps add up to."""
    weight = np.zeros((shape[0] + 8, shape[1] + 8))
    for panel in packed:
        first = panel.headers["quad" if panel.pattern == "1x4" else "output"]
        quads = dict(zip(panel.outputs[:, 0], first, strict=True))
        seen: dict[int, int] = {}
        for outputs, offsets, values in steps_of(panel):
            turn = seen[outputs[0]] = seen.get(outputs[0], -1) + 1
            for n, output in enumerate(outputs):
                for i in range(len(offsets) if panel.pattern == "4x1" else 1):
                    if panel.pattern == "4x1":
                        weight[output, offsets[i] // 8] += values[n, i]
                    elif panel.pattern == "1x4":
                        first = 4 * (quads[outputs[0]] + offsets[n])
                        weight[output, first : first + 4] += values[n]
                    else:
                        weight[output, m * turn : m * turn + m] += values[n]
    assert not weight[shape[0] :].any() and not weight[:, shape[1] :].any()
    return weight[: shape[0], : shape[1]]


@st.composite
def layers(draw: st.DrawFn, pattern: str) -> tuple[Array, int, int]:
    """A weight of small whole numbers, zero in blocks; parts; panels."""
    height, width = BLOCKS.get(pattern, (1, 1))
    rows, columns = draw(st.integers(1, 6)), draw(st.integers(1, 40))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    keep = random.random((rows, columns)) < draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))
    mask = np.kron(keep, np.ones((height, width), bool))
    weight = np.where(mask, random.integers(1, 100, mask.shape), 0).astype(np.int8)
    if pattern == "1x4":
        weight = weight[:, : weight.shape[1] - draw(st.integers(0, 3)) or 1]
    return weight, draw(st.integers(1, 3)), draw(st.integers(1, 3))


@pytest.mark.parametrize("precision", ["int8", "int16", "bfloat16", "float32"])
@pytest.mark.parametrize("pattern", ["4x1", "1x4", "dense"])
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_steps_add_up_to_the_weight(pattern: str, precision: str, data: st.DataObject) -> None:
    weight, parts, panels = data.draw(layers(pattern))
    given_ = weight if precision.startswith("int") else weight.astype(np.float32)
    if pattern == "1x4":
        packed = pack_panels(given_, panels, precision=precision, parts=parts)
    else:
        packed = [pack_linear(given_, pattern, precision=precision, parts=parts)]
    assert np.array_equal(unpacked(packed, weight.shape, PER_PRODUCT[precision]), weight)
    for each in packed:
        assert (
            each.bounds[-1] == len(each.headers) == len(each.outputs) and len(each.bounds) > parts
        )
        for begin, end in zip(each.bounds, each.bounds[1:], strict=False):
            steps = each.headers["steps"][begin:end]
            assert np.all(np.diff(steps) >= 0)  # the loop's end is predicted
        if pattern != "dense":
            behind = each.weights[each.steps :]
            assert len(behind) == len(each.offsets) - each.steps == STEPS_AHEAD[pattern]
            assert not behind.any()


def test_what_int8_does_not_hold_is_listed_again() -> None:
    weight = np.random.default_rng(0).integers(-255, 256, (6, 13)).astype(np.int16)
    packed = pack_linear(weight, "4x1", precision="int8", parts=2)
    assert np.array_equal(unpacked([packed], weight.shape, 4), weight)
    assert packed.weights.dtype == np.int8


@pytest.mark.parametrize("pattern", ["4x1", "1x4"])
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_outputs_that_nobody_reads_are_left_out(pattern: str, data: st.DataObject) -> None:
    weight, parts, panels = data.draw(layers(pattern))
    outputs = len(weight)
    read = np.array(data.draw(st.lists(st.booleans(), min_size=outputs, max_size=outputs)))
    if pattern == "1x4":
        packed = pack_panels(weight, panels, precision="int8", parts=parts, read=read)
        most = max(4, -(-int(read.sum()) // 4) * 4)
    else:
        packed = [pack_linear(weight, pattern, precision="int8", parts=parts, read=read)]
        most = 4 * max(1, int(read.reshape(-1, 4).any(1).sum()))
    found = unpacked(packed, weight.shape, 4)
    assert np.array_equal(found[read], weight[read])
    for each in packed:
        made = each.outputs.ravel()
        assert len(made) == len(set(made)) == most and set(np.flatnonzero(read)) <= set(made)


def test_places_in_headers_are_bytes_of_a_tile() -> None:
    weight = np.eye(12, 16, dtype=np.int8)
    packed = pack_linear(weight, "4x1", precision="int8", lanes=LANES, out_bytes=4)
    assert np.array_equal(packed.headers["output"], packed.outputs[:, 0] * LANES * 4)
    panel = pack_panels(weight, 1, precision="int8", lanes=LANES)[0]
    rows = panel.headers["outputs"] // LANES + np.arange(4)  # an epilogue adds n rows for output n
    assert np.array_equal(rows, panel.outputs)


def test_panels_reach_all_inputs() -> None:
    """256 quads of inputs a panel: what a byte can name."""
    weight = np.ones((4, 2048), np.int8)
    packed = pack_panels(weight, 2, precision="int8")
    assert [panel.headers["quad"][0] for panel in packed] == [0, 256]
    assert packed[1].offsets.dtype == np.uint8 and packed[1].offsets.max() == 255
    with pytest.raises(AssertionError, match="512 quads"):
        pack_panels(weight, 1, precision="int8")


def test_bfloat16_rounds_to_even_and_keeps_nan() -> None:
    x = np.array([1.0, 1 + 2**-8, 1 + 3 * 2**-8, np.nan, -np.inf], np.float32)
    assert to_bfloat16(x).tolist() == [0x3F80, 0x3F80, 0x3F82, 0x7FC0, 0xFF80]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_an_input_that_nobody_multiplies_is_not_read(precision: str) -> None:
    """It need not be made: NaN times the 0 of an output without weights would be NaN."""
    weight = np.zeros((12, 16), np.float32)
    weight[0:4, 5], weight[8:12, 7:10] = 1, 2  # the middle group has no weights
    columns = pack_linear(weight, "4x1", precision=precision)
    assert set((columns.offsets[: columns.steps] // 8).ravel()) == {5, 7, 8, 9}
    weight[:] = 0
    weight[1, 4:8], weight[6, 12:16], weight[7, 8:16] = 1, 2, 3
    for panels in (1, 2):
        for packed in pack_panels(weight, panels, precision=precision):
            groups = np.repeat(packed.headers["quad"], packed.headers["steps"])  # a panel's first
            quads = packed.offsets[: packed.steps] + groups[:, None]
            assert set(quads.ravel()) <= {1, 2, 3}
