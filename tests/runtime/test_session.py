"""Whole models in kernels against ONNX Runtime on the file as it is, and against the operators'
NumPy meaning.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engine
from engine import settings
from engine.errors import InputError
from engine.formats import models
from engine.graph import BLOCKS
from engine.ops import reference
from engine.runtime import stepwise

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("onnxruntime")

from tests.instruction_sets import reachable  # noqa: E402
from tests.passes import exported  # noqa: E402

SHAPES = [(1, 1), (1, 2), (3, 31), (1, 37), (8, 64), (3, 128), (2, 200), (1, 511)]
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 192,
    "max_position_embeddings": 512,
}


FORMS: dict[str, Callable[[Path, Path], Any]] = {
    "int8": exported.static_int8,
    "float_head": exported.float_head,
    "without_product": exported.without_product,
    "bf16": exported.bfloat16_weights,
    "dynamic_int8": exported.dynamic_int8,
}


def pruned(model: Any, pattern: str, ratio: float = 0.8) -> Any:
    """Every encoder Linear without the smallest blocks."""
    shape = BLOCKS[pattern]
    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.Linear) and ".encoder." in name:
            weight = layer.weight.detach()
            rows, columns = weight.shape[0] // shape[0], weight.shape[1] // shape[1]
            blocks = weight.reshape(rows, shape[0], columns, shape[1])
            score = blocks.abs().sum((1, 3))
            keep = score > score.flatten().kthvalue(int(score.numel() * ratio)).values
            layer.weight.data = (blocks * keep[:, None, :, None]).reshape(weight.shape)
    return model


def with_dead_channels(model: Any, pattern: str) -> Any:
    """Pruned; most fours of queries and keys have no weights, all of one head's, and most
    channels of values and of the hidden layer nobody reads.
    """
    random = np.random.default_rng(3)
    for layer in pruned(model, pattern, 0.75).bert.encoder.layer:
        attention, hidden = layer.attention, layer.intermediate.dense
        keep = (random.random(16) < 0.4).repeat(4)
        keep[32:] = False
        for linear in (attention.self.query, attention.self.key):
            linear.weight.data[~torch.from_numpy(keep)] = 0
            linear.bias.data += 0.3  # what is the same for every token is not nothing
        unread = torch.from_numpy((random.random(16) < 0.6).repeat(4))
        attention.output.dense.weight.data[:, unread] = 0
        unread = torch.from_numpy((random.random(len(hidden.weight) // 4) < 0.5).repeat(4))
        layer.output.dense.weight.data[:, unread] = 0
    return model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """(pattern, form) -> a file, made once."""
    folder = tmp_path_factory.mktemp("models")

    def path(pattern: str, form: str) -> Path:
        source = folder / f"{pattern}.onnx"
        if not source.exists():
            whole = exported.bert(**SIZES)
            if pattern.startswith("dead"):
                whole = with_dead_channels(whole, pattern.removeprefix("dead"))
            elif pattern != "dense":
                whole = pruned(whole, pattern)
            exported.export(whole, source)
        if form == "fp32":
            return source
        file = folder / f"{pattern}.{form}.onnx"
        if not file.exists():
            FORMS[form](source, file)
        return file

    return path


def feeds(batch: int, length: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Random sentences of odd lengths."""
    rng = np.random.default_rng(seed)
    mask = np.ones((batch, length), np.int64)
    for row in range(1, batch):
        mask[row, rng.integers(1, length + 1) :] = 0
    ids = rng.integers(2, 90, mask.shape)
    return {
        "input_ids": ids * mask,
        "attention_mask": mask,
        "token_type_ids": rng.integers(0, 2, mask.shape),
    }


@pytest.mark.parametrize("pattern", ["4x1", "1x4", "dense"])
def test_float32_is_onnx_runtimes(model: Callable[[str, str], Path], pattern: str) -> None:
    file = model(pattern, "fp32")
    session = engine.load(file)
    if session.plan is None or session.plan.fallback is not None:
        pytest.fail(f"{pattern}: not all of the model runs in kernels")
    for number, (batch, length) in enumerate(SHAPES):
        given = feeds(batch, length, number)
        want = exported.runtime(file, given)["logits"]
        np.testing.assert_allclose(
            session.run(given)["logits"], want, atol=1e-4, err_msg=f"{batch} x {length}"
        )


@pytest.mark.parametrize("form", ["int8", "float_head", "without_product"])
@pytest.mark.parametrize("pattern", ["4x1", "1x4", "dense", "dead4x1"])
def test_int8_means_what_the_graph_says(
    model: Callable[[str, str], Path], pattern: str, form: str
) -> None:
    """Steps on bytes are exact but for ties in LayerNorm; a random model amplifies a flipped byte,
    hence the tolerance on logits.
    """
    file = model(pattern, form)
    session = engine.load(file)
    assert session.plan is not None and session.plan.fallback is None
    graph, off = models.read(file), []
    for number, (batch, length) in enumerate(SHAPES[:6]):
        given = feeds(batch, length, number)
        want = reference.run(graph, given)["logits"]
        got = session.run(given)["logits"]
        off.append(np.abs(got - want).max(1) / max(np.abs(want).max(), 1))
    assert np.median(np.concatenate(off)) < 0.02
    assert np.concatenate(off).max() < 0.1
    with settings.override(check=1):  # step by step nothing is amplified
        checked = engine.Session(graph)
    for shape in SHAPES[:3]:
        checked.run(feeds(*shape, 0))


class Whole(engine.Session):
    """Makes channels too that nobody reads."""

    _whole = True


@pytest.mark.parametrize(
    ("pattern", "form"),
    [("dead4x1", "int8"), ("dead4x1", "without_product"), ("dead1x4", "int8")],
)
def test_channels_that_nobody_reads_change_nothing(
    model: Callable[[str, str], Path], pattern: str, form: str
) -> None:
    graph = models.read(model(pattern, form))
    some, whole, shared = engine.Session(graph), Whole(graph), engine.Session(graph, threads=2)
    assert some.plan is not None and whole.plan is not None
    skipped_macs = {step.kernel for step in some.plan.steps if step.skipped_macs}
    assert {"attention_u8"} < skipped_macs and not any(
        step.skipped_macs for step in whole.plan.steps
    )
    for number, (batch, length) in enumerate(SHAPES):
        given = feeds(batch, length, number)
        want = whole.run(given)["logits"]
        assert np.array_equal(some.run(given)["logits"], want), (batch, length)
        assert np.array_equal(shared.run(given)["logits"], want), (batch, length)


@pytest.mark.parametrize("pattern", ["dead4x1", "dead1x4"])
@pytest.mark.parametrize(("form", "tolerance"), [("fp32", 1e-5), ("bf16", 0.01)])
def test_nor_do_they_in_floats(
    model: Callable[[str, str], Path], pattern: str, form: str, tolerance: float
) -> None:
    """Whatever lies where they are not made: NaN times 0 would be NaN."""
    graph = models.read(model(pattern, form))
    some, whole, shared = engine.Session(graph), Whole(graph), engine.Session(graph, threads=2)
    assert some.plan is not None and whole.plan is not None
    skipped_macs = [step.kernel for step in some.plan.steps if step.skipped_macs]
    assert any("attention" in name for name in skipped_macs) and any(
        "dot" in name for name in skipped_macs
    )
    assert not any(step.skipped_macs for step in whole.plan.steps)
    for number, (batch, length) in enumerate(SHAPES):
        given = feeds(batch, length, number)
        want = whole.run(given)["logits"]
        for session in (some, shared):
            session.run(given)
            for worker in session._caller.room.workers:
                worker.arena[:] = 0xFF
                worker.scratch[:] = 0xFF
            got = session.run(given)["logits"]
            np.testing.assert_allclose(got, want, atol=tolerance, err_msg=f"{batch} x {length}")


@pytest.mark.parametrize("pattern", ["4x1", "1x4", "dense"])
@pytest.mark.parametrize(("form", "tolerance"), [("bf16", 0.02), ("dynamic_int8", 0.12)])
def test_other_precisions_are_near_onnx_runtimes(
    model: Callable[[str, str], Path], pattern: str, form: str, tolerance: float
) -> None:
    """ONNX Runtime keeps x in float32 where we round it to bfloat16, and quantises it with one
    scale where we have one for each token.
    """
    file = model(pattern, form)
    session = engine.load(file)
    assert session.plan is not None and session.plan.fallback is None
    for number, (batch, length) in enumerate(SHAPES[:7]):
        given = feeds(batch, length, number)
        want = exported.runtime(file, given)["logits"]
        np.testing.assert_allclose(
            session.run(given)["logits"], want, atol=tolerance, err_msg=f"{batch} x {length}"
        )


@pytest.mark.parametrize("pattern", ["4x1", "1x4", "dense"])
def test_bfloat16_is_written_as_it_is_read(model: Callable[[str, str], Path], pattern: str) -> None:
    """Every step means its operator, whatever form its result has."""
    with settings.override(isa=reachable("avx512_bf16").name):
        session = engine.load(model(pattern, "bf16"))
    assert session.plan is not None
    forms = [step.kernel_name for step in session.plan.steps]
    assert (
        sum(name.startswith("attention_bf16") for name in forms) == SIZES["num_hidden_layers"] - 1
    )
    rounded = [name for name in forms if name.startswith("round_rows_64") and "words" in name]
    assert not rounded, "values are written as attention reads them"
    for batch, length in ((1, 1), (3, 37), (2, 128)):
        with settings.override(isa=reachable("avx512_bf16").name):
            assert stepwise.check(session.graph, feeds(batch, length)) > 20


@pytest.mark.parametrize(
    ("pattern", "form"),
    [("4x1", "fp32"), ("1x4", "bf16"), ("4x1", "int8"), ("1x4", "int8"), ("4x1", "dynamic_int8")],
)
def test_channels_in_any_number(tmp_path: Path, pattern: str, form: str) -> None:
    """Heads of 26 channels, as a TinyBERT's, and a row that is no whole pieces of 64."""
    sizes = {**SIZES, "hidden_size": 104, "num_attention_heads": 4, "intermediate_size": 212}
    exported.export(pruned(exported.bert(**sizes), pattern), tmp_path / "fp32.onnx")
    if form != "fp32":
        FORMS[form](tmp_path / "fp32.onnx", tmp_path / f"{form}.onnx")
    file = tmp_path / f"{form}.onnx"
    session, team = engine.load(file), engine.load(file, threads=2)
    assert session.plan is not None and session.plan.fallback is None
    for number, (batch, length) in enumerate([(1, 1), (3, 31), (2, 128), (20, 37)]):
        given = feeds(batch, length, number)
        got = session.run(given)["logits"]
        np.testing.assert_array_equal(team.run(given)["logits"], got)
        want = exported.runtime(file, given)["logits"]
        tolerance = {"fp32": 1e-4, "bf16": 0.02}.get(form, 0.12)
        np.testing.assert_allclose(got, want, atol=tolerance, err_msg=f"{batch} x {length}")
        assert stepwise.check(session.graph, given) > 20


@pytest.mark.parametrize("workers", [2, 3])
def test_workers_give_the_same_bytes(model: Callable[[str, str], Path], workers: int) -> None:
    """Tiles that divide evenly among the workers and such that do not, again and again, awake or
    asleep."""
    file = model("4x1", "int8")
    alone, team = engine.load(file), engine.load(file, threads=workers)
    for turn, (batch, length) in enumerate(
        [(1, 128), (1, 192), (1, 1), (5, 37), (16, 64), (3, 300), (1, 40)] * 5
    ):
        given = feeds(batch, length, turn)
        np.testing.assert_array_equal(alone.run(given)["logits"], team.run(given)["logits"])
        if turn % 7 == 3:
            time.sleep(0.05)


@pytest.mark.parametrize("form", ["fp32", "int8"])
def test_rows_of_many_packs_wait_for_one_another(
    model: Callable[[str, str], Path], form: str
) -> None:
    """More sentences than there are rows; packs of one, of many, and those that do not fit."""
    file = model("4x1", form)
    alone = engine.load(file)
    for batch, length in ((17, 128), (70, 3), (150, 40)):
        given = feeds(batch, length)
        rows = [{name: array[[row]] for name, array in given.items()} for row in range(batch)]
        wanted = np.concatenate([alone.run(row)["logits"] for row in rows])
        for threads in (1, 3):
            made = engine.load(file, threads=threads).run(given)["logits"]
            np.testing.assert_allclose(made, wanted, atol=1e-5, err_msg=f"{batch} {threads}")


def test_padding_changes_nothing(model: Callable[[str, str], Path]) -> None:
    session = engine.load(model("4x1", "int8"))
    given = feeds(1, 23)
    wide = {name: np.pad(array, ((0, 0), (0, 41))) for name, array in given.items()}
    wide["input_ids"][:, 23:] = 7
    np.testing.assert_array_equal(session.run(given)["logits"], session.run(wide)["logits"])


def test_masks_with_holes_and_masked_sentences(model: Callable[[str, str], Path]) -> None:
    file = model("4x1", "fp32")
    session = engine.load(file)
    given = feeds(4, 20)
    given["attention_mask"][:] = 1
    given["attention_mask"][0, 3:9:2] = 0  # holes
    np.testing.assert_allclose(
        session.run(given)["logits"], exported.runtime(file, given)["logits"], atol=1e-4
    )
    given["attention_mask"][1, 0] = 0  # the first token is read but not attended to
    given["attention_mask"][2] = 0  # nothing to attend to
    np.testing.assert_allclose(
        session.run(given)["logits"], exported.runtime(file, given)["logits"], atol=1e-4
    )


def test_an_instruction_set_below_gives_the_same_bytes(model: Callable[[str, str], Path]) -> None:
    file, given = model("4x1", "int8"), feeds(3, 31)
    best = engine.load(file).run(given)["logits"]
    for name in ("avx2", "generic"):
        with settings.override(isa=name):
            np.testing.assert_allclose(engine.load(file).run(given)["logits"], best, atol=1e-5)


@pytest.mark.parametrize("threads", [1, 2])
def test_arrays_of_every_kind_are_read(model: Callable[[str, str], Path], threads: int) -> None:
    """Kernels find the elements of an array by themselves."""
    session, given = engine.load(model("4x1", "int8"), threads=threads), feeds(3, 31)
    wanted = session.run(given)["logits"]
    one_more = {name: np.pad(array, ((1, 0), (0, 1))) for name, array in given.items()}
    for name, array in given.items():
        array.flags.writeable = False
        kinds = {
            "rows": np.concatenate([array[:1], array])[1:],
            "strided": one_more[name][1:, :-1],
            "columns": np.asfortranarray(array),
            "buffer": np.frombuffer(array.tobytes(), np.int64).reshape(array.shape),
            "int32": array.astype(np.int32),
            "big_endian": array.astype(">i8"),
            "subclass": array.view(np.recarray),
            "list": array.tolist(),
        }
        for kind, other in kinds.items():
            made = session.run({**given, name: other})["logits"]
            np.testing.assert_array_equal(made, wanted, err_msg=f"{name} {kind}")


def test_a_session_is_pickled(model: Callable[[str, str], Path]) -> None:
    session, given = engine.load(model("4x1", "int8")), feeds(2, 12)
    copy = pickle.loads(pickle.dumps(session))
    np.testing.assert_array_equal(copy.run(given)["logits"], session.run(given)["logits"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: f.pop("input_ids"), "'input_ids' is missing"),
        (lambda f: f.update(input_ids=f["input_ids"] + 0.5), "expected integers"),
        (
            lambda f: f.update(input_ids=f["input_ids"][0]),
            r"'input_ids' is \[.*\]: expected \[batch, length\]$",
        ),
        (lambda f: f.update(attention_mask=f["attention_mask"][:, :4]), "'input_ids' is"),
        (lambda f: f.update(extra=f["input_ids"]), "unknown input 'extra'"),
        (
            lambda f: f["input_ids"].__setitem__((1, 3), 90),
            "sentence 1, token 3: id 90 of a vocabulary of 90",
        ),
        (lambda f: f["token_type_ids"].__setitem__((0, 2), 2), "sentence 0, token 2"),
    ],
)
def test_wrong_inputs_are_named(
    model: Callable[[str, str], Path], change: Callable[[dict[str, Any]], Any], words: str
) -> None:
    given = feeds(2, 9)
    change(given)
    with pytest.raises(InputError, match=words):
        engine.load(model("4x1", "int8")).run(given)


def test_too_long_a_sentence_is_named(model: Callable[[str, str], Path]) -> None:
    with pytest.raises(InputError, match="positions for 1 to 512"):
        engine.load(model("4x1", "int8")).run(feeds(1, 513))
