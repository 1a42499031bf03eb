"""The memory allocator of a timed process: where jemalloc is, and what really is loaded."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterable
from pathlib import Path

__all__ = ["find_jemalloc", "loaded_allocator"]

LIBRARY = "libjemalloc.so.2"
SYSTEM_FOLDERS = (
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
)


def find_jemalloc(candidates: Iterable[str | Path] = ()) -> Path | None:
    """The library to preload: this Python's own prefix, then the candidates, then the system's."""
    folders = [Path(sys.prefix) / "lib", *map(Path, candidates), *map(Path, SYSTEM_FOLDERS)]
    for place in folders:
        library = place / LIBRARY if place.is_dir() else place
        if library.is_file():
            return library
    return None


def loaded_allocator() -> str:
    """What malloc is in this process, asked of the process itself: name and version."""
    process = ctypes.CDLL(None)
    if hasattr(process, "mallctl"):
        return f"jemalloc {_jemalloc_version(process)}"
    maps = Path("/proc/self/maps")
    mapped = maps.read_text() if maps.exists() else ""
    for name in ("tcmalloc", "mimalloc", "jemalloc"):
        if f"lib{name}" in mapped:
            return name
    return (os.confstr("CS_GNU_LIBC_VERSION") or "unknown").strip()


def _jemalloc_version(process: ctypes.CDLL) -> str:
    text = ctypes.c_char_p()
    size = ctypes.c_size_t(ctypes.sizeof(text))
    failed = process.mallctl(b"version", ctypes.byref(text), ctypes.byref(size), None, 0)
    return "unknown" if failed or not text.value else text.value.decode().split("-")[0]
