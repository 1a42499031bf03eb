"""Weights in the order in which the kernels of kernels/linear.py and its relatives read them.

A group is 4 outputs, a step one turn of a kernel's loop, m the inputs of one product: 4 (int8),
2 (bfloat16; int16: int8 weights for CPUs without VNNI), 1 (float32).

           header                          offsets        weights                   a step is
    4x1    steps, first output             [steps][m]     [steps][4 outputs][m]     m blocks
    1x4    steps, 4 outputs, 3 unused      [steps][4]     [steps][4 outputs][4]     4 blocks
    dense  steps, first output             none           [steps][4 outputs][m]     m inputs

Headers are int32; outputs in them are byte offsets into a tile of y (1x4: any four outputs with
about as many blocks make a group, and the n rows that an epilogue adds for output n are taken off).
Offsets are u16: 8 * input, or 8 * (input / 4) for 1x4.  Where blocks are missing an offset is
repeated with weight 0; a group of 4x1 has one step at least.  Two empty steps end a sparse layer:
kernels read ahead.  Groups are dealt to parts of about equal work and sorted by steps inside a
part: the loop's end is then predicted.

A 1x4 product loads x as often as it multiplies.  Where x overflows the first-level cache the inputs
are cut into panels that do not, each packed by itself: in each the outputs of a part are grouped
anew, and what has been summed so far waits in the worker's scratch.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "MOST_INPUTS",
    "PER_PRODUCT",
    "Packed",
    "pack_linear",
    "pack_panels",
    "piece_width",
    "to_bfloat16",
]

Array = NDArray[Any]
GROUP = 4  # outputs
MOST_INPUTS = 8191  # 8 * input has to fit in 16 bits
PER_PRODUCT = {"int8": 4, "int16": 2, "bfloat16": 2, "float32": 1}
X_BYTES = {"int8": 1, "bfloat16": 2, "float32": 4}
HEADER = {"4x1": 2, "dense": 2, "1x4": 8}  # int32 slots
STEPS_AHEAD = 2  # that sparse kernels may read behind the last one
EPILOGUE_STEPS = 3  # what finishing a group costs, in steps: for balance only


@dataclass(frozen=True)
class Packed:
    """One layer; outputs[i]: rows of the weight in group i (N and above: padding), whose order
    records and tables have to follow."""

    pattern: str
    headers: Array  # int32 [groups, 2 or 8]
    offsets: Array  # uint16 [steps, m or 4]; empty when dense
    weights: Array  # int8, int16, uint16 (bits of bfloat16) or float32
    outputs: Array  # int64 [groups, 4]
    bounds: Array  # int64 [parts + 1]: groups of a part
    starts: Array  # int64 [groups + 1]: steps before a group

    @property
    def steps(self) -> int:
        return int(self.starts[-1])

    def rows(
        self,
        headers: int,
        offsets: int,
        weights: int,
        records: int,
        tables: int,
        *,
        record_bytes: int = 64,
    ) -> Array:
        """int64 [parts, 6]: the parts as a kernel reads them, from the addresses of the arrays."""
        first = self.bounds[:-1]
        step = self.starts[first]
        offset_bytes = 0 if self.offsets.ndim < 2 else self.offsets.itemsize * self.offsets.shape[1]
        weight_bytes = self.weights.itemsize * int(np.prod(self.weights.shape[1:]))
        places = [
            headers + self.headers.itemsize * self.headers.shape[1] * first,
            offsets + offset_bytes * step,
            weights + weight_bytes * step,
        ]
        places += [records + record_bytes * first, tables + 1024 * first if tables else 0 * first]
        return np.stack([np.diff(self.bounds), *places], axis=1).astype(np.int64)


def to_bfloat16(x: Array) -> Array:
    """The bits of float32 rounded to nearest even; NaN stays NaN."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return np.where(np.isnan(x), bits >> 16 | 0x40, rounded).astype(np.uint16)


def piece_width(bits: int) -> int:
    """Tokens of a register block, and of a piece of x where a kernel reads x in pieces: 4 outputs x
    64 tokens fill half of 32 registers of 512 bits.
    """
    return 64 if bits == 512 else 16


def _deal(steps: Array, parts: int) -> list[Array]:
    """Groups of each part: the longest first to the part with least work, then sorted by steps."""
    loads = [(0, part) for part in range(parts)]
    dealt: list[list[int]] = [[] for _ in range(parts)]
    for group in np.argsort(-steps, kind="stable"):
        work, part = heapq.heappop(loads)
        dealt[part].append(int(group))
        heapq.heappush(loads, (work + int(steps[group]) + EPILOGUE_STEPS, part))
    return [np.array(sorted(groups, key=lambda g: (steps[g], g)), np.int64) for groups in dealt]


def _pad_outputs(weight: Array) -> Array:
    return np.pad(weight, ((0, -len(weight) % GROUP), (0, 0)))


def _columns(group: Array, m: int) -> tuple[Array, Array]:
    """Offsets [steps, m] and weights [steps, 4, m]: the inputs that any of 4 outputs reads."""
    inputs = np.flatnonzero(group.any(axis=0))
    if len(inputs) == 0:
        inputs = np.array([0])
    pad = -len(inputs) % m
    values = np.pad(group[:, inputs], ((0, 0), (0, pad)))
    inputs = np.pad(inputs, (0, pad), mode="edge")
    return inputs.reshape(-1, m) * 8, values.reshape(GROUP, -1, m).transpose(1, 0, 2)


def _quads(group: Array, steps: int) -> tuple[Array, Array]:
    """Offsets [steps, 4] and weights [steps, 4, 4]: blocks of 4 inputs, as many for each output."""
    offsets, values = np.zeros((steps, GROUP), np.int64), np.zeros((steps, GROUP, 4), group.dtype)
    for n, row in enumerate(group.reshape(GROUP, -1, 4)):
        blocks = np.flatnonzero(row.any(axis=1))
        if len(blocks):
            offsets[:, n] = 8 * np.pad(blocks, (0, steps - len(blocks)), mode="edge")
            values[: len(blocks), n] = row[blocks]
    return offsets, values


def pack_linear(
    weight: Array,
    pattern: str,
    *,
    precision: str,
    lanes: int = 64,
    parts: int = 1,
    out_bytes: int = 1,
) -> Packed:
    """weight [N, K]: int8 (int8, int16), or float32 for other precisions; a row of y is
    lanes * out_bytes.

    Inputs are padded to a multiple of m (dense) or 4 (1x4), outputs to a multiple of 4: a tile of y
    has to have room for those rows.
    """
    m = PER_PRODUCT[precision]
    assert weight.shape[1] <= MOST_INPUTS or pattern == "dense", (
        f"{weight.shape[1]} inputs; offsets reach {MOST_INPUTS}"
    )
    assert pattern != "4x1" or weight.shape[0] % GROUP == 0, (
        f"{weight.shape[0]} outputs do not divide into blocks of 4"
    )
    row = lanes * out_bytes
    weight = _pad_outputs(weight)
    weight = np.pad(weight, ((0, 0), (0, -weight.shape[1] % (4 if pattern == "1x4" else m))))
    members = np.arange(len(weight)).reshape(-1, GROUP)
    if pattern == "1x4":  # outputs with as many blocks make a group
        blocks = weight.reshape(len(weight), -1, 4).any(axis=2).sum(axis=1)
        members = np.argsort(blocks, kind="stable").reshape(-1, GROUP)
        steps = blocks[members].max(axis=1)
    elif pattern == "4x1":
        steps = -(-weight.reshape(-1, GROUP, weight.shape[1]).any(axis=1).sum(axis=1) // m)
        steps = np.maximum(steps, 1)
    else:
        steps = np.full(len(members), weight.shape[1] // m)
    dealt = _deal(steps, parts)
    order = np.concatenate(dealt)
    return _assemble(
        weight,
        pattern,
        members[order],
        steps[order],
        m=m,
        row=row,
        bounds=np.cumsum([0, *map(len, dealt)]),
        precision=precision,
    )


def pack_panels(
    weight: Array,
    panels: int,
    *,
    precision: str,
    lanes: int = 64,
    parts: int = 1,
    out_bytes: int = 1,
) -> list[Packed]:
    """A 1x4 layer as pack_linear takes it, in panels of about as many inputs each."""
    whole = pack_linear(
        weight, "1x4", precision=precision, lanes=lanes, parts=parts, out_bytes=out_bytes
    )
    if panels == 1:
        return [whole]
    weight = np.pad(_pad_outputs(weight), ((0, 0), (0, -weight.shape[1] % 4)))
    quads = weight.shape[1] // 4
    packed = []
    for first, last in pairwise(np.arange(panels + 1) * quads // panels * 4):
        panel = np.zeros_like(weight)
        panel[:, first:last] = weight[:, first:last]
        blocks = panel.reshape(len(panel), -1, 4).any(axis=2).sum(axis=1)
        members = np.concatenate([
            part[np.argsort(blocks[part], kind="stable")]
            for part in np.split(whole.outputs.ravel(), GROUP * whole.bounds[1:-1])
        ]).reshape(-1, GROUP)  # fmt: skip
        steps = blocks[members].max(axis=1)
        made = _assemble(
            panel,
            "1x4",
            members,
            steps,
            m=PER_PRODUCT[precision],
            row=lanes * out_bytes,
            bounds=whole.bounds,
            precision=precision,
        )
        packed.append(made)
    return packed


def _assemble(
    weight: Array,
    pattern: str,
    members: Array,
    steps: Array,
    *,
    m: int,
    row: int,
    bounds: Array,
    precision: str,
) -> Packed:
    headers = np.zeros((len(members), HEADER[pattern]), np.int32)
    headers[:, 0] = steps
    if pattern == "1x4":
        headers[:, 1:5] = (members - np.arange(GROUP)) * row
        pairs = [
            _quads(weight[group], int(count)) for group, count in zip(members, steps, strict=True)
        ]
    elif pattern == "4x1":
        headers[:, 1] = members[:, 0] * row
        pairs = [_columns(weight[group], m) for group in members]
    else:
        headers[:, 1] = members[:, 0] * row
        pairs = [
            (np.empty(0, np.int64), weight[group].reshape(GROUP, -1, m).transpose(1, 0, 2))
            for group in members
        ]
    weights = np.concatenate([values for _, values in pairs])
    bfloat16 = precision == "bfloat16"
    stored = to_bfloat16(weights) if bfloat16 else weights.astype(precision)
    offsets = np.concatenate([offsets for offsets, _ in pairs]).astype(np.uint16)
    if pattern != "dense":
        offsets = np.pad(offsets, ((0, STEPS_AHEAD), (0, 0)))
        stored = np.pad(stored, ((0, STEPS_AHEAD), (0, 0), (0, 0)))
    return Packed(
        pattern,
        headers,
        offsets,
        np.ascontiguousarray(stored),
        members,
        bounds.astype(np.int64),
        np.concatenate([[0], np.cumsum(steps)]).astype(np.int64),
    )
