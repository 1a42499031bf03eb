"""Counts of the profile against counts by hand; times are only there, never judged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from engine import Session
from engine.commands.cli import main
from engine.errors import InputError
from engine.formats import store
from engine.kernels import KERNELS
from engine.measure import peaks
from engine.measure.profile import Work, chrome_trace, late_work, profile, work_of
from tests.tiny import CHANNELS, INNER, feeds, tiny_graph


@pytest.fixture(scope="module")
def session() -> Session:
    return Session(tiny_graph())


def test_work_counts_real_tokens_and_pairs(session: Session) -> None:
    work = work_of(session.timed(feeds([5, 60, 64, 1], 64)))
    assert (work.sentences, work.tokens, work.pairs) == (4, 130, 5**2 + 60**2 + 64**2 + 1)
    assert (work.packs, work.token_tiles, work.row_tiles) == (2, 4, 2)  # 65 tokens each


def test_every_step_is_counted(session: Session) -> None:
    found = profile(session, feeds([64, 20], 64), iterations=2)
    graph = session.graph
    zero = {name: np.count_nonzero(graph.constants[name]) for name in ("wide", "back")}
    macs = {step.name: step.macs for step in found.steps if step.macs}
    assert macs == {
        "a_Attention": 2 * CHANNELS * (64**2 + 20**2),
        "h_Linear": zero["wide"] * 84,
        "y_Linear": zero["back"] * 84,
        "logits_Linear": 2 * CHANNELS * 2,
    }
    assert zero["wide"] < CHANNELS * INNER / 2
    assert all(step.calls == found.work.packs == 1 for step in found.steps)
    assert found.macs == sum(macs.values())
    assert all(step.bytes > 0 for step in found.steps)
    assert 0 < found.roofline_share < 1
    assert {step.peak for step in found.steps} == {"f32", "bytes"}


def test_timed_answers_nothing_but_leaves_run_as_it_was(session: Session) -> None:
    feed = feeds([7], 8)
    before = session.run(feed)["logits"]
    timed = session.timed(feed)
    assert np.array_equal(session.run(feed)["logits"], before)
    assert timed.lengths.tolist() == [7]
    assert (timed.calls == 1).all() and (timed.cycles >= 0).all()


def test_rows_of_many_packs_are_counted_once() -> None:
    work = late_work(Work(70, 700, 7000, 11, 70, 70))
    assert (work.row_tiles, work.packs, work.sentences) == (5, 2, 70)


def test_two_workers_are_timed_too() -> None:
    session = Session(tiny_graph(), threads=2)
    found = profile(session, feeds([64], 64), iterations=2)
    assert found.threads == 2
    assert all(step.calls == 1 for step in found.steps)


def test_trace_has_a_call_and_its_steps(session: Session) -> None:
    found = profile(session, feeds([9], 16), iterations=3)
    events = chrome_trace(found)
    assert len(events) == 3 * (1 + len(found.steps))
    assert all(event["ph"] == "X" and event["dur"] >= 0 for event in events)
    assert json.loads(json.dumps(events)) == events


@pytest.mark.parametrize(
    ("row", "peak"),
    [
        ("sparse_dot_u8s8_4x1", "u8"),
        ("attention_u8_rows", "u8"),
        ("sparse_dot_bf16_1x4", "bf16"),
        ("dense_dot_f32", "f32"),
        ("dense_rows", "f32"),
        ("amx_dot_u8s8", "tiles"),
    ],
)
def test_a_kernels_row_says_which_peak_bounds_it(row: str, peak: str) -> None:
    assert KERNELS[row].multiplies == peak


def test_peaks_are_highest_rates() -> None:
    measured = peaks.Peaks()
    first = dict(measured.round())
    second = measured.round()
    assert set(first) == {*peaks.PEAKS, peaks.BYTES_PEAK}
    assert all(second[name] >= rate > 0 for name, rate in first.items())
    assert peaks.cycles_per_second() > 1e6
    assert {"peak", "read", "clock"} <= set(KERNELS)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ir, trace = tmp_path / "ir", tmp_path / "trace.json"
    store.write(tiny_graph(), ir)
    words = ["profile", str(ir), "--seq_len", "20", "--iterations", "2"]
    assert main([*words, "--trace", str(trace)]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0].split() == [
        "name", "kernel", "calls", "us", "%", "GMAC/s", "GB/s", "peak", "share",
    ]  # fmt: skip
    assert "multiply-adds needed" in out
    assert json.loads(trace.read_text())[0]["name"] == "call 0"
    assert main([*words, "--json", "--by_kernel"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["work"]["tokens"] == 20
    assert record["roofline_share"] > 0


def test_a_model_that_numpy_runs_has_no_steps() -> None:
    graph = tiny_graph()
    nodes = tuple(node for node in graph if node.op == "Linear")[:1]
    session = Session(
        graph.changed(nodes=(nodes[0].changed(inputs=("one", "wide", "", "")),), outputs=())
    )
    with pytest.raises(InputError, match="no step"):
        session.timed({})
