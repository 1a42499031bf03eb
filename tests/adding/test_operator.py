"""An operator with a kernel is added by a file of each stage and a row in each table."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from engine.codegen.isa import detected
from engine.graph import Graph, Node
from engine.kernels import KERNELS, kernel
from engine.ops import find, reference, rows
from engine.plan import choose, emit
from engine.runtime import Session
from tests.adding import rms_norm
from tests.tiny import CHANNELS, feeds, tiny_graph


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows, where the engine has them."""
    monkeypatch.setattr(rows, "OPERATORS", (*rows.OPERATORS, rms_norm.OPERATOR))
    monkeypatch.setitem(rows._VERSIONS, ("extra", "RMSNorm"), [rms_norm.OPERATOR])
    monkeypatch.setitem(KERNELS, "rms_norm", rms_norm.ROW)
    monkeypatch.setitem(sys.modules, "engine.kernels.rms_norm", rms_norm)
    monkeypatch.setitem(choose.CHOOSERS, "extra.RMSNorm", rms_norm.choose_rms_norm)
    monkeypatch.setitem(emit.EMITTERS, rms_norm.RmsNormChoice, rms_norm.emit_rms_norm)


def graph() -> Graph:
    """The tiny model with a norm more behind its attention."""
    plain, gamma = tiny_graph(), np.linspace(0.5, 1.5, CHANNELS).astype(np.float32)
    nodes = []
    for node in plain:
        nodes.append(node.changed(outputs=("raw",)) if node.outputs == ("a",) else node)
        if node.outputs == ("a",):
            nodes.append(Node("RMSNorm", ("raw", "gamma"), ("a",), {}, "norm", "extra"))
    return plain.changed(nodes=tuple(nodes), constants={**plain.constants, "gamma": gamma})


def test_it_is_unknown_before() -> None:
    with pytest.raises(Exception, match=r"operator extra\.RMSNorm is not supported"):
        find("extra", "RMSNorm", 17)


def test_a_model_with_it_runs_in_kernels(added: None) -> None:
    made, given = graph(), feeds([8, 5, 1], 8)
    session = Session(made)
    assert session.plan is not None and session.plan.fallback is None
    assert "rms_norm_64" in [step.kernel_name for step in session.plan.steps]
    wanted = reference.run(made, given)
    np.testing.assert_allclose(session.run(given)["logits"], wanted["logits"], rtol=0, atol=2e-4)
    assert "norm" in [line["name"] for line in session.describe()]


@pytest.mark.parametrize("isa", detected(), ids=str)
def test_its_kernel_is_code_for_every_set_of_this_cpu(added: None, isa) -> None:
    assert kernel(isa, "rms_norm", 64).address
