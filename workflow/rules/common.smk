import json
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.settings.types import DeploymentMethod
from snakemake.utils import update_config

sys.path.insert(0, str(Path(workflow.current_basedir).parents[1]))
from workflow.rulebook.checked_config import ConfigError, checked, typed
from workflow.rulebook.command_line import options
from workflow.rulebook.fingerprint import fingerprint, installed
from workflow.rulebook.imports import (
    code_fingerprint,
    keep_what_was_read,
    other_packages,
)
from workflow.rulebook.names import (
    PRECISIONS,
    PUBLISHED,
    SUFFIX,
    UnknownNameError,
    check_target,
    known,
    results,
)
from workflow.rulebook.place import ROOT, PlaceError, lead_steps_here, own

try:
    lead_steps_here()
    if workflow.modifier.is_main_snakefile():
        update_config(config, typed(workflow.config_settings.config))
    config = checked(config, own("workflow/schemas/config.schema.yaml"))
    if workflow.modifier.is_main_snakefile():
        # the targets are not known otherwise while rules are read
        for word in sys.argv[1:]:
            check_target(word, config["tasks"])
except (ConfigError, PlaceError, UnknownNameError) as error:
    raise WorkflowError(str(error)) from None

IN_CONDA = DeploymentMethod.CONDA in workflow.deployment_settings.deployment_method


wildcard_constraints:
    task="[A-Za-z0-9-]+",
    precision="[a-z0-9_]+",
    machine="[A-Za-z0-9-]+",
    batch=r"\d+",
    length=r"\d+",
    cores=r"\d+",


def task_config(wildcards):
    return config["tasks"][known("task", wildcards.task, config["tasks"])]


def tasks_of(source):
    """Pattern of the tasks whose model is from there; of none, what nothing is called."""
    tasks = config["tasks"].items()
    return "|".join(n for n, t in tasks if t["model"]["source"] == source) or "$^"


def kind(wildcards):
    """Option that says what the task asks of its model."""
    return options({"kind": task_config(wildcards)["task"]})


def wanted_results():
    return results(config["tasks"], config["precisions"], config["modes"])


def machine(key):
    """A key of `cluster`, or what the machine that a wildcard names has instead."""

    def value(wildcards):
        named = getattr(wildcards, "machine", None)
        if named is None:
            return config["cluster"][key]
        own = config["machines"][known("machine", named, config["machines"])]
        return own.get(key, config["cluster"][key])

    return value


def timed_cores(wildcards):
    """All cores of this machine; on a cluster, where nobody knows them, those that are asked for."""
    return workflow.resource_settings.cores or machine("cores")(wildcards)


def source_of(part):
    """Options of a fetch: what is fetched, and for files of this machine what is in them."""

    def parameters(wildcards):
        source = task_config(wildcards)[part]
        name = source["name"]
        content = {
            "embedded": lambda: fingerprint(own("resources", name)),
            "local": lambda: fingerprint(Path(name)),
            "package": lambda: installed(name),
            "hub": lambda: "",
        }
        return options({**source, "content": content[source["source"]]()})

    return parameters


def model_files(folder):
    return [f"{folder}/conf.yaml", f"{folder}/model.bin"]


def machine_tables(wildcards):
    """Every timed result that is wanted, once from each machine."""
    if not config["machines"]:
        raise UnknownNameError("results/machines.csv: config has no machines")
    timed = [mode for mode in config["modes"] if mode != "accuracy"]
    names = results(config["tasks"], config["precisions"], timed)
    return [
        f"results/machines/{label}/{Path(name).name}"
        for label in config["machines"]
        for name in names
    ]


def sweep_tables(wildcards):
    task_config(wildcards)
    sweep = config["sweep"]
    return expand(
        "results/sweep/{task}_{precision}_{mode}_{batch}x{length}_{cores}.csv",
        task=wildcards.task,
        precision=sweep["precisions"],
        mode=sweep["mode"],
        batch=sweep["batch_sizes"],
        length=sweep["seq_lens"],
        cores=sweep["cores"],
    )


def timing_options(mode, **point):
    """Options of a measurement: those of its mode, which has one instance where it knows none."""
    allocator = {"allocator": config["allocator"]}
    return options({"instances": 1, **config[mode], **allocator, **point})


def point_options(wildcards):
    """Options of one measurement of a sweep: those of its mode, with one shape."""
    return timing_options(
        wildcards.mode,
        batch_sizes=[wildcards.batch],
        seq_lens=[wildcards.length],
        cores_per_instance=wildcards.cores,
    )


def onnx_of(wildcards):
    task_config(wildcards)
    if (
        wildcards.precision == "published_ir"
    ):  # the same model, in the original's format
        return f"results/{wildcards.task}/published_int8.onnx"
    precision = known("precision", wildcards.precision, (*PRECISIONS, *PUBLISHED))
    return f"results/{wildcards.task}/{precision}.onnx"


def code(*modules):
    """What these modules and those they import do, and which packages of others: a change of it
    reruns the rule. With conda the packages are those of the rule's environment, not those here.
    """
    others = "the environment's" if IN_CONDA else other_packages(ROOT, modules)
    return f"{code_fingerprint(ROOT, modules)} with {others or 'nothing'}"
