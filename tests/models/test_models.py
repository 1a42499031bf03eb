"""docs/models.md against what it says, on smaller models."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.models.architectures import ARCHITECTURES, Size
from tests.models.cases import CASES, FIRST, TABLES, Case, file_of, main_head
from tests.models.measured import measure
from tests.models.page import COLUMNS, PAGE

EACH = [Case(name, main_head(name)) for name in ARCHITECTURES]  # an architecture: quick
QUICK = [case for case in CASES if case in EACH]
REST = [case for case in CASES if case.architecture == FIRST and case not in EACH]
SHAPES = ((1, 1), (3, 37))


def rows(title: str) -> Iterator[dict[str, str]]:
    """Of the page's table under a title."""
    section = PAGE.read_text(encoding="utf-8").split(f"## {title}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    names, _, *cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    for line in cells:
        yield dict(zip(names, line, strict=True))


def page() -> dict[Case, dict[str, str]]:
    found = {}
    for title, cases in TABLES.items():
        for case, row in zip(cases, rows(title), strict=True):
            named = {name: row[name] for name in COLUMNS if name in row}
            assert named == {name: getattr(case, name) for name in named}
            found[case] = row
    return found


def test_the_page_has_a_row_for_every_case_and_none_is_wrong() -> None:
    assert list(page()) == CASES
    assert "not measured" not in PAGE.read_text(encoding="utf-8")
    summary = re.search(rf"{len(CASES)} models: .*; wrong: (.*)\.", PAGE.read_text())
    assert summary and summary[1] == "0"


@pytest.mark.parametrize(
    "case",
    [*QUICK, *(pytest.param(case, marks=pytest.mark.slow) for case in REST)],
    ids=lambda case: case.name,
)
def test_rows_say_what_the_engine_does(case: Case, tmp_path: Path) -> None:
    row = measure(file_of(case, Size(), tmp_path), shapes=SHAPES)
    assert row.kernels == page()[case]["kernels"]
    assert not row.difference > case.bound
