"""The modelled choice between vectors and tiles, and docs/isa.md, which shows it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.codegen import isa
from engine.pack.amx import pack_tiles
from engine.plan.choose.amx_cycles import PACKINGS, modelled_cycles, modelled_pattern
from engine.plan.measured import Layer
from engine.plan.tune import best_configuration, candidates
from tests.instruction_sets import reachable

DOCUMENT = Path(__file__).parents[1] / "docs" / "isa.md"
SHAPES = [(256, 256), (1024, 256), (256, 1024), (768, 768), (3072, 768), (768, 3072)]
CONTENTS = {  # how a layer is pruned -> its pattern, the blocks that are zeroed, their share
    "dense": ("dense", (1, 1), 0.0),
    "4x1, 80 %": ("4x1", (4, 1), 0.8),
    "4x1, 90 %": ("4x1", (4, 1), 0.9),
    "1x4, 90 %": ("1x4", (1, 4), 0.9),
    "16x1, 90 %": ("4x1", (16, 1), 0.9),
}


def weight(outputs: int, inputs: int, block: tuple[int, int], zeros: float) -> np.ndarray:
    """Ones, and this share of zero blocks at random."""
    rows, columns = block
    kept = np.random.default_rng(0).random((outputs // rows, inputs // columns)) >= zeros
    return np.kron(kept, np.ones(block)).astype(np.int8)


def table() -> str:
    """Thousands of cycles for 64 tokens, the least in bold."""
    lines = [
        "| precision | outputs x inputs | zeros | vectors | tiles, dense | tiles, 16x1 | gain |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    for precision in ("int8", "bfloat16"):
        for outputs, inputs in SHAPES:
            for name, (pattern, block, zeros) in CONTENTS.items():
                layer = weight(outputs, inputs, block, zeros)
                cycles = modelled_cycles(layer, precision, pattern)
                least = min(cycles.values())
                row = [precision, f"{outputs} x {inputs}", name]
                for count in cycles.values():
                    text = f"{count / 1000:.1f}"
                    row.append(f"**{text}**" if count == least else text)
                row.append(f"{cycles[pattern] / least:.1f}")
                lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def test_the_document_shows_the_model():
    text = DOCUMENT.read_text()
    assert table() in text, f"the table should be:\n{table()}"


def test_the_document_lists_every_instruction_set():
    text = DOCUMENT.read_text()
    for row in isa.LADDER:
        assert f"| `{row.name}` |" in text


@pytest.mark.parametrize(
    ("which", "precision", "content", "shape", "chosen"),
    [
        ("avx512_bf16", "int8", "dense", (256, 256), "dense"),
        ("amx_int8", "int8", "dense", (256, 256), "tiles"),
        ("amx_int8", "bfloat16", "dense", (256, 256), "dense"),
        ("amx_bf16", "bfloat16", "dense", (256, 256), "tiles"),
        ("amx_bf16", "float32", "dense", (256, 256), "dense"),
        ("amx_bf16", "int8", "4x1, 90 %", (256, 256), "4x1"),
        ("amx_bf16", "int8", "4x1, 90 %", (768, 768), "tiles 16x1"),
        ("amx_bf16", "int8", "1x4, 90 %", (768, 768), "1x4"),
        ("amx_bf16", "int8", "16x1, 90 %", (256, 256), "tiles 16x1"),
        ("amx_bf16", "int8", "dense", (256, 200), "tiles 16x1"),  # no whole blocks
    ],
)
def test_the_modelled_best_is_chosen(which, precision, content, shape, chosen):
    pattern, block, zeros = CONTENTS[content]
    layer = weight(*shape, block, zeros)
    assert modelled_pattern(isa.named(which), layer, precision, pattern) == chosen


@pytest.mark.parametrize("pattern", PACKINGS)
def test_packing_does_the_steps_that_are_modelled(pattern):
    layer = weight(256, 256, (16, 1), 0.9)
    layer[:64] = 0
    packed = pack_tiles(layer, PACKINGS[pattern], precision="int8")
    cycles = modelled_cycles(layer, "int8", "4x1")[pattern]
    panels = len(packed.headers)
    each, overhead = (128, 192) if pattern == "tiles" else (128, 96)
    assert cycles == packed.steps * each + panels * overhead


@pytest.mark.usefixtures("amx")
def test_tiles_are_candidates_where_kernels_are_measured():
    layer = Layer("int8", "4x1", 64, 64, 64, 50)
    found = {each.pattern for each in candidates(isa.named("amx_bf16"), layer)}
    assert found == {"4x1", "1x4", "dense", "tiles", "tiles 16x1"}
    assert "tiles" not in {c.pattern for c in candidates(isa.named("avx512_bf16"), layer)}
    best = best_configuration(reachable("amx_bf16"), layer, weight(64, 64, (4, 1), 0.5))
    assert best.pattern in found
