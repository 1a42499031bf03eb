"""Packed weights that processes share: files of the cache, mapped, named after their content.

Every instance packs its weights itself; where a file with these very bytes is there already, it
keeps the mapping in place of its own copy.  ENGINE_SHARE=0 keeps copies.  Processes that are bound
to a node of memory share with those of their node: who writes a file first has its pages nearby.
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
from ..files import cache
from ..kernels.record import CACHE_LINE, aligned
from ..machine.topology import local_node

__all__ = ["aligned_copy", "shared"]

Array = NDArray[Any]
LEAST, MOST = 1 << 12, 1 << 22  # bytes of a layer worth a file, and not too many for one
FOLDER_BYTES = 1 << 28  # the oldest files go when there is more


def aligned_copy(array: Array) -> Array:
    """The same at the start of a cache line."""
    copy = aligned(array.shape, array.dtype)
    copy[...] = array
    return copy


def shared(arrays: Sequence[Array]) -> list[Array]:
    """The arrays, each on a cache line, as views of one mapped file where that can be."""
    arrays = [np.ascontiguousarray(array) for array in arrays]
    pieces = [array.tobytes() for array in arrays]
    content = b"".join(piece + bytes(CACHE_LINE + -len(piece) % CACHE_LINE) for piece in pieces)
    path = None
    if settings.current().share and LEAST <= len(content) <= MOST:
        name = hashlib.blake2b(content, digest_size=16).hexdigest()
        node = local_node()
        path = cache.place("packed", f"{name}.bin" if node is None else f"{name}.node{node}.bin")
    if path is None or (mapped := _mapped(path, content)) is None:
        return [aligned_copy(array) for array in arrays]
    views, at = [], 0
    for array in arrays:
        view = np.frombuffer(mapped, array.dtype, array.size, at).reshape(array.shape)
        views.append(view)
        at += array.nbytes + CACHE_LINE + -array.nbytes % CACHE_LINE
    return views


def _mapped(path: Path, content: bytes) -> mmap.mmap | None:
    """The file of this content, written where it is not there or holds something else."""
    found = _found(path, content)
    if found is None and cache.put(path, content):
        found = _found(path, content)
        _make_room(path)
    return found


def _found(path: Path, content: bytes) -> mmap.mmap | None:
    file = cache.opened(path)
    if file is None:
        return None
    with file, contextlib.suppress(OSError, ValueError):
        if os.fstat(file.fileno()).st_size == len(content):
            found = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            return found if memoryview(found) == memoryview(content) else None
    return None


def _make_room(fresh: Path) -> None:
    """For a new file.  Processes that map an old one keep it when its name is gone."""
    with contextlib.suppress(OSError):  # another process makes room too
        told = ((file, file.stat()) for file in fresh.parent.iterdir())
        files = sorted((status.st_mtime, status.st_size, file) for file, status in told)
        total = sum(size for _, size, _ in files)
        for _, size, file in files:
            if total <= FOLDER_BYTES:
                break
            if file != fresh:
                file.unlink()
                total -= size
