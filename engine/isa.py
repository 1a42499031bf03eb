"""Instruction sets: what the CPU and the kernel of the operating system permit, and what the engine may use of it.

A row of LADDER is a name as users know it, the flags of /proc/cpuinfo it needs, and the LLVM features that code for it may use.
ENGINE_ISA caps the choice; a cap above what the CPU has is lowered to the CPU's best with a warning.
"""

from __future__ import annotations

import ctypes
import logging
import platform
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from . import settings
from .errors import IsaError

__all__ = ["LADDER", "Isa", "chosen", "cpu_model", "describe", "detected", "named"]

log = logging.getLogger(__name__)

_AVX2 = ("sse4.2", "popcnt", "avx", "avx2", "fma", "f16c", "bmi", "bmi2", "lzcnt", "movbe")
_AVX512 = (*_AVX2, "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd")
_VNNI = (*_AVX512, "avx512vnni", "avx512vbmi")
_BF16 = (*_VNNI, "avx512bf16")
_AMX = (*_BF16, "amx-tile")
_ARCH_REQ_XCOMP_PERM, _XFEATURE_XTILEDATA, _SYS_ARCH_PRCTL = 0x1023, 18, 158


@dataclass(frozen=True)
class Isa:
    """An instruction set as kernels see it."""

    name: str
    needs: tuple[str, ...]  # flags of /proc/cpuinfo
    features: tuple[str, ...]  # of LLVM
    width: int  # bits of a vector register

    def has(self, feature: str) -> bool:
        """Whether code may use an LLVM feature ("avx512vnni", "amx-int8", ...)."""
        return feature in self.features

    @property
    def lanes(self) -> int:
        """32-bit lanes of a register."""
        return self.width // 32

    def __str__(self) -> str:
        return self.name


_AVX2_FLAGS = ("avx2", "fma", "f16c", "bmi2")
_AVX512_FLAGS = (*_AVX2_FLAGS, "avx512f", "avx512bw", "avx512dq", "avx512vl")
_VNNI_FLAGS = (*_AVX512_FLAGS, "avx512_vnni", "avx512vbmi")
_BF16_FLAGS = (*_VNNI_FLAGS, "avx512_bf16")

LADDER: tuple[Isa, ...] = (
    Isa("generic", (), (), 128),
    Isa("avx2", _AVX2_FLAGS, _AVX2, 256),
    Isa("avx_vnni", (*_AVX2_FLAGS, "avx_vnni"), (*_AVX2, "avxvnni"), 256),
    Isa("avx512", _AVX512_FLAGS, _AVX512, 512),
    Isa("avx512_vnni", _VNNI_FLAGS, _VNNI, 512),
    Isa("avx512_bf16", _BF16_FLAGS, _BF16, 512),
    Isa("amx_int8", (*_BF16_FLAGS, "amx_tile", "amx_int8"), (*_AMX, "amx-int8"), 512),
    Isa("amx_bf16", (*_BF16_FLAGS, "amx_tile", "amx_int8", "amx_bf16"), (*_AMX, "amx-int8", "amx-bf16"), 512),
)


def named(name: str) -> Isa:
    """The instruction set of that name.

    Raises:
        IsaError: lists the names there are.
    """
    for isa in LADDER:
        if isa.name == name:
            return isa
    raise IsaError(f"unknown instruction set {name!r}: expected one of {', '.join(isa.name for isa in LADDER)}")


@lru_cache(maxsize=1)
def _cpuinfo() -> dict[str, str]:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    fields = (line.split(":", 1) for line in lines if ":" in line)
    return {key.strip(): value.strip() for key, value in reversed(list(fields))}


def cpu_model() -> str:
    """The CPU's name, with family and model where the name alone does not tell generations apart."""
    info = _cpuinfo()
    name = info.get("model name") or platform.processor() or platform.machine()
    family, model = info.get("cpu family"), info.get("model")
    return f"{name} (family {family} model {model})" if family else name


@lru_cache(maxsize=1)
def _tiles_are_granted() -> bool:
    """Linux gives a process the AMX tiles only when it asks (arch_prctl; Intel SDM vol. 1, 18.5)."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    return ctypes.CDLL(None).syscall(_SYS_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XFEATURE_XTILEDATA) == 0


def _is_there(isa: Isa) -> bool:
    flags = set(_cpuinfo().get("flags", "").split())
    return flags.issuperset(isa.needs) and ("amx_tile" not in isa.needs or _tiles_are_granted())


@lru_cache(maxsize=1)
def detected() -> tuple[Isa, ...]:
    """The instruction sets this machine permits, worst first."""
    return tuple(isa for isa in LADDER if _is_there(isa))


_warned: set[str] = set()


def chosen() -> Isa:
    """The best permitted instruction set, not above ENGINE_ISA.

    Raises:
        IsaError: ENGINE_ISA is no name of LADDER.
    """
    cap = settings.current().isa
    best = detected()[-1]
    if not cap:
        return best
    wanted = named(cap)
    if wanted in detected():
        return wanted
    below = [isa for isa in detected() if LADDER.index(isa) < LADDER.index(wanted)][-1]
    if cap not in _warned:
        _warned.add(cap)
        log.warning("ENGINE_ISA=%s is not available here; using %s", cap, below)
    return below


def describe() -> dict[str, str]:
    """CPU model and the instruction set in use, for results."""
    return {"cpu_model": cpu_model(), "isa": chosen().name}
