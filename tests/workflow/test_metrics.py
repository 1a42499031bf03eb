"""Scores of each kind of task on examples that one can count by hand."""

import numpy as np
import pytest

from engine.errors import InputError, ModelError
from engine.measure import accuracy
from workflow.scripts.fetch.examples import Labelled, Question, Tagged
from workflow.scripts.measure.metrics import MEASURED, Said, agreement, best_span, overlap, plain
from workflow.scripts.measure.tokenized import Examples


def examples_of(labels=(), texts=None, **arrays):
    labels = np.asarray(labels)
    texts = texts or tuple(Labelled("a", "0") for _ in labels)
    rows = arrays.pop("rows", np.arange(len(texts)))
    return Examples(arrays, rows, labels, tuple(texts), len(texts), "at random", 0)


def scored(kind, outputs, examples, names=()):
    found = MEASURED[kind]
    return found.scores(found.said(outputs, examples), examples, names)


# --- classes ---


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_classes_are_scored_as_the_command_line_does(classes):
    random = np.random.default_rng(classes)
    labels, logits = random.integers(0, classes, 40), random.normal(size=(40, classes))
    found = scored("text-classification", [logits], examples_of(labels))
    same = accuracy.scores(logits, labels)
    assert (found["accuracy"], found["f1"]) == pytest.approx((same.accuracy, same.f1))
    assert found["confusion"] == [list(row) for row in same.confusion]


def test_mcc_is_the_phi_coefficient():
    predicted = np.eye(2)[[1, 1, 1, 0, 0, 1]]
    found = scored("text-classification", [predicted], examples_of([1, 1, 0, 0, 0, 1]))
    assert found["mcc"] == pytest.approx((3 * 2 - 1 * 0) / np.sqrt(4 * 3 * 3 * 2))


def test_labels_beyond_the_models_are_named():
    with pytest.raises(InputError, match="labels are 0, 2; the model has the classes 0, 1"):
        scored("text-classification", [np.eye(2)], examples_of([0, 2]))


# --- numbers ---


def test_correlations_are_of_ranks_and_of_values():
    labels = np.array([0.0, 1.0, 2.0, 3.0])
    found = scored("regression", [np.array([[1.0], [2.0], [4.0], [800.0]])], examples_of(labels))
    assert found["spearman"] == pytest.approx(1)
    assert 0.7 < found["pearson"] < 0.9


def test_pairs_are_compared_by_cosine():
    first, second = np.eye(3), np.array([[2.0, 0, 0], [1, 1, 0], [1, 0, 0]])
    found = MEASURED["sentence-similarity"].said([np.concatenate([first, second])], examples_of())
    np.testing.assert_allclose(found.numbers, [1, np.sqrt(0.5), 0])


@pytest.mark.parametrize(
    ("kind", "outputs", "labels", "error", "message"),
    [
        ("regression", np.ones((3, 1)), [1.0, 2, 3], InputError, "3 results, all alike"),
        ("regression", np.eye(3)[:, :1], [1.0, 1, 1], InputError, "3 labels, all alike"),
        ("regression", np.eye(3), [1.0, 2, 3], ModelError, r"\(3, 3\); expected \(sentences, 1\)"),
        ("sentence-similarity", np.ones((6, 4, 2)), [1.0, 2, 3], ModelError, "pooled embeddings"),
        ("text-classification", np.ones((3, 1)), [0, 1, 0], ModelError, "two classes or more"),
        ("text-classification", np.ones((3, 4, 2)), [0, 1, 0], ModelError, r"\(3, 4, 2\)"),
    ],
)
def test_what_cannot_be_scored_is_named(kind, outputs, labels, error, message):
    with pytest.raises(error, match=message):
        scored(kind, [outputs], examples_of(labels))


# --- entities ---

TAGS = ["O", "B-PER", "I-PER", "B-LOC"]


def tagged(predicted, *, names=TAGS):
    """Two sentences of three words and two; the last word of the first was cut off."""
    labels = np.array([[1, 2, 3], [0, 3, -100]])
    words = np.array([[-1, 0, 1, -1], [-1, 0, 1, -1]])
    texts = [Tagged(("a",) * 3, ("O",) * 3), Tagged(("a",) * 2, ("O",) * 2)]
    return scored(
        "token-classification",
        [np.eye(4)[predicted]],
        examples_of(labels, texts, words=words),
        names,
    )


def test_entities_count_whole():
    """Of three entities one was cut off, which is a miss; another is found, with one too many."""
    found = tagged([[0, 1, 2, 3], [0, 3, 0, 0]])
    assert (found["entity_precision"], found["entity_recall"]) == (1 / 2, 1 / 3)
    assert found["entity_f1"] == pytest.approx(0.4)
    assert found["accuracy"] == pytest.approx(2 / 5)


def test_half_an_entity_is_none():
    assert tagged([[0, 1, 0, 0], [0, 0, 3, 0]])["entity_recall"] == pytest.approx(1 / 3)


def test_tags_that_are_no_names_of_entities_are_named():
    with pytest.raises(InputError, match="tags are LABEL_0, LABEL_1, .*; expected O, B-"):
        tagged([[0] * 4] * 2, names=[f"LABEL_{i}" for i in range(4)])


# --- answers ---


def test_the_best_span_is_in_the_text_and_forward():
    begins, ends = np.array([9.0, 0, 3, 5, 0]), np.array([9.0, 8, 1, 2, 4])
    inside = np.array([False, True, True, True, True])
    assert best_span(begins, ends, inside) == (9.0, 3, 4)
    far = np.zeros(50)
    far[[1, 45]] = 7
    _, first, last = best_span(far, far, np.arange(50) > 0)
    assert last - first < 30


@pytest.mark.parametrize(
    ("said", "wanted", "f1"),
    [
        ("The Film!", "film", 1.0),
        ("an old film", "the film", 2 / 3),
        ("story", "film", 0.0),
        ("", "film", 0.0),
        ("the", "", 1.0),
    ],
)
def test_answers_are_compared_as_squad_does(said, wanted, f1):
    assert overlap(said, wanted) == pytest.approx(f1)
    assert (plain(said) == plain(wanted)) == (f1 == 1)


def test_the_best_part_of_a_text_answers():
    texts = [Question("?", "warm film", ("Warm film",)), Question("?", "dull", ("bad", "dull"))]
    starts = np.array([[-1, 0, -1], [-1, 5, -1], [-1, 0, -1]])
    ends = np.array([[-1, 4, -1], [-1, 9, -1], [-1, 4, -1]])
    examples = examples_of((), texts, rows=np.array([0, 0, 1]), starts=starts, ends=ends)
    outputs = np.array([[9.0, 1, 9], [9, 2, 9], [0, 0, 0]])
    said = MEASURED["question-answering"].said([outputs, outputs], examples)
    assert said.answers == ["film", "dull"]
    found = scored("question-answering", [outputs, outputs], examples)
    assert found == {"f1": pytest.approx((2 / 3 + 1) / 2), "exact_match": 0.5}


# --- two models ---


def test_agreement_is_of_answers_and_numbers():
    one, other = Said(np.array([0.0, 1]), ["a", "b"]), Said(np.array([0.0, 3]), ["a", "c"])
    apart = {"mean_difference": 1.0, "max_difference": 2.0}
    assert agreement(one, other) == {"same_class": 0.5, **apart}
    assert agreement(Said(one.numbers), Said(other.numbers)) == apart
    with pytest.raises(ModelError, match=r"\(2,\), those compared \(3,\)"):
        agreement(one, Said(np.zeros(3)))
