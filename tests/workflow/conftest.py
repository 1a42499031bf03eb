"""A copy of the workflow to run in, and a model so small that every step takes seconds."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from workflow.rulebook import imports

ROOT = Path(__file__).parents[2]
PARTS = ("Snakefile", "workflow", "config", "profiles", "envs", "engine", "requirements.txt")
WORDS = "a an the film story is was not very good bad great dull warm cold , . [PAD]"


class Clone:
    """The workflow in a folder of its own, with a configuration of its own."""

    python = sys.executable  # that runs snakemake

    def __init__(self, folder, programs=None, here=None):
        """programs: a folder whose programs are found before this Python's own; here: a working
        directory that is not the workflow's own."""
        self.folder, self.programs, self.here = folder, programs, here or folder
        for part in PARTS:
            source = ROOT / part
            copy = shutil.copytree if source.is_dir() else shutil.copy2
            if source.is_dir():
                copy(source, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                copy(source, folder / part)
        if imports.KEPT.exists():  # of the repository: nothing has to be read again
            (folder / imports.KEPT.parent).mkdir()
            shutil.copy(imports.KEPT, folder / imports.KEPT)

    def configure(self, **changes):
        """Write config/test.yaml, which `snakemake` is told to read."""
        (self.here / "config").mkdir(exist_ok=True)
        (self.here / "config/test.yaml").write_text(yaml.safe_dump(changes))

    def snakemake(self, *arguments, check=True, **environment):
        extra = ["--configfile", "config/test.yaml"]
        extra = extra if (self.here / "config/test.yaml").exists() else []
        if self.here != self.folder:
            extra += ["--snakefile", str(self.folder / "Snakefile")]
        done = subprocess.run(
            [self.python, "-m", "snakemake", *arguments, *extra],
            cwd=self.here,
            env=self.environment(**environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if check and done.returncode:
            pytest.fail(f"snakemake {' '.join(arguments)}:\n{done.stdout[-6000:]}")
        return done

    def environment(self, **changes):
        """Of a program that finds this Python's own programs first."""
        changed = {**os.environ, **changes}
        first = [str(self.programs)] if self.programs else []
        path = ":".join([*first, str(Path(sys.executable).parent), changed["PATH"]])
        return {**changed, "PATH": path}

    def steps(self, *targets):
        """Rule -> number of jobs that a dry run lists."""
        text = self.snakemake(*targets, "--dry-run").stdout
        table = text.rsplit("Job stats:", 1)[-1] if "Job stats:" in text else ""
        rows = re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE)
        return {rule: int(count) for rule, count in rows if rule != "total"}


@pytest.fixture
def clone(tmp_path):
    return Clone(tmp_path)


@pytest.fixture(scope="session")
def forked(tmp_path_factory):
    """A folder with a `python` that takes a second where the other takes four: forked_python.py."""
    folder = tmp_path_factory.mktemp("forked")
    script, place = Path(__file__).with_name("forked_python.py"), folder / "socket"
    command = f'exec {sys.executable} -S -E {script} {place} "$@"'
    (folder / "python").write_text(f"#!/bin/sh\n{command}\n")
    (folder / "python").chmod(0o755)
    with subprocess.Popen([sys.executable, "-W", "ignore", script, "serve", place]) as server:
        while not place.exists():
            assert server.poll() is None
            time.sleep(0.1)
        yield folder
        server.terminate()


def write_tiny_model(folder, *, layers=2, width=64):
    """A random BERT and its vocabulary, as save_pretrained writes them."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(set(WORDS.split()[:-1]))]
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=2 * width,
        max_position_embeddings=64,
    )
    BertForSequenceClassification(config).save_pretrained(folder, safe_serialization=True)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")


def write_sentences(folder, count=16):
    folder.mkdir(parents=True, exist_ok=True)
    words = WORDS.split()[:-1]
    for split in ("train", "validation"):
        rows = ["sentence\tlabel"]
        for number in range(count):
            text = " ".join(words[(number * 3 + k) % len(words)] for k in range(3 + number % 9))
            rows.append(f"{text}\t{number % 2}")
        (folder / f"{split}.tsv").write_text("\n".join(rows) + "\n")


TINY = {
    "tasks": {
        "tiny": {
            "model": {"source": "local", "name": "tiny/model"},
            "dataset": {"source": "local", "name": "tiny/sentences"},
            "max_length": 32,
        }
    },
    "quantize": {"sentences": 8},
    "accuracy": {"batch_size": 4},
    "throughput": {"batch_sizes": [2], "seq_lens": [8, 16], "iterations": 5, "warmup": 1},
    "latency": {"batch_sizes": [1], "seq_lens": [16], "iterations": 10, "warmup": 1},
}


@pytest.fixture(scope="session")
def tiny_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    write_tiny_model(folder / "model")
    write_sentences(folder / "sentences")
    return folder


@pytest.fixture
def tiny_clone(clone, tiny_files):
    shutil.copytree(tiny_files, clone.folder / "tiny")
    clone.configure(**TINY)
    return clone
