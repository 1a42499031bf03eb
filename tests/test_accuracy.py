"""Scores, agreement and batches of labelled sentences."""

import numpy as np
import pytest

from engine.accuracy import INPUTS, agreement, batches, read_sentences, scores
from engine.errors import InputError


def logits(predicted, classes):
    return np.eye(classes)[predicted]


def test_scores_of_two_classes():
    found = scores(logits([0, 1, 1, 1, 0], 2), np.array([0, 0, 1, 1, 1]))
    assert found.accuracy == 0.6
    assert found.confusion == ((1, 1), (1, 2))
    assert found.f1 == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))


def test_scores_of_three_classes_average_f1():
    found = scores(logits([0, 1, 1], 3), np.array([0, 1, 2]))
    assert found.f1 == pytest.approx((1 + 2 / 3 + 0) / 3)


def test_agreement_counts_classes_and_distance():
    found = agreement(np.array([[0.0, 1.0], [2.0, 1.0]]), np.array([[0.0, 1.5], [1.0, 2.0]]))
    assert found == {"same_class": 0.5, "mean_difference": 0.625, "max_difference": 1.0}


def test_batches_are_cut_to_their_own_longest():
    mask = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0]])
    sentences = dict.fromkeys(INPUTS, mask) | {"labels": np.zeros(3)}
    assert [f["input_ids"].shape for f in batches(sentences, 2)] == [(2, 2), (1, 3)]


def test_a_file_without_labels_is_named(tmp_path):
    np.savez(tmp_path / "x.npz", input_ids=np.zeros((1, 2)))
    with pytest.raises(InputError, match=r"x\.npz: expected an \.npz with input_ids"):
        read_sentences(tmp_path / "x.npz")
