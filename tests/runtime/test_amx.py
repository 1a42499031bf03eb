"""A whole BERT-mini on AMX kernels: the bytes that other instruction sets give, tiles counted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engine
from engine import settings

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("onnxruntime")

from tests.instruction_sets import reachable  # noqa: E402
from tests.passes import exported  # noqa: E402

MINI: dict[str, Any] = {
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
    "max_position_embeddings": 128,
}


def without_blocks(model: Any, rows: int, ratio: float) -> Any:
    """Zeros this share of the blocks of rows x 1 in every encoder layer."""
    torch.manual_seed(0)
    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.Linear) and ".encoder." in name:
            weight = layer.weight.data
            keep = torch.rand(weight.shape[0] // rows, weight.shape[1]) >= ratio
            weight *= keep.repeat_interleave(rows, 0)
    return model


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """(rows of pruned blocks, 0: dense) -> an int8 file, made once."""
    folder = tmp_path_factory.mktemp("mini")

    def path(rows: int) -> Path:
        file = folder / f"{rows}.int8.onnx"
        if not file.exists():
            model = exported.bert(**MINI)
            exported.export(without_blocks(model, rows, 0.9) if rows else model, folder / "f.onnx")
            exported.static_int8(folder / "f.onnx", file)
        return file

    return path


def feeds(lengths: list[int]) -> dict[str, np.ndarray]:
    """Sentences of these lengths, padded and masked."""
    mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int64)
    ids = np.random.default_rng(1).integers(2, 90, mask.shape)
    return {"input_ids": ids * mask, "attention_mask": mask, "token_type_ids": 0 * mask}


def kernels(session: engine.Session) -> set[str]:
    """Names of the kernels that run."""
    return {step.kernel for step in session.plan.steps}


@pytest.mark.parametrize(
    ("rows", "names"),
    [
        (0, {"amx_dot_u8s8", "amx_attention_u8"}),
        pytest.param(4, {"amx_attention_u8"}, marks=pytest.mark.slow),
        pytest.param(16, {"amx_dot_u8s8_16x1", "amx_attention_u8"}, marks=pytest.mark.slow),
    ],
    ids=["dense", "4x1", "16x1"],
)
def test_int8_gives_the_same_bytes_as_vectors(
    request: pytest.FixtureRequest,
    files: Callable[[int], Path],
    rows: int,
    names: set[str],
) -> None:
    file, given = files(rows), feeds([7, 12, 3])
    with settings.override(isa=reachable("avx512_vnni").name):
        plain = engine.load(file)
        want = plain.run(given)["logits"]
    assert not any(name.startswith("amx") for name in kernels(plain))
    amx = request.getfixturevalue("amx")
    with settings.override(isa=reachable("amx_bf16").name):
        session = engine.load(file)
        got = session.run(given)["logits"]
    assert names <= kernels(session)
    assert np.array_equal(got, want)
    if amx is not None:
        assert amx.count["tdpbsud"] > 100
        assert amx.count["ldtilecfg"] == amx.count["tilerelease"] > 0
        assert not amx.configured


def test_bfloat16_is_what_vectors_give(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Sums are float32 in another order; a last bit becomes a step of bfloat16 wherever x, queries,
    keys, values or exps are rounded, and the next layers amplify it.
    """
    exported.export(exported.bert(**MINI), tmp_path / "f.onnx")
    exported.bfloat16_weights(tmp_path / "f.onnx", tmp_path / "b.onnx")
    given = feeds([7, 12, 3])
    with settings.override(isa=reachable("avx512_bf16").name):
        want = engine.load(tmp_path / "b.onnx").run(given)["logits"]
    amx = request.getfixturevalue("amx")
    with settings.override(isa=reachable("amx_bf16").name):
        session = engine.load(tmp_path / "b.onnx")
        got = session.run(given)["logits"]
    assert "amx_dot_bf16" in kernels(session)
    np.testing.assert_allclose(got, want, atol=0.03 * np.abs(want).max())
    if amx is not None:
        assert amx.count["tdpbf16ps"] > 100
        assert amx.count["ldtilecfg"] == amx.count["tilerelease"] > 0
        assert not amx.configured
