"""Trees of /sys and /proc as machines have them, written below a folder.

The Xeon is numbered as two Gold 6336Y are (24 cores, 36 MiB a socket): first threads of all cores,
then second ones.  The EPYC is two 9334 (32 cores, 8 to a cache of 32 MiB) whose firmware
puts the threads of a core side by side.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20


@dataclass(frozen=True)
class Made:
    """A machine to write; threads: "halves" or "beside", how they are numbered."""

    sockets: int
    cores: int  # of a socket
    cores_a_cache: int
    cache_bytes: int
    numbered: str = "halves"
    offline: frozenset[int] = frozenset()

    @property
    def threads(self) -> dict[int, int]:
        """CPU -> core, both from 0 up."""
        count = self.sockets * self.cores
        if self.numbered == "halves":
            return {cpu: cpu % count for cpu in range(2 * count)}
        return {cpu: cpu // 2 for cpu in range(2 * count)}

    @property
    def online(self) -> list[int]:
        return [cpu for cpu in self.threads if cpu not in self.offline]


XEON = Made(2, 24, 24, 36 * MIB)
EPYC = Made(2, 32, 8, 32 * MIB, "beside")
HALF_OFF = Made(1, 8, 8, 16 * MIB, offline=frozenset([1, 4, 12]))  # core 1 has one thread, 4 none


def write(root: Path, machine: Made) -> Path:
    """The root of the tree."""
    cpus, core_of = root / "sys/devices/system/cpu", machine.threads
    put(cpus / "online", listed(machine.online))
    for cpu in machine.online:
        core = core_of[cpu]
        cache, socket = core // machine.cores_a_cache, core // machine.cores
        own = [n for n in machine.online if core_of[n] == core]
        near = [n for n in machine.online if core_of[n] // machine.cores_a_cache == cache]
        folder = cpus / f"cpu{cpu}"
        put(folder / "topology/core_cpus_list", listed(own))
        put(folder / "topology/physical_package_id", str(socket))
        for index, (level, size, shared) in enumerate(
            [(1, "48K", own), (1, "32K", own), (2, "1280K", own), (3, "", near)]
        ):
            put(folder / f"cache/index{index}/level", str(level))
            put(folder / f"cache/index{index}/size", size or f"{machine.cache_bytes >> 10}K")
            put(folder / f"cache/index{index}/shared_cpu_list", listed(shared))
    for node in range(machine.sockets):
        inside = [n for n in machine.online if core_of[n] // machine.cores == node]
        put(root / f"sys/devices/system/node/node{node}/cpulist", listed(inside))
    return root


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


def listed(cpus: list[int]) -> str:
    """One by one: what reads it must take ranges too, which other files have."""
    ranged = len(cpus) > 8 and cpus == list(range(cpus[0], cpus[-1] + 1))
    return f"{cpus[0]}-{cpus[-1]}" if ranged else ",".join(map(str, cpus))


# --- control groups ---


def quota_v2(root: Path, text: str, *, above: str = "max 100000") -> Path:
    """A container that sees the whole hierarchy: a pod's group, and its own below."""
    mounted, group = root / "sys/fs/cgroup", "kubepods/pod1/box"
    put(root / "proc/self/cgroup", f"0::/{group}")
    put(root / "proc/self/mountinfo", _mount("/", "cgroup2", "cgroup2", "rw,nsdelegate"))
    put(mounted / group / "cpu.max", text)
    put(mounted / "kubepods/pod1/cpu.max", above)
    return root


def quota_v1(root: Path, quota: int, *, named: str = "/docker/box") -> Path:
    """A container whose own group is what is mounted, as Docker has it on v1."""
    put(root / "proc/self/cgroup", f"4:cpu,cpuacct:{named}\n3:cpuset:{named}\n1:name=systemd:/x")
    lines = [
        _mount("/docker/box", "cgroup", "cpuset", "rw,cpuset", "/cpuset"),
        _mount("/docker/box", "cgroup", "cgroup", "rw,cpu,cpuacct", "/cpu,cpuacct"),
    ]
    put(root / "proc/self/mountinfo", "\n".join(lines))
    folder = root / "sys/fs/cgroup/cpu,cpuacct"
    put(folder / "cpu.cfs_quota_us", str(quota))
    put(folder / "cpu.cfs_period_us", "100000")
    return root


def _mount(inside: str, kind: str, source: str, options: str, below: str = "") -> str:
    return (
        f"31 23 0:28 {inside} /sys/fs/cgroup{below} rw,nosuid shared:9 - {kind} {source} {options}"
    )
