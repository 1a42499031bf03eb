"""make bench: engines in turns, and the page that is made of what they gave."""

import io
import json
import sys
import types
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from engine.formats import store
from tests.tiny import tiny_graph
from workflow.scripts.side_by_side import contender, performance, side_by_side
from workflow.scripts.side_by_side.peer_models import legacy, with_constant_scales
from workflow.scripts.side_by_side.side_by_side import (
    CONTENDERS,
    PEAK,
    Contender,
    measure_shape,
    note,
    start,
)

ROOT = Path(__file__).parents[2]


# --- one engine in its process ---


def sleeper(fails=False):
    module = types.SimpleNamespace(calls=0)

    def run(prepared):
        module.calls += 1
        if fails:
            raise ValueError("no such thing")
        return np.array([[0.25, -1.0]])

    module.prepare = lambda model, threads, feed: (model, threads, sorted(feed))
    module.run = run
    module.facts = lambda prepared: {"calls": module.calls}
    return module


@pytest.fixture
def feed(tmp_path):
    side_by_side.write_feed(tmp_path / "feed.npz", 2, 8, "")
    return tmp_path / "feed.npz"


def answers(module, *orders):
    out = io.StringIO()
    contender.serve(module, io.StringIO("".join(json.dumps(o) + "\n" for o in orders)), out)
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_a_contender_is_warmed_up_timed_and_asked(feed):
    prepare = {"prepare": "m", "feed": str(feed), "threads": 1, "cpus": [0]}
    first, timed, facts = answers(sleeper(), prepare, {"seconds": 0.0, "calls": 4}, {"facts": True})
    assert first["logits"] == [0.25, -1.0]
    assert len(timed["ms"]) == 4
    assert facts["facts"]["calls"] == contender.WARM_UP + 4


def test_what_an_engine_raises_is_an_answer(feed):
    prepare = {"prepare": "m", "feed": str(feed), "threads": 1, "cpus": [0]}
    assert answers(sleeper(fails=True), prepare) == [{"failed": "ValueError: no such thing"}]


def test_engine_and_peak_take_turns(tmp_path, feed, monkeypatch):
    monkeypatch.chdir(ROOT)
    store.write(tiny_graph(), tmp_path / "ir")
    np.savez(feed, **{n: np.zeros((2, 8), np.int64) for n in ("input_ids", "token_type_ids")},
             attention_mask=np.ones((2, 8), np.int64))  # fmt: skip
    absent = Contender("absent", "fp32", "no_such_engine", "x")
    ours = Contender("engine", "fp32", "engine", "x")
    log, record = tmp_path / "log", {"shapes": [], "failed": {}}
    servers = [start(c, str(tmp_path / "ir"), "", 1, log) for c in (PEAK, ours, absent)]
    try:
        measure_shape(servers, feed, 1, 2, 0.0)
        note(servers, 2, 8, record)
    finally:
        for server in servers:
            server.process.kill()
            server.process.wait()
    assert [len(server.ms) for server in servers] == [4, 4, 0]
    shape = record["shapes"][0]
    assert shape["macs"]["fp32"] >= shape["done"]["fp32"] > 0
    assert set(record["shapes"][0]["peaks"]) == {"u8", "bf16", "f32", "bytes"}
    turns = record["shapes"][0]["turns"]["fp32"]
    assert len(turns) == 2 and all(turn["ms"] > 0 and turn["peaks"]["f32"] > 0 for turn in turns)
    assert list(record["failed"]) == ["absent fp32 2x8"]
    row = side_by_side.row("tiny", servers[1], 2, 8, 1)
    assert list(row) == [
        "model", "contender", "precision", "version", "batch", "length", "threads", "min_ms",
        "p50_ms", "calls", "logits",
    ]  # fmt: skip
    assert float(row["min_ms"]) > 0


def test_each_contender_has_its_file():
    for each in (*CONTENDERS, PEAK):
        text = (ROOT / f"workflow/scripts/side_by_side/contenders/{each.module}.py").read_text()
        assert "def prepare(" in text and "def run(" in text and "def facts(" in text


# --- models for DeepSparse ---


def test_run_time_scales_become_constants():
    onnx = pytest.importorskip("onnx")
    node = onnx.helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"], "dynamic")
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2])
    q = onnx.helper.make_tensor_value_info("q", onnx.TensorProto.UINT8, [2])
    opsets = [onnx.helper.make_opsetid("", 13), onnx.helper.make_opsetid("ai.onnx.ml", 3)]
    graph = onnx.helper.make_graph([node], "g", [x], [q])
    model = legacy(onnx.helper.make_model(graph, opset_imports=opsets))
    assert [each.domain for each in model.opset_import] == [""]
    model = with_constant_scales(model)
    onnx.checker.check_model(model)
    assert [n.op_type for n in model.graph.node] == ["QuantizeLinear"]
    assert [t.name for t in model.graph.initializer] == ["s", "z"]


# --- the page ---


def results():
    """A run in which ours takes 1 ms a sentence and everyone else ten times that."""
    rows = []
    for each in CONTENDERS:
        factor = 1 if each.name == "engine" else 10
        for batch, length in side_by_side.SHAPES:
            ms = float(batch * factor)
            rows.append({"model": "tiny", "contender": each.name, "precision": each.precision,
                         "batch": batch, "length": length, "min_ms": ms})  # fmt: skip
    macs = {"int8": 6e8, "bf16": 1e8, "fp32": 1e8}
    peaks = {"u8": 1e12, "bf16": 5e11, "f32": 2e11, "bytes": 1e11}
    counts = {"macs": macs, "done": {**macs, "int8": 3e8}, "peaks": peaks}
    shapes = [
        {"batch": b, "length": n, **counts,
         "turns": dict.fromkeys(macs, [{"ms": slow * b, "peaks": peaks} for slow in (9, 1, 1)])}
        for b, n in side_by_side.SHAPES
    ]  # fmt: skip
    failed, machine = {"X int8 1x128": "gone"}, {"cpus": 2}
    run = {"name": "tiny", "shapes": shapes, "failed": failed, "cpu_model": "a CPU",
           "isa": "avx2", "machine": machine, "commit": "", "time": "now"}  # fmt: skip
    start_up = {"cold_seconds": 9.0, "warm_seconds": 1.0, "peak_bytes": 2e8, "output_bytes": 8,
                "python_bytes_a_call": 9, "grown_bytes": 0}  # fmt: skip
    cores = {"one_core_ms": 1.0, "two_cores_ms": 0.7, "time_ratio": 0.7, "one_instance_per_s": 10.0,
             "two_instances_per_s": 19.5, "rate_ratio": 1.95}  # fmt: skip
    server = {"core": {"barrier_seconds": 5e-8, "bytes_a_second": 2e10}}
    predicted = [
        {"cores": 2, "ms": 0.77, "per_s": 21.45, "per_s_of_fours": None},
        {"cores": 128, "ms": None, "per_s": 1e3, "per_s_of_fours": 2e3},
    ]
    scaling = {"cpu_model": "a CPU", "isa": "avx2", "server": server, "rows": predicted,
               "weight_bytes": 2**20, "arena_bytes": 2**19}  # fmt: skip
    whole = {"model": "tiny", "start": start_up, "two_cores": cores, "scaling": scaling}
    return pd.DataFrame(rows), run, whole


def test_the_page_says_what_holds():
    rows, run, whole = results()
    step = {"name": "layer", "kernel": "dot", "calls": 1, "seconds": 1e-6, "macs": 100, "bytes": 50,
            "peak": "u8", "rate": 2e8}  # fmt: skip
    profile = {"steps": [step, step], "work": {"sentences": 1}, "seconds": 4e-6, "macs": 200,
               "roofline_seconds": 1e-6, "roofline_share": 0.25}  # fmt: skip
    many = {**profile, "work": {"sentences": 32}}
    shared = {"outputs": 4, "inputs": 8, "tokens": 128, "precision": "int8", "us": 1.0}
    kernels = [{**shared, "pattern": "dense", "zeros": 0.0, "share": 0.9, "us": 7.0},
               {**shared, "pattern": "4x1", "zeros": 0.9, "share": 0.7}]  # fmt: skip
    text = performance.page(
        (ROOT / "workflow/scripts/side_by_side/performance.md").read_text(),
        [rows], [run], [whole], [("one", profile), ("many", many)], pd.DataFrame(kernels),
    )  # fmt: skip
    assert "| batch 1, ITREX's time / ours | 10.00 | >= 2.6 | >= 3.5 | yes |" in text
    assert "| two cores, time / that of one | 0.70 | <= 0.6 |  | **no** |" in text
    assert (
        "| batch 1, multiply-adds needed / peak of vpdpbusd | 0.60 | >= 0.58 | >= 0.75 | yes |"
        in text
    )
    assert "| int8 | 1 x 128 | 600.0 | 600 | 1000 | 60% | 300.0 | 30% |" in text
    assert "| ITREX sparse | int8 | 10.000 (10.0x) |" in text
    assert (
        "| 2 | 0.770 | 0.700 (+10%) | 21 | 20 (+10%) |  |\n| 128 |  |  | 1000 |  | 2000 |" in text
    )
    assert "a barrier of two 50 ns, 20.0 GB/s from memory; 1.00 MiB of weights, 0.50 MiB" in text
    assert "| 4 x 8 | 128 | 90% | 70% | 7.0x |" in text
    assert "| layer | dot | 1.0 | 50.0% |" in text and "| dot | 2.0 | 100.0% |" in text
    assert "Left out of tiny: X int8 at 1x128 (gone)." in text
    assert "$" not in text and "nan" not in text


def test_without_peers_their_lines_are_left_out():
    rows, run, whole = results()
    own = rows[rows["contender"].isin(["engine", "ONNX Runtime"])]
    text = performance.demands(own, run, whole).to_csv()
    assert "ONNX Runtime" in text and "ITREX" not in text and "DeepSparse" not in text


def test_first_answer_counts_its_own_memory(monkeypatch):
    from engine import Session
    from workflow.scripts.side_by_side import first_answer

    monkeypatch.setattr(first_answer, "CALLS", 3)
    session = Session(tiny_graph())
    monkeypatch.setattr(sys, "argv", ["x"])
    feed = {k: np.minimum(v, 1) for k, v in first_answer.feed_of(session, 2, 8).items()}
    found = first_answer.allocations(session, feed)
    assert found["output_bytes"] == 2 * 2 * 4
    assert found["output_bytes"] <= found["python_bytes_a_call"] < 10_000
    assert first_answer.process_age() > 0
