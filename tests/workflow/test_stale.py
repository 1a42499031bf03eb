"""docs/stale-steps.md row by row: after each change, a dry run lists what the row says.

The run that is changed was made by a stand-in for `python`, so it takes seconds: what is stale is
decided by Snakemake from parameters and contents, whoever made them.
"""

import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from .conftest import TINY, Clone, write_sentences

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/stale-steps.md").read_text()
ROWS = dict(re.findall(r"^\| (?!what changed|---)(.*?) \| (.*?) \|$", PAGE, re.MULTILINE))
WITH_CONDA = "an environment of `envs/` (onnxruntime), with `--sdm conda`"  # test_conda.py
TARGET, RESULT = "results/report.html", "results/tiny_int8_latency.csv"
HUB = {"source": "hub", "name": "owner/model", "revision": "0" * 40}


def steps_of(row):
    """`a, 2 b` -> {"a": 1, "b": 2}"""
    found = re.findall(r"(?:(\d) )?(\w+)", ROWS[row].removeprefix("nothing"))
    return {rule: int(count or 1) for count, rule in found}


class Finished(Clone):
    """A run to change; `environment` puts the stand-in first."""

    def __init__(self, folder):
        super().__init__(folder)
        (folder / "bin").mkdir()
        stand_in = Path(__file__).with_name("stand_in.py")
        (folder / "bin/python").write_text(f'#!/bin/sh\nexec {sys.executable} {stand_in} "$@"\n')
        (folder / "bin/python").chmod(0o755)
        write_sentences(folder / "tiny/sentences")
        self.path = folder / "config/config.yaml"
        self.config = yaml.safe_load(self.path.read_text())
        self.config |= {"tasks": {"tiny": {**TINY["tasks"]["tiny"], "model": HUB}}}
        self.config |= {"modes": ["accuracy", "throughput", "latency"]}
        self.path.write_text(yaml.safe_dump(self.config))

    def environment(self, **changes):
        found = super().environment(**changes)
        path, packages = f"{self.folder}/bin:{found['PATH']}", str(self.folder / "packages")
        return {**found, "PATH": path, "PYTHONPATH": packages}

    @contextmanager
    def edited(self, name, edit):
        """A file with its text edited, and put back afterwards."""
        path = self.folder / name
        before = path.read_text()
        after = edit(before)
        assert after != before
        path.write_text(after)
        yield
        path.write_text(before)

    @contextmanager
    def configured(self, *place, value):
        """Another value at this place of the configuration."""
        changed = yaml.safe_load(self.path.read_text())
        part = changed
        for step in place[:-1]:
            part = part[step]
        part[place[-1]] = value
        with self.edited("config/config.yaml", lambda text: yaml.safe_dump(changed)):
            yield

    def git(self, *arguments):
        identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
        subprocess.run(
            ["git", *identity, *arguments], cwd=self.folder, check=True, capture_output=True
        )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    clone = Finished(tmp_path_factory.mktemp("finished"))
    clone.snakemake(TARGET)
    return clone


# --- changes ---


def key(*place, value):
    return lambda clone: clone.configured(*place, value=value)


def file(name, old="", new="CHANGED = True\n"):
    """Text replaced in a file, or added at its end."""
    return lambda clone: clone.edited(
        name, lambda text: text.replace(old, new, 1) if old else text + new
    )


@contextmanager
def nothing(clone):
    yield


@contextmanager
def touched(clone):
    for path in clone.folder.rglob("*"):
        if path.is_file() and not {".snakemake", "results"} & set(path.parts):
            os.utime(path)
    yield


@contextmanager
def checked_out(clone):
    clone.git("init", "-q")
    clone.git("add", "engine", "workflow", "config", "Snakefile", "tiny")
    clone.git("commit", "-qm", "one")
    with clone.edited("engine/measure/instances.py", lambda text: text + "CHANGED = True\n"):
        clone.git("commit", "-qam", "two")
        clone.git("checkout", "-q", "HEAD~1")
        yield


@contextmanager
def commented(clone):
    def add(text):
        return f'"""Another docstring."""\n# why\n{text.split(chr(34) * 3, 2)[2]}\n# end\n'

    names = (
        "engine/measure/instances.py",
        "engine/passes/__init__.py",
        "workflow/scripts/convert/quantize.py",
    )
    with (
        clone.edited(names[0], add),
        clone.edited(names[1], add),
        clone.edited(names[2], add),
    ):
        yield


@contextmanager
def rules_commented(clone):
    def edit(text):
        more = text.replace("mem_mb=4000", "mem_mb=5000").replace("threads: 1", "threads: 2")
        return f"# why\n{more}"

    with clone.edited("workflow/rules/export.smk", edit):
        yield


@contextmanager
def deleted(clone):
    path = clone.folder / RESULT
    kept = path.rename(path.with_suffix(".kept"))
    yield
    kept.rename(path)


def upgraded(package):
    """Another version of it, as pip leaves it, in a folder that Python looks at first."""

    @contextmanager
    def upgrade(clone):
        about = clone.folder / f"packages/{package}-99.dist-info/METADATA"
        about.parent.mkdir(parents=True)
        about.write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 99\n")
        yield
        shutil.rmtree(about.parent)

    return upgrade


@contextmanager
def elsewhere(clone):
    with (
        clone.configured("cluster", "cores", value=64),
        clone.configured("sweep", "batch_sizes", value=[2]),
        clone.configured("machines", value={"genoa": {"constraint": "genoa"}}),
    ):
        yield


TASK = ("tasks", "tiny")
CHANGES = {
    "nothing": nothing,
    "`accuracy: batch_size`": key("accuracy", "batch_size", value=3),
    "`latency: iterations`": key("latency", "iterations", value=3),
    "`allocator: prefer`": key("allocator", "prefer", value="system"),
    "`quantize: sentences`": key("quantize", "sentences", value=3),
    "`export: opset`": key("export", "opset", value=17),
    "`max_length` of the task": key(*TASK, "max_length", value=16),
    "`task` of the task": key(*TASK, "task", value="regression"),
    "`precisions`: fp32 as well": key("precisions", value=["int8", "fp32"]),
    "`cluster`, `sweep`: where and what else is measured": elsewhere,
    "the revision of the model": key(*TASK, "model", "revision", value="1" * 40),
    "a sentence of the folder the data set is in": file(
        "tiny/sentences/validation.tsv", new="a good film\t1\n"
    ),
    "a kernel of the engine": file("engine/kernels/linear/bytes_4x1.py"),
    "the engine's passes": file("engine/passes/clean.py"),
    "the engine's timer, `engine/measure/instances.py`": file("engine/measure/instances.py"),
    "an engine file that no step uses, `engine/commands/isa.py`": file("engine/commands/isa.py"),
    "the script that quantises": file("workflow/scripts/convert/quantize.py"),
    "the script that writes the report": file("workflow/scripts/measure/report.py"),
    "the shell command of rule `export`": file(
        "workflow/rules/export.smk", "> {log} 2>&1", ">> {log} 2>&1"
    ),
    "comments, docstrings and layout of the engine and of scripts": commented,
    "a comment in a rule; threads, time, memory": rules_commented,
    "every file touched": touched,
    "`git checkout` of another commit, and back": checked_out,
    "a result deleted that the report was made of": deleted,
    "a result deleted that is asked for itself": deleted,
    "numba in another version, by `pip install`": upgraded("numba"),
    "onnxruntime in another version, by `pip install`": upgraded("onnxruntime"),
    "an environment of `envs/`, without `--sdm conda`": file(
        "envs/onnxruntime.yaml", "numpy =1.26.4", "numpy =1.26.3"
    ),
}


def test_every_row_has_its_change():
    assert set(CHANGES) | {WITH_CONDA} == set(ROWS)


@pytest.mark.parametrize("row", CHANGES)
def test_what_runs_again(finished, row):
    with CHANGES[row](finished):
        target = RESULT if row.endswith("asked for itself") else TARGET
        assert finished.steps(target) == steps_of(row)
