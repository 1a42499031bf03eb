"""Packed weights that processes share: files of the cache, mapped, named after their content.

Every instance packs its weights itself; where a file with these very bytes is there already, it
keeps the mapping in place of its own copy.  ENGINE_SHARE=0 keeps copies.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import settings

__all__ = ["aligned", "shared"]

Array = NDArray[Any]
LINE = 64
LEAST, MOST = 1 << 12, 1 << 22  # bytes of a layer worth a file, and not too many for one
FOLDER_BYTES = 1 << 28  # the oldest files go when there is more


def aligned(array: Array) -> Array:
    """A copy on a cache line."""
    raw = np.zeros(array.nbytes + LINE, np.uint8)
    skip = -raw.ctypes.data % LINE
    held = raw[skip : skip + array.nbytes].view(array.dtype).reshape(array.shape)
    held[...] = array
    return held


def shared(arrays: Sequence[Array]) -> list[Array]:
    """The arrays, each on a cache line, as views of one mapped file where that can be."""
    arrays = [np.ascontiguousarray(array) for array in arrays]
    pieces = [array.tobytes() for array in arrays]
    content = b"".join(piece + bytes(LINE + -len(piece) % LINE) for piece in pieces)
    chosen = settings.current()
    if not chosen.share or not LEAST <= len(content) <= MOST:
        return [aligned(array) for array in arrays]
    name = hashlib.blake2b(content, digest_size=16).hexdigest()
    mapped = _mapped(Path(chosen.cache) / "packed" / f"{name}.bin", content)
    if mapped is None:
        return [aligned(array) for array in arrays]
    views, at = [], 0
    for array in arrays:
        view = np.frombuffer(mapped, array.dtype, array.size, at).reshape(array.shape)
        views.append(view)
        at += array.nbytes + LINE + -array.nbytes % LINE
    return views


def _mapped(path: Path, content: bytes) -> mmap.mmap | None:
    """The file, written if it is not there, if it holds the content."""
    try:
        if not path.exists():
            _write(path, content)
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size != len(content):
                return None
            found = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return found if memoryview(found) == memoryview(content) else None
    except (OSError, ValueError):
        return None


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    _make_room(path.parent)
    fresh = path.with_suffix(f".{os.getpid()}.new")
    fresh.write_bytes(content)
    fresh.replace(path)


def _make_room(folder: Path) -> None:
    """Processes that map a file keep it when its name is gone."""
    files = sorted((file.stat().st_mtime, file.stat().st_size, file) for file in folder.iterdir())
    total = sum(size for _, size, _ in files)
    for _, size, file in files:
        if total <= FOLDER_BYTES:
            break
        with contextlib.suppress(OSError):
            file.unlink()
        total -= size
