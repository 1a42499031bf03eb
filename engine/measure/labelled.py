r"""Labelled text: a tab-separated file with a header line, or JSON lines; and labels as classes.

JSON lines: one object a line, all with the same keys, which are the columns.

A line ends at \n or \r\n and nowhere else: a sentence may hold \x0b, \x0c, \x1c, \x85, U+2028, and
quotes, which are characters like others (as in GLUE's files). A byte order mark is no part of the
first column's name. A label is a class's number, or its name where the model's configuration has
names (id2label).
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files.replacing import opened

__all__ = ["Table", "are_names", "classes_of", "read_table"]

FIRST = 2  # the line of the first row, below a header
JSON_LINES = ".jsonl"
QUOTED = re.compile(r'"(?:[^"]|"")*""(?:[^"]|"")*"')  # as csv writes a text with quotes in it
NUMBER = re.compile(r"-?[0-9]{1,9}")
UNNAMED = re.compile(r"LABEL_[0-9]+|[0-9]+")  # what configurations call classes without names


@dataclass(frozen=True)
class Table:
    """Row i stands in line i + first; each has as many fields as the header: text, or of JSON lines
    whatever JSON has.
    """

    path: Path
    header: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    first: int = FIRST

    def line(self, row: int) -> str:
        return f"{self.path}, line {row + self.first}"

    def words(self, name: str) -> list[str]:
        """A column of text, where a whole number is one too.

        Raises:
            InputError: no such column, or something else in it.
        """
        return [self._word(row, name, field) for row, field in enumerate(self.column(name))]

    def _word(self, row: int, name: str, field: Any) -> str:
        if isinstance(field, bool) or not isinstance(field, (str, int)):
            raise InputError(
                f"{self.line(row)}: {name} {json.dumps(field)[:60]}; expected text, or a whole"
                " number as label"
            )
        return str(field)

    def column(self, name: str) -> list[Any]:
        if name not in self.header:
            raise InputError(
                f"{self.path}, line 1: columns {', '.join(self.header)}; expected {name} among them"
            )
        place = self.header.index(name)
        return [row[place] for row in self.rows]


def read_table(
    path: str | Path,
    headers: Collection[tuple[str, ...]] = (),
) -> Table:
    """headers: what the columns may be, () for anything.

    Raises:
        InputError: names file and line, what was found there and what was expected.
    """
    path = Path(path)
    if path.suffix == JSON_LINES:
        return _json_lines(path, headers)
    first, *lines = _lines(path)
    header = tuple(first.split("\t"))
    if headers and header not in headers:
        wanted = " or ".join("<TAB>".join(names) for names in headers)
        raise InputError(f"{path}, line 1: expected the header {wanted}, found {header}")
    if len(set(header)) < len(header) or "" in header:
        raise InputError(f"{path}, line 1: columns {header}; expected a name of its own for each")
    rows = tuple(
        _fields(path, number, line, len(header)) for number, line in enumerate(lines, FIRST)
    )
    if not rows:
        raise InputError(f"{path}: no sentence after the header {header}")
    _refuse_csv(path, rows)
    return Table(path, header, rows)


def _json_lines(path: Path, headers: Collection[tuple[str, ...]]) -> Table:
    records = [
        _object(f"{path}, line {number}", text) for number, text in enumerate(_lines(path), 1)
    ]
    keys = set(records[0])
    found = headers or (tuple(records[0]),)
    header = next((names for names in found if set(names) == keys), None)
    if header is None:
        wanted = " or ".join(", ".join(names) for names in headers)
        raise InputError(f"{path}, line 1: the keys {', '.join(records[0])}; expected {wanted}")
    for number, record in enumerate(records, 1):
        if record.keys() != keys:
            raise InputError(
                f"{path}, line {number}: the keys {', '.join(record)}; expected those of line 1,"
                f" {', '.join(header)}"
            )
    rows = tuple(tuple(record[name] for name in header) for record in records)
    return Table(path, header, rows, first=1)


def _object(where: str, text: str) -> dict[str, Any]:
    try:
        found = json.loads(text, object_pairs_hook=_told_apart, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: {text[:40]!r} ({error}); expected a JSON object") from error
    if not isinstance(found, dict):
        raise InputError(f"{where}: {text[:40]!r}; expected a JSON object")
    return found


def _told_apart(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a key is there twice")
    return made


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _lines(path: Path) -> list[str]:
    try:
        with opened(path) as file:
            content = file.read()
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror or error}; expected lines of text, tabs between columns"
        ) from error
    try:
        text = content.removeprefix(b"\xef\xbb\xbf").decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}, line {line}: byte 0x{error.object[error.start]:02x}; expected UTF-8"
        ) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise InputError(f"{path}, line {line}: a NUL; expected text in UTF-8")
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]


def _fields(path: Path, number: int, line: str, expected: int) -> tuple[str, ...]:
    fields = tuple(line.split("\t"))
    if len(fields) != expected:
        found = f"{len(fields)} columns" if line else "an empty line"
        raise InputError(f"{path}, line {number}: {found}, expected {expected} columns")
    return fields


def _refuse_csv(path: Path, rows: Sequence[Sequence[str]]) -> None:
    """Read as they are, texts that csv has quoted would be other texts."""
    texts = [(i, text) for i, row in enumerate(rows, FIRST) for text in row if '"' in text]
    if texts and all(QUOTED.fullmatch(text) for _, text in texts):
        raise InputError(
            f"{path}, line {texts[0][0]}: {texts[0][1][:40]}... is quoted as csv does it; expected"
            " the text itself: write the file without quoting (csv.QUOTE_NONE)"
        )


# --- labels ---


def classes_of(
    words: Sequence[str],
    names: Sequence[str],
    *,
    where: str,
    called: Sequence[str] = (),
    lines: Sequence[int] = (),
) -> list[int]:
    """The class of each label, by name where the model has names for its classes and the data says
    names or what its numbers are called; else by number.

    names: what the model calls 0, 1, ..., () where it is not known; called: what the data does;
    lines: where each word stands, () for one a line below a header.

    Raises:
        InputError: a row without a label; the labels of the data are not those of the model.
    """
    place = _Place(where, tuple(lines) or tuple(range(FIRST, len(words) + FIRST)))
    if called and are_names(names) and all(NUMBER.fullmatch(word) for word in words):
        words = _renamed(words, names, called, place)
    by_name = _folded(names)
    if all(word.casefold() in by_name for word in words):
        return [by_name[word.casefold()] for word in words]
    return _numbers(words, names, called, place)


@dataclass(frozen=True)
class _Place:
    where: str
    lines: tuple[int, ...]  # of the words


def _renamed(
    words: Sequence[str], names: Sequence[str], called: Sequence[str], place: _Place
) -> list[str]:
    if _folded(called).keys() != _folded(names).keys():
        raise _apart(place, called, names)
    numbered = {str(number): name for number, name in enumerate(called)}
    for word in words:
        if word not in numbered:
            raise _no_class(place, words, word, tuple(numbered))
    return [numbered[word] for word in words]


def _numbers(
    words: Sequence[str], names: Sequence[str], called: Sequence[str], place: _Place
) -> list[int]:
    for word in words:
        if not NUMBER.fullmatch(word) or int(word) < 0:
            raise _no_class(place, words, word, names)
    numbers = [int(word) for word in words]
    if names and max(max(numbers) + 1, len(called)) != len(names):
        raise _apart(place, called or sorted(set(numbers)), names)
    return numbers


def are_names(names: Sequence[str]) -> bool:
    """And not what stands for them where a configuration has none."""
    return bool(names) and not all(UNNAMED.fullmatch(name) for name in names)


def _folded(names: Sequence[str]) -> dict[str, int]:
    """Name without case -> class; empty where two differ in case alone."""
    folded = {name.casefold(): place for place, name in enumerate(names)}
    return folded if len(folded) == len(names) else {}


def _no_class(place: _Place, words: Sequence[str], word: str, names: Sequence[str]) -> InputError:
    hint = " (a row without a label, as GLUE's test splits have them)" if word == "-1" else ""
    wanted = _listed(names) or "0, 1, ..., or names that the model's id2label has"
    line = place.lines[words.index(word)]
    return InputError(f"{place.where}, line {line}: label '{word[:40]}'{hint}; expected {wanted}")


def _apart(place: _Place, found: Sequence[object], names: Sequence[str]) -> InputError:
    return InputError(
        f"{place.where}: its labels are {_listed(found)}, the model's {len(names)} classes"
        f" {_listed(names)}; expected the same"
    )


def _listed(names: Sequence[object]) -> str:
    return ", ".join(map(str, [*names[:10], "..."] if len(names) > 10 else names))
