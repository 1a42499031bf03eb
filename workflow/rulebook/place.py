"""Where the workflow itself is: its files are found there, results in the working directory."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("engine", "workflow")  # what is imported from here


class PlaceError(Exception):
    """The working directory has a package of a name of ours, which Python would find before it."""


def own(*parts: str) -> Path:
    """A file of the workflow's; relative where the working directory is its own place."""
    return Path(*parts) if _at_home() else ROOT.joinpath(*parts)


def named(path: Path) -> Path:
    """The path as it is called below the workflow's place; unchanged, if it is not there."""
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def lead_steps_here() -> None:
    """Let `python -m workflow.scripts...` of the rules find its modules from any directory."""
    if _at_home():
        return
    for package in PACKAGES:
        for path in (Path(package, "__init__.py"), Path(f"{package}.py")):
            if path.exists():
                raise PlaceError(
                    f"{path.resolve()}: stands before the package of {ROOT}; rename it"
                )
    before = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([str(ROOT), *before]))


def _at_home() -> bool:
    return Path.cwd() == ROOT
