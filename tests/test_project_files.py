"""Files that other people's tools read: they say what the project says elsewhere."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import yaml

import engine

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
YAML = sorted(
    path.relative_to(ROOT)
    for path in (*ROOT.glob("*.cff"), *ROOT.glob(".*.yaml"), *ROOT.glob(".github/**/*.yml"))
)


@pytest.mark.parametrize("path", YAML, ids=str)
def test_they_are_yaml(path: Path) -> None:
    assert isinstance(yaml.safe_load((ROOT / path).read_text()), dict)


def test_one_version_and_one_licence() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert PROJECT["version"] == citation["version"] == engine.__version__
    assert PROJECT["license"]["text"] == citation["license"]
    assert citation["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()


def test_hooks_and_checks_call_what_the_makefile_calls() -> None:
    checks = (ROOT / "Makefile").read_text().split("\ncheck:")[1].split("\n\n")[0]
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert all(hook["entry"].split("/")[-1].split()[0] in checks for hook in hooks)
    workflow = (ROOT / ".github/workflows/checks.yml").read_text()
    assert "- run: .ci/run" in workflow and (ROOT / ".ci/run").is_file()
