import json
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

sys.path.insert(0, str(Path(workflow.basedir)))
from workflow.scripts.checked_config import ConfigError, checked
from workflow.scripts.fingerprint import fingerprint
from workflow.scripts.imports import imported_files

PRECISIONS = ("fp32", "int8", "bf16", "dynamic_int8")
SUFFIX = {"accuracy": "json", "throughput": "csv", "latency": "csv"}

try:
    config = checked(config, "workflow/schemas/config.schema.yaml")
except ConfigError as error:
    raise WorkflowError(str(error))


wildcard_constraints:
    task="[A-Za-z0-9-]+",
    precision="[a-z0-9_]+",


def known(kind, name, names):
    """The name, if it is one of the names; the error says which there are."""
    if name not in names:
        raise WorkflowError(f"unknown {kind} '{name}': there is {', '.join(names)}")
    return name


def task_config(wildcards):
    return config["tasks"][known("task", wildcards.task, config["tasks"])]


def results(tasks, precisions, modes):
    """The targets results/<task>_<precision>_<mode>.{json,csv}."""
    return [
        f"results/{task}_{precision}_{mode}.{SUFFIX[mode]}"
        for task in tasks
        for precision in precisions
        for mode in modes
    ]


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


def model_files(precision_folder):
    return [f"{precision_folder}/conf.yaml", f"{precision_folder}/model.bin"]


def onnx_of(wildcards):
    task_config(wildcards)
    precision = known("precision", wildcards.precision, PRECISIONS)
    return f"results/{wildcards.task}/{precision}.onnx"


def code(*modules):
    """The files of this repository that these modules import, so that a change reruns the rule."""
    return imported_files(Path("."), modules)
