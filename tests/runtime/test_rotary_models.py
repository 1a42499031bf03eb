"""ModernBERT, nomic-bert and GTE, tiny: wholly in kernels, with ONNX Runtime's numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import engine

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("onnxruntime")

from tests.passes import exported, rotary_models

LENGTHS = (1, 2, 31, 37, 64, 65, 128)  # ModernBERT's window is 16
EXPORTS = [
    *((name, 14, False) for name in rotary_models.MODELS),
    ("modernbert", 17, False),
    *((name, 18, True) for name in ("modernbert", "nomic", "gte")),
]


def made(folder: Path, name: str, opset: int = 14, dynamo: bool = False) -> Path:
    names, model = rotary_models.MODELS[name][1], rotary_models.encoder(name)
    how = {"opset": opset, "dynamo": dynamo, "names": names, "outputs": ("hidden",)}
    return exported.export(model, folder / f"{name}.onnx", **how)  # type: ignore[arg-type]


def apart(path: Path, session: engine.Session, batch: int, tokens: int) -> float:
    """The largest difference to ONNX Runtime at tokens that count."""
    given = exported.feeds(path, batch, tokens, tokens)
    real = given["attention_mask"] == 1
    wanted, got = exported.runtime(path, given)["hidden"], session.run(given)["hidden"]
    return float(np.abs(got - wanted)[real].max())


@pytest.mark.parametrize(("name", "opset", "dynamo"), EXPORTS, ids=str)
def test_wholly_in_kernels(name: str, opset: int, dynamo: bool, tmp_path: Path) -> None:
    path = made(tmp_path, name, opset, dynamo)
    session = engine.load(path, threads=1)
    assert session.plan is not None and session.plan.fallback is None
    for tokens in LENGTHS if not dynamo else (1, 37):
        for batch in (1, 3):
            assert apart(path, session, batch, tokens) < 1e-4, (batch, tokens)


@pytest.mark.parametrize(
    ("name", "how", "most"),
    [
        ("modernbert", "optimised", 1e-4),
        ("nomic", "optimised", 1e-4),
        ("modernbert", "float16", 1e-2),
    ],
)
def test_as_other_tools_leave_it(name: str, how: str, most: float, tmp_path: Path) -> None:
    path = getattr(exported, how)(made(tmp_path, name), tmp_path / "changed.onnx")
    session = engine.load(path, threads=1)
    assert session.plan is not None and session.plan.fallback is None
    assert apart(path, session, 3, 37) < most


@pytest.mark.parametrize("name", ["modernbert", "nomic"])
def test_places_count_masked_tokens(name: str, tmp_path: Path) -> None:
    """A mask with holes, and one that begins late: turns and windows go by places."""
    path = made(tmp_path, name)
    given = exported.feeds(path, 3, 50)
    mask = np.random.default_rng(0).integers(0, 2, (3, 50))
    mask[:, 0] = 1
    mask[2, :20], mask[2, 20:] = 0, 1
    given["attention_mask"] = mask
    wanted = exported.runtime(path, given)["hidden"]
    got = engine.load(path, threads=1).run(given)["hidden"]
    np.testing.assert_allclose(got[mask == 1], wanted[mask == 1], atol=1e-4)


PRECISIONS = [  # model, how, the mean difference at most
    *((name, "static", 0.01) for name in ("modernbert", "nomic", "gte")),
    ("modernbert", "dynamic", 0.06),
    ("nomic", "bfloat16", 0.02),
]


@pytest.mark.parametrize(("name", "how", "most"), PRECISIONS, ids=str)
def test_in_other_precisions(name: str, how: str, most: float, tmp_path: Path) -> None:
    """Random weights amplify a byte that is rounded the other way: it is the mean that is small."""
    quantise = {
        "static": exported.static_int8,
        "dynamic": exported.dynamic_int8,
        "bfloat16": exported.bfloat16_weights,
    }[how]
    path = quantise(made(tmp_path, name), tmp_path / "quantised.onnx")  # type: ignore[operator]
    session = engine.load(path, threads=1)
    assert session.plan is not None and session.plan.fallback is None
    given = exported.feeds(path, 3, 37)
    real = given["attention_mask"] == 1
    wanted, got = exported.runtime(path, given)["hidden"], session.run(given)["hidden"]
    assert np.abs(got - wanted)[real].mean() < most


@pytest.mark.parametrize("pattern", ["4x1", "1x4"])
def test_pruned_parts_of_joined_layers_are_sparse(pattern: str, tmp_path: Path) -> None:
    model, random = rotary_models.encoder("gte"), np.random.default_rng(0)
    block = np.ones((4, 1) if pattern == "4x1" else (1, 4), np.float32)
    for name, weight in model.named_parameters():
        if "proj.weight" in name:
            shape = [n // m for n, m in zip(weight.shape, block.shape, strict=True)]
            kept = np.kron(random.random(shape) < 0.2, block)
            weight.data *= weight.new_tensor(kept)
    names = rotary_models.MODELS["gte"][1]
    path = exported.export(model, tmp_path / "gte.onnx", names=names, outputs=("hidden",))
    session = engine.load(path, threads=1)
    assert session.plan is not None and session.plan.fallback is None
    patterns = [line["pattern"] for line in session.plan.layers if line["op"] == "Linear"]
    assert set(patterns) == {pattern}
    assert apart(path, session, 3, 37) < 1e-4
