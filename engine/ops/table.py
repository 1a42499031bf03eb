"""A row of the table of operators: name, the opset it begins at, the function that is its meaning.

A meaning takes the inputs in order (None where one is left out) and the attributes as keywords,
and returns an array or a tuple of arrays.  Where an operator changed between opsets it has several
rows; the last one whose `since` is not above the graph's opset counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["Operator"]


@dataclass(frozen=True)
class Operator:
    """`counts_outputs`: the meaning also takes the number of the node's outputs, as `outputs`."""

    name: str
    meaning: Callable[..., Any]
    domain: str = ""  # "", "com.microsoft" or "engine"
    since: int = 1
    counts_outputs: bool = False

    def __str__(self) -> str:
        return f"{self.domain}.{self.name}" if self.domain else self.name
