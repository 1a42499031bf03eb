"""`engine kernels`: which products there are and what is counted; times are never judged."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from engine.commands.cli import main
from engine.measure.kernel_bench import Timing, best, cases, measure


def test_every_case_has_its_place() -> None:
    groups = list(cases())
    assert len(groups) == 8 * 2 * 3
    assert all(len(group) == 1 + 3 * 2 for group in groups)


def test_rows_count_weights_that_are_not_zero() -> None:
    for group in cases([(64, 32)], [70], [0.5], ["int8", "float32"]):
        timings = measure(group, rounds=1)
        assert timings[0].macs == 64 * 32 * 70
        assert all(0 < timing.macs < timings[0].macs for timing in timings[1:])
        assert all(timing.seconds > 0 and timing.peak > 0 for timing in timings)


def test_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    table = tmp_path / "kernels.csv"
    words = ["--shapes", "16x8", "--tokens", "16", "--zeros", "0.5", "--precisions", "int8"]
    assert main(["kernels", *words, "--rounds", "1", "--passes", "2", "--csv", str(table)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split()[:5] == ["outputs", "inputs", "tokens", "zeros", "kernel"]
    assert len(lines) == 3 + 3
    with table.open(newline="") as file:
        assert [row["pattern"] for row in csv.DictReader(file)] == ["dense", "4x1", "1x4"]


def test_passes_keep_the_shortest_time_and_the_highest_peak() -> None:
    case = next(cases(shapes=[(8, 8)], precisions=["int8"]))[0]
    slow, fast = Timing(case, "a", 2.0, 10, 7.0), Timing(case, "a", 1.0, 10, 5.0)
    assert best([slow, fast]) == best([fast, slow]) == Timing(case, "a", 1.0, 10, 7.0)
