"""One kernel call of a plan, and why there is none for a node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..kernels import kernel_name
from ..kernels.context import CONTEXT
from .memory import Buffer
from .operands import Operands

__all__ = ["Refusal", "Step", "Unplanned"]

COUNTED = {"tokens": CONTEXT.tiles, "rows": CONTEXT.row_tiles}
LEAST_SHARED = 128 << 10  # bytes of weights and tables: reading them takes longer than a barrier


class Unplanned(Exception):  # noqa: N818 - no error: the plan ends there
    """No kernel for a node; says why."""


@dataclass(frozen=True)
class Refusal:
    """No kernel takes a node, or a graph: a choice like any other."""

    reason: str


@dataclass(frozen=True)
class Step:
    """One kernel call.  params: by name, in the order of the kernel's record; an int, a float32, a
    Buffer (its offset) or an array (its address).
    """

    name: str  # of the node it came from
    kernel: str
    variant: tuple[Any, ...]
    params: Mapping[str, Any]
    domain: str  # "tokens" or "rows": the tiles that units are counted in
    units: int = 1  # of each tile
    macs: int = 0  # multiply-adds for each token (row; pair of tokens): weights that are not zero
    skipped_macs: int = 0  # of these, what is left out: nobody reads the result
    own_tiles: bool = True  # a unit reads nothing but its own tile of each buffer
    operands: Operands | None = None  # that params point into

    @property
    def kernel_name(self) -> str:
        """The full name of the kernel's variant."""
        return kernel_name(self.kernel, *self.variant)

    @property
    def counted(self) -> int:
        """The offset into the context of the number of tiles."""
        return COUNTED[self.domain]

    @property
    def weight_bytes(self) -> int:
        """Of weights and tables."""
        if self.operands is not None:
            return self.operands.nbytes
        return sum(param.nbytes for param in self.params.values() if isinstance(param, np.ndarray))

    @property
    def alone(self) -> bool:
        """For a tile of rows so little that sharing it would cost more than it brings."""
        return self.domain == "rows" and self.weight_bytes < LEAST_SHARED

    def buffers(self) -> list[Buffer]:
        """Those it reads or writes, as they lie in the arena."""
        return [param.whole for param in self.params.values() if isinstance(param, Buffer)]
