"""Choices between kernels: what is tried, kept and followed, and that none changes a result."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine import Session, settings
from engine.codegen import isa
from engine.commands.cli import main
from engine.files import cache
from engine.formats import store
from engine.plan import PACK_TOKENS, make_plan, tune
from engine.plan.measured import Configuration, Layer, read_measured
from tests.tiny import CHANNELS, INNER, feeds, tiny_graph


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(tune, "SECONDS", 0.0)
    monkeypatch.setattr(tune, "ROUNDS", 1)
    with settings.override(cache=str(tmp_path)):
        yield


def test_without_a_measurement_the_graphs_pattern_runs() -> None:
    plan = make_plan(tiny_graph("4x1"), isa.chosen())
    assert plan is not None and plan.pack_tokens == PACK_TOKENS
    assert [step.kernel for step in plan.steps if step.name == "h_Linear"] == ["sparse_dot_f32_4x1"]
    assert not read_measured(isa.chosen()).layers


@pytest.mark.parametrize("pattern", ["4x1", "dense"])
@pytest.mark.parametrize("width", [0, 16])
def test_a_stored_choice_is_followed_and_changes_no_result(pattern: str, width: int) -> None:
    graph, feed = tiny_graph("4x1"), feeds([20, 64], 64)
    expected = Session(graph).run(feed)["logits"]
    measured = read_measured(isa.chosen())
    for name, shape in (("wide", (INNER, CHANNELS)), ("back", (CHANNELS, INNER))):
        zeros = round(100 * float(np.mean(graph.constants[name] == 0)))
        layer = Layer("float32", "4x1", *shape, 64, zeros)
        measured.layers[str(layer)] = Configuration(pattern, width)
    measured.write()
    session = Session(graph)
    assert session.plan is not None
    steps = {step.name: step for step in session.plan.steps}
    kernel = "dense_dot_f32" if pattern == "dense" else "sparse_dot_f32_4x1"
    assert steps["h_Linear"].kernel == steps["y_Linear"].kernel == kernel
    if width:
        assert steps["h_Linear"].variant[1] == width
    assert np.allclose(session.run(feed)["logits"], expected, rtol=1e-5, atol=1e-5)


def test_tuning_measures_each_kind_of_layer_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def recorded(isa_: object, layer: Layer, weight: np.ndarray) -> Configuration:
        tried.append(layer)
        return Configuration("dense", 0)

    monkeypatch.setattr(tune, "best_configuration", recorded)
    with settings.override(tune=1):
        make_plan(tiny_graph(), isa.chosen())
        plan = make_plan(tiny_graph(), isa.chosen())
    assert plan is not None
    assert sorted((layer.outputs, layer.inputs) for layer in tried) == sorted(
        [(INNER, CHANNELS), (CHANNELS, INNER)]
    )
    assert [s.kernel for s in plan.steps if s.name == "y_Linear"] == ["dense_dot_f32"]
    assert set(read_measured(isa.chosen()).layers) == {str(layer) for layer in tried}


def test_the_own_kernel_stays_where_no_other_is_clearly_faster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    times = {"4x1": 1.0, "1x4": 0.99, "dense": 2.0}
    layer = Layer("int8", "4x1", 8, 16, 64, 50)
    weight = np.ones((8, 16), np.int8)
    calls = iter(each.pattern for each in tune.candidates(isa.chosen(), layer))
    monkeypatch.setattr(tune, "shortest", lambda call, seconds: times[next(calls)])
    assert tune.best_configuration(isa.chosen(), layer, weight) == Configuration("4x1", 0)
    times["1x4"] = 0.5
    calls = iter(each.pattern for each in tune.candidates(isa.chosen(), layer))
    assert tune.best_configuration(isa.chosen(), layer, weight) == Configuration("1x4", 0)


def test_candidates_divide_into_blocks() -> None:
    layer = Layer("int8", "dense", 6, 8, 64, 0)
    assert {c.pattern for c in tune.candidates(isa.chosen(), layer)} == {"dense", "1x4"}
    even = replace(layer, outputs=8)
    assert {c.pattern for c in tune.candidates(isa.chosen(), even)} == {"dense", "1x4", "4x1"}


def test_a_damaged_file_counts_as_none() -> None:
    measured = read_measured(isa.chosen())
    measured.packs["x"] = 64
    measured.write()
    assert read_measured(isa.chosen()).packs == {"x": 64}
    assert cache.write(measured.path, b'{"layers": 3}')
    assert read_measured(isa.chosen()).packs == {}


def test_what_cannot_be_kept_is_an_error_of_tune_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store.write(tiny_graph(), tmp_path / "ir")
    with settings.override(cache=""):
        assert not read_measured(isa.chosen()).write()
        assert main(["tune", str(tmp_path / "ir")]) != 0
    assert "ENGINE_CACHE='': nothing can be kept there" in capsys.readouterr().err


def test_a_stored_pack_is_followed() -> None:
    plan = make_plan(tiny_graph(), isa.chosen())
    assert plan is not None
    measured = read_measured(isa.chosen())
    measured.packs[plan.signature] = 256
    measured.write()
    session = Session(tiny_graph())
    assert session.pack_tokens == 256
    assert len(session.timed(feeds([60] * 8, 64)).packs) == 2  # 4 x 60 fit in 256, not 5


@pytest.mark.slow
def test_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    store.write(tiny_graph(), tmp_path / "ir")
    words = ["tune", str(tmp_path / "ir"), "--batch_size", "2", "--seq_len", "8"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert out.count(" now\n") == 3 and "packs of" in out  # two layers, the last line
    assert main(words) == 0
    assert capsys.readouterr().out.count(" before\n") == 2
