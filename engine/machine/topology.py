"""Which logical CPUs are threads of one core, and what cores share: cache, node, socket.

Read from /sys as Documentation/ABI/stable/sysfs-devices-system-cpu of Linux has it.  Where a file
is missing (virtual machines, sandboxes) a CPU counts as a core of its own on the first socket.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from ..errors import SettingError

__all__ = ["Cpu", "Topology", "listed", "local_node", "ranges", "read", "usable"]

CPUS, NODES = Path("sys/devices/system/cpu"), Path("sys/devices/system/node")
UNKNOWN = -1
UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


@dataclass(frozen=True)
class Cpu:
    """A logical CPU: a hardware thread of a core."""

    number: int
    core: int  # the least number among the core's threads
    cache: int = UNKNOWN  # the least number among those that share the last-level cache
    node: int = 0  # of memory
    socket: int = 0
    cache_bytes: int = 0  # of the last-level cache; 0: not known

    @property
    def place(self) -> tuple[int, int, int, int, int]:
        """What it lies in, from the outside to the inside: the order in which CPUs are taken."""
        return self.socket, self.node, self.cache, self.core, self.number


@dataclass(frozen=True)
class Topology:
    """The CPUs of a machine; of one that is not known, `of` knows nothing but the number."""

    cpus: tuple[Cpu, ...] = ()

    @cached_property
    def _by_number(self) -> dict[int, Cpu]:
        return {cpu.number: cpu for cpu in self.cpus}

    def of(self, number: int) -> Cpu:
        return self._by_number.get(number) or Cpu(number, number)

    def cores(self, allowed: Iterable[int]) -> list[tuple[Cpu, ...]]:
        """The allowed threads of each core, cores beside one another that share the most."""
        found: dict[int, list[Cpu]] = {}
        for cpu in sorted(map(self.of, allowed), key=lambda cpu: cpu.place):
            found.setdefault(cpu.core, []).append(cpu)
        return [tuple(threads) for threads in found.values()]

    def in_turn(self, allowed: Iterable[int]) -> tuple[int, ...]:
        """The allowed CPUs in the order in which workers should have them: a thread of every core,
        socket by socket and cache by cache, before the second threads.
        """
        cores = self.cores(allowed)
        deepest = max((len(threads) for threads in cores), default=0)
        rounds = ((core[n] for core in cores if n < len(core)) for n in range(deepest))
        return tuple(cpu.number for each in rounds for cpu in each)


def read(root: Path | str = "/") -> Topology:
    """The CPUs that are online below a root, which tests replace.

    Raises:
        SettingError: a file holds something else than numbers; names it.
    """
    root = Path(root)
    online = numbers(root / CPUS / "online")
    nodes = {cpu: node for node, members in _nodes(root) for cpu in members}
    return Topology(tuple(_cpu(root / CPUS / f"cpu{n}", n, nodes) for n in online))


def _cpu(folder: Path, number: int, nodes: dict[int, int]) -> Cpu:
    topology = folder / "topology"
    threads = numbers(topology / "core_cpus_list") or numbers(topology / "thread_siblings_list")
    socket = numbers(topology / "physical_package_id")
    cache, size = _last_cache(folder / "cache")
    return Cpu(
        number,
        min(threads, default=number),
        min(numbers(cache / "shared_cpu_list"), default=UNKNOWN) if cache else UNKNOWN,
        nodes.get(number, 0),
        socket[0] if socket else 0,
        size,
    )


def _last_cache(folder: Path) -> tuple[Path | None, int]:
    """The folder of the cache of the highest level, and its bytes."""
    levels = [(_first(path / "level"), path) for path in sorted(folder.glob("index*"))]
    level, path = max(levels, default=(0, folder))
    return (path, _bytes(path / "size")) if level else (None, 0)


def _bytes(path: Path) -> int:
    """32768K -> 33554432; 0 where there is no such file or it says something else."""
    text = _text(path)
    count, unit = text[:-1], text[-1:]
    return int(count) * UNITS[unit] if count.isdecimal() and unit in UNITS else 0


def _nodes(root: Path) -> Iterator[tuple[int, list[int]]]:
    for path in sorted((root / NODES).glob("node[0-9]*")):
        yield int(path.name.removeprefix("node")), numbers(path / "cpulist")


# --- what this process may use ---


def usable() -> tuple[int, ...]:
    """The CPUs this process may use, best first (Topology.in_turn)."""
    return _in_turn(_allowed())


def local_node() -> int | None:
    """The node of memory that all CPUs of this process lie in; None where they lie in several, or
    the machine has one.
    """
    node_of = _node_of()
    nodes = {node_of.get(cpu, 0) for cpu in _allowed()}
    return nodes.pop() if len(set(node_of.values())) > 1 and len(nodes) == 1 else None


def _allowed() -> tuple[int, ...]:
    return tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else ()


@lru_cache(maxsize=8)
def _in_turn(allowed: tuple[int, ...]) -> tuple[int, ...]:
    return read().in_turn(allowed)


@lru_cache(maxsize=1)
def _node_of() -> dict[int, int]:
    return {cpu: node for node, members in _nodes(Path("/")) for cpu in members}


# --- lists of CPUs, as the kernel writes them ---


def numbers(path: Path) -> list[int]:
    """0-2,5 -> [0, 1, 2, 5]; none where there is no such file or nothing in it.

    Raises:
        SettingError: something else.
    """
    text = _text(path)
    try:
        return listed(text)
    except ValueError as error:
        raise SettingError(f"{path}: found {text[:40]!r}; expected CPUs as 0-2,5") from error


def listed(text: str) -> list[int]:
    """'0-2,5' -> [0, 1, 2, 5]

    Raises:
        ValueError: what is neither a number nor a range of them.
    """
    found: list[int] = []
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        if not (first.isdecimal() and (last or first).isdecimal()):
            raise ValueError(part)
        found += range(int(first), int(last or first) + 1)
    return found


def _first(path: Path) -> int:
    return next(iter(numbers(path)), 0)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def ranges(cpus: Sequence[int]) -> str:
    """(0, 1, 2, 5) -> '0-2,5'"""
    runs: list[list[int]] = []
    for cpu in sorted(cpus):
        if runs and cpu == runs[-1][1] + 1:
            runs[-1][1] = cpu
        else:
            runs.append([cpu, cpu])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
