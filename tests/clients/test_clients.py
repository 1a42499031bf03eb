"""Programs that use ONNX Runtime: by the line of docs/onnxruntime.md they run on the engine.

Their environment is made once, within the one that runs the tests; where no package index answers
the tests are skipped.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
SOURCE = Path(__file__).with_name("embed.py").read_text(encoding="utf-8")
CLIENTS = re.findall(r"^def (\w+)\(folder: Path.*\) -> np\.ndarray", SOURCE, re.MULTILINE)
TOLERANCE = 1e-4
UNREACHABLE = re.compile(
    "connection broken by|Connection ?Error|Read ?timed? ?out|Max retries|ProxyError", re.I
)
QUIET = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


@pytest.fixture(scope="module")
def python() -> Path:
    """The environment's; made again where the list of packages has changed."""
    key = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:12]
    place = Path(sys.prefix) / f"clients-{key}"
    with place.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / "whole").exists():
            make(place)
            (place / "whole").touch()
    return place / "bin" / "python"


def make(place: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--clear", place], check=True)
    pip = [place / "bin" / "python", "-m", "pip", "install", "--quiet", "--retries", "2"]
    done = subprocess.run([*pip, "-r", REQUIREMENTS], capture_output=True, text=True, check=False)
    if done.returncode and UNREACHABLE.search(done.stderr):
        pytest.skip(f"no package index answers: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr


def embed(python: Path, *arguments: str | Path) -> str:
    """What it says on the way."""
    command = [python, "-m", "tests.clients.embed", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **QUIET}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def folder(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("clients") / "minilm"
    embed(python, "export", made)
    return made


@pytest.mark.parametrize("client", CLIENTS)
def test_embeddings_are_onnx_runtimes(
    client: str, python: Path, folder: Path, tmp_path: Path
) -> None:
    made = {}
    for runtime in ("onnxruntime", "engine"):
        said = embed(python, client, folder, tmp_path / f"{runtime}.npy", runtime)
        assert "arning" not in said and "not supported" not in said, said
        made[runtime] = np.load(tmp_path / f"{runtime}.npy")
    assert made["engine"].shape == (5, 384)
    difference = np.abs(made["engine"] - made["onnxruntime"]).max()
    print(f"{client}: largest difference {difference:.1e}")
    assert difference < TOLERANCE
