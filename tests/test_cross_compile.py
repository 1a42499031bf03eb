"""Kernels compiled for other CPUs: to an object file without error, with the instructions that each
instruction set is about, and without those it has not.

What runs here is one CPU's code; this looks at the code of the others.
"""

from __future__ import annotations

import re
from functools import cache, partial
from typing import Any

import pytest

from engine.codegen import compile as compiler
from engine.codegen import isa
from engine.errors import IsaError
from engine.kernels import KERNELS, builder, kernel, kernel_name
from engine.kernels.table import AXES

X86, ARM = "x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"
TARGETS = {  # CPU as LLVM calls it -> triple and the instruction set that detection would choose
    "sapphirerapids": (X86, "amx_bf16"),
    "icelake-server": (X86, "avx512_vnni"),
    "znver4": (X86, "avx512_bf16"),
    "skylake-avx512": (X86, "avx512"),
    "alderlake": (X86, "avx_vnni"),
    "haswell": (X86, "avx2"),
    "x86-64": (X86, "generic"),
    "neoverse-v1": (ARM, "generic"),
}
LIBRARY = {"sched_yield", "memset", "memcpy", "memmove"}  # all that code may call


def variants(name: str, which: isa.Isa) -> list[tuple[Any, ...]]:
    """As many variants of a kernel as have every value of every axis."""
    axes = KERNELS[name].variant
    rows = max((len(AXES[axis]) for axis in axes if axis in AXES), default=1)
    return [tuple(value(axis, number, which) for axis in axes) for number in range(rows)]


def value(axis: str, number: int, which: isa.Isa) -> Any:
    """The number'th of an axis, which begins anew behind its last."""
    if axis in AXES:
        return AXES[axis][number % len(AXES[axis])]
    lanes = value("lanes", number, which)
    return {
        "width": which.block_width(lanes),
        "lanes_of_a_register": which.lanes,
        "depth": (64, 32, 128)[number % 3],
    }[axis]


def can_be(name: str, which: isa.Isa) -> bool:
    """Whether the set has what the kernel is made of."""
    return all(map(which.has, KERNELS[name].needs))


@cache
def function(name: str, variant: tuple[Any, ...]) -> Any:
    """The kernel's Python function, made once: what it calls is then typed once."""
    return builder(name, *variant)()


def code(name: str, variant: tuple[Any, ...], cpu: str) -> str:
    """Assembly: the last stage but for the assembler, which the golden ones go through too."""
    triple, which = TARGETS[cpu]
    chosen = isa.named(which)
    machine = compiler.target_machine(chosen, cpu=cpu, triple=triple, jit=False)
    full = kernel_name(name, *variant)
    module = compiler.optimised_module(full, lambda: function(name, variant), chosen, machine)
    return str(machine.emit_assembly(module))


def check(text: str, cpu: str) -> None:
    """What holds for every kernel: no wider registers, no newer instructions, no foreign calls."""
    triple, which = TARGETS[cpu]
    chosen = isa.named(which)
    called = re.findall(r"\t(?:callq|bl)\t([\w.]+)", text)
    assert set(called) <= LIBRARY
    if triple == ARM:
        return
    if chosen.width < 512:
        assert "%zmm" not in text
    if chosen.width < 256:
        assert "%ymm" not in text
    if not (chosen.has("avx512vnni") or chosen.has("avxvnni")):
        assert "vpdpbusd" not in text
    if not chosen.has("avx512bf16"):
        assert "vdpbf16ps" not in text
    if not chosen.has("amx-tile"):
        assert "tmm" not in text


BYTES, FLOATS = ("dense_dot_u8s8", ("bytes", "none")), ("dense_dot_f32", ("f32", "none"))
PAIRS = ("dense_dot_bf16", ("f32", "none"))
GOLDEN = [  # kernel and the end of its variant, CPU, a line that its code must contain
    (*BYTES, "sapphirerapids", r"vpdpbusd\t.*%zmm"),
    (*BYTES, "icelake-server", r"vpdpbusd\t.*%zmm"),
    (*BYTES, "znver4", r"vpdpbusd\t.*%zmm"),
    (*BYTES, "skylake-avx512", r"vpmaddwd\t.*%zmm"),
    (*BYTES, "alderlake", r"\{vex\}\s+vpdpbusd\t.*%ymm"),
    (*BYTES, "haswell", r"vpmaddwd\t.*%ymm"),
    (*BYTES, "x86-64", r"pmaddwd\t.*%xmm|pmuludq\t.*%xmm|pmullw\t.*%xmm"),
    (*BYTES, "neoverse-v1", r"\tml[as]\tv\d+\.4s|\ts[mu]\w*l2?\tv\d+\.4s|\tmul\tv\d+\.4s|dot\t"),
    (*FLOATS, "sapphirerapids", r"vfmadd\w+ps\t.*%zmm"),
    (*FLOATS, "haswell", r"vfmadd\w+ps\t.*%ymm"),
    (*FLOATS, "x86-64", r"mulps\t.*%xmm"),
    (*FLOATS, "neoverse-v1", r"fmla\tv\d+\.4s"),
    (*PAIRS, "sapphirerapids", r"vdpbf16ps\t.*%zmm"),
    (*PAIRS, "znver4", r"vdpbf16ps\t.*%zmm"),
    (*PAIRS, "icelake-server", r"vfmadd\w+ps\t.*%zmm"),
    (*PAIRS, "haswell", r"vfmadd\w+ps\t.*%ymm"),
    (*PAIRS, "neoverse-v1", r"fmla\tv\d+\.4s|bfdot"),
    ("amx_dot_u8s8", ("bytes", "none"), "sapphirerapids", r"tdpbsud\t%tmm"),
    ("amx_dot_u8s8_16x1", ("bytes", "none"), "sapphirerapids", r"tdpbsud\t%tmm"),
    ("amx_dot_bf16", ("f32", "none"), "sapphirerapids", r"tdpbf16ps\t%tmm"),
]


@pytest.mark.parametrize(
    ("name", "end", "cpu", "line"), GOLDEN, ids=[f"{row[0]}-{row[2]}" for row in GOLDEN]
)
def test_the_instructions_it_is_about_are_used(name, end, cpu, line):
    wide = isa.named(TARGETS[cpu][1]).width == 512
    width = (64 if wide else 16,) if "width" in KERNELS[name].variant else ()
    text = code(name, (64, *width, *end), cpu)
    check(text, cpu)
    assert re.search(line, text)


@pytest.mark.parametrize("cpu", TARGETS)
def test_object_files(cpu):
    triple, which = TARGETS[cpu]
    build = partial(function, "clock", ())
    target = {"triple": triple, "cpu": cpu, "jit": False}
    binary = compiler.object_code("clock", build, isa.named(which), **target)
    assert binary.startswith(b"\x7fELF")


@pytest.mark.slow
@pytest.mark.parametrize("cpu", TARGETS)
@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_compiles_for_every_cpu(name, cpu):
    which = isa.named(TARGETS[cpu][1])
    if not can_be(name, which):
        with pytest.raises(IsaError, match=KERNELS[name].needs[0]):
            code(name, variants(name, which)[0], cpu)
        return
    for variant in variants(name, which):
        check(code(name, variant, cpu), cpu)


@pytest.mark.parametrize("name", ["generic", "avx2", "avx512_bf16"])
def test_a_feature_that_is_missing_raises_before_llvm_ends_the_process(name):
    with pytest.raises(IsaError, match=f"{name} lacks amx-tile"):
        compiler.object_code(
            "amx", lambda: function("amx_dot_u8s8", (64, "bytes", "none")), isa.named(name)
        )


def test_a_target_that_is_not_x86_takes_no_x86_instructions():
    with pytest.raises(IsaError, match="the target is aarch64"):
        compiler.object_code(
            "amx",
            lambda: function("amx_dot_u8s8", (64, "bytes", "none")),
            isa.named("amx_bf16"),
            triple=ARM,
            cpu="neoverse-v1",
            jit=False,
        )


def test_code_that_would_end_the_process_is_not_run(monkeypatch):
    monkeypatch.setattr(compiler, "_loaded", {})
    with isa.pretend({"avx2", "fma", "f16c", "bmi2"}):
        for name, lacking in (("avx512_bf16", "no avx512f"), ("amx_int8", "no avx512f")):
            with pytest.raises(IsaError, match=f"kernel clock for {name}: {lacking}"):
                kernel(isa.named(name), "clock")
        tiles = isa.emulated(isa.named("amx_int8"), isa.named("avx2"))
        with pytest.raises(IsaError, match="kernel clock for avx2: no amx_tile, amx_int8"):
            kernel(tiles, "clock")
