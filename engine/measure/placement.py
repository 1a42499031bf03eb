"""Who runs where: the cores of each instance, by what cores share.

An instance lies inside one last-level cache where its cores fit there, else inside a node of
memory, a socket, the machine.  A core gives one of its threads (smt: all of them).  The limits of
control groups (cpu.max, cpusets) and of SLURM hold.

Memory is local by first touch: an instance's process is pinned before it loads anything, and Linux
takes a page from the node of the CPU that touches it first.  Packed weights that processes share
are shared among those of one node (plan/kept.py).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .. import settings
from ..errors import SettingError
from ..machine import quota
from ..machine.quota import Quota
from ..machine.topology import Cpu, Topology, ranges, read

__all__ = ["ONE_SOCKET", "SOCKETS", "Split", "Used", "split_cores", "usable"]

Core = tuple[Cpu, ...]  # those of its threads that are used
ONE_SOCKET, SOCKETS = "1", ("1", "all")
MACHINE = Path("/")
LEVELS = (3, 2, 1, 0)  # fields of Cpu.place that are alike in a cache, a node, a socket, anywhere


@dataclass(frozen=True)
class Used:
    """What some CPUs are together; quota: CPUs of time for all of them, where there is one."""

    sockets: int
    cores: int
    threads: int
    quota: float | None = None


@dataclass(frozen=True)
class Split:
    """Which CPUs each instance has; `note` says in words where this differs from what was asked,
    `limits` what keeps it to a part of the machine.
    """

    instances: tuple[tuple[int, ...], ...] = ()
    note: str = ""
    limits: tuple[str, ...] = ()
    quota: float | None = None  # CPUs of time that control groups or SLURM give
    topology: Topology = field(default_factory=Topology)

    @property
    def threads(self) -> int:
        """Of an instance."""
        return len(self.instances[0])

    @property
    def cores_per_instance(self) -> int:
        return self.used(self.instances[0]).cores

    def used(self, cpus: Iterable[int]) -> Used:
        """What these CPUs are."""
        return _used(self.topology, cpus, self.quota)

    @property
    def all_used(self) -> Used:
        return self.used(cpu for cpus in self.instances for cpu in cpus)


def usable(root: Path | str = MACHINE) -> Used:
    """What this process may use."""
    allowed = os.sched_getaffinity(0)
    return _used(read(root), allowed, _time_of(_quota(Path(root), len(allowed))))


def _used(topology: Topology, cpus: Iterable[int], limit: float | None) -> Used:
    found = [topology.of(cpu) for cpu in cpus]
    sockets, cores = {cpu.socket for cpu in found}, {cpu.core for cpu in found}
    return Used(len(sockets), len(cores), len(found), limit)


# --- the split ---


def split_cores(
    cores_per_instance: int,
    *,
    instances: int = 0,
    cpus: Sequence[int] = (),
    sockets: str = ONE_SOCKET,
    smt: bool = False,
    root: Path | str = MACHINE,
) -> Split:
    """Share out the cores this process may use; 0 instances means as many as fit.

    cpus: these, whatever they are threads of and wherever they lie; sockets: "1", the one with the
    most cores that may be used, or "all"; smt: all threads of a core; root: of /sys and /proc.

    Raises:
        SettingError: CPUs that this process may not use, or more than there are.
    """
    topology, allowed = read(root), sorted(os.sched_getaffinity(0))
    _check(cores_per_instance, instances, sockets)
    _check_cpus(cpus, allowed)
    limit = _quota(Path(root), len(allowed))
    cores = topology.cores(cpus or allowed)
    free = [(cpu,) for core in cores for cpu in core] if cpus else _chosen(cores, sockets, smt)
    left_out = [] if cpus else _left_out(cores, free)
    limits = (*_cpuset(topology, allowed), *_time(limit), *left_out)
    width = max(map(len, free))
    most = limit.threads if limit else width * len(free)  # threads that may be busy
    free, width = [core[:most] for core in free], min(width, most)
    size = min(cores_per_instance, len(free), most // width)
    groups = _groups(free, size, instances or 1)[: most // (size * width)]
    if len(groups) < instances:
        found = f"only {len(free)} CPUs are here"
        raise SettingError(f"{instances} instances of {size} cores: {'; '.join((found, *limits))}")
    groups = groups[: instances or None]
    named = tuple(tuple(cpu.number for core in group for cpu in core) for group in groups)
    note = "; ".join(_notes(cores_per_instance, free, groups))
    return Split(named, note, limits, _time_of(limit), topology)


def _check(cores: int, instances: int, sockets: str) -> None:
    if cores < 1 or instances < 0:
        raise SettingError(f"{cores} cores per instance, {instances} instances: too few")
    if sockets not in SOCKETS:
        raise SettingError(f"sockets {sockets!r}: expected one of {', '.join(SOCKETS)}")


def _check_cpus(cpus: Sequence[int], allowed: Sequence[int]) -> None:
    absent = sorted(set(cpus) - set(allowed))
    if absent:
        raise SettingError(f"cpus {ranges(absent)}: this process may use {ranges(allowed)} only")


def _chosen(cores: Sequence[Core], sockets: str, smt: bool) -> list[Core]:
    """Of the socket that has the most of them, or of all; with one thread, or all of them."""
    counts = Counter(core[0].socket for core in cores)
    fullest = max(sorted(counts), key=lambda socket: counts[socket])
    inside = [core for core in cores if sockets != ONE_SOCKET or core[0].socket == fullest]
    return inside if smt else [core[:1] for core in inside]


def _groups(free: Sequence[Core], size: int, wanted: int) -> list[list[Core]]:
    """As many groups as lie inside the smallest part of the machine that has so many of them."""
    groups: list[list[Core]] = []
    for level in LEVELS:
        parts: dict[tuple[int, ...], list[Core]] = {}
        for core in free:
            parts.setdefault(core[0].place[:level], []).append(core)
        groups = [
            part[first : first + size]
            for part in parts.values()
            for first in range(0, len(part) - size + 1, size)
        ]
        if len(groups) >= wanted:
            break
    return groups


# --- what keeps a run to a part of the machine ---


def _quota(root: Path, allowed: int) -> Quota | None:
    """The control groups', or SLURM's where it has not pinned the job to what it gives."""
    given = settings.cpus_of_slurm()
    slurm = Quota(given, "SLURM_CPUS_ON_NODE") if 0 < given < allowed else None
    found = [each for each in (quota.of_process(root), slurm) if each]
    return min(found, key=lambda each: each.cpus, default=None)


def _time_of(limit: Quota | None) -> float | None:
    return limit.cpus if limit else None


def _time(limit: Quota | None) -> list[str]:
    return [f"{limit.cpus:g} CPUs of time ({limit.source})"] if limit else []


def _cpuset(topology: Topology, allowed: Sequence[int]) -> list[str]:
    online = {cpu.number for cpu in topology.cpus}
    if not online - set(allowed):
        return []
    return [f"CPUs {ranges(allowed)} of {ranges(sorted(online))} (a cpuset, or affinity)"]


def _left_out(cores: Sequence[Core], free: Sequence[Core]) -> list[str]:
    """What was not asked for."""
    there, taken = ({core[0].socket for core in some} for some in (cores, free))
    found = []
    if there != taken:
        found.append(f"socket {ranges(sorted(taken))} of {ranges(sorted(there))} (sockets: 1)")
    if max(map(len, cores)) > max(map(len, free)):
        found.append("one thread a core (smt: false)")
    return found


def _notes(asked: int, free: Sequence[Core], groups: Sequence[Sequence[Core]]) -> list[str]:
    size, notes = len(groups[0]), []
    if size < asked:
        notes.append(f"{asked} cores per instance were asked for, {size} are here")
    used = {cpu for group in groups for core in group for cpu in core}
    idle = [cpu.number for core in free for cpu in core if cpu not in used]
    if idle:
        notes.append(f"CPUs {ranges(idle)} stay idle")
    caches = max(len({core[0].cache for core in group}) for group in groups)
    if caches > 1:
        notes.append(f"an instance has cores of {caches} last-level caches")
    threads = [core[0].core for group in groups for core in group]
    if len(threads) > len(set(threads)):
        notes.append("some of the CPUs are threads of one core")
    return notes
