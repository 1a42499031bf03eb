"""Fingerprints, outputs that appear whole, labelled sentences, provenance."""

import json
import os

import pytest

from engine.errors import InputError
from workflow.rulebook.fingerprint import fingerprint, sha256
from workflow.rulebook.provenance import run_record
from workflow.rulebook.writing import whole, write_json
from workflow.scripts.fetch.examples import (
    Labelled,
    read_examples,
    repeated,
    write_examples,
)

KIND = "text-classification"

# --- fingerprint ---


def test_fingerprint_is_of_content_and_names(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "x").write_text("1")
    first = fingerprint(folder)
    os.utime(folder / "x", (0, 0))
    assert fingerprint(folder) == first
    (folder / "x").write_text("2")
    second = fingerprint(folder)
    (folder / "x").rename(folder / "y")
    assert len({first, second, fingerprint(folder)}) == 3
    assert fingerprint(tmp_path / "absent") == ""


# --- writing ---


def test_a_file_appears_only_if_all_went_well(tmp_path):
    target = tmp_path / "deep" / "x.json"
    with pytest.raises(RuntimeError), whole(target) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert list(target.parent.iterdir()) == []
    write_json(target, {"a": 1})
    assert json.loads(target.read_text()) == {"a": 1}
    assert list(target.parent.iterdir()) == [target]


def test_a_folder_replaces_the_one_before(tmp_path):
    for name in ("first", "second"):
        with whole(tmp_path / "folder") as partial:
            partial.mkdir()
            (partial / name).touch()
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["second"]
    assert len(list(tmp_path.iterdir())) == 1


# --- labelled sentences ---


@pytest.mark.parametrize(
    "rows",
    [
        [Labelled("good .", "1"), Labelled("bad .", "negative")],
        [Labelled("a", "2", sentence2="b"), Labelled("c", "0", sentence2="d")],
        [Labelled("a\x0bb\u2028c\x85d\x1ce", "0"), Labelled("\"quoted\" 'too'", "1")],
        [Labelled('"as csv ""does""', "0"), Labelled('""', "1"), Labelled("a\tb\r\nc", "1")],
    ],
)
def test_labelled_sentences_are_read_as_written(tmp_path, rows):
    write_examples(tmp_path / "x.jsonl", rows)
    assert read_examples(tmp_path / "x.jsonl", KIND) == rows


def test_rows_that_are_there_twice_are_counted():
    rows = [Labelled(text, label) for text, label in zip("abacab", "010010", strict=True)]
    assert repeated(rows) == {"repeated": 3, "of another label": 2}
    assert repeated(rows[3:]) == {"repeated": 0, "of another label": 0}
    pairs = [Labelled("a", "0", "b"), Labelled("a", "0", "c")]
    assert repeated(pairs)["repeated"] == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: expected the header"),
        ("text\tlabel\n", "line 1: expected the header"),
        ("sentence\tlabel\n", "no sentence after the header"),
        ("sentence\tlabel\na\t1\nb\n", "line 3: 1 columns, expected 2"),
    ],
)
def test_faults_are_told_with_their_line(tmp_path, text, message):
    path = tmp_path / "x.tsv"
    path.write_text(text)
    with pytest.raises(InputError, match=f"{path}.*{message}"):
        read_examples(path, KIND)


# --- provenance ---


def test_run_record_says_how_to_make_it_again(tmp_path):
    (tmp_path / "x").write_text("x")
    record = run_record([tmp_path / "x"], {"accuracy": {"batch_size": 8}})
    assert record["options"] == {"accuracy": {"batch_size": 8}}
    assert len(record["options_sha256"]) == 64
    assert record["machine"]["cpu_model"]
    assert record["sha256"] == {str(tmp_path / "x"): sha256(tmp_path / "x")}
    assert record["versions"]["numpy"]
    assert record["machine"]["cpus"] >= 1
