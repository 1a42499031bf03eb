r"""Labelled sentences as text: a tab-separated file with a header line, and labels as classes.

A line ends at \n or \r\n and nowhere else: a sentence may hold \x0b, \x0c, \x1c, \x85, U+2028, and
quotes, which are characters like others (as in GLUE's files). A byte order mark is no part of the
first column's name. A label is a class's number, or its name where the model's configuration has
names (id2label).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from ..files.replacing import opened

__all__ = ["Table", "classes_of", "read_table"]

FIRST = 2  # the line of the first row
QUOTED = re.compile(r'"(?:[^"]|"")*""(?:[^"]|"")*"')  # as csv writes a text with quotes in it
NUMBER = re.compile(r"-?[0-9]{1,9}")
UNNAMED = re.compile(r"LABEL_[0-9]+|[0-9]+")  # what configurations call classes without names


@dataclass(frozen=True)
class Table:
    """Row i stands in line i + FIRST; each has as many fields as the header."""

    path: Path
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def column(self, name: str) -> list[str]:
        if name not in self.header:
            raise InputError(
                f"{self.path}, line 1: columns {', '.join(self.header)}; expected {name} among them"
            )
        place = self.header.index(name)
        return [row[place] for row in self.rows]


def read_table(
    path: str | Path,
    headers: Collection[tuple[str, ...]] = (),
    *,
    quotes_are_text: bool = False,
) -> Table:
    """headers: what line 1 may be, () for anything; quotes_are_text: a file of which every text
    with quotes looks as csv quotes it is meant so.

    Raises:
        InputError: names file and line, what was found there and what was expected.
    """
    path = Path(path)
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
    if not quotes_are_text:
        _refuse_csv(path, rows)
    return Table(path, header, rows)


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
    words: Sequence[str], names: Sequence[str], *, where: str, called: Sequence[str] = ()
) -> list[int]:
    """The class of each label, by name where the model has names for its classes and the data says
    names or what its numbers are called; else by number.

    names: what the model calls 0, 1, ..., () where it is not known; called: what the data does.

    Raises:
        InputError: a row without a label; the labels of the data are not those of the model.
    """
    if called and _are_names(names) and all(NUMBER.fullmatch(word) for word in words):
        words = _renamed(words, names, called, where)
    by_name = _folded(names)
    if all(word.casefold() in by_name for word in words):
        return [by_name[word.casefold()] for word in words]
    return _numbers(words, names, called, where)


def _renamed(
    words: Sequence[str], names: Sequence[str], called: Sequence[str], where: str
) -> list[str]:
    if _folded(called).keys() != _folded(names).keys():
        raise _apart(where, called, names)
    numbered = {str(number): name for number, name in enumerate(called)}
    for word in words:
        if word not in numbered:
            raise _no_class(where, words, word, tuple(numbered))
    return [numbered[word] for word in words]


def _numbers(
    words: Sequence[str], names: Sequence[str], called: Sequence[str], where: str
) -> list[int]:
    for word in words:
        if not NUMBER.fullmatch(word) or int(word) < 0:
            raise _no_class(where, words, word, names)
    numbers = [int(word) for word in words]
    if names and max(max(numbers) + 1, len(called)) != len(names):
        raise _apart(where, called or sorted(set(numbers)), names)
    return numbers


def _are_names(names: Sequence[str]) -> bool:
    return bool(names) and not all(UNNAMED.fullmatch(name) for name in names)


def _folded(names: Sequence[str]) -> dict[str, int]:
    """Name without case -> class; empty where two differ in case alone."""
    folded = {name.casefold(): place for place, name in enumerate(names)}
    return folded if len(folded) == len(names) else {}


def _no_class(where: str, words: Sequence[str], word: str, names: Sequence[str]) -> InputError:
    hint = " (a row without a label, as GLUE's test splits have them)" if word == "-1" else ""
    wanted = _listed(names) or "0, 1, ..., or names that the model's id2label has"
    return InputError(
        f"{where}, line {words.index(word) + FIRST}: label '{word[:40]}'{hint}; expected {wanted}"
    )


def _apart(where: str, found: Sequence[object], names: Sequence[str]) -> InputError:
    return InputError(
        f"{where}: its labels are {_listed(found)}, the model's {len(names)} classes"
        f" {_listed(names)}; expected the same"
    )


def _listed(names: Sequence[object]) -> str:
    return ", ".join(map(str, [*names[:10], "..."] if len(names) > 10 else names))
