"""Packed weights in files that processes map."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from engine import settings
from engine.pack import mapped as module
from engine.pack.mapped import shared


@pytest.fixture
def arrays() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [
        random.integers(-9, 9, (7, 311), np.int32),
        random.integers(0, 9, 5001).astype(np.uint8),
        random.normal(size=(33, 16)).astype(np.float32),
    ]


def files(folder: Path) -> list[Path]:
    return sorted((folder / "packed").glob("*.bin"))


def test_the_same_weights_are_one_file(tmp_path: Path, arrays: list[np.ndarray]) -> None:
    with settings.override(cache=str(tmp_path)):
        first, second = shared(arrays), shared(arrays)
        shared([arrays[0] + 1, *arrays[1:]])
    assert len(files(tmp_path)) == 2
    for mine, other, array in zip(first, second, arrays, strict=True):
        np.testing.assert_array_equal(mine, array)
        np.testing.assert_array_equal(other, array)
        assert mine.ctypes.data % 64 == other.ctypes.data % 64 == 0
        assert not mine.flags.writeable


def test_a_damaged_file_is_written_again(tmp_path: Path, arrays: list[np.ndarray]) -> None:
    with settings.override(cache=str(tmp_path)):
        shared(arrays)
        (path,) = files(tmp_path)
        content = bytearray(path.read_bytes())
        content[100] ^= 1
        path.unlink()
        path.write_bytes(content)
        found = shared(arrays)
    np.testing.assert_array_equal(found[0], arrays[0])
    assert not found[0].flags.writeable
    assert path.read_bytes() != content


def test_a_file_that_others_may_write_is_not_mapped(
    tmp_path: Path, arrays: list[np.ndarray]
) -> None:
    """It could change under a session."""
    with settings.override(cache=str(tmp_path)):
        shared(arrays)
        (path,) = files(tmp_path)
        path.chmod(0o666)
        open_to_all = path.stat().st_ino
        found = shared(arrays)
        assert not found[0].flags.writeable and path.stat().st_ino != open_to_all
        path.parent.chmod(0o777)
        assert shared(arrays)[0].flags.writeable


def test_no_litter_where_the_disk_is_full(
    tmp_path: Path, arrays: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with settings.override(cache=str(tmp_path)):
        found = shared(arrays)
    np.testing.assert_array_equal(found[0], arrays[0])
    assert not list((tmp_path / "packed").iterdir())


def test_copies_where_no_file_can_be(tmp_path: Path, arrays: list[np.ndarray]) -> None:
    (tmp_path / "file").touch()
    nowhere = ({"cache": ""}, {"cache": str(tmp_path / "file")})
    for changes in (*nowhere, {"cache": str(tmp_path), "share": 0}):
        with settings.override(**changes):
            found = shared(arrays)
        assert all(array.flags.writeable for array in found)
    assert not files(tmp_path)
    with settings.override(cache=str(tmp_path)):
        shared([arrays[0][:1, :9]])  # too little for a file
    assert not files(tmp_path)


def test_the_oldest_files_make_room(
    tmp_path: Path, arrays: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    with settings.override(cache=str(tmp_path)):
        kept = shared(arrays)
        monkeypatch.setattr(module, "FOLDER_BYTES", 10_000)
        shared([array + 1 for array in arrays])
    assert len(files(tmp_path)) == 1
    np.testing.assert_array_equal(kept[0], arrays[0])
