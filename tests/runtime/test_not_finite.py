"""NaN and infinity in each kind of parameter reach what depends on it, and nothing else: the same
numbers are none, or infinite, as ONNX Runtime's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers")
onnx = pytest.importorskip("onnx")

import engine  # noqa: E402
from tests.passes import exported  # noqa: E402
from tests.runtime.test_session import pruned  # noqa: E402

TOKEN = 7  # which the first sentence alone holds
PARAMETERS = {  # what is spoiled -> node whose matrix it is, or name of the tensor; place
    "word": ("embeddings.word_embeddings.weight", (TOKEN, 3)),
    "position": ("embeddings.position_embeddings.weight", (2, 3)),
    "type": ("embeddings.token_type_embeddings.weight", (0, 3)),
    "first gamma": ("embeddings.LayerNorm.weight", (3,)),
    "query": ("layer.0/attention/self/query", (3, 3)),
    "key": ("layer.0/attention/self/key", (3, 3)),
    "key bias": ("layer.1.attention.self.key.bias", (3,)),
    "value": ("layer.1/attention/self/value", (3, 3)),
    "value bias": ("layer.0.attention.self.value.bias", (3,)),
    "projection": ("layer.0/attention/output/dense", (3, 3)),
    "beta": ("layer.1.attention.output.LayerNorm.bias", (3,)),
    "hidden": ("layer.1/intermediate/dense", (3, 3)),
    "hidden bias": ("layer.0.intermediate.dense.bias", (3,)),
    "output": ("layer.0/output/dense", (3, 3)),
    "pooler bias": ("pooler.dense.bias", (3,)),
    "classifier": ("classifier.weight", (1, 3)),
}


def tensor_of(model: Any, name: str) -> Any:
    """The initializer of that name, or the one that this MatMul multiplies by."""
    by_name = {tensor.name: tensor for tensor in model.graph.initializer}
    products = [n for n in model.graph.node if n.op_type == "MatMul" and name in n.name]
    names = [n.input[1] for n in products] or [each for each in by_name if each.endswith(name)]
    return by_name[names[0]]


def spoiled(source: Path, name: str, place: tuple[int, ...], number: float) -> Path:
    """The model with one number replaced."""
    model = onnx.load(source)
    tensor = tensor_of(model, name)
    array = onnx.numpy_helper.to_array(tensor).copy()
    array[place] = number
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    file = source.with_name(f"spoiled_{source.name}")
    onnx.save(model, file)
    return file


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """(pattern, activation) -> a file in float32, made once."""
    folder = tmp_path_factory.mktemp("models")

    def path(pattern: str, activation: str = "gelu") -> Path:
        file = folder / f"{pattern}_{activation}.onnx"
        if not file.exists():
            whole = exported.bert(hidden_act=activation)
            exported.export(whole if pattern == "dense" else pruned(whole, pattern, 0.75), file)
        return file

    return path


def feeds() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    ids = random.integers(TOKEN + 1, 90, (3, 9))
    mask = np.ones_like(ids)
    ids[0, 5], mask[2, 6:] = TOKEN, 0
    types = random.integers(0, 2, ids.shape)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}


def assert_like_onnx_runtime(file: Path, atol: float, what: str) -> None:
    got, wanted = logits(file), exported.runtime(file, feeds())["logits"]
    np.testing.assert_allclose(got, wanted, atol=atol, err_msg=what)
    assert np.isnan(wanted).any() or "nan" not in what, "nothing was to be seen"


def logits(file: Path) -> np.ndarray:
    return np.asarray(engine.load(file).run(feeds())["logits"])


SIGNS = (np.inf, -np.inf)


@pytest.mark.parametrize(
    ("pattern", "kind"),
    [
        ("4x1", "nan"),
        ("4x1", "inf"),
        pytest.param("1x4", "inf", marks=pytest.mark.slow),
        ("dense", "nan"),
    ],
)
def test_float32(source: Callable[..., Path], pattern: str, kind: str) -> None:
    for turn, (what, (name, place)) in enumerate(PARAMETERS.items()):
        number = np.nan if kind == "nan" else SIGNS[turn % 2]
        file = spoiled(source(pattern), name, place, number)
        assert_like_onnx_runtime(file, 1e-4, f"{number} in {what}")


@pytest.mark.parametrize("activation", ["relu", "gelu_new"])
def test_other_activations(source: Callable[..., Path], activation: str) -> None:
    name, place = PARAMETERS["hidden bias"]
    for number in (np.nan, np.inf, -np.inf):
        file = spoiled(source("4x1", activation), name, place, number)
        assert_like_onnx_runtime(file, 1e-4, f"{number}, {activation}")


def test_bfloat16(source: Callable[..., Path]) -> None:
    for what in ("word", "query", "value bias", "hidden", "output", "classifier"):
        broken = spoiled(source("4x1"), *PARAMETERS[what], np.nan)
        file = exported.bfloat16_weights(broken, broken.with_suffix(".bf16.onnx"))
        assert_like_onnx_runtime(file, 0.05, f"nan in {what}")


@pytest.mark.parametrize("number", [np.nan, -np.inf])
def test_dynamic_int8(source: Callable[..., Path], number: float) -> None:
    """A token has its own range: of one that is none nothing is a number, others know nothing of
    it.  (ONNX Runtime has one range for all, which leaves NaN out or not, by its place.)
    """
    for what, sentences in (("word", [True, False, False]), ("value bias", [True] * 3)):
        broken = spoiled(source("dense"), *PARAMETERS[what], number)
        file = exported.dynamic_int8(broken, broken.with_suffix(".dynamic.onnx"))
        assert np.isnan(logits(file)).all(1).tolist() == sentences, what


def test_static_int8(source: Callable[..., Path]) -> None:
    """What is quantised is a byte, of NaN the least, as in ONNX Runtime; NumPy runs it."""
    fine = exported.static_int8(source("dense"), source("dense").with_suffix(".int8.onnx"))
    for what in ("word", "hidden bias", "value bias"):
        for number in (np.nan, np.inf, -np.inf):
            file = spoiled(fine, *PARAMETERS[what], number)
            wanted = exported.runtime(file, feeds())["logits"]
            np.testing.assert_allclose(
                logits(file), wanted, atol=1e-5, err_msg=f"{number} in {what}"
            )


def test_a_warning_names_the_constant(
    source: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    engine.load(source("dense"))
    assert not caplog.records
    engine.load(spoiled(source("dense"), *PARAMETERS["hidden bias"], np.nan))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    found = "intermediate.dense.bias': 1 of 64 numbers are not finite, the first at [3]: nan"
    assert found in record.message
