"""Files that processes leave for one another, in folders of ENGINE_CACHE: compiled kernels
("code"), measured choices, packed weights.

What is read here may be run, so a file counts only if nobody else can have written it: it and its
folder belong to this user or to root, and others may not write to them (to a folder: unless it is
sticky).  That is asked of what has been opened, so nothing can be put in its place afterwards.  A
file is there whole or not at all; `write` puts a digest of name and content in front, and `read`
takes nothing else.  A cache that cannot be used costs time, and is no error.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from .. import settings

__all__ = ["opened", "place", "put", "read", "write"]

log = logging.getLogger(__name__)

FILE_MODE, FOLDER_MODE = 0o644, 0o755  # less what the umask takes; never more, whatever it grants
_warned: set[str] = set()


def place(kind: str, name: str) -> Path | None:
    """Where a file is, one of a folder's; None where ENGINE_CACHE is empty: nothing is kept."""
    root = settings.current().cache
    return Path(root, kind, name) if root else None


# --- who may have written it
def _distrusted(status: os.stat_result) -> str:
    """Why something is not taken for ours; empty where it is."""
    if status.st_uid not in (os.geteuid(), 0):
        return f"it belongs to user {status.st_uid}"
    sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not sticky:
        return f"others may write to it (mode {stat.S_IMODE(status.st_mode):o})"
    return ""


def _check(handle: int, path: Path) -> None:
    why, root = _distrusted(os.fstat(handle)), settings.current().cache
    if why and root not in _warned:
        _warned.add(root)
        log.warning("%s is not used: %s; what it lacks is made anew", path, why)
    if why:
        raise PermissionError(f"{path}: {why}")


@contextmanager
def _folder(path: Path, *, make: bool = False) -> Iterator[int]:
    if make:
        path.mkdir(FOLDER_MODE, parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _check(handle, path)
        yield handle
    finally:
        os.close(handle)


# --- reading
def opened(path: Path | None) -> BinaryIO | None:
    """A file that only this user or root can have written; None where there is none."""
    if path is None:
        return None
    try:
        with _folder(path.parent) as folder:
            how = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC  # a FIFO would wait for a writer
            file = os.fdopen(os.open(path.name, how, dir_fd=folder), "rb")
        try:
            _check(file.fileno(), path)
        except OSError:
            file.close()
            raise
        return file
    except OSError:
        return None


def _digest(name: str, content: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\0" + content).hexdigest().encode() + b"\n"


def read(path: Path | None) -> bytes:
    """What `write` wrote there; nothing where there is none, or it is damaged."""
    file = opened(path)
    if path is None or file is None:
        return b""
    with file:
        try:
            digest, content = file.readline(), file.read()
        except OSError:
            return b""
    if digest == _digest(path.name, content):
        return content
    log.warning("%s is damaged: made again", path)
    return b""


# --- writing
def write(path: Path | None, content: bytes) -> bool:
    """Keep content, with its digest, on the disk before it has its name; whether that could be."""
    return path is not None and put(path, _digest(path.name, content) + content, flush=True)


def put(path: Path, content: bytes, *, flush: bool = False) -> bool:
    """A file of just this content, for readers that can tell whether it is right."""
    fresh = f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}"
    try:
        with _folder(path.parent, make=True) as folder:
            try:
                _fill(folder, fresh, content, flush=flush)
                os.replace(fresh, path.name, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(fresh, dir_fd=folder)
                raise
    except OSError as error:
        log.info("%s is not kept: %s", path, error)
        return False
    return True


def _fill(folder: int, name: str, content: bytes, *, flush: bool) -> None:
    how = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with os.fdopen(os.open(name, how, FILE_MODE, dir_fd=folder), "wb") as file:
        file.write(content)
        if flush:
            file.flush()
            os.fsync(file.fileno())
