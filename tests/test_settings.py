"""The environment: our variables, and those of the original."""

from __future__ import annotations

import ast
import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from engine import settings
from engine.errors import SettingError


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    names = ("OMP_NUM_THREADS", "DNNL_MAX_CPU_ISA", "ONEDNN_MAX_CPU_ISA", "GLOG_minloglevel")
    for name in (*names, *settings.ALWAYS, *settings.REFUSED):
        monkeypatch.delenv(name, raising=False)
    for name in settings.DESCRIPTIONS:
        monkeypatch.delenv(f"ENGINE_{name.upper()}", raising=False)

    def with_(**variables: str) -> settings.Settings:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return settings._from_environment()

    return with_


def test_every_setting_is_described() -> None:
    assert list(settings.DESCRIPTIONS) == list(settings.Settings.__dataclass_fields__)


def test_ours(read) -> None:  # type: ignore[no-untyped-def]
    found = read(ENGINE_ISA="avx2", ENGINE_DEBUG="2", ENGINE_THREADS="3")
    assert (found.isa, found.debug, found.threads) == ("avx2", 2, 3)
    with pytest.raises(SettingError, match="ENGINE_DEBUG='much': expected a whole number"):
        read(ENGINE_DEBUG="much")


def test_theirs_are_mapped(read) -> None:  # type: ignore[no-untyped-def]
    assert read() == settings.Settings()
    found = read(OMP_NUM_THREADS="4,2", DNNL_MAX_CPU_ISA="avx512_core_vnni", GLOG_minloglevel="2")
    assert (found.threads, found.isa, found.log) == (4, "avx512_vnni", 2)
    assert read(ENGINE_ISA="avx2").isa == "avx2"  # ours stands above theirs
    assert read(ONEDNN_MAX_CPU_ISA="ALL", ENGINE_ISA="").isa == ""


@pytest.mark.parametrize(
    ("variables", "cache"),
    [
        ({"HOME": "{0}"}, "{0}/.cache/sparse-engine"),
        ({"HOME": "{0}", "XDG_CACHE_HOME": "/x"}, "/x/sparse-engine"),
        ({"HOME": "{0}", "XDG_CACHE_HOME": "x"}, "{0}/.cache/sparse-engine"),
        ({"HOME": ""}, "{0}/temporary/sparse-engine-{1}"),
        ({"HOME": "."}, "{0}/temporary/sparse-engine-{1}"),
        ({"HOME": "{0}/gone"}, "{0}/temporary/sparse-engine-{1}"),
        ({}, "{0}/temporary/sparse-engine-{1}"),  # and the system knows no such user
    ],
)
def test_where_the_cache_is(  # type: ignore[no-untyped-def]
    read, variables: dict[str, str], cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    given = {name: value.format(tmp_path) for name, value in variables.items()}
    assert read(**given).cache == cache.format(tmp_path, os.geteuid())
    assert read(**given, ENGINE_CACHE="").cache == ""


def test_without_a_home_or_temporary_files_nothing_is_kept(  # type: ignore[no-untyped-def]
    read, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nowhere() -> str:
        raise FileNotFoundError("no usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert read(HOME="").cache == ""


@pytest.mark.parametrize("name", sorted(settings.ALWAYS))
def test_what_always_is_so_is_said(read, caplog, name: str) -> None:  # type: ignore[no-untyped-def]
    with caplog.at_level(logging.WARNING):
        read(**{name: "0"})
        assert not caplog.messages
        read(**{name: "1"})
    assert f"{name}=1 changes nothing: {settings.ALWAYS[name]}" in caplog.messages


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("ENGINE_PROFILING", "1", "ENGINE_PROFILING=1: use `engine profile MODEL"),
        ("OMP_NUM_THREADS", "many", "OMP_NUM_THREADS='many': expected a whole number from 1"),
        ("GLOG_minloglevel", "9", "GLOG_minloglevel='9': expected 0 to 3"),
        ("DNNL_MAX_CPU_ISA", "MMX", "DNNL_MAX_CPU_ISA=MMX: expected one of SSE41"),
    ],
)
def test_what_is_refused(read, name: str, value: str, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(SettingError, match=message):
        read(**{name: value})


@pytest.mark.parametrize(("debug", "shown"), [("1", False), ("2", True)])
def test_a_plan_shows_its_steps_to_a_program_without_logging(debug: str, shown: bool) -> None:
    program = (
        "from engine.runtime.session import Session; from tests.tiny import tiny_graph; "
        "print([step.kernel_name for step in Session(tiny_graph('4x1')).plan.steps])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "ENGINE_DEBUG": debug},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    for name in ast.literal_eval(done.stdout):
        assert (f"{name} for " in done.stderr) == shown, done.stderr


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"ENGINE_ISA": "avx2"}, "ENGINE_ISA=avx2"),
        ({"DNNL_MAX_CPU_ISA": "avx2"}, "DNNL_MAX_CPU_ISA=AVX2 (avx2)"),
        ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}, "ONEDNN_MAX_CPU_ISA=AVX512_CORE (avx512)"),
        ({"DNNL_MAX_CPU_ISA": "AVX2", "ENGINE_ISA": "avx512"}, "ENGINE_ISA=avx512"),
    ],
)
def test_a_cap_is_named_by_who_set_it(read, variables, said) -> None:  # type: ignore[no-untyped-def]
    with settings.override(isa=read(**variables).isa):
        assert settings.cap_as_set() == said
