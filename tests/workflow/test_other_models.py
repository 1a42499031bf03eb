"""Models and labels of other kinds than the usual, through the workflow by configuration alone."""

import json
import shutil
from argparse import Namespace

import numpy as np
import onnx
import pytest

from engine.commands.cli import main
from engine.errors import InputError
from engine.measure.accuracy import read_text
from workflow.rulebook.writing import StepError
from workflow.scripts.convert.onnx_inputs import inputs_of
from workflow.scripts.fetch import tokenize_sentences
from workflow.scripts.fetch.examples import read_examples
from workflow.scripts.measure import evaluate

from .conftest import TINY, WORDS, Clone

pytestmark = pytest.mark.slow

KIND = "text-classification"
LABELS = ["negative", "neutral", "positive"]


def write_tiny_distilbert(folder):
    """Random, of three classes in an order of its own, with the tokenizer that it comes with."""
    import torch
    from transformers import (
        DistilBertConfig,
        DistilBertForSequenceClassification,
        DistilBertTokenizerFast,
    )

    torch.manual_seed(0)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(set(WORDS.split()[:-1]))]
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    DistilBertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    config = DistilBertConfig(
        vocab_size=len(words), dim=64, n_layers=2, n_heads=2, hidden_dim=128,
        max_position_embeddings=64, initializer_range=0.1,
        id2label=dict(enumerate(reversed(LABELS))),
        label2id={name: place for place, name in enumerate(reversed(LABELS))},
    )  # fmt: skip
    DistilBertForSequenceClassification(config).save_pretrained(folder, safe_serialization=True)


def write_named_sentences(folder):
    """Sorted by label, and labels by name."""
    folder.mkdir(parents=True)
    words = WORDS.split()[:-1]
    for split in ("train", "validation"):
        rows = ["sentence\tlabel"]
        for number in range(24):
            text = " ".join(words[(3 * number + k) % len(words)] for k in range(3 + number % 9))
            rows.append(f"{text}\t{LABELS[number // 8]}")
        (folder / f"{split}.tsv").write_text("\n".join(rows) + "\n")


@pytest.fixture(scope="module")
def made(tmp_path_factory, forked):
    """DistilBERT, which has no token types, to accuracy and throughput."""
    clone = Clone(tmp_path_factory.mktemp("other"), forked)
    write_tiny_distilbert(clone.folder / "distil/model")
    write_named_sentences(clone.folder / "distil/sentences")
    task = {
        "model": {"source": "local", "name": "distil/model"},
        "dataset": {"source": "local", "name": "distil/sentences"},
        "max_length": 32,
    }
    clone.configure(**TINY | {"tasks": {"distil": task}})
    clone.snakemake("results/distil_int8_accuracy.json", "results/distil_int8_throughput.csv")
    return clone


def result(made, name):
    return json.loads((made.folder / "results" / name).read_text())


def test_a_model_without_token_types_gets_to_accuracy_and_throughput(made):
    graph = onnx.load(made.folder / "results/distil/int8.onnx").graph
    assert [value.name for value in inputs_of(graph)] == ["input_ids", "attention_mask"]
    found = result(made, "distil_int8_accuracy.json")
    assert found["sentences"] == 24
    assert found["subset"] is None
    assert found["agreement_onnxruntime_same_file"]["same_class"] == 1
    rows = (made.folder / "results/distil_int8_throughput.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * 2


def test_labels_are_the_models_own(made):
    with np.load(made.folder / "results/distil/data/validation.npz") as file:
        assert file["labels"].tolist() == [2] * 8 + [1] * 8 + [0] * 8
    found = result(made, "distil_int8_accuracy.json")
    assert [sum(row) for row in found["confusion"]] == [8, 8, 8]
    assert found["dataset"]["validation"]["repeated"] == 0


# --- subsets ---


def evaluated(made, task="distil", **options):
    folder, out = made.folder / "results" / task, made.folder / "subset.json"
    arguments = {
        "ir": folder / "ir_int8", "onnx": folder / "int8.onnx", "fp32": folder / "fp32.onnx",
        "model": folder / "model", "validation": folder / "data/validation.npz", "kind": KIND,
        "examples": folder / "data/validation.jsonl",
        "dataset": folder / "data/source.json", "out": out, "task": task, "precision": "int8",
        "batch_size": 4, "sentences": 6, "seed": 5, "threads": 1, **options,
    }  # fmt: skip
    evaluate.main(Namespace(**arguments))
    return json.loads(out.read_text())


def test_a_subset_of_a_sorted_file_has_every_label(made):
    found = evaluated(made)
    assert [sum(row) for row in found["confusion"]] == [2, 2, 2]
    assert found["subset"] == {"of": 24, "drawn": "by label", "seed": 5}
    assert evaluated(made)["confusion"] == found["confusion"]


def test_the_command_line_takes_the_same_subset(made, capsys):
    folder = made.folder / "results/distil"
    words = ["accuracy", str(folder / "ir_int8"), "--sentences", "6", "--seed", "5", "--json"]
    assert main([*words, "--dataset", str(folder / "data/validation.npz")]) == 0
    by_ids = json.loads(capsys.readouterr().out)
    text = [
        "--dataset",
        str(folder / "data/validation.jsonl"),
        "--tokenizer",
        str(folder / "model"),
    ]
    assert main([*words, *text]) == 0
    by_text = json.loads(capsys.readouterr().out)
    assert by_ids["confusion"] == by_text["confusion"] == evaluated(made)["confusion"]
    assert by_ids["subset"] == by_text["subset"] == {"of": 24, "drawn": "by label", "seed": 5}
    assert main([*words, *text, "--sentences", "-3"]) == 2
    assert "--sentences -3: expected 0 or more" in capsys.readouterr().err


def test_the_command_line_says_which_labels_it_never_met(made, capsys, caplog, tmp_path):
    caplog.set_level("WARNING")
    folder = made.folder / "results/distil"
    table = tmp_path / "one.tsv"
    table.write_text("sentence\tlabel\na good film\tpositive\n")
    words = ["accuracy", str(folder / "ir_int8"), "--dataset", str(table)]
    assert main([*words, "--tokenizer", str(folder / "model")]) == 0
    assert capsys.readouterr().out.startswith("Accuracy ")
    assert "no sentence has the label 1, 2, of the model's 3 classes" in caplog.messages


def test_pairs_on_the_command_line_are_pairs(made, capsys, tmp_path):
    folder = made.folder / "results/distil"
    texts = {"pairs": "sentence\tsentence2\tlabel\n", "single": "sentence\tlabel\n"}
    lengths = {}
    for name, header in texts.items():
        second = "\ta great story" if name == "pairs" else ""
        (tmp_path / f"{name}.tsv").write_text(f"{header}a good film{second}\tneutral\n")
        found = read_text(tmp_path / f"{name}.tsv", folder / "model", 128)
        lengths[name] = int(found.arrays["attention_mask"].sum())
    assert lengths == {"pairs": 9, "single": 5}


# --- tokenizers and configurations ---


@pytest.fixture
def model(made, tmp_path):
    return shutil.copytree(made.folder / "results/distil/model", tmp_path / "model")


def both_read(model, folder):
    """What the step of the workflow and the command line make of one sentence of each kind."""
    (folder / "x.tsv").write_text("sentence\tlabel\na film\tneutral\na good film .\tpositive\n")
    rows = read_examples(folder / "x.tsv", KIND)
    yield lambda: tokenize_sentences.tokenize(model, rows, 32)["input_ids"].tolist()
    yield lambda: read_text(folder / "x.tsv", model, 32).arrays["input_ids"].tolist()


def test_sentences_are_padded_behind_whatever_the_tokenizer_likes(model, tmp_path):
    path = model / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"padding_side": "left"}))
    one, other = (read() for read in both_read(model, tmp_path))
    assert one == other
    assert one[0][0] == 2, "[CLS]"
    assert one[0][-1] == 0, "[PAD]"


@pytest.mark.parametrize("text", ['{"version": "1.0", ', "[]", '{"version": "1.0", "model": {}}'])
def test_a_broken_tokenizer_is_named(model, tmp_path, text):
    (model / "tokenizer.json").write_text(text)
    for read in both_read(model, tmp_path):
        with pytest.raises((StepError, InputError), match=f"{model}: no (usable )?tokenizer"):
            read()


@pytest.mark.parametrize("names", [["a", "b", "c"], {"0": "a", "2": "b"}, {"x": "a"}, 3])
def test_broken_names_of_classes_are_named(model, tmp_path, names):
    path = model / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"id2label": names}))
    with pytest.raises(StepError, match=f"{model}: no usable configuration of classes"):
        tokenize_sentences.class_names(model)
    *_, read = both_read(model, tmp_path)
    with pytest.raises(InputError, match="config.json: id2label: .*; expected a name for each of"):
        read()


# --- labels that are not the model's ---


def tokenized(made, folder, text, labels=()):
    """The labels of these sentences, as the step writes them."""
    (folder / "x.tsv").write_text(text)
    (folder / "source.json").write_text(json.dumps({"labels": list(labels)}))
    out = folder / "x.npz"
    given = {
        "kind": KIND,
        "examples": folder / "x.tsv",
        "dataset": folder / "source.json",
        "out": out,
    }
    model = made.folder / "results/distil/model"
    tokenize_sentences.main(Namespace(model=model, max_length=32, **given))
    with np.load(out) as file:
        return file["labels"].tolist()


def test_a_step_stops_where_the_labels_are_not_the_models(made, tmp_path):
    message = "its labels are 0, 1, the model's 3 classes positive, neutral, negative"
    with pytest.raises(InputError, match=f"x.tsv: {message}; expected the same"):
        tokenized(made, tmp_path, "sentence\tlabel\na\t0\nb\t1\n")
    assert not (tmp_path / "x.npz").exists()


def test_numbers_are_taken_by_the_name_that_the_data_have_for_them(made, tmp_path):
    assert tokenized(made, tmp_path, "sentence\tlabel\na\t0\nb\t1\n", LABELS) == [2, 1]


def test_names_of_classes_are_in_the_order_of_the_model(made):
    names = tokenize_sentences.class_names(made.folder / "results/distil/model")
    assert names == ["positive", "neutral", "negative"]
    rows = read_examples(made.folder / "results/distil/data/validation.jsonl", KIND)
    assert [row.label for row in rows[::8]] == LABELS
