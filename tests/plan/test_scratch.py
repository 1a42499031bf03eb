"""Kernels write no more scratch than the plan says, and need most of it."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest

import engine
from engine import kernels
from engine.graph import Graph
from engine.kernels.harness import aligned
from engine.plan.choose import linear
from engine.plan.scratch import USES

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("onnxruntime")

from tests.runtime.crowds import graph_of  # noqa: E402
from tests.runtime.test_probabilities import giving  # noqa: E402
from tests.tiny import tiny_graph  # noqa: E402

BEHIND, BITS = 1 << 16, 0xA5
WITHOUT = {"rows": ("select", "output_rows"), "normalize": ("layer_norm_bytes",)}  # beside others


def check(graph: Graph, lengths: tuple[int, ...]) -> None:
    """Of the last of the lengths most is written."""
    session = engine.Session(graph)
    for length in lengths:
        ids = np.random.default_rng(length).integers(2, 60, (3, length))
        mask = np.ones_like(ids)
        mask[0, 1:] = 0  # the others do not begin a tile
        given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": 0 * ids}
        wanted = session.run(given)["logits"]
        assert session.plan is not None
        size = session.plan.scratch_bytes(length)
        assert size <= len(session._caller.room.workers[0].scratch)
        room = aligned(size + BEHIND, np.uint8)
        room[:] = BITS
        session._caller.room.workers[0].context.scratch = room.ctypes.data
        np.testing.assert_array_equal(session.run(given)["logits"], wanted)
        assert (room[size:] == BITS).all(), length
    assert np.flatnonzero(room != BITS)[-1] > 0.7 * size, f"not so much as {size}"


@pytest.mark.parametrize(
    ("form", "span"),
    [("int8", 20), ("int8", 60), ("int8", 120), ("without_product", 100), ("fp32", 20),
     ("bf16", 500), ("dynamic_int8", 20)],
)  # fmt: skip
def test_kernels_keep_to_their_scratch(form: str, span: int) -> None:
    check(graph_of(form, span), (1, 31, 200, 509))


def test_what_waits_between_panels_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "panel_count", lambda *_: 2)
    check(tiny_graph("1x4"), (1, 64))


def test_probabilities_keep_to_it_too() -> None:
    check(giving(), (1, 31, 64))


def test_tiles_keep_to_it_too(amx: object) -> None:
    check(graph_of("int8", 500), (61,))


def test_every_kernel_that_has_scratch_is_known() -> None:
    folder = Path(kernels.__file__).parent
    for row in kernels.KERNELS.values():
        path = folder.joinpath(*row.module.split(".")).with_suffix(".py")
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        names |= {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        in_panels = "in_panels" in names and row.name.endswith("1x4")
        attends = row.module == "attention.positions"  # by the loops of floats.py and rows.py
        uses = "CONTEXT.scratch" in names or in_panels or attends
        known = bool(row.scratch)
        assert row.scratch in ("", *USES)
        assert known <= uses, f"{row.name} uses no scratch"
        if uses and row.name not in WITHOUT.get(row.module, ()):
            assert known, f"{row.name} uses scratch"
