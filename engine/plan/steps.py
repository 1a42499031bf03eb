"""One kernel call of a plan, and why there is none for a node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..kernels import kernel_name
from ..kernels.context import ROW_TILES, TILES
from .memory import Buffer

__all__ = ["Refusal", "Step", "Unplanned"]

LEAST_SHARED = 128 << 10  # bytes of weights and tables: reading them takes longer than meeting


class Unplanned(Exception):  # noqa: N818 - no error: the plan ends there
    """No kernel for a node; says why."""


@dataclass(frozen=True)
class Refusal:
    """No kernel takes a node, or a graph: a choice like any other."""

    reason: str


@dataclass(frozen=True)
class Step:
    """One kernel call.  params: an int, a float32, a Buffer (its offset) or an array (its address),
    one slot each.
    """

    name: str  # of the node it came from
    kernel: str
    variant: tuple[Any, ...]
    params: tuple[Any, ...]
    counted: int  # offset into the context of what units count (tiles, row tiles), 0: one
    units: int = 1
    macs: int = 0  # multiply-adds for each token (row; pair of tokens): weights that are not zero
    skipped_macs: int = 0  # of these, what is left out: nobody reads the result
    own_tiles: bool = True  # a unit reads nothing but its own tile of each buffer
    facts: Mapping[str, Any] = field(default_factory=dict)  # for inspect and profile

    @property
    def kernel_name(self) -> str:
        """The full name of the kernel's variant."""
        return kernel_name(self.kernel, *self.variant)

    @property
    def domain(self) -> str:
        """What its units are counted in: "tokens", "rows", or "" for one unit."""
        return {TILES: "tokens", ROW_TILES: "rows"}.get(self.counted, "")

    @property
    def weight_bytes(self) -> int:
        """Of weights and tables."""
        kept = self.facts.get("keep")
        if kept is not None:
            return int(kept.nbytes)
        return sum(param.nbytes for param in self.params if isinstance(param, np.ndarray))

    @property
    def alone(self) -> bool:
        """For a tile of rows so little that sharing it would cost more than it brings."""
        return self.domain == "rows" and self.weight_bytes < LEAST_SHARED

    def buffers(self) -> list[Buffer]:
        """Those it reads or writes."""
        return [param for param in self.params if isinstance(param, Buffer)]
