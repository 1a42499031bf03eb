"""Labelled sentences as <split>.tsv: a header line, then one or two sentences and a label a row."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from workflow.scripts.writing import StepError, whole

HEADERS = (("sentence", "label"), ("sentence", "sentence2", "label"))


@dataclass(frozen=True)
class Labelled:
    """One sentence, or a pair, and its class."""

    sentence: str
    label: int
    second: str | None = None


def read_labelled(path: Path) -> list[Labelled]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise StepError(f"{path}: {error}") from error
    header = tuple(lines[0].split("\t")) if lines else ()
    if header not in HEADERS:
        raise StepError(f"{path}, line 1: expected the header sentence<TAB>label, found {header}")
    rows = [
        _row(path, number, line.split("\t"), len(header))
        for number, line in enumerate(lines[1:], 2)
    ]
    if not rows:
        raise StepError(f"{path}: no sentence after the header")
    return rows


def _row(path: Path, number: int, fields: Sequence[str], expected: int) -> Labelled:
    if len(fields) != expected:
        raise StepError(f"{path}, line {number}: {len(fields)} columns, expected {expected}")
    if not fields[-1].isdecimal():
        raise StepError(f"{path}, line {number}: label {fields[-1]!r} is not a whole number")
    return Labelled(
        fields[0].strip(), int(fields[-1]), fields[1].strip() if expected == 3 else None
    )


def write_labelled(path: Path, rows: Sequence[Labelled]) -> None:
    pairs = any(row.second is not None for row in rows)
    lines = ["\t".join(HEADERS[pairs])]
    for row in rows:
        texts = [row.sentence, row.second or ""] if pairs else [row.sentence]
        lines.append("\t".join([*(" ".join(text.split()) for text in texts), str(row.label)]))
    with whole(path) as partial:
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
