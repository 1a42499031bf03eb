"""The package as its users install it: outside the checkout, with its commands and its types."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from engine import __version__

ROOT = Path(__file__).parents[1]
CALLS = """
import numpy as np
from numpy.typing import NDArray

import engine


def logits(path: str, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    with engine.load(path, threads=1) as session:
        made: NDArray[np.float32] = session.run({"input_ids": ids})["logits"]
    return made


session: engine.Session = engine.load(b"...")
other: engine.InferenceSession = engine.InferenceSession("model.onnx")
"""
WRONG = 'import engine\n\nengine.load("model.onnx", threads="two")\n'


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an environment with the package in it, not editable, beside what it needs."""
    home = tmp_path_factory.mktemp("env")
    venv.create(home, with_pip=False)
    packages = home / f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    how = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    source = home / "source"  # setuptools leaves build/ where it builds
    source.mkdir()
    for name in ("engine", "pyproject.toml", "README.md", "LICENSE"):
        (source / name).symlink_to(ROOT / name)
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *how, "--target", str(packages), str(source)],
        check=True,
    )
    (packages / "needed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    for script in (packages / "bin").iterdir():  # --target puts them there, for the python it ran
        text = script.read_text().replace(sys.executable, str(home / "bin/python"), 1)
        (home / "bin" / script.name).write_text(text)
        (home / "bin" / script.name).chmod(0o755)
    return home / "bin/python"


def run(*command: object, folder: Path) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(
        list(map(str, command)), cwd=folder, env=clean, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_outside_the_checkout_it_is_imported_and_called_by_both_names(
    python: Path, tmp_path: Path
) -> None:
    where = run(python, "-c", "import engine; print(engine.__file__)", folder=tmp_path)
    assert where.stdout.startswith(str(python.parents[1])), where.stderr
    for name in ("engine", "sparse-engine"):
        told = run(python.parent / name, "--version", folder=tmp_path)
        assert (told.returncode, told.stdout) == (0, f"engine {__version__}\n"), told.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("text", "wrong"), [(CALLS, 0), (WRONG, 1)], ids=["right", "wrong"])
def test_a_users_file_is_checked_strictly(
    python: Path, text: str, wrong: int, tmp_path: Path
) -> None:
    (tmp_path / "user.py").write_text(text)
    mypy = [sys.executable, "-m", "mypy", "--strict", "--python-executable", python]
    told = run(*mypy, "--cache-dir", tmp_path / "cache", "user.py", folder=tmp_path)
    assert told.returncode == wrong, told.stdout


def test_importing_it_imports_none_of_what_runs_models() -> None:
    heavy = "onnx", "llvmlite", "numba", "numpy"
    code = f"import sys, engine; print([name for name in {heavy} if name in sys.modules])"
    assert run(sys.executable, "-c", code, folder=ROOT).stdout == "[]\n"


def test_an_ir_is_loaded_without_onnx() -> None:
    """14 MiB of each instance."""
    code = "import sys; from engine import Session, load; print('onnx' in sys.modules)"
    assert run(sys.executable, "-c", code, folder=ROOT).stdout == "False\n"
