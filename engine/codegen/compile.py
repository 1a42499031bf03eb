"""Python kernel -> LLVM IR (by Numba, as a front end only) -> machine code for a chosen instruction
set, cached on disk.

A kernel is a Python function of four int64: params (address of its parameter block), context
(address of the run's context), begin and end (the units of work to do).  Numba types it and lowers
it; the abstract instructions of simd stay calls named "simd...", which are given their bodies
for the instruction set here, inlined and optimised.  So one process can hold code for several
instruction sets, code can be made for CPUs other than this one, and a warm start loads object files
without importing Numba.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding as llvm

from .. import settings
from ..errors import IsaError
from ..files import cache
from .isa import Isa, missing

__all__ = [
    "Compiled",
    "compiled",
    "is_ready",
    "loading",
    "make",
    "object_code",
    "source_hash",
]

# Held while a model is read or a kernel made.  A fork waits for the end of it: locks of imports, of
# LLVM and of Numba that another thread has would be locked for ever in the child.
loading = threading.RLock()
os.register_at_fork(
    before=loading.acquire, after_in_parent=loading.release, after_in_child=loading.release
)

log = logging.getLogger(__name__)
KERNEL = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 4)  # params, context, begin, end


@dataclass(frozen=True)
class Compiled:
    """Machine code in this process: void address(int64 params, int64 context, int64 begin, int64
    end).
    """

    name: str
    address: int
    keep: Any  # the execution engine that owns the code

    def function(self) -> Callable[[int, int, int, int], None]:
        """To call from Python: addresses of parameters and context, units of work."""
        return KERNEL(self.address)


@lru_cache(maxsize=1)
def _targets_are_ready() -> bool:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    return True


@lru_cache(maxsize=1)
def _host_features() -> frozenset[str]:
    return frozenset(name for name, there in llvm.get_host_cpu_features().items() if there)


def target_machine(
    isa: Isa, *, cpu: str = "", triple: str = "", jit: bool = True
) -> llvm.TargetMachine:
    """Code generator for an instruction set: this CPU's scheduling model and nothing above the
    set's features, or a named CPU.
    """
    _targets_are_ready()
    if triple and not triple.startswith("x86_64"):
        features = ""
    else:
        features = ",".join(f"+{name}" for name in isa.features)
        if not cpu:
            above = sorted(_host_features() - set(isa.features))
            features = ",".join(
                [
                    features,
                    *(
                        f"-{name}"
                        for name in above
                        if name.startswith(("avx", "amx", "fma", "f16c", "xop"))
                    ),
                ]
            )
            features = features.strip(",")
    triple = triple or llvm.get_process_triple()
    target = llvm.Target.from_triple(triple)
    host = (
        "x86-64"
        if isa.name == "generic" and triple.startswith("x86_64")
        else llvm.get_host_cpu_name()
    )
    return target.create_target_machine(
        cpu=cpu or host,
        features=features,
        opt=3,
        reloc="pic",
        codemodel="jitdefault" if jit else "default",
        jit=jit,
    )


def _optimise(module: llvm.ModuleRef, machine: llvm.TargetMachine) -> None:
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    options.loop_vectorization = False
    options.slp_vectorization = False
    options.loop_unrolling = (
        False  # the inner loops are full-width already; unrolling costs registers
    )
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)


# The feature behind LLVM's own functions for x86, the first that fits; any of those named will do.
_NEEDED = (
    ("tdpbf16ps", ("amx-bf16",)),
    ("tdpb", ("amx-int8",)),
    ("tile", ("amx-tile",)),
    ("ldtilecfg", ("amx-tile",)),
    ("sttilecfg", ("amx-tile",)),
    ("avx512bf16.", ("avx512bf16",)),
    ("avx512.vpdp", ("avx512vnni", "avxvnni")),
    ("avx512.vpermi2var.qi", ("avx512vbmi",)),
    ("avx512.", ("avx512f",)),
    ("avx2.", ("avx2",)),
    ("avx.", ("avx",)),
    ("ssse3.", ("avx", "ssse3")),
    ("fma.", ("fma",)),
    ("sse2.", ()),
)


def _check_instructions(name: str, module: llvm.ModuleRef, isa: Isa) -> None:
    """LLVM ends the process where it is asked for an instruction that the target lacks."""
    for function in module.functions:
        if not function.is_declaration or not function.name.startswith("llvm.x86."):
            continue
        if not module.triple.startswith("x86_64"):
            raise IsaError(
                f"kernel {name} for {isa} calls {function.name}; the target is {module.triple}"
            )
        own = function.name.removeprefix("llvm.x86.")
        features = next((some for prefix, some in _NEEDED if own.startswith(prefix)), ("?",))
        if features and not any(isa.has(feature) for feature in features):
            raise IsaError(
                f"kernel {name} calls {function.name}: {isa} lacks {' or '.join(features)}"
            )


_FMA = re.compile(r"declare <?(?:(\d+) x )?float>? @(llvm\.fma\.\w+)\(.*\n")


def _without_fma(text: str) -> str:
    """IR whose llvm.fma are arithmetic in float64: LLVM would call the C library's fmaf, lane by
    lane.

    The product of two float32 is exact in float64; one sum in about 2^29 is rounded twice.
    """

    def body(match: re.Match[str]) -> str:
        lanes, name = match.groups()
        single, double = (f"<{lanes} x {kind}>" if lanes else kind for kind in ("float", "double"))
        return f"""
            define internal {single} @{name.replace("llvm.", "simd.")}({single} %x, {single} %y,
            {single} %z) alwaysinline {{
              %p = fpext {single} %x to {double}
              %q = fpext {single} %y to {double}
              %r = fpext {single} %z to {double}
              %product = fmul {double} %p, %q
              %sum = fadd {double} %product, %r
              %rounded = fptrunc {double} %sum to {single}
              ret {single} %rounded
            }}
            """

    return _FMA.sub(body, text).replace("@llvm.fma.", "@simd.fma.")


def optimised_module(
    name: str, build: Callable[[], Any], isa: Isa, machine: llvm.TargetMachine
) -> llvm.ModuleRef:
    """The kernel and all it calls in one module, every abstract instruction given its body."""
    from . import lower  # imports Numba: only when something has to be compiled

    text = lower.kernel_module(name, build(), isa)
    if machine.triple.startswith("x86_64") and not isa.has("fma"):
        text = _without_fma(text)
    module = llvm.parse_assembly(text)
    module.triple = machine.triple
    module.data_layout = str(machine.target_data)
    module.verify()
    _optimise(module, machine)
    _check_instructions(name, module, isa)
    return module


def object_code(name: str, build: Callable[[], Any], isa: Isa, **target: Any) -> bytes:
    """Machine code as an object file; see target_machine for the options.

    Raises:
        IsaError: LLVM lacks the feature (it would end the process otherwise).
    """
    machine = target_machine(isa, **target)
    try:
        module = optimised_module(name, build, isa, machine)
        _keep_listings(name, isa, module, machine)
        return bytes(machine.emit_object(module))
    except RuntimeError as error:
        raise IsaError(f"kernel {name} for {isa}: {error}") from error


def _keep_listings(name: str, isa: Isa, module: llvm.ModuleRef, machine: Any) -> None:
    """LLVM IR and assembly, for people: files of the cache, which the log names."""
    debug = settings.current().debug
    if debug >= 4:
        _keep_listing(name, isa, "LLVM IR", "ll", str(module))
    if debug >= 5:
        _keep_listing(name, isa, "assembly", "s", machine.emit_assembly(module))


def _keep_listing(name: str, isa: Isa, what: str, ending: str, text: str) -> None:
    path = cache.place("code", f"{name}.{isa}.{ending}")
    kept = path is not None and cache.put(path, text.encode())
    log.info("%s: %s %s", name, what, f"in {path}" if kept else "has no place: ENGINE_CACHE")


@lru_cache(maxsize=1)
def source_hash() -> str:
    """Of everything that kernels are made from: code is compiled again when any of it changes."""
    here = Path(__file__).parent
    digest = hashlib.sha256(llvmlite.__version__.encode())
    for path in sorted([*here.rglob("*.py"), *(here.parent / "kernels").rglob("*.py")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _cached_path(name: str, isa: Isa) -> Path | None:
    cpu = f"{llvm.get_host_cpu_name()} {' '.join(sorted(_host_features()))}"
    key = hashlib.sha256(f"{source_hash()} {name} {isa.name} {isa.features} {cpu}".encode())
    return cache.place("code", f"{key.hexdigest()[:24]}.o")


def _load(name: str, code: bytes, isa: Isa) -> Compiled:
    _targets_are_ready()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), target_machine(isa))
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    return Compiled(name, engine.get_function_address(name), engine)


_loaded: dict[tuple[str, Isa], Compiled] = {}


def compiled(name: str, build: Callable[[], Any], isa: Isa) -> Compiled:
    """The kernel in this process: from memory, the disk, or newly made.

    Kernels ask nothing of an instruction set, only bodies of instructions do: one that is emulated
    shares its code with the set that it is made for.

    Raises:
        IsaError: this machine does not permit the set (its code would end the process).
    """
    isa = isa.native
    key = (name, isa)
    if key not in _loaded:
        with loading:  # code that is replaced would be freed under those who run it
            if key not in _loaded:
                _loaded[key] = _made(name, build, isa)
    return _loaded[key]


def _made(name: str, build: Callable[[], Any], isa: Isa) -> Compiled:
    if why := missing(isa):
        raise IsaError(f"kernel {name} for {isa}: {why}")
    code = b"" if settings.current().debug >= 4 else cache.read(_cached_path(name, isa))
    return _load(name, code or make(name, build, isa), isa)  # made anew where it is listed


def make(name: str, build: Callable[[], Any], isa: Isa) -> bytes:
    """The object code, kept on disk for whoever needs the kernel.

    Raises:
        IsaError: see `object_code`.
    """
    code = object_code(name, build, isa)
    cache.write(_cached_path(name, isa), code)
    return code


def is_ready(name: str, isa: Isa) -> bool:
    """Whether the kernel is in this process or, as it seems, on disk."""
    path = _cached_path(name, isa)
    return (name, isa.native) in _loaded or (path is not None and path.exists())
