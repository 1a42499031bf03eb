"""A short soak; `make soak MINUTES=...` is the long one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_nothing_is_wrong_and_nothing_grows() -> None:
    """In a process of its own, whose threads and memory nobody else has."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.soak", "--minutes", "0.15"],
        capture_output=True,
        text=True,
        timeout=500,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sys.path))},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("soak, 0.15 minutes"), done.stdout
