"""The first test to run: a small model, in kernels, has the numbers of its operators' meanings."""

from __future__ import annotations

import numpy as np
import pytest

from engine import reference
from engine.runtime import Session
from tests.tiny import feeds, tiny_graph


@pytest.mark.parametrize("pattern", ["4x1", "1x4", "dense"])
def test_a_model_in_kernels_equals_its_reference(pattern: str) -> None:
    graph, given = tiny_graph(pattern), feeds([8, 5, 1], 8)
    got, wanted = Session(graph).run(given), reference.run(graph, given)
    np.testing.assert_allclose(got["logits"], wanted["logits"], rtol=0, atol=2e-4)
