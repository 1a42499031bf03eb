"""MPNet, T5's encoder and DeBERTa, whose scores depend on distances: wholly in kernels, as ONNX
Runtime.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import engine
from engine.runtime import stepwise
from workflow.scripts.convert import onnx_runtime

LENGTHS = (1, 2, 31, 37, 64, 65, 128)  # further than the last bucket begins
NAMES = (
    "mpnet", "mpnet_tokens", "t5", "t5_gated", "fused_t5_gated", "pruned_t5_gated",
    "pruned_mpnet", "deberta", "deberta_tokens",
)  # fmt: skip
LOW = (
    "int8_mpnet", "int8_pruned_t5_gated", "dynamic_int8_t5_gated", "bfloat16_t5_gated",
    "dynamic_int8_deberta", "bfloat16_deberta",
)  # fmt: skip


def fed(length: int, batch: int, padding: int) -> dict[str, np.ndarray]:
    """Sentences of this length, a third shorter, two thirds shorter."""
    lengths = np.maximum(1, length - length // 3 * np.arange(batch))
    mask = (np.arange(length) < lengths[:, None]).astype(np.int64)
    ids = np.random.default_rng(length + batch).integers(2, 90, mask.shape)
    return {"input_ids": np.where(mask == 1, ids, padding), "attention_mask": mask}


def apart(got: np.ndarray, wanted: np.ndarray, mask: np.ndarray) -> float:
    """The largest difference, of tokens that count."""
    assert got.shape == wanted.shape
    difference = np.abs(got - wanted)
    return float((difference[mask == 1] if got.shape[:2] == mask.shape else difference).max())


@pytest.mark.parametrize(
    "name",
    [
        *NAMES,
        *(
            pytest.param(f"{name}_dynamo", marks=pytest.mark.slow)
            for name in ("t5_gated", "deberta")
        ),
    ],
)
def test_as_onnx_runtime(name: str, model: Callable[[str], Path]) -> None:
    session, theirs = engine.load(model(name), threads=1), runtime(model(name))
    assert session.plan is not None and session.plan.fallback is None
    for length in LENGTHS:
        for batch in (1, 3):
            feed = fed(length, batch, "mpnet" in name)
            got, wanted = session.run(feed), theirs.run(None, feed)
            for output, array in zip(theirs.get_outputs(), wanted, strict=True):
                assert apart(got[output.name], array, feed["attention_mask"]) < 1e-4, length


def runtime(path: Path) -> onnxruntime.InferenceSession:
    return onnx_runtime.session(path, threads=1)


@pytest.mark.parametrize("name", ["t5", "deberta_tokens"])
def test_a_hole_in_the_mask_counts_as_a_token(name: str, model: Callable[[str], Path]) -> None:
    """Packs leave masked tokens out, distances do not: such calls are the reference's."""
    session, feed = engine.load(model(name), threads=1), fed(37, 3, 0)
    feed["attention_mask"][:, 2] = 0
    (wanted,) = runtime(model(name)).run(None, feed)
    (got,) = session.run(feed).values()
    assert apart(got, wanted, feed["attention_mask"]) < 1e-4
    feed["attention_mask"][...] = np.arange(37) >= [[0], [5], [36]]  # padded at the front
    (wanted,) = runtime(model(name)).run(None, feed)
    assert session.plan is not None and not session.plan.refuses(feed["attention_mask"], feed)
    assert apart(session.run(feed)["last_hidden_state"], wanted, feed["attention_mask"]) < 1e-4


@pytest.mark.parametrize("name", ["mpnet", "deberta", *LOW])
def test_every_step_is_what_its_operator_means(name: str, model: Callable[[str], Path]) -> None:
    session, feed = engine.load(model(name), threads=1), fed(37, 3, "mpnet" in name)
    assert session.plan is not None and session.plan.fallback is None
    assert stepwise.check(session.graph, feed) > 10
    if "pruned" in name:
        skipped = {step.kernel for step in session.plan.steps if step.skipped_macs}
        assert "sparse_dot_u8s8_4x1" in skipped


def test_sentences_longer_than_distances_are_known(model: Callable[[str], Path]) -> None:
    session = engine.load(model("t5"), threads=1)
    assert session.plan is not None and session.plan.most_positions == 1 << 15
