"""Where a result comes from: versions, commit, machine, and the files it was made of."""

import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import Any

from engine.measure.placement import usable
from workflow.rulebook.fingerprint import OTHERS, sha256
from workflow.rulebook.place import ROOT

NONE: Mapping[str, Any] = MappingProxyType({})


def commit() -> str:
    """That of the workflow's checkout, "-dirty" if a tracked file differs; "" without git."""
    try:
        name = _git("rev-parse", "HEAD")
        return f"{name}-dirty" if _git("status", "--porcelain", "--untracked-files=no") else name
    except (OSError, subprocess.CalledProcessError):
        return ""


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", ROOT, *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in OTHERS.values():
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def cpu_model() -> str:
    """As the kernel calls it; "" where it does not."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return next((line.split(": ")[-1] for line in lines if line.startswith("model name")), "")


def run_record(files: Iterable[Path], options: Mapping[str, Any] = NONE) -> dict[str, Any]:
    """What a reader needs to make the result again; `options` are those of the configuration."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "command": sys.orig_argv[1:],
        "options": dict(options),
        "options_sha256": hashlib.sha256(
            json.dumps(dict(options), sort_keys=True).encode()
        ).hexdigest(),
        "machine": {
            "host": platform.node(),
            "cpu_model": cpu_model(),
            "system": platform.platform(),
            "cpus": len(os.sched_getaffinity(0)),
            **asdict(usable()),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        },
        "versions": versions(),
        "sha256": {str(file): sha256(file) for file in files},
    }
