"""Scores, agreement, samples and batches of labelled sentences."""

from random import Random

import numpy as np
import pytest

from engine.errors import InputError, ModelError
from engine.graph import Value
from engine.measure.accuracy import (
    Classifier,
    Sentences,
    agreement,
    batches,
    classify,
    read_sentences,
    sample,
    scores,
)

INPUTS = [
    Value(name, "int64", ("batch", "length"))
    for name in ("input_ids", "attention_mask", "token_type_ids")
]


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


def test_labels_that_the_model_has_no_class_for_are_named():
    with pytest.raises(InputError, match="labels are 0, 1, 2; the model has the classes 0, 1"):
        scores(logits([0, 1, 1], 2), np.array([0, 1, 2]))


def test_models_of_different_classes_do_not_agree():
    with pytest.raises(ModelError, match=r"logits are \(3, 2\), those compared with \(3, 3\)"):
        agreement(logits([0, 1, 1], 2), logits([0, 1, 1], 3))


# --- batches ---


def arrays_of(mask):
    ids = np.arange(mask.size).reshape(mask.shape)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(mask)}


def test_batches_are_cut_to_their_own_longest():
    mask = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0]])
    found = list(batches(arrays_of(mask), 2, INPUTS))
    assert [f["input_ids"].shape for f in found] == [(2, 2), (1, 3)]


def test_tokens_of_a_sentence_that_is_padded_in_front_are_kept():
    mask = np.array([[0, 0, 1, 1, 0], [0, 1, 1, 1, 0]])
    (found,) = batches(arrays_of(mask), 2, INPUTS)
    assert found["input_ids"].tolist() == [[0, 1, 2, 3], [5, 6, 7, 8]]
    assert found["attention_mask"].tolist() == mask[:, :4].tolist()


def test_a_model_without_a_mask_gets_no_padding():
    mask = np.array([[1, 1, 0], [0, 1, 1], [1, 1, 1]])
    found = list(batches(arrays_of(mask), 2, INPUTS[:1]))
    assert [feed["input_ids"].tolist() for feed in found] == [[[0, 1]], [[4, 5]], [[6, 7, 8]]]


def test_a_model_is_fed_what_it_asks_for_in_its_types():
    mask = np.array([[0, 1, 1, 1], [1, 1, 0, 0]])
    sentences = {"input_ids": mask * 7, "attention_mask": mask}
    asked = [
        Value("position_ids", "int32", ("batch", "length")),
        Value("input_ids", "int32", ("batch", "length")),
        Value("token_type_ids", "int64", ("batch", "length")),
    ]
    (found,) = batches(sentences, 8, [*asked, Value("attention_mask", "bool", ("b", "l"))])
    assert list(found) == ["position_ids", "input_ids", "token_type_ids", "attention_mask"]
    assert [array.dtype.name for array in found.values()] == ["int32", "int32", "int64", "bool"]
    assert found["position_ids"].tolist() == [[0, 0, 1, 2], [0, 1, 1, 1]]
    assert not found["token_type_ids"].any()
    one_row = Value("position_ids", "int64", (1, "length"))
    (found,) = batches(sentences, 8, [one_row, INPUTS[1]])
    assert found["position_ids"].tolist() == [[0, 1, 2, 3]]
    (found,) = batches({**sentences, "position_ids": mask + 2}, 8, [asked[0], INPUTS[1]])
    assert found["position_ids"].tolist() == (mask + 2).tolist()


def test_an_input_that_cannot_be_made_is_named():
    mask = np.ones((2, 3), int)
    wanted = [*INPUTS, Value("pixel_values", "float32", ("batch",))]
    with pytest.raises(
        InputError, match="input 'pixel_values': there is input_ids, attention_mask"
    ):
        next(batches(arrays_of(mask), 2, wanted))


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (np.zeros((3, 1)), r"outputs are \(3, 1\) for 3 sentences; .*two classes"),
        (np.zeros((3, 4, 2)), r"outputs are \(3, 4, 2\)"),
        (np.array([[0, 1], [0, np.nan], [1, 0]]), r"logits of sentence 1 are \[ *0\. +nan\]"),
        (np.array([[0, 1], [0, 1], [np.inf, 0]]), "logits of sentence 2 are"),
    ],
)
def test_what_are_no_logits_is_no_accuracy(made, message):
    sentences = Sentences(arrays_of(np.ones((3, 2), int)), np.zeros(3, int), 3, 0)
    with pytest.raises(ModelError, match=message):
        classify(Classifier(INPUTS, lambda feed: made), sentences, 8)


# --- samples ---


def test_a_sample_of_a_sorted_file_has_each_label():
    labels = np.repeat([0, 1], [400, 600])
    rows = sample(labels, 100, seed=0)
    assert np.bincount(labels[rows]).tolist() == [40, 60]
    assert len(set(rows)) == 100 and (np.diff(rows) > 0).all()
    assert rows[39] > 100, "no head of a label either"


def test_a_sample_is_its_seeds():
    labels = np.arange(90) % 3
    one, again, other = (sample(labels, 30, seed).tolist() for seed in (0, 0, 1))
    assert one == again != other


@pytest.mark.parametrize(("count", "shares"), [(4, [2, 1, 1]), (7, [4, 2, 1]), (9, [5, 3, 1])])
def test_shares_that_are_no_whole_numbers_add_up(count, shares):
    labels = np.repeat([0, 1, 5], [10, 5, 3])
    found = np.unique(labels[sample(labels, count, 0)], return_counts=True)[1]
    assert found.tolist() == shares


@pytest.mark.parametrize("count", [0, 5, 6])
def test_all_are_taken_in_their_order(count):
    assert sample(np.array([1, 0, 1, 1, 0]), count, 0).tolist() == [0, 1, 2, 3, 4]


# --- files ---

GOOD = {
    "input_ids": np.array([[1, 2], [3, 0]]),
    "attention_mask": np.array([[1, 1], [1, 0]]),
    "labels": np.array([0, 1]),
}


def test_an_npz_is_read(tmp_path):
    np.savez(tmp_path / "x.npz", **GOOD)
    found = read_sentences(tmp_path / "x.npz")
    assert (len(found), found.subset) == (2, None)
    part = read_sentences(tmp_path / "x.npz", 1, seed=3)
    assert (len(part), part.subset) == (1, {"of": 2, "drawn": "by label", "seed": 3})
    assert part.arrays["input_ids"].shape == (1, 2)
    np.savez(tmp_path / "x.npz", **GOOD, idx=np.array([5, 6]))
    assert list(read_sentences(tmp_path / "x.npz").arrays) == ["input_ids", "attention_mask"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": None}, r"expected an \.npz with input_ids, attention_mask, labels"),
        ({"labels": np.array([0.0, 1.0])}, "labels are float64"),
        ({"labels": np.array(["a", "b"])}, "labels are <U1"),
        ({"labels": np.array([0, 1, 1])}, r"\(3,\); expected whole numbers, as many as .*, 2"),
        ({"labels": np.array([0, -1])}, "label 1 is -1; expected 0 or more"),
        ({"labels": np.array([None, 1])}, "Object arrays cannot be loaded"),
        (
            {"attention_mask": np.ones((2, 3))},
            r"'attention_mask': \(2, 3\).*; expected whole numbers",
        ),
        ({"attention_mask": np.array([[1, 2], [1, 0]])}, "other values than 0 and 1"),
        ({"attention_mask": np.array([[1, 1], [0, 0]])}, "a row of zeros"),
        ({"token_type_ids": np.zeros((2, 1))}, r"'token_type_ids': \(2, 1\).*all alike"),
        ({"input_ids": np.array([[1.5, 2], [3, 0]])}, "input_ids are float64"),
        ({name: array[:0] for name, array in GOOD.items()}, r"input_ids are int64, .*\(0, 2\)"),
    ],
)
def test_what_is_wrong_with_an_npz_is_told(tmp_path, changes, message):
    content = {name: array for name, array in {**GOOD, **changes}.items() if array is not None}
    np.savez(tmp_path / "x.npz", **content)
    with pytest.raises(InputError, match=rf"x\.npz: .*{message}"):
        read_sentences(tmp_path / "x.npz")


@pytest.mark.parametrize("offset", [4, 6, 8])  # version, flags, kind of compression
def test_a_zip_of_another_kind_is_named(tmp_path, offset):
    np.savez(tmp_path / "x.npz", **GOOD)
    content = bytearray((tmp_path / "x.npz").read_bytes())
    content[content.index(b"PK\1\2") + offset + 2] = 0xFF
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.npz: expected an \.npz with input_ids"):
        read_sentences(tmp_path / "x.npz")


@pytest.mark.parametrize("content", [b"", b"text", b"PK\3\4 cut", b"\x93NUMPY\1\0v\0{'descr'"])
def test_what_is_no_npz_is_named(tmp_path, content):
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.npz: expected an \.npz with input_ids"):
        read_sentences(tmp_path / "x.npz")


def test_one_array_is_no_npz(tmp_path):
    np.save(tmp_path / "x.npy", GOOD["labels"])
    with pytest.raises(InputError, match=r"x\.npy: expected an \.npz with input_ids"):
        read_sentences(tmp_path / "x.npy")


def test_a_damaged_npz_is_refused_or_the_same(tmp_path):
    path = tmp_path / "x.npz"
    np.savez_compressed(path, **GOOD)
    whole, damaged = path.read_bytes(), 0
    for seed in range(300):
        random = Random(seed)
        content = bytearray(whole)
        content[random.randrange(len(content))] ^= random.randint(1, 255)
        if seed % 3 == 0:
            del content[random.randrange(len(content)) :]
        path.write_bytes(content)
        try:
            found = read_sentences(path)
        except InputError:
            damaged += 1
            continue
        assert found.labels.tolist() == [0, 1]
        assert found.arrays["input_ids"].tolist() == GOOD["input_ids"].tolist()
    assert damaged > 150
