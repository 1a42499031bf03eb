import json
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

sys.path.insert(0, str(Path(workflow.basedir)))
from workflow.scripts.checked_config import ConfigError, checked
from workflow.scripts.fingerprint import fingerprint
from workflow.scripts.imports import imported_files
from workflow.scripts.names import (
    PRECISIONS,
    SUFFIX,
    UnknownNameError,
    check_target,
    known,
    results,
)

try:
    config = checked(config, "workflow/schemas/config.schema.yaml")
    for word in sys.argv[
        1:
    ]:  # the targets are not known otherwise while rules are read
        check_target(word, config["tasks"])
except (ConfigError, UnknownNameError) as error:
    raise WorkflowError(str(error)) from None


wildcard_constraints:
    task="[A-Za-z0-9-]+",
    precision="[a-z0-9_]+",


def task_config(wildcards):
    return config["tasks"][known("task", wildcards.task, config["tasks"])]


def wanted_results():
    return results(config["tasks"], config["precisions"], config["modes"])


def source_of(part):
    """Parameters of a fetch: what is fetched, and for files of this machine what is in them."""

    def parameters(wildcards):
        source = task_config(wildcards)[part]
        folder = {
            "embedded": Path("resources", source["name"]),
            "local": Path(source["name"]),
        }
        content = fingerprint(folder.get(source["source"], Path()))
        return json.dumps({**source, "content": content}, sort_keys=True)

    return parameters


def model_files(folder):
    return [f"{folder}/conf.yaml", f"{folder}/model.bin"]


def onnx_of(wildcards):
    task_config(wildcards)
    precision = known("precision", wildcards.precision, PRECISIONS)
    return f"results/{wildcards.task}/{precision}.onnx"


def code(*modules):
    """The files of this repository that these modules import, so that a change reruns the rule."""
    return imported_files(Path("."), modules)
