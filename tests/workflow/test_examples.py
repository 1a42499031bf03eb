"""Examples of every kind of task, from files: read as meant, or refused with file and line."""

import numpy as np
import pytest

from engine.errors import InputError
from engine.measure.accuracy import read_sentences
from workflow.rulebook.checked_config import checked
from workflow.rulebook.names import KINDS
from workflow.rulebook.writing import StepError
from workflow.scripts.convert.heads import HEADS
from workflow.scripts.fetch.examples import (
    FORMS,
    Labelled,
    Question,
    Tagged,
    read_examples,
    repeated,
    split_file,
    write_examples,
)
from workflow.scripts.fetch.tokenize_sentences import ARRAYS
from workflow.scripts.measure.metrics import MEASURED
from workflow.scripts.measure.tokenized import read_tokenized

SCHEMA = "workflow/schemas/config.schema.yaml"


def test_every_step_knows_every_kind():
    assert list(KINDS) == list(FORMS) == list(ARRAYS) == list(HEADS) == list(MEASURED)
    source = {"source": "local", "name": "x"}
    for kind in KINDS:
        checked({"tasks": {"a": {"task": kind, "model": source, "dataset": source}}}, SCHEMA)


@pytest.mark.parametrize(
    ("kind", "name", "content", "rows"),
    [
        ("text-classification", "x.tsv", "sentence\tlabel\na\tgood\n", [Labelled("a", "good")]),
        ("text-classification", "x.jsonl", '{"label": 3, "sentence": "a"}', [Labelled("a", "3")]),
        (
            "regression",
            "x.tsv",
            "sentence\tsentence2\tlabel\na\tb\t3.50\n",
            [Labelled("a", "3.50", "b")],
        ),
        ("regression", "x.jsonl", '{"sentence": "a", "label": -2e-1}', [Labelled("a", "-0.2")]),
        (
            "sentence-similarity",
            "x.jsonl",
            '\ufeff{"sentence": "a", "sentence2": "b", "label": 5}\r\n',
            [Labelled("a", "5", "b")],
        ),
        (
            "token-classification",
            "x.tsv",
            "tokens\ttags\nin Rome\tO B-LOC\n",
            [Tagged(("in", "Rome"), ("O", "B-LOC"))],
        ),
        (
            "token-classification",
            "x.jsonl",
            '{"tokens": ["in", "New York"], "tags": [0, 3]}\n',
            [Tagged(("in", "New York"), ("0", "3"))],
        ),
        (
            "question-answering",
            "x.tsv",
            "question\tcontext\tanswers\nwho?\tit was he\the\n",
            [Question("who?", "it was he", ("he",))],
        ),
        (
            "question-answering",
            "x.jsonl",
            '{"question": "q", "context": "c d",'
            ' "answers": {"text": ["c", "d"], "answer_start": [0, 2]}}',
            [Question("q", "c d", ("c", "d"))],
        ),
    ],
)
def test_files_are_read_and_what_is_written_is_the_same(tmp_path, kind, name, content, rows):
    (tmp_path / name).write_text(content)
    assert read_examples(tmp_path / name, kind) == rows
    write_examples(tmp_path / "again.jsonl", rows)
    assert read_examples(tmp_path / "again.jsonl", kind) == rows
    assert repeated([*rows, *rows])["repeated"] == len(rows)


LINE = '{"sentence": "a", "sentence2": "b", "label": 1}\n'


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        (
            "regression",
            '{"sentence": "a"}',
            "line 1: the keys sentence; expected sentence, label or",
        ),
        (
            "regression",
            LINE + '{"sentence": "a", "label": 1}',
            "line 2: the keys sentence, label; exp",
        ),
        ("regression", LINE + LINE.replace("1", "NaN"), "line 2: .*NaN is no number of JSON"),
        (
            "regression",
            LINE + LINE.replace("1", '"high"'),
            "line 2: label 'high': expected a number",
        ),
        ("regression", LINE + LINE.replace("1", "true"), "line 2: label True: expected a number"),
        ("regression", LINE.replace("1", "1e999"), "line 1: label inf: expected a number"),
        ("regression", LINE + "\n", "line 2: ''.*; expected a JSON object"),
        ("regression", LINE + "[1]\n", r"line 2: '\[1\]'; expected a JSON object"),
        ("regression", '{"label": 1, "label": 2}', "line 1: .*a key is there twice"),
        ("regression", "[" * 100_000, "line 1: .*; expected a JSON object"),
        ("regression", LINE.replace('"a"', "7"), "line 1: sentence 7: expected text"),
        (
            "regression",
            LINE.replace('"a"', r'"\ud800"'),
            "line 1: sentence .*surrogates not allowed",
        ),
        (
            "sentence-similarity",
            '{"sentence": "a", "label": 1}',
            "expected sentence, sentence2, label",
        ),
        ("text-classification", LINE.replace("1", "1.5"), "label 1.5: expected a whole number or"),
        (
            "text-classification",
            LINE.replace("1", "null"),
            "label None: expected a whole number or",
        ),
        (
            "token-classification",
            '{"tokens": ["a"], "tags": []}',
            r"tags \[\]: expected a list of one",
        ),
        (
            "token-classification",
            '{"tokens": ["a"], "tags": ["O", "O"]}',
            "1 tokens and 2 tags; exp",
        ),
        (
            "token-classification",
            '{"tokens": ["a", ""], "tags": [0, 0]}',
            "expected words, one space",
        ),
        (
            "token-classification",
            '{"tokens": {"a": 1}, "tags": [0]}',
            "expected a list of one or more",
        ),
        (
            "question-answering",
            '{"question": "q", "context": "c", "answers": {"text": []}}',
            "answers .*expected a list of one or more",
        ),
    ],
)
def test_what_is_wrong_is_told_with_file_and_line(tmp_path, kind, content, message):
    path = tmp_path / "x.jsonl"
    path.write_text(content)
    with pytest.raises((InputError, StepError), match=f"{path}.*{message}"):
        read_examples(path, kind)


def test_a_split_is_one_file(tmp_path):
    with pytest.raises(StepError, match=r"neither; expected dev.tsv or dev.jsonl"):
        split_file(tmp_path, "dev")
    (tmp_path / "dev.tsv").touch()
    assert split_file(tmp_path, "dev") == tmp_path / "dev.tsv"
    (tmp_path / "dev.jsonl").touch()
    with pytest.raises(StepError, match=r"dev.tsv and dev.jsonl; expected"):
        split_file(tmp_path, "dev")


# --- tokens of examples ---


@pytest.fixture
def tokens(tmp_path):
    rows = [Labelled(f"s{i}", str(i), f"t{i}") for i in range(6)]
    write_examples(tmp_path / "x.jsonl", rows)
    ids = np.arange(12)[:, None] + np.array([[0, 100]])
    arrays = {"input_ids": ids, "attention_mask": np.ones_like(ids), "labels": np.arange(6.0)}
    np.savez(tmp_path / "x.npz", **arrays, examples=np.tile(np.arange(6), 2))
    return tmp_path


def test_of_a_part_both_sentences_are_taken(tokens):
    found = read_tokenized(tokens / "x.npz", tokens / "x.jsonl", "sentence-similarity", 2, seed=1)
    chosen = [int(text.label) for text in found.texts]
    assert found.labels.tolist() == chosen
    assert found.arrays["input_ids"][:, 0].tolist() == [*chosen, *(i + 6 for i in chosen)]
    assert found.rows.tolist() == [0, 1, 0, 1]
    assert found.subset == {"of": 6, "drawn": "at random", "seed": 1}
    whole = read_tokenized(tokens / "x.npz", tokens / "x.jsonl", "sentence-similarity")
    assert (len(whole), whole.subset) == (6, None)


def test_tokens_of_other_examples_are_refused(tokens):
    rows = (tokens / "x.jsonl").read_text().splitlines(keepends=True)
    (tokens / "x.jsonl").write_text("".join(rows[1:]))
    with pytest.raises(InputError, match="12 rows of 6 examples; .*x.jsonl has 5"):
        read_tokenized(tokens / "x.npz", tokens / "x.jsonl", "regression")


def test_the_command_line_refuses_other_kinds(tokens):
    with pytest.raises(InputError, match="x.npz: labels are float64"):
        read_sentences(tokens / "x.npz")
