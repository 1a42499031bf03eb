"""How much time of CPUs the control groups of this process give, whatever CPUs it may run on.

    v2   cpu.max: "250000 100000", or "max 100000"        2.5 CPUs; no limit
    v1   cpu.cfs_quota_us, cpu.cfs_period_us: 250000 or -1, 100000

The least counts of all groups from the process' own up to the root that is mounted
(Documentation/admin-guide/cgroup-v2.rst and scheduler/sched-bwc.rst of Linux).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Quota", "of_process"]


@dataclass(frozen=True)
class Quota:
    """CPUs of time, 2.5 for example, and who says so."""

    cpus: float
    source: str

    @property
    def threads(self) -> int:
        """As many as can be busy all the time; one in any case."""
        return max(1, int(self.cpus))


def of_process(root: Path | str = "/") -> Quota | None:
    """The least quota of its control groups; None: there is none."""
    root = Path(root)
    found = [quota for folder in _groups(root) if (quota := _quota(folder))]
    return min(found, key=lambda quota: quota.cpus, default=None)


def _quota(folder: Path) -> Quota | None:
    """Of one group."""
    words = _words(folder / "cpu.max")
    source = "cpu.max"
    if not words:
        words = [*_words(folder / "cpu.cfs_quota_us"), *_words(folder / "cpu.cfs_period_us")]
        source = "cpu.cfs_quota_us"
    if len(words) != 2 or not all(word.isdecimal() and int(word) for word in words):
        return None
    return Quota(int(words[0]) / int(words[1]), source)


def _groups(root: Path) -> Iterator[Path]:
    """Folders of the process' groups with the CPU controller, each up to where it is mounted."""
    own = _own_groups(root)
    for line in _lines(root / "proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        controller = {"cgroup2": "", "cgroup": "cpu"}.get(kind[0])
        if controller not in own or (controller and "cpu" not in kind[2].split(",")):
            continue
        mounted = root / fields[4].lstrip("/")
        folder = mounted / _below(own[controller], fields[3])
        yield folder
        yield from (parent for parent in folder.parents if parent.is_relative_to(mounted))


def _own_groups(root: Path) -> dict[str, str]:
    """Controller "cpu" of v1, "" of v2 -> path of the process' group."""
    found = {}
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if not controllers or "cpu" in controllers.split(","):
            found["cpu" if controllers else ""] = path
    return found


def _below(path: str, mounted: str) -> str:
    """A group's path below what is mounted; the mount itself where it lies outside (a container
    sees its own group as the root).
    """
    inside = Path(path).is_relative_to(mounted) and ".." not in Path(path).parts
    return str(Path(path).relative_to(mounted)) if inside else ""


def _words(path: Path) -> list[str]:
    return [word for line in _lines(path) for word in line.split()]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
