"""Instruction sets: what the CPU and the operating system permit, and what the engine may use.

A row of LADDER is a name as users know it, the flags of /proc/cpuinfo it needs, and the LLVM
features that code for it may use.  The rows stand in order of speed, and a cap (ENGINE_ISA) means
"no row below this one in the list".  Most rows contain the one above; avx_vnni (Alder Lake: no
AVX-512) and avx512 (Skylake: no VNNI) do not, and no CPU's best row depends on which of the two
stands first: a CPU that has both has avx512_vnni too.  Whatever the list does not know, Arm's
128-bit NEON among it, is generic: plain LLVM vectors.

A set can be emulated ("avx512_bf16@avx2"): plans, kernels and variants are those of the first, the
code of instructions is made for the second.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import platform
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from .. import settings
from ..errors import IsaError

__all__ = [
    "LADDER",
    "Isa",
    "chosen",
    "cpu_flags",
    "cpu_model",
    "describe",
    "detected",
    "emulated",
    "first_cache",
    "missing",
    "named",
    "pretend",
    "report",
]

log = logging.getLogger(__name__)

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")

_AVX2 = ("sse4.2", "popcnt", "avx", "avx2", "fma", "f16c", "bmi", "bmi2", "lzcnt", "movbe")
_AVX512 = (*_AVX2, "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd")
_VNNI = (*_AVX512, "avx512vnni", "avx512vbmi")
_BF16 = (*_VNNI, "avx512bf16")
_AMX = (*_BF16, "amx-tile")


@dataclass(frozen=True)
class Isa:
    """An instruction set as kernels see it."""

    name: str
    needs: tuple[str, ...]  # flags of /proc/cpuinfo
    features: tuple[str, ...]  # of LLVM
    width: int  # bits of a vector register
    lowered: Isa | None = None  # emulated: the set that code is made for

    @property
    def native(self) -> Isa:
        """The set that code is made for."""
        return self.lowered or self

    def has(self, feature: str) -> bool:
        """Whether code may use an LLVM feature ("avx512vnni", "amx-int8", ...)."""
        return feature in self.features

    @property
    def lanes(self) -> int:
        """32-bit lanes of a register."""
        return self.width // 32

    def block_width(self, lanes: int = 64) -> int:
        """Tokens of a register block, of which a tile has this many: 4 outputs x 64 tokens fill
        half of 32 registers of 512 bits.
        """
        return min(lanes, 64 if self.width == 512 else 16)

    def __str__(self) -> str:
        return self.name


_AVX2_FLAGS = ("avx2", "fma", "f16c", "bmi2")
_AVX512_FLAGS = (*_AVX2_FLAGS, "avx512f", "avx512bw", "avx512dq", "avx512vl")
_VNNI_FLAGS = (*_AVX512_FLAGS, "avx512_vnni")
_BF16_FLAGS = (*_VNNI_FLAGS, "avx512_bf16")
_AMX_FLAGS = (*_BF16_FLAGS, "amx_tile", "amx_int8")

LADDER: tuple[Isa, ...] = (
    Isa("generic", (), (), 128),
    Isa("avx2", _AVX2_FLAGS, _AVX2, 256),
    Isa("avx_vnni", (*_AVX2_FLAGS, "avx_vnni"), (*_AVX2, "avxvnni"), 256),
    Isa("avx512", _AVX512_FLAGS, _AVX512, 512),
    Isa("avx512_vnni", _VNNI_FLAGS, _VNNI, 512),
    Isa("avx512_bf16", _BF16_FLAGS, _BF16, 512),
    Isa("amx_int8", _AMX_FLAGS, (*_AMX, "amx-int8"), 512),
    Isa("amx_bf16", (*_AMX_FLAGS, "amx_bf16"), (*_AMX, "amx-int8", "amx-bf16"), 512),
)

# LLVM feature -> flag, where some CPUs of a row lack it and code does without (Cascade Lake and
# Cooper Lake have VNNI but not VBMI).
_OPTIONAL = {"avx512vbmi": "avx512vbmi"}


def named(name: str) -> Isa:
    """The instruction set of that name, with everything its row may use.

    Raises:
        IsaError: lists the names there are.
    """
    for isa in LADDER:
        if isa.name == name:
            return isa
    names = ", ".join(isa.name for isa in LADDER)
    raise IsaError(f"unknown instruction set {name!r}: expected one of {names}")


def _rank(name: str) -> int:
    """Of a name's row; the slowest set has 0."""
    return LADDER.index(named(name))


def emulated(shape: Isa, code: Isa) -> Isa:
    """A set by what it has and how wide it is, in instructions of another one.

    Tiles are of both: nothing else does what they do.
    """
    needs, features = (
        (*own, *(name for name in more if name.startswith("amx") and name not in own))
        for own, more in ((code.needs, shape.needs), (code.features, shape.features))
    )
    lowered = replace(code, needs=needs, features=features)
    return replace(shape, name=f"{shape.name}@{code.name}", needs=needs, lowered=lowered)


# --- the machine
@dataclass(frozen=True)
class _Machine:
    """The flags of /proc/cpuinfo, and the errno of asking for the tiles of AMX (0: granted)."""

    flags: frozenset[str]
    tile_error: int


_ARCH_REQ_XCOMP_PERM, _XFEATURE_XTILEDATA, _SYS_ARCH_PRCTL = 0x1023, 18, 158
_AMX_MODELS = ("143", "173", "174", "207")  # of family 6: Sapphire, Granite, Emerald Rapids
_TILE_ERRORS = {
    errno.EINVAL: "Linux before 5.16 does not know the request for tiles",
    errno.EOPNOTSUPP: "the kernel or the hypervisor has the tiles switched off",
    errno.ENOSPC: "a thread's alternate signal stack is too small to hold the tiles",
    errno.EPERM: "a security policy (seccomp) refuses arch_prctl",
    errno.ENOSYS: "the kernel has no arch_prctl",
}


@lru_cache(maxsize=1)
def _cpuinfo() -> dict[str, str]:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    fields = (line.split(":", 1) for line in lines if ":" in line)
    return {key.strip(): value.strip() for key, value in reversed(list(fields))}


def _tile_error() -> int:
    """Asks for the tiles of AMX: Linux gives them to a process, all its threads, only on request.

    Source: Documentation/arch/x86/xstate.rst of Linux.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return errno.ENOSYS
    library = ctypes.CDLL(None, use_errno=True)
    refused = library.syscall(_SYS_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XFEATURE_XTILEDATA) != 0
    return ctypes.get_errno() if refused else 0


@lru_cache(maxsize=1)
def _real_machine() -> _Machine:
    flags = frozenset(_cpuinfo().get("flags", "").split())
    return _Machine(flags, _tile_error() if "amx_tile" in flags else errno.EOPNOTSUPP)


_pretended: list[_Machine] = []


def _machine() -> _Machine:
    return _pretended[-1] if _pretended else _real_machine()


@contextmanager
def pretend(flags: Iterable[str], *, tile_error: int = 0) -> Iterator[None]:
    """Tests only: the CPU has these flags and no others.

    Code made for flags that it lacks ends in SIGILL, unless an emulator is on.
    """
    _pretended.append(_Machine(frozenset(flags), tile_error))
    try:
        yield
    finally:
        _pretended.pop()


def cpu_flags() -> frozenset[str]:
    """The flags of /proc/cpuinfo; none on other systems and architectures."""
    return _machine().flags


def cpu_model() -> str:
    """The CPU's name, with family and model: the name alone may not tell generations apart."""
    info = _cpuinfo()
    name = info.get("model name") or platform.processor() or platform.machine()
    family, model = info.get("cpu family"), info.get("model")
    return f"{name} (family {family} model {model})" if family else name


@lru_cache(maxsize=1)
def first_cache() -> int:
    """Bytes of the first-level data cache: 32 KB where the system does not tell.

    Source: Documentation/ABI/testing/sysfs-devices-system-cpu of Linux.
    """
    for cache in sorted(_CACHES.glob("index*")):
        try:
            level, kind, size = (
                (cache / name).read_text().strip() for name in ("level", "type", "size")
            )
        except OSError:  # a container may show part of it
            continue
        if level == "1" and kind != "Instruction" and (told := re.fullmatch(r"(\d+)K", size)):
            return int(told[1]) << 10
    return 32 << 10


# --- what it permits
def missing(isa: Isa) -> str:
    """Why this machine does not permit an instruction set, one sentence; empty where it does."""
    machine, info = _machine(), _cpuinfo()
    lacking = [flag for flag in isa.needs if flag not in machine.flags]
    if not lacking:
        if "amx_tile" not in isa.needs or machine.tile_error == 0:
            return ""
        why = _TILE_ERRORS.get(machine.tile_error, "unknown reason")
        name = errno.errorcode.get(machine.tile_error, machine.tile_error)
        return f"the CPU has it, but asking for tiles failed with {name}: {why}"
    sentence = f"no {', '.join(lacking)} in /proc/cpuinfo"
    if "amx_tile" in lacking and info.get("cpu family") == "6" and info.get("model") in _AMX_MODELS:
        return (
            f"{sentence}; this CPU has AMX: Linux {platform.release()} is older than 5.16, "
            "or a hypervisor hides it"
        )
    return f"{sentence} (or a hypervisor hides it)" if "hypervisor" in machine.flags else sentence


def _fitted(isa: Isa) -> Isa:
    """The row without the optional features that this machine lacks."""
    lacking = [feature for feature, flag in _OPTIONAL.items() if flag not in _machine().flags]
    return replace(isa, features=tuple(name for name in isa.features if name not in lacking))


def detected() -> tuple[Isa, ...]:
    """The instruction sets this machine permits, worst first."""
    return tuple(_fitted(isa) for isa in LADDER if not missing(isa))


_warned: set[str] = set()


def chosen() -> Isa:
    """The best permitted instruction set, not above ENGINE_ISA; SHAPE@CAP: SHAPE, emulated by it.

    Raises:
        IsaError: ENGINE_ISA is no name of LADDER, or it emulates tiles where there are none.
    """
    setting = settings.current().isa
    if not setting:
        return detected()[-1]
    shape, emulates, cap = setting.rpartition("@")
    best = [isa for isa in detected() if _rank(isa.name) <= _rank(cap)][-1]
    found = emulated(named(shape), best) if emulates else best
    if why := missing(found):
        raise IsaError(
            f"{settings.cap_as_set()}: tiles are not emulated, and there are none: {why}"
        )
    if best.name != cap and setting not in _warned:
        _warned.add(setting)
        why = missing(named(cap))
        named_so = settings.cap_as_set()
        log.warning("%s is not available here (%s); using %s", named_so, why, found)
    return found


# --- for people
def report() -> list[str]:
    """Lines for `engine isa`: what is there, what is used, and why not more."""
    here, cap = {isa.name for isa in detected()}, settings.cap_as_set()
    used, _, code = chosen().name.partition("@")
    lines = [cpu_model()]
    for isa in LADDER:
        state = missing(isa)
        if isa.name == used:
            state = f"in use, in instructions of {code}" if code else "in use"
        elif isa.name in here:
            above = _rank(isa.name) > _rank(used)
            state = f"available, but {cap} caps it" if above else "available"
        lines.append(f"  {isa.name:<12} {isa.width:>3} bit  {state}")
    return lines


def describe() -> dict[str, str]:
    """CPU model and the instruction set in use, for results."""
    return {"cpu_model": cpu_model(), "isa": chosen().name}
