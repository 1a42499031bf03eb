"""Files that onnxruntime.transformers has fused: wholly in kernels, with their numbers.

Attention takes lengths ("mask_index") or the mask itself.  Lengths are the mask where sentences are
padded at their ends; other masks mean something else in such a file, which NumPy computes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engine
from engine.formats import onnx_reader
from engine.passes import optimize

Models = Callable[[str], Path]
LENGTHS, MASKS, NONE = 0, 2, 3  # AttentionMaskFormat
WAYS: dict[str, dict[str, Any]] = {
    "default": {},
    "level 0": {"level": 0},
    "level 1": {"level": 1},
    "level 2": {"level": 2},
    "level 99": {"level": 99},
    "tanh for erf": {"enable_gelu_approximation": True},
    "masks": {"attention_mask_format": MASKS},
    "apart": {"use_multi_head_attention": True},
    "apart with masks": {"use_multi_head_attention": True, "attention_mask_format": MASKS},
    "own embedding": {"enable_embed_layer_norm": False},
}
MODELS = ["bert", "distilbert", "roberta", "electra", "hidden_states"]
CASES = [(model, way) for way in WAYS for model in (MODELS if way == "default" else MODELS[:3])]
LEFT = np.array([[0, 0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 1, 1]])
HOLES = np.array([[1, 0, 1, 1, 0, 1, 0], [1, 1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0, 1]])


def fused(source: Path, folder: Path, **how: Any) -> Path:
    from tests.passes import exported

    return exported.fused(source, folder / "fused.onnx", **how)


def assert_close(
    got: dict[str, np.ndarray], wanted: dict[str, np.ndarray], mask: np.ndarray
) -> None:
    """At tokens that count."""
    assert got.keys() == wanted.keys()
    for name, array in wanted.items():
        real = mask == 1 if array.ndim == 3 else ...
        np.testing.assert_allclose(got[name][real], array[real], rtol=0, atol=1e-4)


@pytest.mark.parametrize(("name", "way"), CASES)
def test_wholly_in_kernels_with_the_numbers_before(
    model: Models, name: str, way: str, tmp_path: Path
) -> None:
    from tests.passes import exported

    source = model(name)
    path = fused(source, tmp_path, **WAYS[way])
    session = engine.load(path, threads=1)
    assert session.plan is not None
    assert session.plan.fallback is None
    for batch, tokens in ((1, 7), (3, 31)):
        given = exported.feeds(source, batch, tokens)
        wanted = exported.runtime(path if way == "tanh for erf" else source, given)
        assert_close(session.run(given), wanted, given["attention_mask"])


@pytest.mark.parametrize(("way", "gelu"), [("default", "BiasGelu"), ("tanh for erf", "FastGelu")])
def test_such_a_file_has_few_operators(model: Models, way: str, gelu: str, tmp_path: Path) -> None:
    graph = onnx_reader.read(fused(model("bert"), tmp_path, **WAYS[way]))
    found = {node.op for node in graph if node.domain == "com.microsoft"}
    assert found == {"Attention", "EmbedLayerNormalization", "SkipLayerNormalization", gelu}


@pytest.mark.parametrize("way", ["default", "apart"])
def test_layers_that_were_joined_have_names_of_their_own(
    model: Models, way: str, tmp_path: Path
) -> None:
    graph = optimize(onnx_reader.read(fused(model("bert"), tmp_path, **WAYS[way])))
    names = [node.name for node in graph]
    assert len(set(names)) == len(names)
    for layer in ("query", "key", "value"):
        assert any(name.endswith(f"encoder.layer.1.attention.self.{layer}") for name in names)


@pytest.mark.parametrize("name", ["bert", "roberta"])
@pytest.mark.parametrize("mask", [LEFT, HOLES], ids=["left", "holes"])
@pytest.mark.parametrize("masks", [LENGTHS, MASKS], ids=["lengths", "masks"])
def test_other_masks_mean_what_the_file_says(
    model: Models, name: str, mask: np.ndarray, masks: int, tmp_path: Path
) -> None:
    from tests.passes import exported

    path = fused(model(name), tmp_path, attention_mask_format=masks)
    given = exported.feeds(model(name), *mask.shape) | {"attention_mask": mask}
    wanted = exported.runtime(path, given)
    assert_close(engine.load(path, threads=1).run(given), wanted, mask)


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("bert", ["Attention"]),
        ("bert", ["Attention", "EmbedLayerNormalization"]),
        ("roberta", ["Attention"]),
    ],
)
def test_quantised_afterwards(model: Models, name: str, more: list[str], tmp_path: Path) -> None:
    """As unfused models whose activations are quantised at run time: a few of 256 steps."""
    from tests.passes import exported

    path = fused(model(name), tmp_path)
    path = exported.dynamic_int8(path, tmp_path / "int8.onnx", *more)
    assert {f"Q{op}" for op in more} <= {node.op for node in onnx_reader.read(path)}
    session = engine.load(path, threads=1)
    assert session.plan is not None
    assert session.plan.fallback is None
    given = exported.feeds(path, 3, 31)
    wanted = exported.runtime(path, given)["logits"]
    np.testing.assert_allclose(session.run(given)["logits"], wanted, atol=3e-2)


def test_without_a_mask_every_token_counts(model: Models, tmp_path: Path) -> None:
    from tests.passes import exported

    path = fused(model("bert"), tmp_path, attention_mask_format=NONE)
    session = engine.load(path, threads=1)
    assert session.plan is not None
    assert session.plan.fallback is None
    given = exported.feeds(path, 3, 20)
    wanted = exported.runtime(path, given)
    assert_close(session.run(given), wanted, np.ones((3, 20)))
