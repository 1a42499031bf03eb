"""Timed steps take turns: within one run, and between runs that know nothing of each other."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MEASURE = """
import sys, time
from pathlib import Path
from engine.measure import instances

instances.LOCK = Path(sys.argv[1])
with instances._machine_to_itself(print):
    print(time.perf_counter_ns())
    time.sleep(0.3)
    print(time.perf_counter_ns())
"""


@pytest.mark.slow
def test_two_processes_take_turns(tmp_path):
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "lock")]
    processes = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    outputs = [process.communicate()[0].splitlines() for process in processes]
    windows = sorted((int(lines[-2]), int(lines[-1])) for lines in outputs)
    for (_, end), (start, _) in zip(windows, windows[1:], strict=False):
        assert end <= start


@pytest.mark.slow
def test_one_run_has_one_timed_step_at_a_time(clone):
    text = clone.snakemake("results/sst2_sweep.csv", "--dry-run", "--cores", "1").stdout
    assert text.count("timing=1") == text.count("rule sweep_point:") == 12
    common = (clone.folder / "workflow/Snakefile").read_text()
    assert 'workflow.global_resources.setdefault("timing", 1)' in common
