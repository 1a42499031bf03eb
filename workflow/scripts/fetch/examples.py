"""Examples of each kind of task, of files and of the hub's rows; written as JSON lines.

A folder has <split>.tsv, with a header line, or <split>.jsonl, with the same names as keys:

text-classification    sentence [sentence2] label      a whole number or a name of the model's
regression             sentence [sentence2] label      a number
sentence-similarity    sentence sentence2 label        a number; more is more alike
token-classification   tokens tags                     lists; in a .tsv with spaces between
question-answering     question context answers        a list of texts; in a .tsv one text
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.measure.labelled import Table, read_table
from workflow.rulebook.writing import StepError, whole

SUFFIXES = (".tsv", ".jsonl")


@dataclass(frozen=True)
class Labelled:
    """One sentence, or a pair, and its class or its number."""

    sentence: str
    label: str
    sentence2: str | None = None


@dataclass(frozen=True)
class Tagged:
    """Words of a sentence, each with its tag."""

    tokens: tuple[str, ...]
    tags: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.tokens) != len(self.tags):
            raise ValueError(
                f"{len(self.tokens)} tokens and {len(self.tags)} tags; expected a tag each"
            )


@dataclass(frozen=True)
class Question:
    """What is asked about a text, and what counts as right."""

    question: str
    context: str
    answers: tuple[str, ...]


Example = Labelled | Tagged | Question

# --- fields: what a column holds, or a ValueError that says what was expected ---


def text(field: Any) -> str:
    if not isinstance(field, str):
        raise ValueError("expected text")
    field.encode()  # half of a surrogate pair, which JSON can spell, is no text
    return field.strip(" ")


def label(field: Any) -> str:
    """As a number it is whole: 3.8 would become 3."""
    if isinstance(field, bool) or not isinstance(field, (int, str)):
        raise ValueError("expected a whole number or a name as label")
    return str(field)


def number(field: Any) -> str:
    try:
        found = math.nan if isinstance(field, bool) else float(field)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        raise ValueError("expected a number")
    return str(field)


def words(field: Any) -> tuple[str, ...]:
    found = _list(field.split(" ") if isinstance(field, str) else field, text)
    if "" in found:
        raise ValueError("expected words, one space between two of them")
    return found


def tags(field: Any) -> tuple[str, ...]:
    return _list(field.split(" ") if isinstance(field, str) else field, label)


def answers(field: Any) -> tuple[str, ...]:
    """SQuAD has them beside their places: {"text": [...], "answer_start": [...]}."""
    if isinstance(field, Mapping):
        field = field.get("text")
    return _list([field] if isinstance(field, str) else field, text)


def _list(field: Any, each: Callable[[Any], str]) -> tuple[str, ...]:
    if not isinstance(field, Sequence) or isinstance(field, str) or not field:
        raise ValueError("expected a list of one or more")
    return tuple(each(part) for part in field)


# --- forms ---


@dataclass(frozen=True)
class Form:
    """Columns that examples of a task may have, and what is made of their fields."""

    headers: tuple[tuple[str, ...], ...]
    fields: Mapping[str, Callable[[Any], Any]]
    made: Callable[..., Example]


PAIR = ("sentence", "sentence2", "label")
TEXTS = {"sentence": text, "sentence2": text}
FORMS = {
    "text-classification": Form((PAIR[::2], PAIR), {**TEXTS, "label": label}, Labelled),
    "regression": Form((PAIR[::2], PAIR), {**TEXTS, "label": number}, Labelled),
    "sentence-similarity": Form((PAIR,), {**TEXTS, "label": number}, Labelled),
    "token-classification": Form((("tokens", "tags"),), {"tokens": words, "tags": tags}, Tagged),
    "question-answering": Form(
        (("question", "context", "answers"),),
        {"question": text, "context": text, "answers": answers},
        Question,
    ),
}


def example(form: Form, where: str, record: Mapping[str, Any]) -> Example:
    """Raises StepError: names the place, what is there and what was expected."""
    fields = {}
    for name, field in record.items():
        try:
            fields[name] = form.fields[name](field)
        except ValueError as error:
            raise StepError(f"{where}: {name} {field!r:.60}: {error}") from error
    try:
        return form.made(**fields)
    except ValueError as error:
        raise StepError(f"{where}: {error}") from error


# --- files ---


def split_file(folder: Path, split: str) -> Path:
    """The one file that a folder has for a split."""
    found = [path for suffix in SUFFIXES if (path := folder / f"{split}{suffix}").exists()]
    if len(found) != 1:
        there = " and ".join(path.name for path in found) or "neither"
        raise StepError(f"{folder}: {there}; expected {split}.tsv or {split}.jsonl")
    return found[0]


def read_examples(path: Path, kind: str) -> list[Example]:
    """Raises InputError, StepError: name file and line, what is there and what was expected."""
    form = FORMS[kind]
    table = read_table(path, form.headers)
    return [_of_row(form, table, row) for row in range(len(table.rows))]


def _of_row(form: Form, table: Table, row: int) -> Example:
    record = dict(zip(table.header, table.rows[row], strict=True))
    return example(form, table.line(row), record)


def write_examples(path: Path, rows: Sequence[Example]) -> None:
    records = ({k: v for k, v in asdict(row).items() if v is not None} for row in rows)
    lines = (json.dumps(record, ensure_ascii=False) for record in records)
    with whole(path) as partial:
        partial.write_bytes("".join(f"{line}\n" for line in lines).encode())


def repeated(rows: Sequence[Example]) -> dict[str, int]:
    """Rows whose texts an earlier row has, and those of them that have another label."""
    first: dict[tuple[Any, ...], Any] = {}
    parted = [_texts_and_label(row) for row in rows]
    same = [label == first.setdefault(texts, label) for texts, label in parted]
    return {"repeated": len(rows) - len(first), "of another label": same.count(False)}


def _texts_and_label(row: Example) -> tuple[tuple[Any, ...], Any]:
    if isinstance(row, Tagged):
        return row.tokens, row.tags
    if isinstance(row, Question):
        return (row.question, row.context), row.answers
    return (row.sentence, row.sentence2), row.label
