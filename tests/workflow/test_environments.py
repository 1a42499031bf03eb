"""requirements.txt and envs/ say the same, and every rule has an environment of its own."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
OTHER_NAMES = {"pytorch-cpu": "torch", "huggingface_hub": "huggingface-hub"}
PULLED_IN = {"huggingface-hub": "0.17.3"}  # by transformers 4.34.1
CONDA_ONLY = {"python": "3.11", "jemalloc": "5.2.1"}
ENVIRONMENTS = sorted((ROOT / "envs").glob("*.yaml"))


def pins():
    lines = "\n".join(
        (ROOT / name).read_text() for name in ("requirements.txt", "requirements-data.txt")
    )
    found = dict(re.findall(r"^([\w.-]+)==(\S+)$", lines, re.MULTILINE))
    return {**found, **PULLED_IN, **CONDA_ONLY}


def dependencies(path):
    for entry in yaml.safe_load(path.read_text())["dependencies"]:
        if isinstance(entry, dict):
            yield from (line.split("==") for line in entry["pip"])
        elif entry != "pip":
            yield entry.split(" =")


@pytest.mark.parametrize("path", ENVIRONMENTS, ids=lambda path: path.stem)
def test_pins_agree_with_requirements(path):
    known = pins()
    for name, version in dependencies(path):
        assert known[OTHER_NAMES.get(name, name)] == version, name


def test_every_environment_is_used_and_exists():
    rules = "\n".join(path.read_text() for path in (ROOT / "workflow/rules").glob("*.smk"))
    named = set(re.findall(r'"\.\./\.\./envs/([\w.]+)"', rules))
    assert named == {path.name for path in ENVIRONMENTS}
    assert rules.count("\nrule ") + rules.startswith("rule ") <= rules.count("conda:\n")


def test_timed_processes_have_the_allocator():
    assert ["jemalloc", "5.2.1"] in list(dependencies(ROOT / "envs/engine.yaml"))
