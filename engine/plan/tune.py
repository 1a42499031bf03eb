"""Vectors or tiles for a layer: modelled (tiles.py), or measured where ENGINE_TUNE is 1.

A measurement takes the shortest of some runs of each kernel that could serve, on two tiles of
tokens, and is kept in <cache>/choices.json by CPU and layer: shape, pattern, and how much work the
model sees in it.  Values do not matter to the time: x and the epilogue's constants are zeros.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import settings
from ..isa import Isa, cpu_model
from ..kernels import kernel
from ..kernels.harness import Stand
from ..pack import pack_linear
from ..pack_amx import pack_tiles
from .tiles import TILE_KERNELS, modelled_cycles, possible_patterns, tile_pattern

__all__ = ["chosen_pattern"]

Array = NDArray[Any]
TILES, ROUNDS = 2, 20
ELEMENT = {"int8": 1, "bfloat16": 2}  # bytes of x
RESULT = {"int8": ("bytes", 1), "bfloat16": ("f32", 4)}  # epilogue, bytes of y


def chosen_pattern(
    isa: Isa, weight: Array, precision: str, pattern: str, vector: tuple[Any, ...]
) -> str:
    """As tile_pattern; vector: the kernel that would serve without tiles, and the lanes of its
    variant."""
    candidates = possible_patterns(isa, weight, precision)
    if not candidates or not settings.current().tune:
        return tile_pattern(isa, weight, precision, pattern)
    modelled = modelled_cycles(weight, precision, pattern)
    work = " ".join(str(int(cycles)) for cycles in modelled.values())
    shape = "x".join(map(str, weight.shape))
    key = f"{precision} {pattern} {shape} {vector[0]} {work}"
    cpu = f"{cpu_model()} {isa}"
    kept = _read()
    times = kept.get(cpu, {}).get(key)
    if times is None:
        times = _measure(isa, weight, precision, pattern, vector, candidates)
        kept.setdefault(cpu, {})[key] = times
        _write(kept)
    best = min(times, key=lambda name: times[name])
    return "" if best == "vector" else best


def _measure(
    isa: Isa,
    weight: Array,
    precision: str,
    pattern: str,
    vector: tuple[Any, ...],
    candidates: tuple[str, ...],
) -> dict[str, float]:
    """Microseconds of each kernel for a tile of tokens."""
    (epilogue, size), tokens = RESULT[precision], vector[1]
    calls: dict[str, tuple[Stand, Any]] = {}
    pack: Any
    for name in ("vector", *candidates):
        if name == "vector":
            row, *lanes = vector
            pack, layout = pack_linear, pattern
        else:
            row, lanes = TILE_KERNELS[precision, name][0], [tokens]
            pack, layout = pack_tiles, name
        packed = pack(weight, layout, precision=precision, lanes=tokens, out_bytes=size)
        x_bytes = tokens * ELEMENT[precision] * -(-weight.shape[1] // 4) * 4
        y_bytes = tokens * size * -(-len(weight) // 4) * 4
        stand = Stand(TILES * (x_bytes + y_bytes) + 4096)
        x, _ = stand.room((TILES, x_bytes), np.uint8)
        y, _ = stand.room((TILES, y_bytes), np.uint8)
        table = stand.parts(packed, np.zeros((len(packed.outputs), 64), np.uint8))
        params = stand.params(x, x_bytes, y, y_bytes, 1, table)
        code = kernel(isa, row, *lanes, epilogue, "none")
        calls[name] = stand, stand.caller(code, params, 0, TILES)
    least = dict.fromkeys(calls, float("inf"))
    for _ in range(ROUNDS):  # in turns: what disturbs one disturbs all
        for name, (_, call) in calls.items():
            began = time.perf_counter()
            call()
            least[name] = min(least[name], 1e6 * (time.perf_counter() - began) / TILES)
    return {name: round(time_, 3) for name, time_ in least.items()}


# --- the file
def _path() -> Path:
    return Path(settings.current().cache) / "choices.json"


def _read() -> dict[str, Any]:
    try:
        kept = json.loads(_path().read_text())
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}


def _write(kept: dict[str, Any]) -> None:
    """By rename; a cache that cannot be written only costs time."""
    path = _path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "w") as file:
            json.dump(kept, file, indent=1, sort_keys=True)
        os.replace(temporary, path)
    except OSError:
        return
