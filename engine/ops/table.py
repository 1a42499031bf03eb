"""A row of the table of operators: name, the opset it begins at, the function that is its meaning.

A meaning takes the inputs in order (None where one is left out) and the attributes as keywords,
and returns an array or a tuple of arrays.  Where an operator changed between opsets it has several
rows; the last one whose `since` is not above the graph's opset counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Flag, auto
from typing import Any

__all__ = ["TYPES", "Operator", "Trait"]

TYPES = (  # of values, by NumPy's names
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "float16", "float32", "float64",
)  # fmt: skip


class Trait(Flag):
    """What is true of an operator whatever its inputs and attributes are."""

    SAME = auto()  # the result has the shape of the first input
    BROADCASTS = auto()  # it has the shape to which the inputs broadcast, and their type
    COMPARES = auto()  # likewise, but its type is bool
    EACH = auto()  # each element is made of those at its place
    TAME = auto()  # and finite where those are
    ALONG = auto()  # each element is made of those along an axis
    REDUCES = auto()  # an axis is made one element
    SUMS = auto()  # which is finite where all are, and 0 where all are 0
    MOVES = auto()  # elements come to other places, no other elements are made
    VIEWS = auto()  # all of them, in the same order but for transpositions and copies
    ACTIVATES = auto()  # an activation that kernels have
    HEAVY = auto()  # it costs much for each element: no part of a mask's making


SAME, BROADCASTS, COMPARES = Trait.SAME, Trait.BROADCASTS, Trait.COMPARES
EACH, TAME, ALONG = Trait.EACH, Trait.TAME, Trait.ALONG
REDUCES, SUMS, MOVES, VIEWS = Trait.REDUCES, Trait.SUMS, Trait.MOVES, Trait.VIEWS
ACTIVATES, HEAVY = Trait.ACTIVATES, Trait.HEAVY


@dataclass(frozen=True)
class Operator:
    """`counts_outputs`: the meaning also takes the number of the node's outputs, as `outputs`;
    `makes`: the elements it makes or goes through, for inputs and attributes, where that may be
    many times what it is given (`growth`); `traits`: what rules of passes and plans go by;
    `lookups`: which inputs are indices of which.
    """

    name: str
    meaning: Callable[..., Any]
    domain: str = ""  # "", "com.microsoft" or "engine"
    since: int = 1
    counts_outputs: bool = False
    makes: Callable[..., int] | None = None
    traits: Trait = Trait(0)
    lookups: tuple[tuple[int, int], ...] = ()

    def __str__(self) -> str:
        return f"{self.domain}.{self.name}" if self.domain else self.name
