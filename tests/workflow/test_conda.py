"""`--sdm conda`: every rule runs in the environment that it names, and reruns when that changes."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from . import conda_stand_in as stand_in
from .test_environments import ENVIRONMENTS
from .test_stale import TARGET, WITH_CONDA, Finished, steps_of

pytest.importorskip("rattler", reason="py-rattler is not installed")

pytestmark = pytest.mark.slow

PYTHON = """#!/bin/sh
echo "$CONDA_PREFIX $2" >> {folder}/used
exec {python} {script} "$@"
"""
OPTIONS = ["--sdm", "conda"]


@pytest.fixture(scope="module")
def conda(tmp_path_factory):
    """A folder with bin/conda and a channel; `used` has a line for each call of `python`."""
    folder = tmp_path_factory.mktemp("conda")
    script = Path(__file__).with_name("stand_in.py")
    python = PYTHON.format(folder=folder, python=sys.executable, script=script)
    stand_in.install(folder, ENVIRONMENTS, python)
    return folder


class WithConda(Finished):
    def environment(self, **changes):
        found = super().environment(**changes)
        return {**found, "PATH": f"{self.conda}/bin:{found['PATH']}"}


@pytest.fixture(scope="module")
def finished(conda, tmp_path_factory):
    clone = WithConda(tmp_path_factory.mktemp("with_conda"))
    clone.conda = conda
    clone.snakemake(TARGET, *OPTIONS)
    return clone


def test_each_step_runs_in_its_own_environment(finished, conda):
    lines = (conda / "used").read_text().splitlines()
    places = {module: Path(prefix) for prefix, module in (line.split() for line in lines)}
    packages = {
        module: {path.name for path in (prefix / "conda-meta").iterdir()}
        for module, prefix in places.items()
    }
    assert "jemalloc-5.2.1-0.json" in packages["workflow.scripts.measure.benchmark"]
    assert "transformers-4.34.1-0.json" in packages["workflow.scripts.convert.export"]
    assert "tokenizers-0.14.1-0.json" in packages["workflow.scripts.convert.export"]
    assert "onnxruntime-1.32.0-0.json" in packages["workflow.scripts.convert.quantize"]
    assert "onnxruntime-1.32.0-0.json" not in packages["engine"]
    assert all("python-3.11.7-0.json" in found for found in packages.values())


def test_a_changed_environment_reruns_what_is_made_in_it(finished):
    def edit(text):
        return text.replace("onnxruntime =1.32.0", "onnxruntime =1.31.0")

    with finished.edited("envs/onnxruntime.yaml", edit):
        assert finished.steps(TARGET, *OPTIONS) == steps_of(WITH_CONDA)


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=lambda path: path.stem)
def test_every_environment_can_be_solved(conda, environment):
    records = asyncio.run(stand_in.solved(conda, stand_in.specifications(environment)))
    found = {record.name.normalized: str(record.version) for record in records}
    for name, version in (s.split(" =") for s in stand_in.specifications(environment) if "=" in s):
        assert found[name].startswith(version), name


def test_pins_that_contradict_each_other_are_told(conda, tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("dependencies: ['transformers =4.34.1', 'huggingface_hub =2.4.0']\n")
    command = [conda / "bin/conda", "env", "create", "--file", path, "--prefix", tmp_path / "env"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "huggingface_hub" in done.stderr
