"""A row of the table of operators: name, the opset it begins at, the function that is its meaning.

A meaning takes the inputs in order (None where one is left out) and the attributes as keywords,
and returns an array or a tuple of arrays.  Where an operator changed between opsets it has several
rows; the last one whose `since` is not above the graph's opset counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["TYPES", "Operator"]

TYPES = (  # of values, by NumPy's names
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "float16", "float32", "float64",
)  # fmt: skip


@dataclass(frozen=True)
class Operator:
    """`counts_outputs`: the meaning also takes the number of the node's outputs, as `outputs`;
    `makes`: the elements it makes or goes through, for inputs and attributes, where that may be
    many times what it is given (`growth`).
    """

    name: str
    meaning: Callable[..., Any]
    domain: str = ""  # "", "com.microsoft" or "engine"
    since: int = 1
    counts_outputs: bool = False
    makes: Callable[..., int] | None = None

    def __str__(self) -> str:
        return f"{self.domain}.{self.name}" if self.domain else self.name
