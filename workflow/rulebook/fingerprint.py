"""What is in a file or folder, as one short string: names and contents count, times do not; and
which version of a package is here.
"""

import hashlib
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

# what others made and results depend on: the module that is imported -> what pip calls it
OTHERS = {
    **{name: name for name in ("numpy", "numba", "llvmlite", "onnx", "onnxruntime", "torch")},
    **{name: name for name in ("transformers", "scipy", "seqeval")},
    "sklearn": "scikit-learn",
}


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(path: Path) -> str:
    """Sixteen hexadecimal digits; "" for what is not there (the fetch will say so)."""
    if path == Path() or not path.exists():
        return ""
    state = tuple((file, *_state(file)) for file in _files(path))
    return _fingerprint(path, state)


@cache  # the rules of one run ask again and again
def _fingerprint(path: Path, state: tuple[tuple[Path, int, int], ...]) -> str:
    lines = (f"{sha256(file)}  {file.relative_to(path)}\n" for file, _, _ in state)
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


def _state(file: Path) -> tuple[int, int]:
    return file.stat().st_mtime_ns, file.stat().st_size


def installed(package: str) -> str:
    """The version that is installed here; "" where it is not."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
