"""A tiny model through every rule; then what runs again after each kind of change."""

import csv
import gzip
import json
import os
import shutil
import time

import pytest

from workflow.scripts import timings

from .conftest import TINY, Clone

pytestmark = pytest.mark.slow

MODES = ["accuracy", "throughput", "latency"]
RESULTS = ["tiny_int8_accuracy.json", "tiny_int8_throughput.csv", "tiny_int8_latency.csv"]
TARGETS = [f"results/{name}" for name in RESULTS]


@pytest.fixture(scope="module")
def made(tiny_files, tmp_path_factory):
    """A clone in which every result of the tiny model has been made."""
    clone = Clone(tmp_path_factory.mktemp("made"))
    shutil.copytree(tiny_files, clone.folder / "tiny")
    clone.configure(**TINY)
    clone.log = clone.snakemake(*TARGETS).stdout
    return clone


def read(made, name):
    path = made.folder / "results" / name
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


def test_progress_is_shown(made):
    assert "batch 2, length 8: " in made.log
    assert "sentences/s" in made.log


def test_nothing_half_written_is_left(made):
    left = [
        p for p in (made.folder / "results").rglob("*") if "partial" in p.name or ".new" in p.name
    ]
    assert left == []


# --- what runs again ---

AFTER_COMPILE = {"accuracy": 1, "benchmark": 2}
AFTER_QUANTIZE = {"quantize_int8": 1, "compile": 1, **AFTER_COMPILE}


def test_a_second_run_does_nothing(made):
    assert made.steps(*TARGETS) == {}


def test_a_touch_runs_nothing(made):
    time.sleep(0.01)
    for pattern in ("engine/**/*.py", "workflow/scripts/*.py", "tiny/**/*"):
        for path in made.folder.glob(pattern):
            if path.is_file():
                os.utime(path)
    assert made.steps(*TARGETS) == {}


@pytest.mark.parametrize(
    ("file", "steps"),
    [
        ("engine/bench.py", {"benchmark": 2}),
        ("engine/accuracy.py", {"accuracy": 1}),
        ("engine/runtime/__init__.py", AFTER_COMPILE),
        ("engine/store.py", {"compile": 1, **AFTER_COMPILE}),
        ("engine/commands/bench.py", {}),
        ("engine/cli.py", {}),
        ("workflow/scripts/quantize.py", AFTER_QUANTIZE),
        ("workflow/scripts/report.py", {}),
        ("workflow/scripts/export.py", {"export": 1, **AFTER_QUANTIZE}),
    ],
)
def test_a_changed_file_runs_what_uses_it(made, file, steps):
    path = made.folder / file
    before = path.read_bytes()
    path.write_bytes(before + b"\nCHANGED = True\n")
    try:
        assert made.steps(*TARGETS) == steps
    finally:
        path.write_bytes(before)


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({"latency": {**TINY["latency"], "iterations": 11}}, {"benchmark": 1}),
        ({"accuracy": {"batch_size": 8}}, {"accuracy": 1}),
        ({"quantize": {"sentences": 9}}, AFTER_QUANTIZE),
        ({"export": {"opset": 17}}, {"export": 1, **AFTER_QUANTIZE}),
        ({"precisions": ["fp32"]}, {}),
    ],
)
def test_a_changed_key_runs_what_it_concerns(made, changes, steps):
    made.configure(**{**TINY, **changes})
    try:
        assert made.steps(*TARGETS) == steps
    finally:
        made.configure(**TINY)


def test_changed_sentences_run_what_reads_them(made):
    path = made.folder / "tiny/sentences/validation.tsv"
    before = path.read_bytes()
    path.write_bytes(before + b"a good film\t1\n")
    try:
        steps = made.steps(*TARGETS)
    finally:
        path.write_bytes(before)
    assert "export" not in steps
    assert steps["fetch_dataset"] == 1


# --- what fails ---


def test_an_interrupted_step_leaves_nothing(tiny_clone):
    path = tiny_clone.folder / "workflow/scripts/export.py"
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
