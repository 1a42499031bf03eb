"""Every switch of the engine, read from the environment in this file and nowhere else.

`with override(debug=2): ...` changes them for a block (tests, experiments).  Variables of the
original engine mean what they meant, or are answered with a sentence: docs/from-itrex.md.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Any

from .errors import SettingError

__all__ = ["DESCRIPTIONS", "Settings", "cap_as_set", "cpus_of_slurm", "current", "override"]

log = logging.getLogger(__name__)

DESCRIPTIONS = {  # a line each, for people
    "isa": "cap on the instruction set, a name that `engine isa` lists; A@B: kernels and choices of"
    " A in instructions of B",
    "debug": "logged: 0 nothing, 1 counts of each pass, 2 a plan's steps, 3 the graph after each"
    " pass, 4 where the LLVM IR of each kernel is, 5 its assembly; each with those before",
    "check": "1: after each pass and each step, compare with the operator's NumPy meaning",
    "cache": "folder of compiled kernels, packed weights and measured choices; empty: nothing is"
    " kept on disk",
    "cache_size": "MiB that may lie there; what was used longest ago goes",
    "tune": "1: measure kernel variants on first use and keep the choice in the cache",
    "spin_us": "microseconds a waiting worker spins before it sleeps",
    "threads": "cores of a session that is not told how many",
    "share": "0: packed weights are private memory, not files of the cache that processes share",
    "log": "least grave message that is shown: 0 information, 1 warnings, 2 errors, 3 none",
}

# --- variables of the original ---
ONEDNN_ISAS = {  # DNNL_MAX_CPU_ISA -> ENGINE_ISA
    "SSE41": "generic",
    "AVX": "generic",
    "AVX2": "avx2",
    "AVX2_VNNI": "avx_vnni",
    "AVX2_VNNI_2": "avx_vnni",
    "AVX512_CORE": "avx512",
    "AVX512_CORE_VNNI": "avx512_vnni",
    "AVX512_CORE_BF16": "avx512_bf16",
    "AVX512_CORE_FP16": "avx512_bf16",
    "AVX10_1_512": "avx512_bf16",
    "AVX512_CORE_AMX": "amx_bf16",
    "AVX512_CORE_AMX_FP16": "amx_bf16",
    "ALL": "",
    "DEFAULT": "",
}
ONEDNN_VARIABLES = ("DNNL_MAX_CPU_ISA", "ONEDNN_MAX_CPU_ISA")
ALWAYS = {  # what they switched on is how this engine works
    "UNIFIED_BUFFER": "activations always lie in one arena",
    "WEIGHT_SHARING": "instances always share the weights: model.bin is mapped, not read",
    "INST_NUM": "weights are shared by as many instances as there are; `engine bench --instances`"
    " starts some",
}
LEAST_LOGGED = "GLOG_minloglevel"
REFUSED = {
    "ENGINE_PROFILING": "use `engine profile MODEL --trace FILE`",
}


def _usual_cache() -> str:
    """In XDG_CACHE_HOME or ~/.cache.  Who has no home (a service, a container whose user is only a
    number) has a folder of their own where temporary files are, and without that keeps nothing.
    """
    above = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(above):  # its specification: others are to be ignored
        return os.path.join(above, "sparse-engine")
    home = os.environ.get("HOME", os.path.expanduser("~"))  # unset: what the system knows
    if os.path.isabs(home) and os.path.isdir(home):
        return os.path.join(home, ".cache", "sparse-engine")
    try:
        return os.path.join(tempfile.gettempdir(), f"sparse-engine-{os.geteuid()}")
    except OSError:
        return ""


@dataclass(frozen=True)
class Settings:
    """ENGINE_<NAME> in the environment; defaults here."""

    isa: str = ""
    debug: int = 0
    check: int = 0
    cache: str = field(default_factory=_usual_cache)
    cache_size: int = 2048
    tune: int = 0
    spin_us: int = 2000
    threads: int = 1
    share: int = 1
    log: int = 1


def _from_environment() -> Settings:
    settings = _of_the_original(Settings())
    for item in fields(Settings):
        name = f"ENGINE_{item.name.upper()}"
        text = os.environ.get(name)
        if text is None:
            continue
        default = getattr(settings, item.name)
        try:
            value: Any = int(text) if isinstance(default, int) else text
        except ValueError as error:
            raise SettingError(f"{name}={text!r}: expected a whole number") from error
        settings = replace(settings, **{item.name: value})
    return settings


def _of_the_original(settings: Settings) -> Settings:
    for name, reason in REFUSED.items():
        if os.environ.get(name, "0") not in ("", "0"):
            raise SettingError(f"{name}={os.environ[name]}: {reason}; unset it")
    for name, reason in ALWAYS.items():
        if os.environ.get(name, "0") not in ("", "0"):
            log.warning("%s=%s changes nothing: %s", name, os.environ[name], reason)
    threads = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    if threads:
        settings = replace(settings, threads=_positive("OMP_NUM_THREADS", threads))
    least = os.environ.get(LEAST_LOGGED, "")
    if least:
        if least not in ("0", "1", "2", "3"):
            raise SettingError(f"{LEAST_LOGGED}={least!r}: expected 0 to 3")
        settings = replace(settings, log=int(least))
    return _capped_as_onednn(settings)


def _capped_as_onednn(settings: Settings) -> Settings:
    for name in ONEDNN_VARIABLES:
        cap = os.environ.get(name, "").upper()
        if cap and cap not in ONEDNN_ISAS:
            raise SettingError(f"{name}={cap}: expected one of {', '.join(ONEDNN_ISAS)}")
        settings = replace(settings, isa=ONEDNN_ISAS.get(cap, settings.isa))
    return settings


def cap_as_set() -> str:
    """The cap on the instruction set, by the variable that it was set by."""
    cap = current().isa
    for name in ONEDNN_VARIABLES if "ENGINE_ISA" not in os.environ else ():
        theirs = os.environ.get(name, "").upper()
        if cap and ONEDNN_ISAS.get(theirs) == cap:
            return f"{name}={theirs} ({cap})"
    return f"ENGINE_ISA={cap}"


def cpus_of_slurm() -> int:
    """CPUs of this node that SLURM gives the job; 0: this is none."""
    text = os.environ.get("SLURM_CPUS_ON_NODE", "")
    return int(text) if text.isdecimal() else 0


def _positive(name: str, text: str) -> int:
    if not text.strip().isdecimal() or int(text) < 1:
        raise SettingError(f"{name}={text!r}: expected a whole number from 1 up")
    return int(text)


_stack: list[Settings] = []


def current() -> Settings:
    """The settings in force: the innermost override, else the environment's."""
    if not _stack:
        _stack.append(_from_environment())
        if _stack[0].debug:  # asked for: shown also where the program sets no logging up
            logging.basicConfig(format="%(message)s")
            logging.getLogger("engine").setLevel(logging.INFO)
    return _stack[-1]


@contextmanager
def override(**changes: object) -> Iterator[Settings]:
    """Settings changed for the length of a with block."""
    _stack.append(replace(current(), **changes))  # type: ignore[arg-type]
    try:
        yield _stack[-1]
    finally:
        _stack.pop()
