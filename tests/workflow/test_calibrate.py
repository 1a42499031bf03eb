"""Ranges over sentences of different lengths."""

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper, numpy_helper

from engine.graph import Value
from workflow.scripts.convert.calibrate import (
    best_range,
    find_ranges,
    product_tensors,
    sentence_feeds,
)

INPUTS = [
    Value(name, "int64", ("batch", "length"))
    for name in ("input_ids", "attention_mask", "position_ids")
]


def write_sentences(path):
    mask = np.array([[0, 1, 1, 0], [1, 1, 1, 1]])
    np.savez(path, input_ids=mask * 7, attention_mask=mask, labels=[0, 1])
    return path


def test_feeds_have_no_padding(tmp_path):
    path = write_sentences(tmp_path / "x.npz")
    first, second = sentence_feeds(path, 2, INPUTS)
    assert first["input_ids"].tolist() == [[7, 7]]
    assert first["position_ids"].tolist() == [[0, 1]]
    assert second["attention_mask"].tolist() == [[1, 1, 1, 1]]


def test_of_few_sentences_all_are_taken_and_that_is_said(tmp_path, capsys):
    path = write_sentences(tmp_path / "x.npz")
    assert len(sentence_feeds(path, 8, INPUTS)) == 2
    assert "2 sentences, all there are; quantize.sentences asks for 8" in capsys.readouterr().out


def test_minmax_is_what_was_seen_and_zero():
    found = best_range(np.array([0.5, 2.0, 8.0]), "minmax")
    assert (found.low, found.high) == (0.0, 8.0)


def test_mse_gives_up_what_is_far_out():
    values = np.append(np.random.default_rng(0).normal(size=100_000), [40.0])
    wide, narrow = (best_range(values, method) for method in ("minmax", "mse"))
    assert narrow.high < wide.high
    assert narrow.decibels > wide.decibels


def test_a_tensor_of_zeros_has_a_range():
    assert best_range(np.zeros(4), "mse").high == 0


def test_a_range_says_what_it_leaves_of_the_middle_channel(tmp_path):
    """One channel of 300 and others of about 1, and one that is always 0."""
    graph = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[n, 4] x) => (float[n, 4] z, float[n, 4] y) <
            float[4, 4] w = {300, 0, 0, 0,  0, 1, 0, 0,  0, 0, 1, 0,  0, 0, 0, 0},
            float[4] b = {0, 1, 2, 3}
        > { p = MatMul(x, w)  q = Add(p, b)  z = Add(q, x)  y = MatMul(x, w)  t = Add(y, b) }""")
    onnx.save(graph, tmp_path / "m.onnx")
    feeds = [{"x": np.array([[1, 1, 1, 1], [-1, -1, 1, 1]], np.float32)}]
    found = find_ranges(tmp_path / "m.onnx", feeds, "minmax")
    assert found["p"].channel_decibels == pytest.approx(10 * np.log10(12 / (600 / 255) ** 2))
    assert found["x"].channel_decibels == found["y"].channel_decibels == np.inf, "no residual"


def test_ranges_are_of_every_product(tmp_path):
    weight = numpy_helper.from_array(np.eye(3, dtype=np.float32) * 2, "w")
    value = helper.make_tensor_value_info
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"]), helper.make_node("Relu", ["y"], ["z"])]
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, ["n", 3])],
        [value("z", TensorProto.FLOAT, ["n", 3])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=7)
    assert product_tensors(graph) == ["x", "y"]
    onnx.save(model, tmp_path / "m.onnx")
    feeds = [{"x": np.full((rows, 3), rows, np.float32)} for rows in (1, 3)]
    ranges = find_ranges(tmp_path / "m.onnx", feeds, "minmax")
    assert {name: (r.low, r.high) for name, r in ranges.items()} == {"x": (0, 3), "y": (0, 6)}
