"""`make pages`: docs/commands.md, docs/configuration.md and results/README.md."""

import argparse
import re
from collections.abc import Callable, Iterator
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from engine import settings
from engine.commands.cli import COMMANDS
from workflow.rulebook import targets
from workflow.rulebook.names import PRECISIONS, PUBLISHED
from workflow.rulebook.place import ROOT
from workflow.rulebook.writing import run_main, whole

MADE = "<!-- made by `make pages` -->\n"
COMMANDS_HEAD = """# Commands

`engine`, `sparse-engine` and `python -m engine` are the same. Exit status: 0; 2 for a wrong command
line, a model or a setting that does not fit, with one line that says what.
"""
CONFIGURATION_HEAD = """# Configuration

Every key of `config/config.yaml`, as `workflow/schemas/config.schema.yaml` has it; a key that is
not here is an error. `--configfile` replaces keys, `--config 'latency={iterations: 10}'` single
ones. What the columns of data are: `config/README.md`; how a sparse model is made:
`config/sparsify.yaml`.

| key | type, and what it is without | what it means |
|---|---|---|
"""


# --- commands ---


def commands() -> str:
    shown = [COMMANDS_HEAD.replace("\n\n", f"\n\n{MADE}\n", 1), *map(_command, COMMANDS)]
    rows = "".join(
        f"| `ENGINE_{item.name.upper()}` | {settings.DESCRIPTIONS[item.name]} |\n"
        for item in fields(settings.Settings)
    )
    return "\n".join([*shown, f"## Environment\n\n| variable | what it says |\n|---|---|\n{rows}"])


def _command(name: str) -> str:
    module = import_module(f"engine.commands.{name}")
    parser = argparse.ArgumentParser(prog=f"engine {name}", formatter_class=_Wide, add_help=False)
    module.add_arguments(parser)
    about, usage = COMMANDS[name], parser.format_help()
    return f"## engine {name}\n\n{about[0].upper()}{about[1:]}.\n\n```text\n{usage}```\n"


class _Wide(argparse.HelpFormatter):
    """As wide on every terminal."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=100, max_help_position=28)


# --- configuration ---


def configuration() -> str:
    schema = yaml.safe_load((ROOT / "workflow/schemas/config.schema.yaml").read_text("utf-8"))
    said = _comments((ROOT / "config/config.yaml").read_text("utf-8"))
    head = CONFIGURATION_HEAD.replace("\n\n", f"\n\n{MADE}\n", 1)
    return head + "".join(_rows(schema, schema, "", said))


def _rows(
    part: dict[str, Any], root: dict[str, Any], above: str, said: dict[str, str]
) -> Iterator[str]:
    inside = dict(part.get("properties", {}))
    for pattern in part.get("patternProperties", {}).values():
        inside["NAME"] = pattern
    for name, inner in inside.items():
        key = f"{above}.{name}".lstrip(".")
        inner = _resolved(inner, root)
        if inner.get("type") != "object":
            yield f"| `{key}` | {_type(inner, root)}{_default(inner)} | {said.get(key, '')} |\n"
        elif key in said:
            yield f"| `{key}` | | {said[key]} |\n"
        yield from _rows(inner, root, key, said)


def _resolved(part: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    """The part, and what it refers to; of keys that both have, what both say."""
    if "$ref" not in part:
        return part
    target = root["$defs"][part["$ref"].rsplit("/", 1)[-1]]
    own = part.get("properties", {})
    inside = {name: {**inner, **own.get(name, {})} for name, inner in _inside(target).items()}
    return {**target, **part, **({"properties": inside} if inside else {})}


def _inside(part: dict[str, Any]) -> dict[str, Any]:
    properties: dict[str, Any] = part.get("properties", {})
    return properties


def _type(part: dict[str, Any], root: dict[str, Any]) -> str:
    if "enum" in part:
        return ", ".join(f"`{value}`" for value in part["enum"])
    if part.get("type") == "array":
        return f"list of: {_type(_resolved(part['items'], root), root)}"
    names = {"string": "text", "integer": "whole number", "boolean": "true or false"}
    least, most = part.get("minimum"), part.get("maximum")
    ends = [f"from {least}" if least is not None else "", f"to {most}" if most is not None else ""]
    return " ".join([names.get(part["type"], part["type"]), *filter(None, ends)])


def _default(part: dict[str, Any]) -> str:
    if "default" not in part:
        return ""
    value = part["default"]
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return f"; `{text}`" if text else "; empty"


def _comments(text: str) -> dict[str, str]:
    """Key -> what the comment above it says; names of tasks are NAME."""
    found: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    comment: list[str] = []
    for line in text.splitlines():
        key = re.match(r"( *)([\w-]+):", re.sub(r"# (?=\w+: \{)", "", line))
        if not line.strip():
            comment = []
        if not key and line.strip().startswith("# "):
            comment.append(line.strip()[2:].strip())
        elif key:
            path = [step for step in path if step[0] < len(key[1])]
            path.append((len(key[1]), "NAME" if path and path[-1][1] == "tasks" else key[2]))
            found[".".join(name for _, name in path)] = _sentence(comment)
            comment = []
    return {name: said for name, said in found.items() if said}


def _sentence(lines: list[str]) -> str:
    """One cell of a table; headings (--- ... ---) say nothing of the key."""
    kept = [line for line in lines if not line.startswith("---")]
    return " ".join(kept).replace("|", ";").replace("<", "&lt;")


PAGES: dict[Path, Callable[[], str]] = {  # by their places in the repository
    Path("docs/commands.md"): commands,
    Path("docs/configuration.md"): configuration,
    Path("results/README.md"): lambda: targets.page((*PRECISIONS, *PUBLISHED)),
}


def main(arguments: argparse.Namespace) -> None:
    for name, text in PAGES.items():
        with whole(arguments.root / name) as partial:
            partial.write_text(text(), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=ROOT)
    run_main(main, parser)
