"""A tiny model through every rule, and what is left behind by one that fails."""

import csv
import gzip
import json
import os
import shutil
import time

import pytest
import torch

from engine import InferenceSession
from workflow.scripts.measure import timings

from .conftest import TINY, Clone

pytestmark = pytest.mark.slow

MODES = ["accuracy", "throughput", "latency"]
RESULTS = ["tiny_int8_accuracy.json", "tiny_int8_throughput.csv", "tiny_int8_latency.csv"]
TARGETS = [f"results/{name}" for name in RESULTS]


@pytest.fixture(scope="module")
def made(tiny_files, tmp_path_factory, forked):
    """A clone by which every result of the tiny model has been made, in another directory."""
    here = tmp_path_factory.mktemp("here")
    clone = Clone(tmp_path_factory.mktemp("made"), forked, here)
    shutil.copytree(tiny_files, here / "tiny")
    clone.configure(**TINY)
    clone.log = clone.snakemake(*TARGETS).stdout
    return clone


def read(made, name):
    path = made.here / "results" / name
    if path.suffix == ".json":
        return json.loads(path.read_text())
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        return list(csv.DictReader(file))


# --- what is made ---


def test_accuracy_is_complete(made):
    result = read(made, "tiny_int8_accuracy.json")
    assert result["sentences"] == 16
    assert sum(map(sum, result["confusion"])) == 16
    assert result["agreement_onnxruntime_same_file"]["same_class"] == 1
    assert result["model"]["source"] == result["dataset"]["source"] == "local"
    assert result["run"]["versions"]["numpy"]
    assert result["engine"]["cpu_model"]


def test_optimum_takes_the_tasks_folder(made, monkeypatch):
    optimum = pytest.importorskip("optimum.onnxruntime", exc_type=ImportError)
    monkeypatch.setattr("optimum.onnxruntime.modeling_ort.ort.InferenceSession", InferenceSession)
    folder = made.here / "results/tiny"
    model = optimum.ORTModelForSequenceClassification.from_pretrained(folder, file_name="int8.onnx")
    assert isinstance(model.model, InferenceSession)
    tokens = torch.tensor([[2, 5, 7, 3]])
    logits = model(input_ids=tokens, attention_mask=tokens**0, token_type_ids=tokens * 0).logits
    assert logits.shape == (1, model.config.num_labels) and torch.isfinite(logits).all()


@pytest.mark.parametrize("mode", ["throughput", "latency"])
def test_timings_are_complete(made, mode):
    rows = read(made, f"tiny_int8_{mode}.csv")
    assert list(rows[0]) == timings.columns(mode)
    options = TINY[mode]
    shapes = [(b, s) for b in options["batch_sizes"] for s in options["seq_lens"]]
    everyone = [row for row in rows if row["instance"] == "all"]
    assert [(int(r["batch_size"]), int(r["seq_len"])) for r in everyone] == shapes
    for row in everyone:
        assert int(row["iterations"]) >= options["iterations"]
        assert 0 < float(row["min_ms"]) <= float(row["p50_ms"]) <= float(row["p99_ms"])
        assert row["kernels"]
        assert row["allocator"].startswith(("glibc", "jemalloc"))
    raw = read(made, f"tiny_int8_{mode}.raw.csv.gz")
    assert len(raw) == sum(int(row["iterations"]) for row in everyone)


def test_results_name_sockets_cores_threads_and_quota(made):
    names = {"sockets", "cores", "threads", "quota"}
    (row, *_) = read(made, "tiny_int8_latency.csv")
    assert int(row["sockets"]) == 1 and int(row["cores"]) == int(row["threads"]) >= 1
    run = read(made, "tiny_int8_latency.run.json")
    assert set(run["used"]) == names and isinstance(run["limits"], list)
    assert names <= set(read(made, "tiny_int8_accuracy.json")["run"]["machine"])


def test_progress_is_shown(made):
    assert "batch 2, length 8: " in made.log
    assert "sentences/s" in made.log


def test_results_are_where_one_stands_and_nowhere_else(made):
    assert not (made.folder / "results").exists() and not (made.folder / "logs").exists()


def test_nothing_half_written_is_left(made):
    left = [
        p for p in (made.here / "results").rglob("*") if "partial" in p.name or ".new" in p.name
    ]
    assert left == []


# --- what runs again: test_stale.py has every kind of change ---


def test_a_second_run_does_nothing(made):
    assert made.steps(*TARGETS) == {}


def test_a_touch_runs_nothing(made):
    time.sleep(0.01)
    touched = [*made.folder.glob("**/*.py"), *(made.here / "tiny").glob("**/*")]
    for path in touched:
        if path.is_file():
            os.utime(path)
    assert made.steps(*TARGETS) == {}


# --- what fails ---


@pytest.fixture
def tiny_clone(tiny_clone, forked):
    tiny_clone.programs = forked
    return tiny_clone


def test_an_interrupted_step_leaves_nothing(tiny_clone):
    path = tiny_clone.folder / "workflow/scripts/convert/export.py"
    code = path.read_text()
    at = "    with torch.no_grad():\n"
    assert at in code
    path.write_text(
        code.replace(at, f"    out.write_text('half')\n    raise KeyboardInterrupt\n{at}")
    )
    done = tiny_clone.snakemake("results/tiny/fp32.onnx", check=False)
    assert done.returncode != 0
    left = {path.name for path in (tiny_clone.folder / "results/tiny").iterdir()}
    assert left == {"model"}


def test_a_model_that_is_not_there_is_named(tiny_clone):
    shutil.rmtree(tiny_clone.folder / "tiny/model")
    done = tiny_clone.snakemake("results/tiny/fp32.onnx", check=False)
    assert done.returncode != 0
    assert "error: tiny/model: no such folder (model source 'local')" in done.stdout


def test_truncated_weights_are_named(tiny_clone):
    path = tiny_clone.folder / "tiny/model/model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    done = tiny_clone.snakemake("results/tiny/fp32.onnx", check=False)
    assert done.returncode != 0
    assert "error: results/tiny/model: not a model that can be read (" in done.stdout
