"""Labelled sentences as <split>.tsv: a header line, then one or two sentences and a label a row.

A label is a whole number, or a name of the model's configuration; see engine/measure/labelled.py.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.measure.labelled import read_table
from workflow.rulebook.writing import whole

HEADERS = (("sentence", "label"), ("sentence", "sentence2", "label"))


@dataclass(frozen=True)
class Labelled:
    """One sentence, or a pair, and its class."""

    sentence: str
    label: str
    second: str | None = None


def read_labelled(path: Path, *, written_here: bool = False) -> list[Labelled]:
    """Raises InputError: names file and line, what is there and what was expected."""
    table = read_table(path, HEADERS, quotes_are_text=written_here)
    return [
        Labelled(row[0].strip(" "), row[-1], row[1].strip(" ") if len(row) == 3 else None)
        for row in table.rows
    ]


def write_labelled(path: Path, rows: Sequence[Labelled]) -> None:
    """What a row cannot hold, tabs and ends of lines, becomes a space."""
    pairs = any(row.second is not None for row in rows)
    lines = ["\t".join(HEADERS[pairs])]
    for row in rows:
        texts = [row.sentence, row.second or ""] if pairs else [row.sentence]
        spaced = (re.sub("[ \t\r\n]+", " ", text).strip(" ") for text in texts)
        lines.append("\t".join([*spaced, row.label]))
    with whole(path) as partial:
        partial.write_bytes(("\n".join(lines) + "\n").encode())


def repeated(rows: Sequence[Labelled]) -> dict[str, int]:
    """Rows whose sentences an earlier row has, and those of them that have another label."""
    first: dict[tuple[str, str | None], str] = {}
    same = [row.label == first.setdefault((row.sentence, row.second), row.label) for row in rows]
    return {"repeated": len(rows) - len(first), "of another label": same.count(False)}
