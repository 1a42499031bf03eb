"""Files between processes: whole, checked, of nobody else; and kernels without them."""

from __future__ import annotations

import errno
import json
import logging
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine import settings
from engine.codegen import compile as compiler
from engine.codegen.isa import chosen
from engine.commands.cli import main
from engine.files import cache
from engine.kernels import kernel
from engine.kernels.harness import Harness

CONTENT = bytes(range(256)) * 40
OTHER = 12345  # a user


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(cache, "_warned", set())
    with settings.override(cache=str(tmp_path / "cache")):
        yield tmp_path / "cache"


@pytest.fixture
def place(own_cache: Path) -> Path:
    """Where a file may come."""
    return own_cache / "code" / "kernel.o"


@pytest.fixture
def path(place: Path) -> Path:
    """A file of the cache."""
    assert cache.write(place, CONTENT)
    return place


def give_away(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It belongs to another user; where that takes root, this process is another's instead."""
    if os.geteuid() == 0:
        os.chown(path, OTHER, OTHER)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: OTHER)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if not path.is_dir())


def test_what_is_written_is_read(path: Path) -> None:
    assert cache.read(path) == CONTENT
    assert path == cache.place("code", path.name)
    assert cache.read(path.with_name("another.o")) == cache.read(None) == b""
    assert files(path.parents[1]) == [path.name]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "one byte": lambda content: content[:1],
    "half": lambda content: content[: len(content) // 2],
    "the last byte is missing": lambda content: content[:-1],
    "more": lambda content: content + b"\0",
    "zeros": lambda content: bytes(len(content)),
    "a bit": lambda content: content[:999] + bytes([content[999] ^ 4]) + content[1000:],
    "no digest": lambda content: content[65:],
    "one line": lambda content: content[:65],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_none(
    path: Path, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    path.write_bytes(damage(path.read_bytes()))
    with caplog.at_level(logging.WARNING):
        assert cache.read(path) == b""
    assert [record.message for record in caplog.records] == [f"{path} is damaged: made again"]
    assert cache.write(path, CONTENT) and cache.read(path) == CONTENT


def test_a_file_under_another_name_is_none(path: Path) -> None:
    """Code of one kernel in the place of another's."""
    other = path.with_name("another.o")
    path.rename(other)
    assert cache.read(other) == b""


def test_the_digest_is_on_the_disk_before_the_name(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)

        def noted(*words: Any, _name: str = name, _real: Any = real, **more: Any) -> Any:
            done.append(_name)
            return _real(*words, **more)

        monkeypatch.setattr(os, name, noted)
    assert cache.write(place, CONTENT)
    assert done == ["fsync", "replace"]


@pytest.mark.parametrize("which", ["file", "folder"])
@pytest.mark.parametrize("change", ["owner", "group", "others"])
def test_what_others_can_have_written_is_not_read(
    path: Path,
    which: str,
    change: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    changed = path if which == "file" else path.parent
    if change == "owner":
        give_away(changed, monkeypatch)
    else:
        changed.chmod(changed.stat().st_mode | {"group": 0o020, "others": 0o002}[change])
    with caplog.at_level(logging.WARNING):
        assert cache.read(path) == cache.read(path) == b""
    assert len(caplog.records) == 1
    assert f"{changed} is not used: " in caplog.text
    said = f"belongs to user {changed.stat().st_uid}" if change == "owner" else "others may write"
    assert said in caplog.text


def test_nothing_is_written_to_a_folder_of_others(path: Path) -> None:
    path.parent.chmod(0o777)
    before = files(path.parent)
    assert not cache.write(path.with_name("another.o"), CONTENT)
    assert files(path.parent) == before


def test_a_sticky_folder_is_as_good_as_its_files(path: Path) -> None:
    path.parent.chmod(0o1777)
    assert cache.read(path) == CONTENT
    path.chmod(0o666)
    assert cache.read(path) == b""


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o644)])
def test_permissions_are_the_umasks(place: Path, umask: int, mode: int) -> None:
    """But never such that the file would not be read again."""
    before = os.umask(umask)
    try:
        assert cache.write(place, CONTENT)
    finally:
        os.umask(before)
    assert stat.S_IMODE(place.stat().st_mode) == mode
    assert cache.read(place) == CONTENT


def fails(code: int) -> Callable[..., Any]:
    def call(*_: Any, **__: Any) -> Any:
        raise OSError(code, os.strerror(code))

    return call


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("fsync", errno.ENOSPC),
        ("fsync", errno.EIO),
        ("replace", errno.ENOTSUP),  # a file system without rename
        ("replace", errno.EROFS),
    ],
)
def test_a_failure_leaves_no_litter(
    path: Path, name: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, name, fails(code))
    assert not cache.write(path, b"new")
    assert files(path.parent) == [path.name] and cache.read(path) == CONTENT


def test_nor_does_an_interrupt(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cache.write(path, b"new")
    assert files(path.parent) == [path.name]


def in_the_way(path: Path, kind: str) -> None:
    """Something that is no file, or cannot be opened."""
    path.parent.mkdir(parents=True)
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "loop":
        path.symlink_to(path)
    else:
        path.symlink_to("/dev/null")


@pytest.mark.parametrize("kind", ["folder", "fifo", "loop", "device"])
def test_what_is_no_file_is_none(own_cache: Path, place: Path, kind: str) -> None:
    in_the_way(place, kind)
    assert cache.read(place) == b""
    assert cache.write(place, CONTENT) == (kind != "folder")
    assert cache.read(place) == (CONTENT if kind != "folder" else b"")
    assert files(own_cache) == ([place.name] if kind != "folder" else [])


WRITER = """
import sys
from pathlib import Path
from engine.files import cache
for turn in range(60):
    assert cache.write(Path(sys.argv[1]), sys.argv[2].encode() * 9999)
"""


def test_two_processes_write_at_once(own_cache: Path, place: Path) -> None:
    """Who reads meanwhile finds all of one of them."""
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(place), letter]) for letter in "ab"
    ]
    found = set()
    while any(writer.poll() is None for writer in writers):
        found.add(cache.read(place))
    assert [writer.returncode for writer in writers] == [0, 0]
    assert {b"a" * 9999, b"b" * 9999} & found
    assert found <= {b"", b"a" * 9999, b"b" * 9999}
    assert files(own_cache) == [place.name]


# --- how much there may be
NAMES = [f"{digit * 24}.o" for digit in "0123456789"]


@pytest.fixture
def full(own_cache: Path) -> list[Path]:
    """Ten files of 300 KiB, the first was used longest ago; and what is not the cache's."""
    (own_cache / "code").mkdir(parents=True)
    (own_cache / "code" / "thesis.o").write_bytes(bytes(1 << 20))
    (own_cache / "notes").write_bytes(bytes(1 << 20))
    paths = [own_cache / "code" / name for name in NAMES]
    for age, path in enumerate(reversed(paths)):
        assert cache.write(path, bytes(300 << 10))
        os.utime(path, (time.time() - 3600 * (age + 1),) * 2)
    return paths


def test_what_was_used_longest_ago_goes(full: list[Path], own_cache: Path) -> None:
    assert cache.read(full[0])  # used now
    fresh = own_cache / "plans" / f"{'a' * 32}.plan"
    with settings.override(cache_size=2), full[1].open("rb") as held:  # who reads it goes on
        assert cache.write(fresh, bytes(300 << 10), memoryview(bytes(100 << 10)))
        assert len(held.read()) == (300 << 10) + cache.DIGEST
    assert [path.exists() for path in full] == [True] + [False] * 5 + [True] * 4
    assert cache.read(fresh) == bytes(400 << 10)
    assert (own_cache / "code" / "thesis.o").exists() and (own_cache / "notes").exists()


def test_what_is_larger_than_the_cache_is_not_kept(full: list[Path], own_cache: Path) -> None:
    with settings.override(cache_size=2):
        assert not cache.write(own_cache / "plans" / f"{'a' * 32}.plan", bytes(3 << 20))
    assert all(path.exists() for path in full)


def test_a_mapped_file_is_what_was_written(path: Path, own_cache: Path) -> None:
    content = cache.mapped(path)
    assert content is not None and bytes(content) == CONTENT and content.readonly
    for damage in DAMAGES.values():
        whole = path.read_bytes()
        path.unlink()  # what is mapped stays
        path.write_bytes(damage(whole))
        assert cache.mapped(path) is None
        path.write_bytes(whole)
    assert bytes(content) == CONTENT
    assert cache.mapped(own_cache / "code" / "nothing") is cache.mapped(None) is None


def test_the_command_lists_and_empties(
    full: list[Path], own_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(*words: str) -> Any:
        assert main(["cache", "--json", *words]) == 0
        return json.loads(capsys.readouterr().out)

    size = (300 << 10) + cache.DIGEST
    assert told()["kinds"] == {"code": {"files": 10, "bytes": 10 * size}}
    assert told("--unused-for", "0.23")["removed"] == {"files": 5, "bytes": 5 * size}
    assert main(["cache"]) == 0
    assert f"{own_cache}: 1.5 MiB of at most 2048" in capsys.readouterr().out
    assert told("--empty")["kinds"] == {}
    assert files(own_cache) == ["notes", "thesis.o"]
    with settings.override(cache=""):
        assert main(["cache"]) == 0 and "nothing is kept" in capsys.readouterr().out


# --- kernels
def works() -> bool:
    """A kernel does what it should, as a new process gets it."""
    compiler._loaded.clear()
    harness = Harness(64)
    told = harness.params()
    harness.run(kernel(chosen(), "clock"), told, 0, 0)
    return bool(told[0] > 0)


@pytest.fixture
def code(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The object file of a kernel that works."""
    monkeypatch.setattr(compiler, "_loaded", {})
    assert works()
    (file,) = (own_cache / "code").iterdir()
    return file


@pytest.mark.parametrize("damage", ["half", "zeros", "one byte"])
def test_damaged_code_is_made_again(
    code: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    code.write_bytes(DAMAGES[damage](code.read_bytes()))
    assert works()
    assert cache.read(code)
    monkeypatch.setattr(compiler, "object_code", fails(errno.EIO))  # nor is it made once more
    assert works()


def test_code_of_others_is_not_run(code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    real = compiler.object_code
    monkeypatch.setattr(compiler, "object_code", lambda *a: made.append(a[0]) or real(*a))
    give_away(code, monkeypatch)
    assert works() and made == ["clock"]


@pytest.mark.parametrize("place", ["", "file", "/proc/nowhere/cache", "a b$(c)'\"\n"])
def test_kernels_work_where_nothing_can_be_kept(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(compiler, "_loaded", {})
    (tmp_path / "file").touch()
    with settings.override(cache=place):
        assert works()
    kept = [name for name in files(tmp_path) if name != "file"]
    assert len(kept) == (1 if place.startswith("a b") else 0)
