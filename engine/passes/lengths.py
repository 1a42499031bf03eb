"""Arithmetic of lengths: a number, or a name where it is free; products are names joined by "*".

Equal names are equal lengths.  "" is a length nothing is known of.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

__all__ = ["Length", "Shape", "added", "alike", "broadcast", "divided", "times"]

Length = int | str
Shape = tuple[Length, ...]


def times(a: Length, b: Length) -> Length:
    number = prod(x for x in (a, b) if isinstance(x, int))
    names = sorted(part for x in (a, b) if isinstance(x, str) for part in factors(x)[1])
    number *= prod(factors(x)[0] for x in (a, b) if isinstance(x, str))
    if not names or number == 0:
        return number
    return "*".join(names if number == 1 else [str(number), *names])


def factors(length: Length) -> tuple[int, list[str]]:
    """A product as its number and its names."""
    if isinstance(length, int):
        return length, []
    parts = length.split("*")
    numbers = [int(p) for p in parts if p.isdigit()]
    return prod(numbers), [p for p in parts if not p.isdigit()]


def divided(a: Length, b: Length) -> Length | None:
    """a / b where it is exact."""
    (number, names), (divisor, others) = factors(a), factors(b)
    left = list(names)
    for name in others:
        if name not in left:
            return None
        left.remove(name)
    if divisor == 0 or number % divisor:
        return None
    result: Length = number // divisor
    for name in left:
        result = times(result, name)
    return result


def added(a: Length, b: Length, sign: int = 1) -> Length | None:
    if isinstance(a, int) and isinstance(b, int):
        return a + sign * b
    if b == 0:
        return a
    if a == b and sign < 0:
        return 0
    return b if a == 0 and sign > 0 else None


def broadcast(*shapes: Shape | None) -> Shape | None:
    if any(shape is None for shape in shapes):
        return None
    known = [shape for shape in shapes if shape is not None]
    rank = max(map(len, known), default=0)
    padded = [(1,) * (rank - len(shape)) + shape for shape in known]
    return tuple(widest(lengths) for lengths in zip(*padded, strict=True))


def alike(a: Shape, b: Shape) -> bool:
    """Free lengths may differ in name; none is 1 where the other is not, so none broadcasts."""
    return len(a) == len(b) and all(
        x == y or (1 not in (x, y) and (isinstance(x, str) or isinstance(y, str)))
        for x, y in zip(a, b, strict=True)
    )


def widest(lengths: Sequence[Length]) -> Length:
    seen = [length for length in dict.fromkeys(lengths) if length != 1]
    numbers = [length for length in seen if isinstance(length, int)]
    if not seen:
        return 1
    return numbers[0] if numbers else seen[0] if len(seen) == 1 else ""
