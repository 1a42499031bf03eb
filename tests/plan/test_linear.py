"""Which kernel a Linear gets, and in how many panels of inputs."""

from __future__ import annotations

import numpy as np
import pytest

from engine.codegen.isa import chosen, emulated, named
from engine.pack.vectors import MOST_INPUTS, MOST_QUADS
from engine.plan import tune
from engine.plan.choose.amx_cycles import tile_patterns
from engine.plan.choose.linear import MOST_SUMMED
from engine.plan.measured import Configuration
from engine.plan.operands import panel_count
from engine.plan.steps import Unplanned
from engine.plan.tune import planned_linear


def sparse(outputs: int, inputs: int, blocks: int) -> np.ndarray:
    """int8, the first blocks of 1x4 of each output."""
    weight = np.zeros((outputs, inputs), np.int8)
    weight[:, : 4 * blocks] = 1
    return weight


def test_inputs_that_offsets_do_not_reach_are_multiplied_densely() -> None:
    for inputs, kind in ((MOST_INPUTS, "sparse_dot"), (MOST_INPUTS + 1, "dense_dot")):
        made = planned_linear(chosen(), sparse(4, inputs, 3), "int8", "4x1", tokens=1)
        made.run()
        assert kind in made.steps[-1].kernel


def test_tiles_of_all_inputs_have_no_offsets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "_ready", lambda isa, steps, tokens: steps)  # no AMX is needed
    for pattern, kind in (("tiles", "amx_dot"), ("tiles 16x1", "dense_dot")):
        weight, configuration = sparse(16, 8256, 3), Configuration(pattern, 0)
        steps = planned_linear(
            named("amx_bf16"), weight, "int8", "4x1", tokens=1, configuration=configuration
        )
        assert kind in steps[-1].kernel


@pytest.mark.parametrize("pattern", ["4x1", "dense"])
def test_a_few_rows_are_made_one_by_one(pattern: str) -> None:
    """Where bytes are looked up by AVX512-VBMI, which some CPUs of avx512_vnni lack."""
    of_bytes = emulated(named("avx512_vnni"), chosen())
    for outputs in (8, 6):
        weight = sparse(outputs, 8, 2)
        made = planned_linear(of_bytes, weight, "int8", pattern, tokens=1, lanes=16)
        made.run()
        by_rows = made.steps[-1].kernel.startswith("rows_dot")
        assert by_rows == (outputs == 8)
        if pattern == "4x1":  # blocks of four outputs: there are no six
            break


@pytest.mark.parametrize(
    ("precision", "inputs", "blocks", "panels"),
    [
        ("int8", 256, 64, 1),
        ("int8", 768, 58, 1),
        ("int8", 1024, 26, 1),  # misses cost less than another panel
        ("int8", 1024, 77, 2),
        ("int8", 3072, 77, 4),
        ("int8", 3072, 230, 5),
        ("int8", 4096, 10, 4),  # as many as a byte can name
        ("bfloat16", 256, 19, 1),
        ("bfloat16", 768, 19, 2),
        ("bfloat16", 768, 58, 3),
        ("bfloat16", 1024, 26, 3),
        ("float32", 768, 19, 4),
        ("float32", 1024, 26, 6),
    ],
)
def test_panels(precision: str, inputs: int, blocks: int, panels: int) -> None:
    """As measured on a core with 48 KB: the best count, or within 2 % of it."""
    weight = sparse(8, inputs, blocks)
    assert panel_count(weight, precision, 64, cache=48 << 10) == panels
    assert panels * MOST_QUADS * 4 >= inputs


def test_panels_follow_the_cache() -> None:
    weight = sparse(8, 3072, 230)
    counts = [panel_count(weight, "int8", 64, cache=size << 10) for size in (128, 48, 32)]
    assert counts == sorted(set(counts))


def test_wider_elements_take_more_panels() -> None:
    weight = sparse(8, 1024, 77)
    precisions = ("int8", "bfloat16", "float32")
    counts = [panel_count(weight, name, 64, cache=48 << 10) for name in precisions]
    assert counts == sorted(set(counts))


def test_sums_that_int32_may_not_hold_are_refused() -> None:
    most = MOST_SUMMED["int8"]
    with pytest.raises(Unplanned, match="65794 bytes: int32 holds those over 65793"):
        planned_linear(chosen(), sparse(4, most + 1, 3), "int8", "dense", tokens=1)
    assert 255 * 128 * most < 1 << 31 <= 255 * 128 * (most + 1)


def test_weights_that_int8_does_not_hold_are_multiplied_by_steps_that_name_inputs() -> None:
    weight = np.full((6, 8), -255, np.int16)
    assert "4x1" in planned_linear(chosen(), weight, "int8", "dense", tokens=1).steps[-1].kernel
    for wrong, why in ((weight - 1, "more than 8 bits"), (weight.repeat(1024, 1), "8192 inputs")):
        with pytest.raises(Unplanned, match=why):
            planned_linear(chosen(), wrong, "int8", "dense", tokens=1)


def test_blocks_that_16_bits_cannot_number_are_no_tiles() -> None:
    isa = named("amx_bf16")
    assert tile_patterns(isa, "int8", 64 << 16) == ("tiles", "tiles 16x1")
    assert tile_patterns(isa, "int8", (64 << 16) + 64) == ("tiles 16x1",)
