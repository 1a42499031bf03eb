"""ONNX Runtime's call, alone, in Optimum's model class, and under a transformers pipeline."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engine
from engine.errors import InputError, SettingError
from tests import original_writer as writer
from tests.test_original_ir import feeds

DOCUMENT = Path(__file__).parents[1] / "docs" / "from-itrex.md"
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "film", "is", "good", "bad", "not"]


@pytest.fixture
def session(tmp_path: Path) -> engine.InferenceSession:
    return engine.InferenceSession(writer.write(tmp_path / "ir", "int8"))


def test_it_is_called_as_onnx_runtime(session: engine.InferenceSession) -> None:
    fed = feeds(2, 9)
    logits = session.run(None, fed)[0]
    assert logits.shape == (2, writer.CLASSES)
    np.testing.assert_array_equal(session.run(["logits", "logits"], fed)[1], logits)
    with pytest.raises(InputError, match="output 'scores': the model has logits"):
        session.run(["scores"], fed)


def test_it_describes_the_model(session: engine.InferenceSession) -> None:
    first, *_ = session.get_inputs()
    shape = ["batch", "sequence"]
    assert (first.name, first.type, first.shape) == ("input_ids", "tensor(int64)", shape)
    (logits,) = session.get_outputs()
    assert (logits.type, logits.shape) == ("tensor(float)", ["batch", writer.CLASSES])
    assert session.get_modelmeta().graph_name == "model"
    assert session.get_modelmeta().custom_metadata_map == {}
    assert session.get_providers() == list(session.get_provider_options())


def test_it_says_the_same_as_onnx_runtime(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("torch")
    from tests.passes import exported
    from workflow.scripts.convert import onnx_runtime

    path = tmp_path / "model.onnx"
    exported.export(exported.bert(hidden_size=64, num_attention_heads=2), path)
    theirs = onnx_runtime.session(path)
    ours = engine.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for mine, other in (
        (ours.get_inputs(), theirs.get_inputs()),
        (ours.get_outputs(), theirs.get_outputs()),
    ):
        assert [(x.name, x.type, x.shape) for x in mine] == [
            (x.name, x.type, x.shape) for x in other
        ]
    fed = {x.name: feeds(2, 7)[x.name] for x in ours.get_inputs()}
    fed["input_ids"] %= exported.SIZES["vocab_size"]
    np.testing.assert_allclose(ours.run(None, fed)[0], theirs.run(None, fed)[0], atol=1e-4)


def test_options_that_mean_nothing_here_are_refused(tmp_path: Path) -> None:
    folder = writer.write(tmp_path / "ir")

    class Options:
        intra_op_num_threads = 2

    session = engine.InferenceSession(folder, Options())
    assert session.get_session_options().intra_op_num_threads == 2
    assert session._session.threads == 2
    with pytest.raises(SettingError, match="CUDAExecutionProvider: this engine is CPUExecution"):
        engine.InferenceSession(folder, providers=["CUDAExecutionProvider"])
    engine.InferenceSession(folder, providers=["AzureExecutionProvider"])  # leaves it to the CPU
    with pytest.raises(InputError, match="a model as int: expected the path"):
        engine.InferenceSession(3)


# --- transformers ---
@pytest.fixture
def tokenizer(tmp_path: Path) -> Any:
    transformers = pytest.importorskip("transformers")
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY))
    return transformers.BertTokenizerFast(str(tmp_path / "vocab.txt"))


def config() -> Any:
    from transformers import BertConfig

    labels = {0: "bad", 1: "fair", 2: "good"}
    return BertConfig(id2label=labels, label2id={v: k for k, v in labels.items()})


def expected(model: engine.InferenceSession, tokenizer: Any, text: str) -> np.ndarray:
    logits = model.run(None, dict(tokenizer(text, return_tensors="np")))[0][0]
    return np.exp(logits) / np.exp(logits).sum()


def test_in_optimum(session: engine.InferenceSession, tokenizer: Any) -> None:
    classes = pytest.importorskip(
        "optimum.onnxruntime", reason="optimum is not installed", exc_type=ImportError
    )
    from transformers import pipeline

    model = classes.ORTModelForSequenceClassification(session, config())
    tokens = tokenizer(["a good film", "not that bad is it"], padding=True, return_tensors="pt")
    logits = model(**tokens).logits.numpy()
    fed = {name: value.numpy() for name, value in tokens.items()}
    np.testing.assert_array_equal(logits, session.run(None, fed)[0])
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer)
    (found,) = classify("a good film")
    assert found["score"] == pytest.approx(
        float(expected(session, tokenizer, "a good film").max()), abs=1e-6
    )


def test_pipeline_as_documented(
    tmp_path: Path, tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("torch")
    (code,) = re.findall(r"```python\n(import torch.*?)```", DOCUMENT.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code.split("# ---")[0], names)
    folder = writer.write(tmp_path / "ir", "int8")
    from transformers import pipeline

    model = names["EngineClassifier"](config(), folder)
    logger = logging.getLogger("transformers")  # hands nothing on to the root
    logger.addHandler(caplog.handler)
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer, top_k=None)
    logger.removeHandler(caplog.handler)
    assert not caplog.records
    found = {row["label"]: row["score"] for row in classify(["a good film"])[0]}
    want = expected(engine.InferenceSession(folder), tokenizer, "a good film")
    np.testing.assert_allclose([found[name] for name in ("bad", "fair", "good")], want, atol=1e-6)
