"""Instances side by side share what lies in model.bin."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import engine
from engine.commands.cli import main
from engine.formats import store
from engine.measure.memory import ROLLUP, Memory
from tests import original_writer as writer
from tests.test_original_ir import feeds

ATTEMPTS = 3  # interpreters' own memory comes and goes by some MiB on a busy machine
needs_pss = pytest.mark.skipif(not ROLLUP.exists(), reason="the kernel does not tell PSS")


def test_shared_counts_what_is_left_in_copies_of_the_weights() -> None:
    found = Memory("m", 100, arenas=(5, 5), instances=(130, 130), interpreters=(50, 60))
    assert found.shared == pytest.approx((260 - 110 - 10) / 100)


@needs_pss
def test_instances_share_the_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """48 MiB of words: copies of their own would show as 2, not as less than 1."""
    graph = store.read(writer.write(tmp_path / "theirs", "int8"))
    words = np.ones((196608, writer.CHANNELS), np.float32)
    store.write(graph.changed(constants={**graph.constants, "words": words}), tmp_path / "ir")
    engine.load(tmp_path / "ir").run(feeds(1, 8))  # kernels are compiled, and kept on disk
    command = ["memory", str(tmp_path / "ir"), "--instances", "2", "--seq_len", "8"]
    for _ in range(ATTEMPTS):
        assert main([*command, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["weights"] > words.nbytes
        assert len(found["instances"]) == len(found["interpreters"]) == 2
        assert all(arena > 0 for arena in found["arenas"])
        if -0.3 < found["shared"] < 1.3:
            break
    assert -0.3 < found["shared"] < 1.3, "whatever other processes share libraries with them"


@needs_pss
def test_an_instance_that_fails_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["memory", str(tmp_path / "none"), "--instances", "1"]) == 2
    assert "engine: instance: " in capsys.readouterr().err
