"""Names of files, classes, functions and kernels keep to the words of docs/design.md."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.kernels import KERNELS
from tests import house

ROOT = Path(__file__).parents[1]
NOT = {  # a word that is not used -> the one that is
    "meeting": "barrier", "meetings": "barrier", "met": "barrier", "meet": "barrier",
    "unread": "dead", "spared": "skipped", "trial": "configuration", "trials": "configuration",
    "tail": "fallback", "lives": "live_ranges",
    "stand": "harness", "stands": "fixtures", "drive": "executor", "team": "thread_pool",
    "util": "", "utils": "", "helper": "", "helpers": "", "manager": "", "common": "",
    "misc": "", "info": "", "handler": "", "trunk": "",
}  # fmt: skip


def words(name: str) -> set[str]:
    """Of snake_case and CamelCase."""
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}


def names(path: Path) -> Iterator[tuple[int, str]]:
    yield 0, path.stem
    for node in ast.walk(house.tree(path)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.lineno, node.name


FILES = [path for package in house.PACKAGES for path in house.modules(package).values()]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_are_the_glossarys(path: Path) -> None:
    wrong = [
        f"line {line}: {name} (not {word}: {NOT[word] or 'say what it is'})"
        for line, name in names(path)
        for word in sorted(words(name) & set(NOT))
    ]
    assert not wrong, f"{path.relative_to(ROOT)}: {wrong}"


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_have_the_glossarys_names(name: str) -> None:
    assert not words(name) & set(NOT)


def test_the_glossary_says_what_is_not_said() -> None:
    """A word that has another beside it is either in the table or no term at all."""
    text = (ROOT / "docs/design.md").read_text(encoding="utf-8").partition("## Words")[2]
    for word, instead in NOT.items():
        assert not instead or instead.split("_")[0] in text.lower(), (word, instead)


def test_a_wrong_name_is_found() -> None:
    assert words("SparedChannels_of") & set(NOT) == {"spared"}


def test_a_readers_way_names_each_file_once() -> None:
    """And all of them are there."""
    text = (ROOT / "docs/design.md").read_text(encoding="utf-8")
    section = text.partition("## A reader's hour")[2].partition("\n## ")[0]
    named = re.findall(r"`([\w/]+\.py)`", section)
    assert len(named) > 25 and len(named) == len(set(named))
    assert not [name for name in named if not (ROOT / "engine" / name).exists()]


def test_what_docs_say_of_adding_is_there() -> None:
    text = (ROOT / "docs/adding.md").read_text(encoding="utf-8")
    for name in re.findall(r"`((?:tests|ops|plan|passes|kernels|codegen|workflow)/[\w/.]*)`", text):
        assert any((ROOT / part / name).exists() for part in ("", "engine")), name
