"""The original's IR: fixtures of our own making, and those it made itself if they are at hand."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import engine
from engine.commands.cli import main
from engine.errors import IntegrityError, ModelError, UnsupportedError
from engine.formats import models, store
from engine.graph import Graph
from engine.measure import instances as bench
from engine.ops import reference
from tests import original_writer as writer

THEIRS = Path(__file__).parents[1] / ".." / "shared" / "original_ir"
needs_theirs = pytest.mark.skipif(not THEIRS.is_dir(), reason="../shared/original_ir is not here")
KINDS = [("fp32", False), ("bf16", False), ("int8", False), ("int8", True)]
TOLERANCES = {
    "fp32": 1e-4,
    "bf16": 0.03,
    "int8": 0.12,
}  # int8: logits from 8-bit values of random ranges


def feeds(batch: int, length: int, words: int = writer.WORDS) -> dict[str, np.ndarray]:
    random = np.random.default_rng(length)
    mask = np.ones((batch, length), np.int64)
    mask[1:, length // 2 + 1 :] = 0
    types = random.integers(0, 2, (batch, length))
    return {
        "input_ids": random.integers(0, words, (batch, length)),
        "token_type_ids": types,
        "attention_mask": mask,
    }


@pytest.mark.parametrize(("precision", "transposed"), KINDS)
def test_it_means_what_they_meant(tmp_path: Path, precision: str, transposed: bool) -> None:
    folder = writer.write(tmp_path / "ir", precision, transposed=transposed)
    graph = store.read(folder)
    session = engine.load(folder)
    for batch, length in ((2, 8), (3, 13), (1, 1), (2, writer.LENGTH)):
        fed = feeds(batch, length)
        want = writer.expected(fed)
        meant = reference.run(graph, fed)["logits"]
        assert np.abs(meant - want).max() < TOLERANCES[precision]
        assert np.abs(session.run(fed)["logits"] - meant).max() < 0.02


def linears(graph: Graph) -> dict[str, dict[str, object]]:
    return {n.name: dict(n.attributes) for n in graph if n.op == "Linear"}


def test_transposed_and_dense_end_in_the_same_graph(tmp_path: Path) -> None:
    dense = store.read(writer.write(tmp_path / "dense", "int8"))
    turned = store.read(writer.write(tmp_path / "turned", "int8", transposed=True))
    assert [node.op for node in dense] == [node.op for node in turned]
    assert linears(dense) == linears(turned)
    for name, array in dense.constants.items():
        np.testing.assert_array_equal(array, turned.constants[name])
    found = {name: how["pattern"] for name, how in linears(turned).items()}
    assert [name for name, pattern in found.items() if pattern == "dense"] == [
        "pooled.op",
        "logits.op",
    ]
    assert all(
        how["zero_ratio"] > 0.7 for how in linears(turned).values() if how["pattern"] == "4x1"
    )


def test_scales_and_biases_are_the_quantisers(tmp_path: Path) -> None:
    """They read 128 / 127 of the scale and fold the zero point into the bias with it."""
    graph = store.read(writer.write(tmp_path / "ir", "int8", transposed=True))
    content = writer.weights()
    for node in graph:
        if node.op != "Linear" or node.attributes["precision"] != "int8":
            continue
        stem = node.inputs[1].removesuffix(".linear")
        whole, scale = writer.quantized(content[stem])
        np.testing.assert_array_equal(graph.constants[node.inputs[1]], whole)
        np.testing.assert_allclose(graph.constants[node.inputs[2]], scale, rtol=1e-6)
        if node.inputs[3]:
            bias = graph.constants[node.inputs[3]]
            np.testing.assert_allclose(bias, content[f"{stem}.bias"], atol=2e-5)


def test_tables_are_views_of_the_file(tmp_path: Path) -> None:
    graph = store.read(writer.write(tmp_path / "ir"))
    words = graph.constants["words"]
    assert not words.flags.owndata
    assert not words.flags.writeable


def test_commands_take_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = writer.write(tmp_path / "ir", "int8", transposed=True)
    other = (tmp_path / "elsewhere.bin").resolve()
    (folder / "model.bin").rename(other)
    words = ["inspect", str(folder / "conf.yaml"), "--weight", str(other)]
    assert main(words) == 0
    assert "6 sparse" in capsys.readouterr().out
    assert engine.load(folder / "conf.yaml", weight=other).run(feeds(1, 4))["logits"].shape == (
        1,
        3,
    )
    (folder / "model.bin").symlink_to(other)
    assert main(["compile", str(folder), str(tmp_path / "ours")]) == 0
    fed = feeds(2, 9)
    ours, theirs = (reference.run(g, fed)["logits"] for g in (
        store.read(tmp_path / "ours"), models.read(folder / "conf.yaml", other)))  # fmt: skip
    np.testing.assert_array_equal(ours, theirs)


# --- what is refused ---
def changed(folder: Path, old: str, new: str) -> Path:
    path = folder / "conf.yaml"
    text = path.read_text()
    assert re.search(old, text), old
    path.write_text(re.sub(old, new, text, count=1))
    return folder


@pytest.mark.parametrize(
    ("old", "new", "error", "message"),
    [
        ("type: Softmax", "type: Mystery", UnsupportedError, "'chances.op' .Mystery.: no such op"),
        ("append_op: gelu_tanh", "append_op: swish", UnsupportedError, "append_op 'swish'"),
        ("src1_perm: 0,2,3,1", "src1_perm: 0,2,1,3", UnsupportedError, "axes bshd, bshd"),
        ("dst_perm: 0,2,1,3", "dst_perm: 3,2,1,0", UnsupportedError, "axes bshd to dshb"),
        ("reshape: -1,-1,4,16", "reshape: -1,-1,5,16", UnsupportedError, "to .-1, -1, 5, 16."),
        ("end: 0,1,0", "end: 0,2,0", UnsupportedError, "is not one token"),
        ("dst_perm: 0,2,1,3", "dst_perm: a,b", IntegrityError, "dst_perm 'a,b'; expected whole"),
        ("- 6144\n", "- 6140\n", IntegrityError, "expected a length of 6144 bytes"),
        (r"- 0\n( +)- 6144", r"- -4\n\1- 6144", IntegrityError, "whole number"),
        ("dtype: fp32", "dtype: fp8", IntegrityError, "'fp8'; expected one of fp32"),
        ("type: Softmax", "type: [1]", IntegrityError, "expected text"),
        (" flat_ids:0: {}\n( +)w", r" nothing:0: {}\n\1w", IntegrityError, "'nothing:0', which"),
        ("attr:\n", "attr: &a\n", IntegrityError, "") ,
        ("operator:", "operators:", IntegrityError, "expected a map with 'operator'"),
    ],
)  # fmt: skip
def test_what_is_not_sound_is_refused(
    tmp_path: Path, old: str, new: str, error: type[Exception], message: str
) -> None:
    folder = writer.write(tmp_path / "ir")
    if new.endswith("&a\n"):
        text = (folder / "conf.yaml").read_text()
        (folder / "conf.yaml").write_text(text + "    again: &a {x: *a}\n")
        message = "alias 'a'; expected none"
    else:
        changed(folder, old, new)
    with pytest.raises(error, match=message):
        store.read(folder)


def test_a_short_or_absent_file_is_refused(tmp_path: Path) -> None:
    folder = writer.write(tmp_path / "ir")
    content = (folder / "model.bin").read_bytes()
    (folder / "model.bin").write_bytes(content[:-1])
    with pytest.raises(
        IntegrityError, match=r"model.bin: \d+ bytes; tensor 'classifier.bias:0' ends"
    ):
        store.read(folder)
    (folder / "model.bin").unlink()
    with pytest.raises(ModelError, match="expected the weights of an IR"):
        store.read(folder)


# --- made by the original ---
@needs_theirs
@pytest.mark.parametrize(
    ("kind", "onnx", "tolerance"),
    [
        ("fp32", "fp32", 2e-3),
        ("bf16", "fp32", 2e-2),
        ("int8", "int8", 4e-2),
        ("int8_sparse", "int8", 4e-2),
    ],
)
def test_logits_of_the_original(kind: str, onnx: str, tolerance: float) -> None:
    session = engine.load(THEIRS / kind)
    with np.load(THEIRS / kind / "io.npz") as content:
        fed = {value.name: content[value.name].astype(np.int64) for value in session.graph.inputs}
        theirs = content["logits"]
    ours = session.run(fed)["logits"]
    assert np.abs(ours - theirs).max() < tolerance
    pytest.importorskip("onnxruntime")
    from workflow.scripts.convert import onnx_runtime

    exact = onnx_runtime.session(THEIRS / f"{onnx}.onnx")
    assert np.abs(ours - exact.run(None, fed)[0]).max() < tolerance
    for batch, length in ((1, 1), (2, 37), (3, 48), (1, 150)):  # theirs: multiples of 32
        fed = feeds(batch, length, words=500)
        got = session.run(fed)["logits"]
        assert np.abs(got - exact.run(None, fed)[0]).max() < tolerance
        assert np.abs(got - reference.run(session.graph, fed)["logits"]).max() < 0.02


# --- its command lines ---
def test_bench_by_config_and_weight(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "LOCK", tmp_path / "lock")
    folder = writer.write(tmp_path / "ir", "int8", transposed=True)
    files = ["--config", str(folder / "conf.yaml"), "--weight", str(folder / "model.bin")]
    counts = ["--batch_size", "2", "--iterations", "3", "--w", "1", "--seq_len", "9"]
    assert main(["bench", *files, *counts]) == 0
    out = capsys.readouterr().out
    for line in (" Batch Size is 2\n", " Latency is ", " Throughput is "):
        assert line in out


def test_accuracy_of_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers = pytest.importorskip("transformers")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "good", "bad", "film"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "t")
    rows = ["a good film", 'a "bad film', "good " * 40]
    folder = writer.write(tmp_path / "ir", "int8")
    split = transformers.BertTokenizerFast(str(tmp_path / "vocab.txt"))
    session = engine.load(folder)
    labels = []
    for row in rows:
        tokens = split(row, truncation=True, max_length=20, return_tensors="np")
        labels.append(int(session.run(dict(tokens))["logits"].argmax()))
    lines = [f"{row}\t{label}" for row, label in zip(rows, labels, strict=True)]
    (tmp_path / "rows.tsv").write_text("\n".join(["sentence\tlabel", *lines]))
    command = ["accuracy", "--config", str(folder / "conf.yaml"), "--seq_len", "20", "--json"]
    command += ["--weight", str(folder / "model.bin"), "--dataset", str(tmp_path / "rows.tsv")]
    assert main([*command, "--tokenizer", str(tmp_path / "t")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["accuracy"], found["sentences"]) == (1.0, 3)

    assert main(command) == 2
    assert "is text: --tokenizer names" in capsys.readouterr().err
    assert main([*command, "--tokenizer", str(tmp_path / "none")]) == 2
    assert "none: no tokenizer: " in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert main([*command, "--tokenizer", str(tmp_path / "t")]) == 2
    assert "pip install 'sparse-engine[workflow]'" in capsys.readouterr().err
    (tmp_path / "rows.tsv").write_text("text\tclass\na\t1\n")
    assert main([*command, "--tokenizer", str(tmp_path / "t")]) == 2
    assert "columns text, class; expected sentence among them" in capsys.readouterr().err
