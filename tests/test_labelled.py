"""Text with labels: every file is read as it is meant, or refused with its line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from engine.errors import InputError
from engine.measure.labelled import classes_of, read_table
from workflow.scripts.fetch.examples import Labelled, read_examples
from workflow.scripts.fetch.sentences import SentencesError, read_tsv

KIND = "text-classification"
ERRORS = (InputError, SentencesError)


def read_labelled(path: Path) -> list[Labelled]:
    return [row for row in read_examples(path, KIND) if isinstance(row, Labelled)]


READERS: list[Callable[[Path], object]] = [read_table, read_labelled, read_tsv]
HEAD = b"sentence\tlabel\n"
NO_NEWLINES = ["\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029", "\r"]


@pytest.mark.parametrize("separator", NO_NEWLINES, ids=ascii)
def test_a_line_ends_at_newlines_alone(tmp_path: Path, separator: str) -> None:
    path = tmp_path / "x.tsv"
    path.write_bytes(HEAD + f"one{separator}two\t1\nthree\t0\n".encode())
    assert read_table(path).rows == ((f"one{separator}two", "1"), ("three", "0"))
    assert read_tsv(path) == [(f"one{separator}two", 1), ("three", 0)]
    assert [row.sentence for row in read_labelled(path)] == [f"one{separator}two", "three"]


@pytest.mark.parametrize(
    "content",
    [
        "sentence\tlabel\r\na film\t1\r\nthe rest\t0\r\n",
        "\ufeffsentence\tlabel\na film\t1\nthe rest\t0\n",
        "\ufeffsentence\tlabel\r\na film\t1\nthe rest\t0",
    ],
    ids=["carriage returns", "byte order mark", "both, and no last newline"],
)
def test_what_windows_writes_is_read(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.tsv").write_bytes(content.encode())
    assert read_table(tmp_path / "x.tsv").header == ("sentence", "label")
    assert read_tsv(tmp_path / "x.tsv") == [("a film", 1), ("the rest", 0)]


def test_quotes_are_characters(tmp_path: Path) -> None:
    """The csv module would take all of it for one field."""
    path = tmp_path / "x.tsv"
    path.write_bytes(HEAD + b'"a film\t1\nthe "rest" of it\t0\n"all"\t1\n""\t0\n')
    texts = ['"a film', 'the "rest" of it', '"all"', '""']
    assert read_table(path).column("sentence") == texts


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "line 1: "),
        (HEAD, "no sentence after the header"),
        (HEAD + b"a\t1\n\nb\t0\n", "line 3: an empty line, expected 2 columns"),
        (HEAD + b"a\t1\n\n", "line 3: an empty line"),
        (HEAD + b"a\t1\nb\n", "line 3: 1 columns, expected 2"),
        (HEAD + b"a\tb\t1\n", "line 2: 3 columns, expected 2"),
        (HEAD + b"a\t1\nb\0\t0\n", "line 3: a NUL; expected text"),
        (HEAD + b"a\t1\n\xe9t\xe9\t0\n", "line 3: byte 0xe9; expected UTF-8"),
        ("sentence\tlabel\na\t1\n".encode("utf-16"), "line 1: byte 0xff; expected UTF-8"),
        ("sentence\tlabel\na\t1\n".encode("utf-16-le"), "line 1: a NUL; expected text"),
        (b"sentence\tlabel\ra\t1\r", r"header .*label\\ra"),
        (b"sentence\tsentence\na\t1\n", "line 1: columns"),
        (b'"sentence"\t"label"\n"a"\t"1"\n', ""),
        (HEAD + b'"he said ""no"""\t1\nplain\t0\n', "line 2: .* is quoted as csv does it"),
    ],
)
def test_what_cannot_be_read_is_named(
    tmp_path: Path, reader: Callable[[Path], object], content: bytes, message: str
) -> None:
    (tmp_path / "x.tsv").write_bytes(content)
    with pytest.raises(ERRORS, match=rf"x\.tsv.*{message}"):
        read_table(tmp_path / "x.tsv").column("sentence")
        reader(tmp_path / "x.tsv")


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
def test_what_is_not_there_is_named(tmp_path: Path, reader: Callable[[Path], object]) -> None:
    with pytest.raises(ERRORS, match=r"x\.tsv: No such file or directory; expected lines of text"):
        reader(tmp_path / "x.tsv")


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.tsv").write_bytes(b"index\tsentence\n0\tfine\n")
    with pytest.raises(InputError, match="line 1: columns index, sentence; expected label among"):
        read_table(tmp_path / "x.tsv").column("label")


# --- whatever a file holds ---

WHOLE = 'sentence\tlabel\na film\t1\n"quoted" text\t0\r\nça va\t1\nlast one\t0\n'.encode()
PIECES = (
    b"\t", b"\n", b"\r", b"\r\n", b"\0", b"\xff", b"\xef\xbb\xbf", b'"', b'""', b"\x0b", b"\x85",
    b"\xc2\x85", b"\xe2\x80\xa8", b"-1", b"3.5", b"",
)  # fmt: skip


def mutated(content: bytes, random: Random) -> bytes:
    changed = bytearray(content)
    for _ in range(random.randint(1, 4)):
        begin = random.randrange(len(changed) + 1)
        end = begin + random.choice((0, 0, 1, 3, 10))
        changed[begin:end] = random.choice((*PIECES, random.randbytes(1)))
    return bytes(changed)


def test_what_is_read_is_what_is_there(tmp_path: Path) -> None:
    """Cut by hand: not a byte is lost, moved or added in what is not refused."""
    read = 0
    for seed in range(1000):
        content = mutated(WHOLE, Random(seed))
        (tmp_path / "x.tsv").write_bytes(content)
        try:
            table = read_table(tmp_path / "x.tsv")
        except InputError:
            continue
        lines = content.removeprefix(b"\xef\xbb\xbf").removesuffix(b"\n").split(b"\n")
        fields = [tuple(line.removesuffix(b"\r").decode().split("\t")) for line in lines]
        assert [table.header, *table.rows] == fields
        read += 1
    assert 100 < read < 500


# --- labels ---

SENTIMENT = ("NEGATIVE", "POSITIVE")
NLI = ("contradiction", "neutral", "entailment")


@pytest.mark.parametrize(
    ("words", "names", "called", "expected"),
    [
        ("0 1 1", (), (), [0, 1, 1]),
        ("0 1 1", SENTIMENT, (), [0, 1, 1]),
        ("positive Negative", SENTIMENT, (), [1, 0]),
        ("positive", SENTIMENT, (), [1]),
        ("0 1", ("POSITIVE", "NEGATIVE"), ("negative", "positive"), [1, 0]),
        ("0 2", NLI, ("entailment", "neutral", "contradiction"), [2, 0]),
        ("0 2", ("LABEL_0", "LABEL_1", "LABEL_2"), ("a", "b", "c"), [0, 2]),
        ("0 1", ("LABEL_0", "LABEL_1", "LABEL_2"), ("a", "b", "c"), [0, 1]),
        ("0 4", ("0", "1", "2", "3", "4"), (), [0, 4]),
        ("5 1", ("1", "2", "3", "4", "5"), (), [4, 0]),
    ],
)
def test_labels_are_the_models(
    words: str, names: tuple[str, ...], called: tuple[str, ...], expected: list[int]
) -> None:
    assert classes_of(words.split(), names, where="x.tsv", called=called) == expected


@pytest.mark.parametrize(
    ("words", "names", "called", "message"),
    [
        ("0 1 2", SENTIMENT, (), "labels are 0, 1, 2, the model's 2 classes NEGATIVE, POSITIVE"),
        ("0 1 0", NLI, (), "labels are 0, 1, the model's 3 classes contradiction, neutral, ent"),
        ("0 1", SENTIMENT, ("a", "b", "c"), "labels are a, b, c, the model's 2 classes NEG"),
        ("0 1", ("LABEL_0", "LABEL_1"), ("a", "b", "c"), "labels are a, b, c, the model's 2"),
        ("0 1", SENTIMENT, ("neg", "pos"), "labels are neg, pos, the model's 2 classes NEG"),
        ("entailment neutral", SENTIMENT, (), "line 2: label 'entailment'; expected NEGATIVE, POS"),
        ("good bad", (), (), "line 2: label 'good'; expected 0, 1, ..., or names"),
        ("1 -1", SENTIMENT, (), "line 3: label '-1' .a row without a label.*; expected NEGATIVE"),
        ("1 -1", SENTIMENT, ("negative", "positive"), "line 3: label '-1' .*; expected 0, 1"),
        ("1 3.8", (), (), "line 3: label '3.8'; expected 0, 1"),
        ("1 1.0", SENTIMENT, (), "line 3: label '1.0'; expected NEGATIVE, POSITIVE"),
        ("0 1", ("only",), (), "labels are 0, 1, the model's 1 classes only"),
        ("0 1 positive", SENTIMENT, (), "line 4: label 'positive'"),
        ("a A", ("a", "A"), (), "line 2: label 'a'"),
        ("0 " + "9" * 5000, SENTIMENT, (), "line 3: label '9{40}'"),
        (" ".join(map(str, range(99))), SENTIMENT, (), "labels are 0, .*, 9, ..., the model's 2"),
    ],
)
def test_labels_of_others_are_refused(
    words: str, names: tuple[str, ...], called: tuple[str, ...], message: str
) -> None:
    with pytest.raises(InputError, match=f"^x.tsv.*{message}"):
        classes_of(words.split(), names, where="x.tsv", called=called)
