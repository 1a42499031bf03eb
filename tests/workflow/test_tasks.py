"""A tiny model of each kind of task through the workflow, by configuration alone."""

import json

import numpy as np
import onnx
import pytest
import torch
import transformers

from workflow.rulebook.writing import StepError
from workflow.scripts.convert import export, heads
from workflow.scripts.convert.onnx_inputs import inputs_of
from workflow.scripts.measure.metrics import MEASURED
from workflow.scripts.measure.report import as_text
from workflow.scripts.measure.tokenized import read_tokenized

from . import tiny_models
from .conftest import TINY, Clone
from .tiny_models import KINDS

pytestmark = pytest.mark.slow

MORE = [  # besides int8
    *(("alike", "fp32"), ("alike", "bf16")),
    *(("tagged", "bf16"), ("tagged", "dynamic_int8")),
]
TARGETS = [f"results/{name}_int8_accuracy.json" for name in KINDS]
TARGETS += [f"results/{name}_{precision}_accuracy.json" for name, precision in MORE]


@pytest.fixture(scope="module")
def made(tmp_path_factory, forked):
    clone = Clone(tmp_path_factory.mktemp("tasks"), forked)
    tasks = {name: tiny_models.write(clone.folder, name) for name in KINDS}
    clone.configure(**TINY | {"tasks": tasks})
    clone.snakemake(*TARGETS)
    return clone


def result(made, name, precision="int8"):
    return json.loads((made.folder / f"results/{name}_{precision}_accuracy.json").read_text())


@pytest.mark.parametrize("name", KINDS)
def test_each_kind_of_task_is_measured_by_its_metric(made, name):
    found = result(made, name)
    assert (found["kind"], found["metric"]) == (KINDS[name], MEASURED[KINDS[name]].metric)
    assert found["value"] == found[found["metric"]]
    assert found["sentences"] == 12
    assert found["agreement_onnxruntime_same_file"]["max_difference"] < 0.3, "a byte or two"
    assert found["agreement_onnxruntime_same_file"].get("same_class", 1) == 1
    assert found["agreement_fp32"].get("same_class", 1) >= 0.7


@pytest.mark.parametrize(("name", "precision"), MORE)
def test_embedders_and_taggers_are_measured_in_other_precisions(made, name, precision):
    same_file = result(made, name, precision)["agreement_onnxruntime_same_file"]
    assert same_file["max_difference"] < {"fp32": 1e-4, "bf16": 0.1}.get(precision, 0.3)


@pytest.mark.parametrize("name", KINDS)
def test_fp32_is_what_torch_says(made, name):
    """The model as transformers loads it, on the workflow's tokens."""
    kind, folder = KINDS[name], made.folder / "results" / name
    examples = read_tokenized(
        folder / "data/validation.npz", folder / "data/validation.jsonl", kind
    )
    model = heads.load_model(folder / "model", kind)
    taken = export.inputs_taken(model, export.INPUTS[:3])
    with torch.no_grad():
        tokens = {name: torch.from_numpy(examples.arrays[name]) for name in taken}
        made_by_torch = model(**tokens)
    outputs = [
        made_by_torch[part].numpy() for part in heads.HEADS[kind].outputs if part in made_by_torch
    ]
    if kind == "sentence-similarity":
        mask = examples.arrays["attention_mask"][..., None]
        outputs = [(made_by_torch[0].numpy() * mask).sum(1) / mask.sum(1)]
    scores = MEASURED[kind].scores(MEASURED[kind].said(outputs, examples), examples, tags(folder))
    assert result(made, name)["value_fp32"] == pytest.approx(
        scores[MEASURED[kind].metric], abs=1e-4
    )


def tags(folder):
    names = transformers.AutoConfig.from_pretrained(folder / "model").id2label
    return [names[i] for i in range(len(names))]


def test_inputs_and_outputs_are_the_models_own(made):
    wanted = {
        "distil": (["input_ids", "attention_mask"], ["logits"]),
        "roberta": (["input_ids", "attention_mask"], ["logits"]),
        "alike": (["input_ids", "attention_mask", "token_type_ids"], ["sentence_embedding"]),
        "asked": (
            ["input_ids", "attention_mask", "token_type_ids"],
            ["start_logits", "end_logits"],
        ),
    }
    for name, (inputs, outputs) in wanted.items():
        graph = onnx.load(made.folder / f"results/{name}/int8.onnx").graph
        assert [value.name for value in inputs_of(graph)] == inputs
        assert [value.name for value in graph.output] == outputs


def test_tags_are_the_models_own_and_cut_words_are_counted(made):
    with np.load(made.folder / "results/tagged/data/validation.npz") as file:
        words, labels = file["words"], file["labels"]
    assert labels[0, :4].tolist() == [3, 3, 3, -100], "O is the model's last"
    assert words[0, :6].tolist() == [-1, 0, 1, 2, -1, -1]


def test_a_long_text_is_asked_in_parts(made):
    with np.load(made.folder / "results/asked/data/validation.npz") as file:
        examples, starts, mask = file["examples"], file["starts"], file["attention_mask"]
    assert len(examples) > 12 and set(examples) == set(range(12))
    assert mask.sum(1).max() <= 32
    longest = np.bincount(examples).argmax()
    parts = [set(row[row >= 0]) for row in starts[examples == longest]]
    assert parts[0] & parts[1], "they overlap"


def test_the_report_names_the_metrics(made):
    text = as_text([made.folder / target for target in TARGETS])
    for words in ("entity F1 ", "Spearman ", "accuracy ", "exact match 0.", "MCC "):
        assert words in text


# --- models of another kind than the task ---


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("alike", "text-classification", r"no weights classifier.bias.*\['BertModel'\]"),
        ("tagged", "question-answering", "no weights qa_outputs.bias, qa_outputs.weight, which"),
        ("distil", "regression", "3 labels; expected 1, the number"),
        ("rated", "text-classification", "1 label; expected one of two or more"),
    ],
)
def test_a_model_of_another_kind_is_refused(made, name, kind, message):
    with pytest.raises(StepError, match=message):
        heads.load_model(made.folder / name / "model", kind)


# --- pooling ---


@pytest.fixture
def hidden():
    torch.manual_seed(0)
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])
    return torch.randn(2, 4, 3), mask


@pytest.mark.parametrize("normalize", [True, False])
def test_tokens_are_pooled_as_the_folder_says(hidden, tmp_path, normalize):
    modes = {"pooling_mode_cls_token": True, "pooling_mode_max_tokens": True}
    tiny_models.write_pooling(
        tmp_path, normalize=normalize, **modes, pooling_mode_mean_tokens=False
    )
    pooling = heads.pooling_of(tmp_path)
    assert pooling == heads.Pooling(("cls_token", "max_tokens"), normalize)
    values, mask = hidden
    model = heads.embedder(lambda **given: (values,), pooling, ["input_ids", "attention_mask"])
    found = model(mask, mask).numpy()
    most = np.stack([values[0, :3].amax(0), values[1, :2].amax(0)])
    expected = np.concatenate([values[:, 0], most], 1)
    if normalize:
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_without_a_folder_of_that_kind_the_mean_is_taken(hidden, tmp_path):
    values, mask = hidden
    pooling = heads.pooling_of(tmp_path)
    model = heads.embedder(lambda **given: (values,), pooling, ["input_ids", "attention_mask"])
    mean = np.stack([values[0, :3].mean(0), values[1, :2].mean(0)])
    np.testing.assert_allclose(
        model(mask, mask).numpy(), mean / np.linalg.norm(mean, axis=1, keepdims=True), rtol=1e-5
    )


@pytest.mark.parametrize(
    ("modes", "modules", "message"),
    [
        ({"pooling_mode_lasttoken": True}, None, r"pooled by \('lasttoken',\); expected some of"),
        ({}, None, r"pooled by \(\); expected some of mean_tokens"),
        (
            {},
            '[{"type": "a.Transformer", "path": ""}, {"type": "a.Dense", "path": ""}]',
            "Dense; exp",
        ),
        ({}, "[3]", "no list of modules"),
        ({}, "[", "modules.json: .*expected JSON"),
    ],
)
def test_other_pooling_is_refused(tmp_path, modes, modules, message):
    tiny_models.write_pooling(tmp_path, **modes)
    if modules:
        (tmp_path / "modules.json").write_text(modules)
    with pytest.raises(StepError, match=message):
        heads.pooling_of(tmp_path)
