"""Files that processes leave for one another, in folders of ENGINE_CACHE: compiled kernels
("code"), measured choices ("choices"), plans with their packed weights ("plans").

What is read here may be run, so a file counts only if nobody else can have written it: it and its
folder belong to this user or to root, and others may not write to them (to a folder: unless it is
sticky).  That is asked of what has been opened, so nothing can be put in its place afterwards.  A
file is there whole or not at all; `write` puts a digest of name and content in front, and `read`
and `mapped` take nothing else.  A cache that cannot be used costs time, and is no error.

Where all files together would be larger than ENGINE_CACHE_SIZE, those that were used longest ago
go; their times say when that was.  Who maps one keeps it when its name is gone.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import mmap
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from .. import settings

__all__ = ["DIGEST", "KINDS", "Kept", "forget", "kept", "mapped", "place", "put", "read", "write"]

log = logging.getLogger(__name__)

FILE_MODE, FOLDER_MODE = 0o644, 0o755  # less what the umask takes; never more, whatever it grants
KINDS = ("code", "choices", "plans", "packed")  # folders; nobody writes the last any more
OURS = re.compile(r"\.?[0-9a-f]{16,32}\.(o|json|plan|bin)(\.[0-9]+\.[0-9a-f]{8})?")
DIGEST = 65  # bytes in front of what `write` keeps
MIB = 1 << 20
FRESH = 60  # seconds for which a time of use is left as it is
Piece = bytes | memoryview
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


def _digest(name: str, *pieces: Piece) -> bytes:
    digest = hashlib.sha256(name.encode() + b"\0")
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest().encode() + b"\n"


def read(path: Path | None) -> bytes:
    """What `write` wrote there; nothing where there is none, or it is damaged."""
    file = opened(path)
    if path is None or file is None:
        return b""
    with file:
        try:
            digest, content = file.readline(DIGEST), file.read()
        except OSError:
            return b""
        if digest == _digest(path.name, content):
            _used(file)
            return content
    log.warning("%s is damaged: made again", path)
    return b""


def mapped(path: Path | None) -> memoryview | None:
    """As `read`, without a copy: all processes share its pages.  DIGEST bytes from a page's
    beginning.
    """
    file = opened(path)
    if path is None or file is None:
        return None
    with file, contextlib.suppress(OSError, ValueError):  # ValueError: it is empty
        content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        if bytes(content[:DIGEST]) == _digest(path.name, content[DIGEST:]):
            _used(file)
            return content[DIGEST:]
    log.warning("%s is damaged: made again", path)
    return None


def _used(file: BinaryIO) -> None:
    """Its time says that it was used now, where this user may set it."""
    with contextlib.suppress(OSError):
        if time.time() - os.fstat(file.fileno()).st_mtime > FRESH:
            os.utime(file.fileno())


# --- writing
def write(path: Path | None, *content: Piece) -> bool:
    """Keep content, with its digest, on the disk before it has its name; whether that could be."""
    return path is not None and put(path, _digest(path.name, *content), *content, flush=True)


def put(path: Path, *content: Piece, flush: bool = False) -> bool:
    """A file of just this content, for readers that can tell whether it is right."""
    size, most = sum(map(len, content)), settings.current().cache_size * MIB
    if size > most:
        log.info("%s is not kept: %d bytes, ENGINE_CACHE_SIZE allows %d", path, size, most)
        return False
    fresh = f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}"
    try:
        with _folder(path.parent, make=True) as folder:
            try:
                _fill(folder, fresh, *content, flush=flush)
                os.replace(fresh, path.name, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(fresh, dir_fd=folder)
                raise
    except OSError as error:
        log.info("%s is not kept: %s", path, error)
        return False
    _make_room(path)
    return True


def _fill(folder: int, name: str, *content: Piece, flush: bool) -> None:
    how = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with os.fdopen(os.open(name, how, FILE_MODE, dir_fd=folder), "wb") as file:
        for piece in content:
            file.write(piece)
        if flush:
            file.flush()
            os.fsync(file.fileno())


# --- how much there may be
@dataclass(frozen=True)
class Kept:
    """A file of the cache; used: when it was last written or read, seconds since 1970."""

    kind: str
    path: Path
    size: int
    used: float


def kept() -> list[Kept]:
    """All files that are the cache's by their names, those that were used longest ago first.
    Whatever else lies in its folders is none of its business.
    """
    found = []
    for path in (path for kind in KINDS if (path := place(kind, "")) is not None):
        with contextlib.suppress(OSError), os.scandir(path) as entries:
            found += [one for entry in entries if (one := _told(path.name, entry)) is not None]
    return sorted(found, key=lambda each: each.used)


def _told(kind: str, entry: os.DirEntry[str]) -> Kept | None:
    with contextlib.suppress(OSError):  # another process makes room, too
        status = entry.stat(follow_symlinks=False)
        if stat.S_ISREG(status.st_mode) and OURS.fullmatch(entry.name):
            return Kept(kind, Path(entry.path), status.st_size, status.st_mtime)
    return None


def forget(files: list[Kept]) -> list[Kept]:
    """Removes files; returns those that are gone now."""
    gone = []
    for each in files:
        with contextlib.suppress(OSError):
            each.path.unlink(missing_ok=True)
            gone.append(each)
    return gone


def _make_room(fresh: Path) -> None:
    """For a new file."""
    files, most = kept(), settings.current().cache_size * MIB
    over = sum(each.size for each in files) - most
    for each in files:
        if over <= 0:
            break
        if each.path != fresh:
            forget([each])
            over -= each.size
