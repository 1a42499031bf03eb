"""What is permitted, what is chosen, and what is said about it; CPUs are told by their flags."""

from __future__ import annotations

import errno
import logging
import subprocess
from pathlib import Path

import pytest

from engine import settings
from engine.codegen import isa
from engine.errors import IsaError

AVX2 = {"avx2", "fma", "f16c", "bmi2"}
SKYLAKE = AVX2 | {"avx512f", "avx512bw", "avx512dq", "avx512vl"}
CASCADE_LAKE = SKYLAKE | {"avx512_vnni"}
ICE_LAKE = CASCADE_LAKE | {"avx512vbmi"}
ZEN_4 = ICE_LAKE | {"avx512_bf16"}
ZEN_5 = ZEN_4 | {"avx_vnni"}
TILES = {"amx_tile", "amx_int8", "amx_bf16"}
CPUS = {
    "arm": (set(), "generic"),
    "nehalem": ({"sse4_2"}, "generic"),
    "haswell": (AVX2, "avx2"),
    "alder lake": (AVX2 | {"avx_vnni"}, "avx_vnni"),
    "skylake": (SKYLAKE, "avx512"),
    "cascade lake": (CASCADE_LAKE, "avx512_vnni"),
    "ice lake": (ICE_LAKE, "avx512_vnni"),
    "zen 4": (ZEN_4, "avx512_bf16"),
    "zen 5": (ZEN_5, "avx512_bf16"),
    "sapphire rapids": (ZEN_5 | TILES, "amx_bf16"),
    "tiles, avx512_bf16 hidden": (ICE_LAKE | TILES, "avx512_vnni"),
    "tiles without bf16": (ZEN_4 | TILES - {"amx_bf16"}, "amx_int8"),
}


@pytest.mark.parametrize(("flags", "best"), CPUS.values(), ids=CPUS)
def test_the_best_is_chosen(flags, best):
    with isa.pretend(flags), settings.override(isa=""):
        assert isa.chosen().name == best
        assert isa.detected()[0].name == "generic"


def test_features_that_a_cpu_lacks_are_not_used():
    with isa.pretend(CASCADE_LAKE), settings.override(isa=""):
        assert isa.chosen().has("avx512vnni")
        assert not isa.chosen().has("avx512vbmi")
    assert isa.named("avx512_vnni").has("avx512vbmi")


@pytest.mark.parametrize(
    ("cpu", "cap", "used"),
    [
        ("zen 5", "avx2", "avx2"),
        ("zen 5", "avx_vnni", "avx_vnni"),
        ("zen 5", "avx512", "avx512"),
        ("zen 5", "amx_bf16", "avx512_bf16"),
        ("zen 4", "avx_vnni", "avx2"),  # not there, and 512 bits would be above the cap
        ("alder lake", "avx512", "avx_vnni"),
        ("alder lake", "avx512_vnni", "avx_vnni"),
        ("sapphire rapids", "amx_int8", "amx_int8"),
        ("sapphire rapids", "avx512_bf16", "avx512_bf16"),
        ("arm", "avx512_vnni", "generic"),
        ("zen 5", "generic", "generic"),
    ],
)
def test_a_cap_is_the_most_that_is_used(cpu, cap, used):
    with isa.pretend(CPUS[cpu][0]), settings.override(isa=cap):
        assert isa.chosen().name == used


def test_a_cap_above_the_cpu_warns_once_and_says_why(caplog, monkeypatch):
    monkeypatch.setattr(isa, "_warned", set())
    with isa.pretend(ZEN_4), settings.override(isa="amx_int8"), caplog.at_level(logging.WARNING):
        assert isa.chosen().name == "avx512_bf16"
        isa.chosen()
    assert len(caplog.records) == 1
    for part in ("ENGINE_ISA=amx_int8", "no amx_tile", "using avx512_bf16"):
        assert part in caplog.text


def test_a_cap_that_is_there_does_not_warn(caplog, monkeypatch):
    monkeypatch.setattr(isa, "_warned", set())
    with isa.pretend(ZEN_5), settings.override(isa="avx2"), caplog.at_level(logging.WARNING):
        isa.chosen()
    assert not caplog.records


def test_a_set_is_emulated_by_another_ones_instructions():
    with isa.pretend(AVX2), settings.override(isa="avx512_bf16@avx2"):
        used = isa.chosen()
    assert (used.name, used.width, used.lanes) == ("avx512_bf16@avx2", 512, 16)
    assert used.has("avx512bf16") and used.has("avx512vbmi")
    assert used.native == isa.named("avx2") and used.native.native == used.native
    assert isa.named("avx2").native == isa.named("avx2")


@pytest.mark.parametrize(
    ("cpu", "setting", "code"),
    [
        ("zen 5", "avx512_bf16@avx2", "avx2"),  # capped, as if there were no AVX-512
        ("haswell", "avx512_vnni@generic", "generic"),
        ("skylake", "avx512_bf16@avx512", "avx512"),
        ("zen 4", "avx_vnni@avx2", "avx2"),
        ("zen 5", "avx2@avx_vnni", "avx_vnni"),
        ("arm", "avx512_bf16@generic", "generic"),
    ],
)
def test_what_emulates_is_capped(cpu, setting, code, caplog):
    with isa.pretend(CPUS[cpu][0]), settings.override(isa=setting), caplog.at_level("WARNING"):
        assert isa.chosen().name == setting
        assert isa.chosen().native.name == code
    assert not caplog.records


def test_what_cannot_emulate_is_said_and_the_next_does(caplog, monkeypatch):
    monkeypatch.setattr(isa, "_warned", set())
    said = caplog.at_level("WARNING", logger="engine.codegen.isa")
    with said, isa.pretend(AVX2), settings.override(isa="avx512_bf16@avx_vnni"):
        assert isa.chosen().name == "avx512_bf16@avx2"
    for part in ("ENGINE_ISA=avx512_bf16@avx_vnni", "no avx_vnni", "using avx512_bf16@avx2"):
        assert part in caplog.text


def test_optional_features_are_emulated_too():
    """Code does without VBMI where the CPU does; the choice is that of a CPU that has it."""
    with isa.pretend(CASCADE_LAKE), settings.override(isa="avx512_bf16@avx512_vnni"):
        assert isa.chosen().has("avx512vbmi") and not isa.chosen().native.has("avx512vbmi")


def test_tiles_are_not_emulated():
    refused = pytest.raises(IsaError, match="tiles are not emulated.*no amx_tile, amx_int8")
    with isa.pretend(AVX2), settings.override(isa="amx_int8@avx2"), refused:
        isa.chosen()
    with isa.pretend(AVX2 | TILES), settings.override(isa="amx_int8@avx2"):
        assert isa.chosen().native.has("amx-int8") and not isa.chosen().native.has("avx512f")


def test_the_report_says_that_one_is_emulated():
    with isa.pretend(AVX2), settings.override(isa="avx512@avx2"):
        rows = {line.split()[0]: line for line in isa.report()[1:]}
        assert isa.describe()["isa"] == "avx512@avx2"
    assert rows["avx512"].endswith("in use, in instructions of avx2")
    assert rows["avx2"].endswith("available") and "no avx512f" in rows["avx512_vnni"]


@pytest.mark.parametrize("name", ["avx1024", "avx1024@avx2", "avx2@avx1024", "avx2@", "@avx2"])
def test_a_name_that_is_none_lists_those_there_are(name):
    with settings.override(isa=name), pytest.raises(IsaError) as raised:
        isa.chosen()
    assert "unknown instruction set '" in str(raised.value)
    for row in isa.LADDER:
        assert row.name in str(raised.value)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.EINVAL, "EINVAL: Linux before 5.16"),
        (errno.EOPNOTSUPP, "switched off"),
        (errno.ENOSPC, "signal stack"),
        (errno.EPERM, "seccomp"),
        (12345, "12345: unknown reason"),
    ],
)
def test_tiles_without_permission_are_not_used(code, said):
    flags = ZEN_5 | TILES
    with isa.pretend(flags, tile_error=code), settings.override(isa=""):
        assert isa.chosen().name == "avx512_bf16"
        assert said in isa.missing(isa.named("amx_int8"))


def test_the_report_says_what_is_used_and_why_not_more():
    with isa.pretend(ZEN_5 | {"hypervisor"}), settings.override(isa="avx512"):
        lines = isa.report()
    rows = {line.split()[0]: line for line in lines[1:]}
    assert set(rows) == {row.name for row in isa.LADDER}
    assert rows["avx512"].endswith("in use")
    assert rows["avx2"].endswith("available")
    assert rows["avx512_vnni"].endswith("available, but ENGINE_ISA=avx512 caps it")
    assert "no amx_tile, amx_int8 in /proc/cpuinfo (or a hypervisor hides it)" in rows["amx_int8"]


def test_a_cpu_known_to_have_tiles_is_told_from_one_without(monkeypatch):
    monkeypatch.setattr(isa, "_cpuinfo", lambda: {"cpu family": "6", "model": "143"})
    with isa.pretend(ZEN_5):
        assert "this CPU has AMX: Linux" in isa.missing(isa.named("amx_int8"))


def test_this_machine_is_described():
    described = isa.describe()
    assert described["isa"] in {row.name for row in isa.LADDER}
    assert described["cpu_model"]


CACHES = {
    "index0": ("1", "Instruction", "32K"),
    "index1": ("1", "Data", "48K"),
    "index2": ("2", "Unified", "1024K"),
}


@pytest.mark.parametrize(
    ("caches", "size"),
    [
        (CACHES, 48 << 10),
        ({"index0": ("1", "Unified", "16K")}, 16 << 10),
        ({"index0": CACHES["index0"], "index2": CACHES["index2"]}, 32 << 10),
        ({"index0": ("1", "Data", "")}, 32 << 10),
        ({"index0": ("1", "Data"), "index1": CACHES["index1"]}, 48 << 10),
        ({}, 32 << 10),
    ],
)
def test_the_first_cache(
    caches: dict[str, tuple[str, ...]], size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index, told in caches.items():
        (tmp_path / index).mkdir()
        for name, value in zip(("level", "type", "size"), told, strict=False):
            (tmp_path / index / name).write_text(value + "\n")
    monkeypatch.setattr(isa, "_CACHES", tmp_path)
    isa.first_cache.cache_clear()
    assert isa.first_cache() == size
    monkeypatch.undo()
    isa.first_cache.cache_clear()


@pytest.mark.skipif(not list(isa._CACHES.glob("index*/size")), reason="caches are not told here")
def test_the_first_cache_is_the_c_librarys() -> None:
    told = subprocess.run(["getconf", "LEVEL1_DCACHE_SIZE"], capture_output=True, text=True).stdout
    if int(told or 0) == 0:
        pytest.skip("the C library does not know the cache")
    assert isa.first_cache() == int(told)
