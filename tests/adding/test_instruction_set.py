"""An instruction set is added by a row and a file: docs/adding.md."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from engine import settings
from engine.codegen import compile as compiler
from engine.codegen import isa
from engine.kernels import builder, kernel_name
from engine.ops import reference
from engine.runtime import Session
from tests.adding import sse41
from tests.tiny import feeds, tiny_graph

PRODUCT = ("dense_dot_u8s8", 64, 16, "bytes", "none")


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> Iterator[isa.Isa]:
    """The set, behind the slowest; where the CPU is no x86 there is none to try."""
    if isa.missing(sse41.ROW):
        pytest.skip(f"this CPU has no SSE4.1: {isa.missing(sse41.ROW)}")
    monkeypatch.setattr(isa, "LADDER", (isa.LADDER[0], sse41.ROW, *isa.LADDER[1:]))
    bodies = sse41.products.sums_of_pairs
    monkeypatch.setattr(bodies, "_special", list(bodies._special))
    monkeypatch.setattr(compiler, "_loaded", {})
    sse41.declare()
    with settings.override(isa="sse41"):
        yield isa.chosen()


def test_it_is_known_by_its_row(added: isa.Isa) -> None:
    assert added.name == "sse41"
    assert any("sse41" in line and "in use" in line for line in isa.report())


@pytest.mark.parametrize("pattern", ["4x1", "1x4", "dense"])
def test_a_model_runs_on_it(added: isa.Isa, pattern: str) -> None:
    graph, given = tiny_graph(pattern), feeds([8, 5, 1], 8)
    session = Session(graph)
    assert session.isa == added
    assert session.plan is not None
    wanted = reference.run(graph, given)
    np.testing.assert_allclose(session.run(given)["logits"], wanted["logits"], rtol=0, atol=2e-4)


def test_its_own_instruction_is_used(added: isa.Isa, monkeypatch: pytest.MonkeyPatch) -> None:
    """LLVM finds pmaddwd in the plain body, too, and half of what is around it."""
    machine, product = compiler.target_machine(added), (kernel_name(*PRODUCT), builder(*PRODUCT))
    text = machine.emit_assembly(compiler.optimised_module(*product, added, machine))
    monkeypatch.setattr(sse41.products.sums_of_pairs, "_special", [])
    plain = machine.emit_assembly(compiler.optimised_module(*product, added, machine))
    assert 0 < text.count("pmaddwd") < plain.count("pmaddwd")
    assert "%ymm" not in text
