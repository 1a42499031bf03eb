"""Files to read, and files and folders that appear whole: written beside their place, then put in
it in one step.

    .NAME.<random>.new/NAME         what is being written
    .NAME.<random>.new/NAME.lock    held by the writer; the kernel lets go of it when that dies
    .NAME.<random>.new/NAME.before  the folder that stood there, where two cannot be exchanged

Whenever a writer dies, readers find the old content or the new. Linux exchanges two folders in one
step (renameat2(2), RENAME_EXCHANGE). File systems that cannot (NFS) take two; what stands aside
between them is found by `standing`, and put back by the next writer, who removes all that the dead
have left.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import glob
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

__all__ = ["opened", "standing", "whole"]

AT_FDCWD, RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h
LOCKING = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
CANNOT_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)


def opened(path: Path) -> BinaryIO:
    """A file to read; what could make a reader wait for ever, a pipe or a device, is none.

    Raises:
        OSError: it cannot be read.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(handle, "rb")
    os.close(handle)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, "is no regular file", str(path))


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """Where to write a file or a folder of the same name, which becomes `path` if all goes well.

    Raises:
        OSError: it cannot be written; a file stands where a folder is to be, or the reverse; more
        than that one file was written.
    """
    path = Path(os.path.abspath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    _tidy(path)
    with _workplace(path) as place:
        fresh = place / path.name
        yield fresh
        more = sorted(set(os.listdir(place)) - {fresh.name, f"{fresh.name}.lock"})
        if more:
            raise OSError(f"{path}: {', '.join(more)} was written beside it; expected one file")
        _settle(fresh)
        _put(fresh, path)
        _sync(path.parent)


def standing(path: str | Path) -> Path:
    """`path`, or what waits to be put back there by the next writer."""
    path = Path(path)
    aside = (place / f"{path.name}.before" for place in _places(path))
    return path if path.exists() else next((each for each in aside if each.exists()), path)


# --- the place of a writer ---


@contextmanager
def _workplace(path: Path) -> Iterator[Path]:
    place, handle = _claimed(path)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
        os.close(handle)


def _claimed(path: Path) -> tuple[Path, int]:
    """A new folder and its lock; another if a tidying writer took it before it was locked."""
    while True:
        place = Path(tempfile.mkdtemp(".new", f".{path.name}.", path.parent))
        with contextlib.suppress(FileNotFoundError):
            handle = os.open(_lock(place, path), LOCKING, 0o600)
            _take(handle, fcntl.LOCK_EX)
            if _lock(place, path).exists():
                return place, handle
            os.close(handle)


def _lock(place: Path, path: Path) -> Path:
    return place / f"{path.name}.lock"


def _take(handle: int, how: int) -> bool:
    """Whether it was free; a file system without locks never says so, and nothing is tidied."""
    try:
        fcntl.flock(handle, how)
    except OSError:
        return False
    return True


def _places(path: Path) -> list[Path]:
    """The random part has eight letters: `ir` does not find what `ir.old` is written in."""
    return sorted(path.parent.glob(f".{glob.escape(path.name)}.{'?' * 8}.new"))


def _tidy(path: Path) -> None:
    """Put back what a dead writer left aside, and remove the rest."""
    for place in _places(path):
        with contextlib.suppress(OSError), _opened(_lock(place, path), LOCKING) as handle:
            if _take(handle, fcntl.LOCK_EX | fcntl.LOCK_NB):
                before = place / f"{path.name}.before"
                if before.exists() and not os.path.lexists(path):
                    before.rename(path)
                shutil.rmtree(place)


@contextmanager
def _opened(path: Path, how: int) -> Iterator[int]:
    handle = os.open(path, how, 0o600)
    try:
        yield handle
    finally:
        os.close(handle)


# --- one step ---


def _put(fresh: Path, path: Path) -> None:
    if not (fresh.is_dir() and path.is_dir()):
        os.replace(fresh, path)
        return
    try:
        _exchange(fresh, path)
    except OSError as error:
        if error.errno not in CANNOT_EXCHANGE:
            raise
        before = fresh.with_name(f"{fresh.name}.before")
        path.rename(before)
        try:
            fresh.rename(path)
        except OSError:
            before.rename(path)
            raise


def _exchange(one: Path, other: Path) -> None:
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), str(other))
    names = os.fsencode(one), os.fsencode(other)
    if renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(other))


def _settle(path: Path) -> None:
    """On the disk before it is named: a machine that fails leaves no empty file of that name."""
    for each in (path, *path.rglob("*")):
        if not each.is_symlink():
            _sync(each)


def _sync(path: Path) -> None:
    with _opened(path, os.O_RDONLY | os.O_CLOEXEC) as handle:
        os.fsync(handle)
