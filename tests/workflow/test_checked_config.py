"""Defaults of the schema, and the one line that a fault gets."""

import re
from pathlib import Path

import pytest
import yaml

from workflow.rulebook.checked_config import ConfigError, checked, typed

ROOT = Path(__file__).parents[2]
SCHEMA = ROOT / "workflow/schemas/config.schema.yaml"
SOURCE = {"source": "local", "name": "folder"}
TASK = {"model": SOURCE, "dataset": SOURCE}


def test_config_yaml_shows_every_key_with_its_default():
    """What config.yaml says is what one gets without saying it, but for the tasks."""
    shown = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    assert checked({"tasks": shown["tasks"]}, SCHEMA) == shown == checked(shown, SCHEMA)


def test_hub_yaml_differs_in_its_sources_alone():
    """And has a task of its own, which leaves the embedded one's results alone."""
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    hub = yaml.safe_load((ROOT / "config/hub.yaml").read_text())
    assert list(hub) == ["tasks"]
    (name, own), embedded = *hub["tasks"].items(), config["tasks"]["sst2"]
    assert name not in config["tasks"]
    config["tasks"][name] = {**embedded, **own}
    found = checked(config, SCHEMA)["tasks"]
    assert found["sst2"] == checked(config, SCHEMA)["tasks"]["sst2"]
    assert (found[name]["model"]["source"], found["sst2"]["model"]["source"]) == ("hub", "embedded")


def test_data_sets_of_the_hub_that_are_listed_fit():
    page = (ROOT / "config/README.md").read_text()
    rows = re.findall(r"\| ([\w, -]+) \| ([\w./-]+/\w+) \| ([0-9a-f]+) \|$", page, re.MULTILINE)
    assert len(rows) == 4
    for kinds, name, revision in rows:
        dataset = {"source": "hub", "name": name, "revision": revision}
        for kind in kinds.split(", "):
            task = {"task": kind, "model": SOURCE, "dataset": dataset}
            assert checked({"tasks": {"a": task}}, SCHEMA)


@pytest.mark.parametrize("name", ["several", "embedder"])
def test_examples_of_tasks_fit(name):
    tasks = yaml.safe_load((ROOT / f"config/{name}.yaml").read_text())
    assert checked(tasks, SCHEMA)["tasks"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "configuration, top level: 'tasks' is a required property"),
        (
            {"tasks": {"a_b": TASK}},
            "configuration, tasks: unknown key 'a_b'; there is names like ^[A-Za-z0-9-]+$",
        ),
        (
            {"tasks": {"a": {**TASK, "model": {"source": "web", "name": "x"}}}},
            "configuration, tasks.a.model.source: 'web' is not one of embedded, hub,",
        ),
        (
            {"tasks": {"a": {**TASK, "model": {"source": "hub", "name": "x/y"}}}},
            "configuration, tasks.a.model: 'revision' is a required property",
        ),
        (
            {"tasks": {"a": {**TASK, "model": {"source": "hub", "name": "x/y", "revision": ""}}}},
            "configuration, tasks.a.model.revision: a source 'hub' needs the 40 hexadecimal digits",
        ),
        (
            {"tasks": {"a": TASK}, "throughput": {"batch_sizes": [8, 0]}},
            "configuration, throughput.batch_sizes.1: 0 is less than the minimum of 1",
        ),
    ],
)
def test_a_fault_is_one_line_with_its_key(config, message):
    with pytest.raises(ConfigError) as caught:
        checked(config, SCHEMA)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_numbers_of_the_command_line_are_numbers():
    given = {"seed": "2", "rate": "0.5", "deep": {"on": "true", "list": ["1", "x"]}, "kept": 3}
    found = {"seed": 2, "rate": 0.5, "deep": {"on": True, "list": [1, "x"]}, "kept": 3}
    assert typed(given) == found
    assert typed("0" * 40) == "0" * 40, "a commit is no number"
