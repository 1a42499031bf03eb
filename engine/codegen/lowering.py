"""What becomes of an abstract instruction on an instruction set: a body for every CPU, in plain
vectors of LLVM, and bodies for CPUs with features that do it better.

    @lowering
    def sums_of_pairs(b, isa, x, w): ...            # for every CPU

    @sums_of_pairs.on("avx2", elements=(16,))       # x86.py
    def vpmaddwd(b, isa, x, w): ...

Of the bodies whose features the set has the one that was declared first is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from .isa import Isa

__all__ = ["Lowering", "lowering"]

Body = Callable[..., Any]  # (builder, isa, *values) -> value


@dataclass(frozen=True)
class _Special:
    features: tuple[str, ...]
    elements: Collection[int]
    body: Body

    def fits(self, isa: Isa, values: tuple[Any, ...]) -> bool:
        if not all(map(isa.has, self.features)):
            return False
        return not self.elements or values[0].type.count in self.elements


class Lowering:
    """A body that depends on the instruction set; called as any body is."""

    def __init__(self, plain: Body) -> None:
        self.plain = plain
        self.__name__ = plain.__name__
        self._special: list[_Special] = []

    def on(self, *features: str, elements: Collection[int] = ()) -> Callable[[Body], Body]:
        """Declares the body of sets that have all these features of LLVM; elements: of the first
        value, if the body is for some counts only.
        """

        def declare(body: Body) -> Body:
            self._special.append(_Special(features, elements, body))
            return body

        return declare

    def __call__(self, b: Any, isa: Isa, *values: Any) -> Any:
        fitting = (each.body for each in self._special if each.fits(isa, values))
        return next(fitting, self.plain)(b, isa, *values)


lowering = Lowering
