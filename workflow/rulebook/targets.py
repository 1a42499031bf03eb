"""results/README.md: every target, what is in it, what it is made of; read from the rules."""

import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from snakemake.api import SnakemakeApi
from snakemake.settings.types import ConfigSettings, OutputSettings, Quietness, ResourceSettings

from workflow.rulebook.place import ROOT

MACHINES: dict[str, Any] = {"machines": {"node": {}}}  # results/machines.csv joins something
SAMPLE = {
    "task": "sst2",
    "subject": "sst2",
    "split": "validation",
    "machine": "node",
    "precision": "int8",
    "mode": "throughput",
    "batch": "1",
    "length": "128",
    "cores": "1",
}
HEAD = """# What is in this folder

Made by `make pages` from the rules of `workflow/`; of the folder nothing else is tracked. A target
is asked for by its name, `snakemake results/sst2_int8_throughput.csv`, and what it is made of is
made first; what runs again after a change says `docs/stale-steps.md`. In braces: `task`, a name of
the configuration; `mode`, `throughput` or `latency`; `split`, `validation` or `calibration`;
`machine` and the numbers of a sweep, those of the configuration; `subject`, a task; `precision`,
one of {precisions}.

| target | what is in it | made by | from what these made |
|---|---|---|---|
"""


def page(precisions: tuple[str, ...]) -> str:
    """The whole page."""
    head = HEAD.replace("{precisions}", ", ".join(f"`{name}`" for name in precisions))
    with SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
        loaded = api.workflow(
            resource_settings=ResourceSettings(cores=1),
            config_settings=ConfigSettings(config=MACHINES),
            snakefile=ROOT / "Snakefile",
        )
        rules = [*loaded._workflow.rules]
    return head + "".join(_row(rule, rules) for rule in rules if [*rule.output])


def _row(rule: Any, rules: list[Any]) -> str:
    targets = "<br>".join(f"`{_plain(path)}`" for path in rule.output)
    before = [name for name in dict.fromkeys(_producers(rule, rules)) if name != rule.name]
    what = " ".join((rule.docstring or "").split())
    return f"| {targets} | {what} | {rule.name} | {', '.join(before) or '(nothing)'} |\n"


def _plain(path: str) -> str:
    """results/{task,[a-z]+}.csv -> results/{task}.csv"""
    return re.sub(r"\{(\w+),[^{}]*\}", r"{\1}", str(path))


def _producers(rule: Any, rules: list[Any]) -> Iterator[str]:
    for path in _inputs(rule):
        yield from (other.name for other in rules if other.is_producer(path))


def _inputs(rule: Any) -> Iterator[str]:
    """Inputs of a sample of the rule's targets."""
    sample = SimpleNamespace(**SAMPLE)
    for item in rule.input:
        found = item(sample) if callable(item) else str(item).format_map(SAMPLE)
        yield from [found] if isinstance(found, str) else map(str, found)
