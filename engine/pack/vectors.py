"""Weights in the order in which the vector kernels of kernels/linear read them.

A group is 4 outputs, a step one turn of a kernel's loop, m the inputs of one product: 4 (int8),
2 (bfloat16; int16: int8 weights for CPUs without VNNI), 1 (float32).

           header        offsets        weights                   a step is
    4x1    HEADER        [steps][m]     [steps][4 outputs][m]     m blocks
    1x4    PANEL_HEADER  [steps][4]     [steps][4 outputs][4]     4 blocks
    dense  HEADER        none           [steps][4 outputs][m]     m inputs

Headers are records (kernels/linear/records.py).  Of 1x4 any 4 outputs with about as many blocks
make a group.  Offsets are u16, 8 * input; those of 1x4 are u8, input / 4 counted from the panel's
first.  4x1 lists an input again for what of its weights int8 does not hold (`in_bytes`).
Where blocks are missing an offset is repeated with weight 0; a group of 4x1 has one step at least.
A group of int8 1x4 is stored to a multiple of four steps, which are loaded together.  Empty steps
end a sparse layer: kernels read ahead.  Groups are dealt to parts of about equal work
and sorted by steps inside a part: the loop's end is then predicted.

A 1x4 product loads x as often as it multiplies.  Where x overflows the first-level cache, or has
more quads than a u8 can name, the inputs are cut into panels, each packed by itself: in each the
outputs of a part are grouped anew, and what has been summed so far waits in the worker's scratch.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..kernels.linear.records import HEADER, OUTPUT, PANEL_HEADER, PART

__all__ = [
    "MOST_INPUTS",
    "PER_PRODUCT",
    "Packed",
    "pack_linear",
    "pack_panels",
    "ranks",
    "to_bfloat16",
]

Array = NDArray[Any]
GROUP = 4  # outputs
MOST_INPUTS = 8191  # 8 * input has to fit in 16 bits
MOST_QUADS = 256  # of a panel
PER_PRODUCT = {"int8": 4, "int16": 2, "bfloat16": 2, "float32": 1}
X_BYTES = {"int8": 1, "bfloat16": 2, "float32": 4}
STEPS_AHEAD = {"4x1": 2, "1x4": 8}  # that kernels may read behind the last one
TURN = {"int8": 4}  # steps of 1x4 that are loaded together: a group begins at such a multiple
EPILOGUE_STEPS = 3  # what finishing a group costs, in steps: for balance only


@dataclass(frozen=True)
class Packed:
    """One layer; outputs[i]: rows of the weight in group i (N and above: padding), whose order
    records have to follow."""

    pattern: str
    headers: Array  # HEADER or PANEL_HEADER [groups]
    offsets: Array  # uint16 [steps, m], uint8 [steps, 4] for 1x4; empty when dense
    weights: Array  # int8, int16, uint16 (bits of bfloat16) or float32
    outputs: Array  # int64 [groups, 4]
    bounds: Array  # int64 [parts + 1]: groups of a part
    starts: Array  # int64 [groups + 1]: stored steps before a group

    @property
    def steps(self) -> int:
        return int(self.starts[-1])

    @property
    def groups_before(self) -> Array:
        """A header."""
        return np.arange(len(self.headers) + 1)

    def parts(self, places: Sequence[int], tables: int) -> Array:
        """PART [parts]; places: addresses of headers, offsets, weights and records."""
        headers, offsets, weights, records = places
        first = self.bounds[:-1]
        step = self.starts[first]
        parts = np.zeros(len(first), PART.dtype)
        parts["groups"] = np.diff(self.bounds)
        parts["headers"] = headers + self.headers.itemsize * first
        parts["offsets"] = offsets + _row_bytes(self.offsets) * step
        parts["weights"] = weights + _row_bytes(self.weights) * step
        parts["records"] = records + OUTPUT.size * self.groups_before[first]
        parts["tables"] = tables
        return parts


def _row_bytes(array: Array) -> int:
    return array.itemsize * int(np.prod(array.shape[1:]))


def to_bfloat16(x: Array) -> Array:
    """The bits of float32 rounded to nearest even; NaN stays NaN."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return np.where(np.isnan(x), bits >> 16 | 0x40, rounded).astype(np.uint16)


def _deal(steps: Array, parts: int) -> list[Array]:
    """Groups of each part: the longest first to the part with least work, then sorted by steps."""
    loads = [(0, part) for part in range(parts)]
    dealt: list[list[int]] = [[] for _ in range(parts)]
    for group in np.argsort(-steps, kind="stable"):
        work, part = heapq.heappop(loads)
        dealt[part].append(int(group))
        heapq.heappush(loads, (work + int(steps[group]) + EPILOGUE_STEPS, part))
    return [np.array(sorted(groups, key=lambda g: (steps[g], g)), np.int64) for groups in dealt]


def _padded(weight: Array, inputs: int) -> Array:
    """Outputs to a multiple of 4, inputs to one of `inputs`."""
    return np.pad(weight, ((0, -len(weight) % GROUP), (0, -weight.shape[1] % inputs)))


def in_bytes(weight: Array) -> Array:
    """int8 [N, n K] of whole numbers [N, K], whose sum over n they are."""
    limits = np.iinfo(np.int8)
    parts: list[Array] = []
    while weight.any() or not parts:
        parts.append(np.clip(weight, limits.min, limits.max).astype(np.int8))
        weight = weight - parts[-1]
    return np.concatenate(parts, axis=1)


def ranks(lines: Array) -> Array:
    """The place of each entry among those of its line; lines: of all entries, ascending."""
    return np.arange(len(lines)) - np.searchsorted(lines, lines)


def _columns(groups: Array, steps: Array, m: int, idle: int, there: int) -> tuple[Array, Array]:
    """Offsets [steps, m] and weights [steps, 4, m] of all groups [groups, 4, inputs]: the inputs
    that any of 4 outputs reads, of which `there` are there; idle: what is read where there are
    none, which somebody has to have made.
    """
    group, inputs = np.nonzero(groups.any(axis=1))
    places = (m * (np.cumsum(steps) - steps))[group] + ranks(group)
    last = np.full(len(groups), idle)
    last[group] = inputs  # the last one stays
    offsets, values = np.repeat(last, m * steps), np.zeros((m * steps.sum(), GROUP), groups.dtype)
    offsets[places], values[places] = inputs, groups[group, :, inputs]
    return offsets.reshape(-1, m) % there * 8, values.reshape(-1, m, GROUP).transpose(0, 2, 1)


def _quads(quads: Array, steps: Array) -> tuple[Array, Array]:
    """Offsets [steps, 4] and weights [steps, 4, 4] of all groups [groups, 4 outputs, quads, 4]:
    blocks of 4 inputs, as many for each output of a group.
    """
    there = quads.any(axis=3)
    group, output, blocks = np.nonzero(there)
    places = (np.cumsum(steps) - steps)[group] + ranks(GROUP * group + output)
    last = np.zeros((len(quads), GROUP), np.int64)
    if there.size:  # for outputs without any
        last[:] = there.any(axis=1).argmax(axis=1)[:, None]
    last[group, output] = blocks
    offsets = np.repeat(last, steps, axis=0)
    values = np.zeros((len(offsets), GROUP, 4), quads.dtype)
    offsets[places, output], values[places, output] = blocks, quads[group, output, blocks]
    return offsets, values


def pack_linear(
    weight: Array,
    pattern: str,
    *,
    precision: str,
    lanes: int = 64,
    parts: int = 1,
    out_bytes: int = 1,
    read: Array | None = None,
) -> Packed:
    """Pattern 4x1 or dense.  weight [N, K]: whole numbers (int8, int16), or float32 for other
    precisions; int8 of what int8 does not hold only 4x1.  A row of y is lanes * out_bytes.

    read: bool [N], the outputs that are read by somebody; groups without any are left out, all but
    one.  Inputs are padded to a multiple of m (dense), outputs to one of 4: a tile of y has to have
    room for those rows.
    """
    assert pattern != "4x1" or weight.shape[1] <= MOST_INPUTS, (
        f"weight {weight.shape}: at most {MOST_INPUTS} inputs"
    )
    m, there = PER_PRODUCT[precision], weight.shape[1]
    weight = _padded(in_bytes(weight) if precision == "int8" and pattern == "4x1" else weight, m)
    groups = weight.reshape(-1, GROUP, weight.shape[1])
    if pattern == "4x1":
        inputs = groups.any(axis=1).sum(axis=1)
        steps = np.maximum(-(-inputs // m), 1)
    else:
        steps = np.full(len(groups), weight.shape[1] // m)
    made = np.arange(len(groups))
    if read is not None:
        read = np.pad(read, (0, len(weight) - len(read)))
        made = np.flatnonzero(read.reshape(-1, GROUP).any(axis=1))
        made = made if len(made) else np.zeros(1, np.int64)
    dealt = [made[part] for part in _deal(steps[made], parts)]
    order = np.concatenate(dealt)
    headers = np.zeros(len(groups), HEADER.dtype)
    headers["steps"] = steps
    headers["output"] = np.arange(len(groups)) * GROUP * lanes * out_bytes
    members = np.arange(len(weight)).reshape(-1, GROUP)
    headers, groups, members = headers[order], groups[order], members[order]
    if pattern == "4x1":
        idle = int(weight.any(axis=0).argmax()) % there
        stored = _columns(groups, steps[order], m, idle, there)
    else:
        values = groups.reshape(len(groups), GROUP, -1, m).swapaxes(1, 2)
        stored = np.empty((0, 0), np.int64), values.reshape(-1, GROUP, m)
    return _assemble(pattern, headers, stored, steps[order], members, _bounds(dealt), precision)


def pack_panels(
    weight: Array,
    panels: int,
    *,
    precision: str,
    lanes: int = 64,
    parts: int = 1,
    out_bytes: int = 1,
    read: Array | None = None,
) -> list[Packed]:
    """Pattern 1x4, in panels of about as many inputs each.  Inputs and outputs are padded to a
    multiple of 4; the rest is as in pack_linear.
    """
    weight = _padded(weight, 4)
    quads = weight.reshape(len(weight), -1, 4)
    there = quads.any(axis=2)
    made = np.arange(len(weight))
    if read is not None:  # and some that are not, to make up fours
        made = np.argsort(~np.pad(read, (0, len(weight) - len(read))), kind="stable")
        made = np.sort(made[: max(GROUP, -(-np.count_nonzero(read) // GROUP) * GROUP)])
    alike = made[np.argsort(there[made].sum(axis=1), kind="stable")].reshape(-1, GROUP)
    dealt = _deal(there.sum(axis=1)[alike].max(axis=1), parts)
    packed = []
    for first, last in pairwise(np.arange(panels + 1) * quads.shape[1] // panels):
        assert last - first <= MOST_QUADS, f"{last - first} quads of inputs in a panel"
        blocks = there[:, first:last].sum(axis=1)
        members = np.concatenate([
            part[np.argsort(blocks[part], kind="stable")]
            for part in (alike[groups].ravel() for groups in dealt)
        ]).reshape(-1, GROUP)  # fmt: skip
        steps = blocks[members].max(axis=1)
        stored = -(-steps // TURN.get(precision, 1)) * TURN.get(precision, 1)
        headers = np.zeros(len(members), PANEL_HEADER.dtype)
        headers["steps"], headers["quad"] = steps, first
        headers["outputs"] = (members - np.arange(GROUP)) * lanes * out_bytes
        pair = _quads(quads[members, first:last], stored)
        bounds = _bounds(dealt)
        packed.append(_assemble("1x4", headers, pair, stored, members, bounds, precision))
    return packed


def _bounds(dealt: list[Array]) -> Array:
    return np.cumsum([0, *map(len, dealt)]).astype(np.int64)


def _assemble(
    pattern: str,
    headers: Array,
    stored: tuple[Array, Array],
    steps: Array,
    members: Array,
    bounds: Array,
    precision: str,
) -> Packed:
    """stored: offsets and weights of all groups; steps: how many of each."""
    offsets, weights = stored
    weights = (
        to_bfloat16(weights) if precision == "bfloat16" else weights.astype(precision, copy=False)
    )
    if pattern != "dense":
        behind = (0, STEPS_AHEAD[pattern])
        offsets = np.pad(offsets, (behind, (0, 0)))
        weights = np.pad(weights, (behind, (0, 0), (0, 0)))
    return Packed(
        pattern,
        headers,
        offsets.astype(np.uint8 if pattern == "1x4" else np.uint16),
        np.ascontiguousarray(weights),
        members,
        bounds,
        np.cumsum([0, *steps]).astype(np.int64),
    )
