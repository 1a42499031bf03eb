"""The model that ships with the project, exported and quantised as the workflow does it, against
ONNX Runtime on the same files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import engine
from tests.passes.exported import runtime
from workflow.scripts.convert import export, quantize
from workflow.scripts.fetch import sentences, tokenize_sentences
from workflow.scripts.fetch.examples import Labelled

MODEL = Path(__file__).parents[2] / "resources/bert-mini-sst2-sparse-90-4x1"
LENGTHS, BATCHES = (1, 2, 31, 37, 64, 128, 200, 511), (1, 3, 8)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not MODEL.exists(), reason=f"{MODEL} is not there"),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """fp32 and int8 ONNX, and the tokens of the embedded validation split."""
    folder = tmp_path_factory.mktemp("embedded")
    fp32, int8, calibration = folder / "fp32.onnx", folder / "int8.onnx", folder / "train.npz"
    export.export(export.load_model(MODEL, "text-classification"), fp32, 17)
    rows = [Labelled(text, str(label)) for text, label in sentences.embedded_split("train")]
    np.savez(calibration, **tokenize_sentences.tokenize(MODEL, rows[:600], 128))
    prepared = quantize.prepared(fp32, folder)
    quantize.quantize_static(prepared, int8, calibration, 128, "minmax", 8)
    rows = [Labelled(text, str(label)) for text, label in sentences.embedded_split("validation")]
    tokens = tokenize_sentences.tokenize(MODEL, rows, 128)
    return SimpleNamespace(fp32=fp32, int8=int8, tokens=tokens)


def grid() -> Iterator[dict[str, np.ndarray]]:
    """Real words in every length and batch, masks that end early in all sentences but the first."""
    rng = np.random.default_rng(0)
    for length in LENGTHS:
        for batch in BATCHES:
            mask = np.ones((batch, length), np.int64)
            for row in range(1, batch):
                mask[row, rng.integers(1, length + 1) :] = 0
            ids = rng.integers(1996, 20000, mask.shape)
            ids[:, 0] = 101
            yield {
                "input_ids": ids * mask,
                "attention_mask": mask,
                "token_type_ids": np.zeros_like(mask),
            }


def test_float32_logits(files: SimpleNamespace) -> None:
    session = engine.load(files.fp32)
    for given in grid():
        want = runtime(files.fp32, given)["logits"]
        np.testing.assert_allclose(session.run(given)["logits"], want, atol=1e-4)


def test_int8_logits(files: SimpleNamespace) -> None:
    """Random words are far from the sentences the ranges come from: some logits lie on a tie."""
    session = engine.load(files.int8)
    assert sum(layer["pattern"] == "4x1" for layer in session.describe()) == 24
    off = []
    for given in grid():
        want = runtime(files.int8, given)["logits"]
        off.append(np.abs(session.run(given)["logits"] - want).max(1) / np.ptp(want))
    assert np.median(np.concatenate(off)) < 0.01
    assert np.mean(np.concatenate(off) < 0.1) > 0.95


def test_int8_predictions_on_the_validation_split(files: SimpleNamespace) -> None:
    session, tokens = engine.load(files.int8, threads=2), files.tokens
    agree = []
    for first in range(0, len(tokens["input_ids"]), 32):
        given = {
            name: tokens[name][first : first + 32]
            for name in ("input_ids", "attention_mask", "token_type_ids")
        }
        got, want = session.run(given)["logits"], runtime(files.int8, given)["logits"]
        agree.append(got.argmax(1) == want.argmax(1))
    assert np.mean(np.concatenate(agree)) >= 0.995
