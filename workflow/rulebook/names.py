"""The names a target is made of: results/<task>_<precision>_<mode>.<json|csv>."""

import re
from collections.abc import Iterable

KINDS = (  # what a task asks of its model: `task` of its configuration
    "text-classification",
    "regression",
    "sentence-similarity",
    "token-classification",
    "question-answering",
)
PRECISIONS = ("fp32", "int8", "bf16", "dynamic_int8")
PUBLISHED = ("published_int8", "published_ir")  # files that come with a model of the hub
SUFFIX = {"accuracy": "json", "throughput": "csv", "latency": "csv"}
PATTERN = re.compile(r"results/(?P<task>[A-Za-z0-9-]+)_(?P<precision>\w+)_(?P<mode>[a-z]+)\.(\w+)")


class UnknownNameError(ValueError):
    """A task, precision or mode that does not exist; the message names it and those that do."""


def known(kind: str, name: str, names: Iterable[str]) -> str:
    """The name, if it is one of the names."""
    if name not in names:
        raise UnknownNameError(f"unknown {kind} '{name}': there is {', '.join(names)}")
    return name


def check_target(target: str, tasks: Iterable[str]) -> None:
    """Raise if the target has the form of a result and no rule can make it."""
    match = PATTERN.fullmatch(target)
    if not match:
        return
    known("task", match["task"], tasks)
    known("precision", match["precision"], (*PRECISIONS, *PUBLISHED))
    mode = known("mode", match["mode"], SUFFIX)
    if match[4] != SUFFIX[mode]:
        raise UnknownNameError(f"unknown target '{target}': {mode} is a .{SUFFIX[mode]} file")


def results(tasks: Iterable[str], precisions: Iterable[str], modes: Iterable[str]) -> list[str]:
    """The targets of these tasks, precisions and modes."""
    modes, precisions = list(modes), list(precisions)
    return [
        f"results/{task}_{precision}_{mode}.{SUFFIX[mode]}"
        for task in tasks
        for precision in precisions
        for mode in modes
    ]
