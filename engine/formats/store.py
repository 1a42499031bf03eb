"""The IR on disk: Graph of engine operators <-> conf.yaml + model.bin.

conf.yaml: format, version, inputs, outputs, operators in order, tensors; its last line is the crc32
of the lines before it.  model.bin: a header of 64 bytes, then the tensors, little-endian, each at
a multiple of 64; conf.yaml gives [offset, length], crc32 and form of each.  Forms: "raw"; "4x1" and
"1x4", blocks (see `blocks`): starts, columns, values, each padded to 64; values of either may be
bfloat16, two bytes each.

model.bin is mapped read-only: raw tensors are views of it, so processes share one copy; the other
forms are expanded each time they are asked for and kept by whoever asked.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import sys
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import FOREIGN, EngineError, IntegrityError, ModelError
from ..files.replacing import opened, whole
from ..graph import Graph, Value
from ..ops import checked
from ..ops.numbers import exact_in_bfloat16
from . import blocks, conf, original_ir
from .conf import Tensor

__all__ = ["BIN", "CONF", "Stored", "read", "write"]

Array = NDArray[Any]

CONF, BIN = "conf.yaml", "model.bin"
ALIGNMENT = 64
PIECE = 1 << 24  # bytes that are read and forgotten, a whole number of pages
EXPANSION, SMALL_MODEL = 256, 1 << 24  # elements of expanded blocks: for each byte of the file; any
HEADER = b"sparse engine, model.bin, version 1\n".ljust(ALIGNMENT, b"\0")

assert sys.byteorder == "little", "model.bin is mapped as it lies, which needs a little-endian CPU"


# --- write ---
def write(graph: Graph, folder: str | Path) -> None:
    """conf.yaml and model.bin in folder, which appears whole or not at all.

    Raises:
        ModelError: the folder holds something else than an IR, or cannot be written.
    """
    folder = Path(folder)
    if folder.is_dir() and not set(os.listdir(folder)) <= {CONF, BIN}:
        raise ModelError(f"{folder}: holds other files; expected an IR to replace, or no folder")
    try:
        with whole(folder) as fresh:
            fresh.mkdir()
            tensors = _write_tensors(graph, fresh / BIN)
            (fresh / CONF).write_bytes(conf.dump(graph, tensors).encode())
    except OSError as error:
        raise ModelError(f"{folder}: cannot write the IR: {error}") from error


def _write_tensors(graph: Graph, path: Path) -> list[Tensor]:
    forms = _forms(graph)
    tensors = []
    with path.open("wb") as file:
        file.write(HEADER)
        for name, array in graph.constants.items():
            form = forms.get(name, ("raw", False))
            offset, content = file.tell(), _encode(array, *form)
            file.write(content + bytes(-len(content) % ALIGNMENT))
            tensors.append(
                Tensor(
                    name,
                    array.dtype.name,
                    array.shape,
                    (offset, len(content)),
                    zlib.crc32(content),
                    *form,
                )  # fmt: skip
            )
    return tensors


def _forms(graph: Graph) -> dict[str, tuple[str, bool]]:
    """Weights of Linear: the pattern where its blocks take less room, and whether as bfloat16."""
    forms = {}
    for node in graph.nodes:
        if node.kind != "engine.Linear" or node.weight not in graph.constants:
            continue
        weight = graph.constants[node.weight]
        short = node.attributes.get("precision") == "bfloat16" and exact_in_bfloat16(weight)
        pattern = str(node.attributes.get("pattern", "dense"))
        if not blocks.fits(weight.shape, pattern) or not _is_smaller(weight, pattern, short):
            pattern = "raw"
        forms[node.weight] = (pattern, short)
    return forms


def _is_smaller(weight: Array, pattern: str, short: bool) -> bool:
    return len(_encode(weight, pattern, short)) < weight.size * (
        2 if short else weight.dtype.itemsize
    )


def _encode(array: Array, form: str, bfloat16: bool) -> bytes:
    if form == "raw":
        return _stored(array, bfloat16).tobytes()
    found = blocks.extract(array, form)
    parts = [found.starts.tobytes(), found.columns.tobytes()]
    padded = [part + bytes(-len(part) % ALIGNMENT) for part in parts]
    return b"".join(padded) + _stored(found.values, bfloat16).tobytes()


def _stored(array: Array, bfloat16: bool) -> Array:
    array = np.ascontiguousarray(array)
    return (array.view(np.uint32) >> np.uint32(16)).astype(np.uint16) if bfloat16 else array


# --- read ---
def read(path: str | Path, weight: str | Path | None = None) -> Graph:
    """The graph of an IR folder, or of a conf.yaml with the model.bin beside it or given.

    The original's IR is told from ours by its content.

    Raises:
        ModelError: not there, or not an IR of this engine and version.
        IntegrityError: truncated or altered; the message names file, place, found and expected.
    """
    path = Path(path)
    text_path = path / CONF if path.is_dir() else path
    bin_path = text_path.with_name(BIN) if weight is None else Path(weight)
    content = _content(text_path)
    read_ir = original_ir.read if original_ir.is_original(content) else _read
    try:
        graph = read_ir(content, text_path, bin_path)
    except EngineError as error:
        if str(text_path) in str(error) or str(bin_path) in str(error):
            raise
        raise type(error)(f"{text_path}: {error}") from error
    except FOREIGN as error:
        reason = f"{type(error).__name__}: {error}"
        raise IntegrityError(f"{text_path}: makes no sense as an IR: {reason}") from error
    return graph.changed(nodes=graph.live_nodes())  # ours has no others; what is dead may not fail


def _read(content: bytes, text_path: Path, bin_path: Path) -> Graph:
    graph, tensors, size = conf.load(content, str(text_path))
    graph = graph.changed(constants=_open(bin_path, tensors, size))
    checked(graph.changed(name=str(text_path)))
    _check_bfloat16(graph, {tensor.name for tensor in tensors if tensor.bfloat16}, text_path)
    return graph


def _check_bfloat16(graph: Graph, stored_so: set[str], place: Path) -> None:
    """Weights of bfloat16 products are exact in it, as kernels read them."""
    for node in graph:
        if node.attributes.get("precision") != "bfloat16" or node.kind != "engine.Linear":
            continue
        weight = node.weight
        if weight not in stored_so and not exact_in_bfloat16(graph.constants[weight]):
            raise IntegrityError(
                f"{place}: {node}: input 'weight' ('{weight}') is float32; expected bfloat16 values"
            )


def _open(path: Path, tensors: list[Tensor], size: int) -> Stored:
    content = _map(path, size)
    stored = Stored(content, tensors, str(path))
    stored.forget()
    return stored


def _content(path: Path) -> bytes:
    try:
        with opened(path) as file:
            return file.read()
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror or error}; expected an IR's {CONF}") from error


def _map(path: Path, expected: int) -> memoryview:
    try:
        with opened(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size != expected:
                raise IntegrityError(f"{path}: {size} bytes; {CONF} expects {expected}")
            content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: {error}; expected an IR's {BIN}") from error
    if bytes(content[:ALIGNMENT]) != HEADER:
        raise IntegrityError(f"{path}: offset 0: {bytes(content[:16])!r}; expected {HEADER[:16]!r}")
    return content


@dataclass(frozen=True)
class Entry:
    """A checked tensor and its bytes in the map."""

    tensor: Tensor
    content: memoryview


class Stored(Mapping[str, Array]):
    """Constants of a mapped model.bin by name; read-only arrays."""

    def __init__(self, content: memoryview, tensors: list[Tensor], path: str) -> None:
        self.path, self.content = path, content
        self._last: tuple[str, Array] = ("", np.empty(0))  # that was expanded
        expanded = sum(tensor.count for tensor in tensors if tensor.form != "raw")
        if expanded > (most := SMALL_MODEL + EXPANSION * len(content)):
            raise IntegrityError(
                f"{path}: {expanded} elements in blocks; expected at most {most} in a file of"
                f" {len(content)} bytes"
            )
        self._entries: dict[str, Entry] = {}
        for tensor in tensors:
            self._entries[tensor.name] = self._check(tensor, content)
            self._forget_read(tensor)

    def _forget_read(self, tensor: Tensor) -> None:
        """The pages of a large tensor, so that no more than one stays in memory."""
        offset, length = tensor.place
        if length >= PIECE:
            begin = offset // mmap.PAGESIZE * mmap.PAGESIZE
            self._forget(begin, offset + length - begin)

    def _check(self, tensor: Tensor, content: memoryview) -> Entry:
        offset, length = tensor.place
        where = f"{self.path}: tensor '{tensor.name}' at offset {offset}"
        if offset < ALIGNMENT or offset % ALIGNMENT or offset + length > len(content):
            raise IntegrityError(
                f"{where}, {length} bytes; expected a multiple of {ALIGNMENT}"
                f" and an end within {len(content)}"
            )
        piece = content[offset : offset + length]
        found = zlib.crc32(piece)
        if found != tensor.crc32:
            raise IntegrityError(f"{where}: crc32 {found:08x}; expected {tensor.crc32:08x}")
        if tensor.form == "raw" and length != tensor.count * tensor.width:
            raise IntegrityError(
                f"{where}: {length} bytes; expected {tensor.count * tensor.width}"
                f" for {tensor.dtype}{list(tensor.shape)}"
            )
        if tensor.form != "raw":
            _cut(Entry(tensor, piece), where)
        return Entry(tensor, piece)

    def __getitem__(self, name: str) -> Array:
        entry = self._entries[name]
        tensor = entry.tensor
        if tensor.form == "raw":
            return _values(entry.content, tensor).reshape(tensor.shape)
        last, dense = self._last
        if last != name:
            dense = blocks.expand(_cut(entry, self.path), tensor.shape, tensor.form)
            dense.flags.writeable = False
            self._last = name, dense  # a plan asks for each weight some times in a row
        return dense

    def numbers(self, name: str) -> Array:
        """As they are stored: blocks are not expanded."""
        entry = self._entries[name]
        if entry.tensor.form == "raw":
            return self[name]
        return _cut(entry, self.path).values

    @cached_property
    def digest(self) -> str:
        """Of the content and of where each tensor lies in it."""
        tensors = repr([entry.tensor for entry in self._entries.values()])
        digest = hashlib.sha256(tensors.encode())
        for begin in range(0, len(self.content), PIECE):
            digest.update(self.content[begin : begin + PIECE])
            self._forget(begin, PIECE)
        return digest.hexdigest()

    def place(self, array: Array) -> int | None:
        """The offset of an array that lies in the content as it is; None for others."""
        begin = np.frombuffer(self.content, np.uint8).ctypes.data
        at = array.ctypes.data - begin
        return at if 0 <= at <= len(self.content) - max(array.nbytes, 1) else None

    def piece(self, offset: int, size: int) -> Array:
        """uint8 [size].

        Raises:
            ValueError: the content ends before.
        """
        if not 0 <= offset <= len(self.content) - size or size < 0:
            raise ValueError(f"{size} bytes at {offset} of {len(self.content)}")
        return np.frombuffer(self.content, np.uint8, size, offset)

    def described(self, name: str) -> Value:
        """Name, type and shape; blocks are not expanded for it."""
        tensor = self._entries[name].tensor
        return Value(name, tensor.dtype, tensor.shape)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as the file's path, which the other process maps again."""
        tensors = [entry.tensor for entry in self._entries.values()]
        return _open, (Path(self.path).resolve(), tensors, len(self.content))

    def forget(self) -> None:
        """Checks touch every page; only those that are used need a place in this process."""
        self._last = ("", np.empty(0))
        self._forget(0, len(self.content))

    def _forget(self, begin: int, size: int) -> None:
        if hasattr(mmap, "MADV_DONTNEED") and isinstance(self.content.obj, mmap.mmap):
            self.content.obj.madvise(
                mmap.MADV_DONTNEED, begin, min(size, len(self.content) - begin)
            )

    def size(self, name: str) -> int:
        """Bytes the tensor takes on disk."""
        return self._entries[name].tensor.place[1]


def _values(content: memoryview, tensor: Tensor) -> Array:
    if not tensor.bfloat16:
        return np.frombuffer(content, tensor.dtype)
    return (np.frombuffer(content, np.uint16).astype(np.uint32) << 16).view(np.float32)


def _cut(entry: Entry, where: str) -> blocks.Blocks:
    """The three parts of a sparse tensor, each checked before the next is looked for."""
    tensor, content = entry.tensor, entry.content
    lines, places = blocks.count_lines(tensor.shape, tensor.form)
    starts = _part(content, 0, lines + 1, np.dtype(np.int32), where)
    if starts[0] != 0 or np.any(np.diff(starts) < 0) or starts[-1] > lines * places:
        raise IntegrityError(f"{where}: starts of lines do not ascend from 0 to {lines * places}")
    count, begin = int(starts[-1]), _padded(starts.nbytes)
    columns = _part(content, begin, count, blocks.column_type(places), where)
    if count and int(columns.max()) >= places:
        raise IntegrityError(f"{where}: column {columns.max()}; expected below {places}")
    begin += _padded(columns.nbytes)
    if len(content) - begin != count * 4 * tensor.width:
        raise IntegrityError(
            f"{where}: {len(content)} bytes; expected {begin + count * 4 * tensor.width}"
        )
    return blocks.Blocks(starts, columns, _values(content[begin:], tensor).reshape(count, 4))


def _part(content: memoryview, begin: int, count: int, dtype: np.dtype[Any], where: str) -> Array:
    end = begin + count * dtype.itemsize
    if end > len(content):
        raise IntegrityError(f"{where}: {len(content)} bytes; expected at least {end}")
    return np.frombuffer(content[begin:end], dtype)


def _padded(length: int) -> int:
    return length + -length % ALIGNMENT
