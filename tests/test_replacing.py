"""Folders that are replaced while their writers are killed: one whole folder is always there."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.files import replacing
from engine.files.replacing import standing, whole
from tests import original_writer

WATCHED = ("open", "os.", "shutil.", "fcntl.", "tempfile.", "ctypes.")


def write(path: Path, content: str) -> None:
    """A folder of two files that belong together."""
    with whole(path) as fresh:
        fresh.mkdir()
        (fresh / "one").write_text(content)
        (fresh / "two").write_text(content)


def content(path: Path) -> str:
    found = {(path / name).read_text() for name in os.listdir(path)}
    assert sorted(os.listdir(path)) == ["one", "two"]
    (only,) = found
    return only


def killed_before(step: int, work: Callable[[], None]) -> bool:
    """Runs `work` in a child that dies by SIGKILL before its n-th call into the system."""
    child = os.fork()
    if child == 0:
        left = [step]

        def count(event: str, _: object) -> None:
            if event.startswith(WATCHED):
                left[0] -= 1
                if left[0] == -1:
                    os.kill(os.getpid(), signal.SIGKILL)  # a call that is counted itself

        sys.addaudithook(count)
        work()
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def no_exchange(*_: object) -> None:
    raise OSError(errno.EINVAL, "this file system cannot")


@pytest.mark.parametrize("exchanges", [True, False], ids=["exchange", "two renames"])
@pytest.mark.parametrize("before", ["old", None], ids=["over another", "anew"])
def test_a_writer_may_die_at_any_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanges: bool, before: str | None
) -> None:
    if not exchanges:
        monkeypatch.setattr(replacing, "_exchange", no_exchange)
    seen, step = set(), 0
    while True:
        path = tmp_path / str(step) / "ir"
        path.parent.mkdir()
        if before:
            write(path, before)
        died = killed_before(step, lambda path=path: write(path, "new"))
        found = content(standing(path)) if standing(path).exists() else None
        assert found in (before, "new")
        seen.add(found)
        write(path, "next")
        assert content(path) == "next"
        assert os.listdir(path.parent) == ["ir"], "what the dead writer left is gone"
        if not died:
            break
        step += 1
    assert step > 10
    assert seen == {before, "new"}


def test_what_stands_aside_is_found_and_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one moment without a folder, where two cannot be exchanged."""
    monkeypatch.setattr(replacing, "_exchange", no_exchange)
    path = tmp_path / "ir"
    write(path, "old")
    states = []
    for step in range(200):
        if not killed_before(step, lambda: write(path, "new")):
            break
        states.append(path.exists())
        assert content(standing(path)) in ("old", "new")
    assert not all(states), "the moment was met"
    assert content(path) == "new"


def test_what_a_living_writer_writes_is_left_alone(tmp_path: Path) -> None:
    with whole(tmp_path / "ir") as first:
        first.mkdir()
        (first / "one").write_text("first")
        write(tmp_path / "ir", "second")
        (first / "two").write_text("first")
    assert content(tmp_path / "ir") == "first", "the last to finish stays"
    assert os.listdir(tmp_path) == ["ir"]


def test_a_place_that_was_tidied_before_it_was_locked_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another writer may come between the two, and takes the folder for a dead one's."""
    made, take = tempfile.mkdtemp, replacing._take
    left = ["before the lock is held", "before the lock is there"]

    def mkdtemp(*words: object) -> str:
        place = made(*words)
        if left[-1:] == ["before the lock is there"]:
            left.pop()
            os.rmdir(place)
        return place

    def taken(handle: int, how: int) -> bool:
        if left[-1:] == ["before the lock is held"]:
            left.pop()
            (place,) = replacing._places(tmp_path / "ir")
            shutil.rmtree(place)
        return take(handle, how)

    monkeypatch.setattr(tempfile, "mkdtemp", mkdtemp)
    monkeypatch.setattr(replacing, "_take", taken)
    write(tmp_path / "ir", "x")
    assert content(tmp_path / "ir") == "x"
    assert left == []


def test_writers_and_readers_at_once(tmp_path: Path) -> None:
    """Names are looked up again and again while the folder is replaced."""
    path = tmp_path / "ir"
    write(path, "0")
    code = (
        "import sys; from pathlib import Path; from tests.test_replacing import write\n"
        "for number in range(60): write(Path(sys.argv[1]), sys.argv[2])"
    )
    command = [sys.executable, "-c", code, str(path)]
    writers = [subprocess.Popen([*command, name]) for name in "ab"]
    looks = 0
    while any(writer.poll() is None for writer in writers):
        folder = os.open(path, os.O_RDONLY)  # a missing folder raises
        os.close(folder)
        looks += 1
    assert [writer.returncode for writer in writers] == [0, 0]
    assert looks > 100
    assert content(path) in "ab"
    assert os.listdir(tmp_path) == ["ir"]


def test_names_that_begin_alike_are_told_apart(tmp_path: Path) -> None:
    with whole(tmp_path / "ir.old") as other:
        other.mkdir()
        assert replacing._places(tmp_path / "ir") == []
        assert standing(tmp_path / "ir") == tmp_path / "ir"
        write(tmp_path / "[i]r*", "x")
    assert sorted(os.listdir(tmp_path)) == ["[i]r*", "ir.old"]


def test_a_failed_rename_puts_the_old_one_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replacing, "_exchange", no_exchange)
    write(tmp_path / "ir", "old")
    rename = Path.rename

    def full(self: Path, target: Path) -> Path:
        if target == tmp_path / "ir" and self.name == "ir":
            raise OSError(errno.ENOSPC, "the disk is full")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(OSError, match="the disk is full"):
        write(tmp_path / "ir", "new")
    assert content(tmp_path / "ir") == "old"
    assert os.listdir(tmp_path) == ["ir"]


@pytest.mark.parametrize("standing_there", ["file", "folder"])
def test_a_file_does_not_take_the_place_of_a_folder_nor_the_reverse(
    tmp_path: Path, standing_there: str
) -> None:
    path = tmp_path / "x"
    if standing_there == "file":
        path.write_text("kept")
        with pytest.raises(OSError, match="x"):
            write(path, "new")
        assert path.read_text() == "kept"
    else:
        write(path, "kept")
        with pytest.raises(OSError, match="x"), whole(path) as fresh:
            fresh.write_text("new")
        assert content(path) == "kept"
    assert os.listdir(tmp_path) == ["x"]


def test_a_link_is_replaced_and_its_target_kept(tmp_path: Path) -> None:
    write(tmp_path / "target", "kept")
    (tmp_path / "ir").symlink_to("target")
    write(tmp_path / "ir", "new")
    assert content(tmp_path / "target") == "kept"
    assert content(tmp_path / "ir") == "new"
    assert not (tmp_path / "ir").is_symlink()


def test_more_than_one_file_is_refused(tmp_path: Path) -> None:
    """An ONNX file over 2 GB puts its weights beside itself: they would be lost."""
    message = r"m\.onnx: weights was written beside it"
    with pytest.raises(OSError, match=message), whole(tmp_path / "m.onnx") as fresh:
        fresh.write_text("model")
        fresh.with_name("weights").write_text("tensors")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["a.lock", "lock", "x.before", ".hidden", "deep/er/x"])
def test_any_name_will_do(tmp_path: Path, name: str) -> None:
    for text in ("1", "2"):
        with whole(tmp_path / name) as fresh:
            fresh.write_text(text)
    assert (tmp_path / name).read_text() == "2"
    assert len(os.listdir((tmp_path / name).parent)) == 1


def test_permissions_are_as_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write(tmp_path / "ir", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "ir").stat().st_mode & 0o777 == 0o750
    assert (tmp_path / "ir/one").stat().st_mode & 0o777 == 0o640


def test_reading_and_writing_files_needs_no_compiler() -> None:
    """Steps of the workflow import this in environments that have neither LLVM nor onnx."""
    code = "import sys; sys.modules.update(dict.fromkeys(['llvmlite', 'numba', 'onnx', 'yaml']))\n"
    code += "import engine.files.replacing; engine.EngineError; print(hasattr(engine, 'fly'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("kind", ["a pipe", "a device", "a folder"])
@pytest.mark.parametrize("name", ["model.onnx", "conf.yaml", "model.bin"])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, name: str, kind: str) -> None:
    """A pipe would wait for a writer, /dev/zero never end."""
    folder = original_writer.write(tmp_path / "ir")
    path = folder / name
    path.unlink(missing_ok=True)
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
        (path / "conf.yaml").touch()
    code = f"import engine; engine.load({str(path if name == 'model.onnx' else folder)!r})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert "ModelError" in done.stderr or "IntegrityError" in done.stderr
    assert str(path) in done.stderr
