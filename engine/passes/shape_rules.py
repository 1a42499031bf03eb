"""What an operator's result is, by what is known of its inputs: operators that compute shapes.

`contents` makes Shape -> Gather -> Concat -> Reshape chains readable: ("batch", "sequence", 4, 64).
A rule that does not know says None; nothing is ever guessed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..graph import Node
from ..ops import Trait, kinds
from .lengths import Length, Shape, added, broadcast, divided, times

__all__ = ["LARGEST", "RULES", "UNKNOWN", "Fact", "Rule", "axes_of", "whole"]

LARGEST = 64  # elements of a tensor whose contents are followed


@dataclass(frozen=True)
class Fact:
    """What is known of a value; None where it is not."""

    shape: Shape | None = None
    contents: tuple[Length, ...] | None = None  # of whole-number tensors of rank 0 or 1
    dtype: str | None = None

    @property
    def rank(self) -> int | None:
        return None if self.shape is None else len(self.shape)


UNKNOWN = Fact()
Rule = Callable[[Node, list[Fact]], Fact | list[Fact]]


def elementwise(node: Node, inputs: list[Fact]) -> Fact:
    shape = broadcast(*(fact.shape for fact in inputs))
    return Fact(shape, combined(node.kind, inputs, shape), inputs[0].dtype)


def comparison(node: Node, inputs: list[Fact]) -> Fact:
    fact = elementwise(node, inputs)
    return Fact(fact.shape, fact.contents, "bool")


def choice(node: Node, inputs: list[Fact]) -> Fact:
    shape = broadcast(*(fact.shape for fact in inputs))
    return Fact(shape, combined("Where", inputs, shape), inputs[1].dtype)


def equal(a: Length, b: Length) -> Length | None:
    if isinstance(a, int) and isinstance(b, int):
        return int(a == b)
    if a == b:
        return 1
    number = a if isinstance(a, int) else b
    return 0 if isinstance(number, int) and number < 0 else None  # a length is never negative


ARITHMETIC: dict[str, Callable[..., Length | None]] = {
    "Add": added,
    "Sub": lambda a, b: added(a, b, -1),
    "Mul": times,
    "Div": divided,
    "Equal": equal,
    "Where": lambda c, a, b: (a if c else b) if isinstance(c, int) else None,
}


def combined(kind: str, inputs: list[Fact], shape: Shape | None) -> tuple[Length, ...] | None:
    """Element by element, where all contents are known."""
    if kind not in ARITHMETIC or shape is None or len(shape) > 1:
        return None
    count = shape[0] if shape else 1
    if not isinstance(count, int) or any(fact.contents is None for fact in inputs):
        return None
    columns = [
        f.contents if len(f.contents) == count else f.contents * count
        for f in inputs
        if f.contents is not None
    ]
    results = [ARITHMETIC[kind](*row) for row in zip(*columns, strict=False)]
    return tuple(r for r in results if r is not None) if None not in results else None


def cast(node: Node, inputs: list[Fact]) -> Fact:
    to = node.attributes["to"]
    whole = str(to).startswith(("int", "uint", "bool"))
    return Fact(inputs[0].shape, inputs[0].contents if whole else None, to)


def shape_of(node: Node, inputs: list[Fact]) -> Fact:
    shape = inputs[0].shape
    if shape is None:
        return Fact(None, None, "int64")
    shape = shape[node.attributes.get("start", 0) : node.attributes.get("end", len(shape))]
    return Fact((len(shape),), shape, "int64")


def size_of(node: Node, inputs: list[Fact]) -> Fact:
    if inputs[0].shape is None:
        return Fact((), None, "int64")
    total: Length = 1
    for length in inputs[0].shape:
        total = times(total, length)
    return Fact((), (total,), "int64")


def gather(node: Node, inputs: list[Fact]) -> Fact:
    x, index = inputs
    if x.shape is None or index.shape is None:
        return Fact(None, None, x.dtype)
    axis = node.attributes.get("axis", 0) % max(len(x.shape), 1)
    contents = None
    numbers = whole(index.contents)
    if x.contents is not None and numbers is not None:
        contents = tuple(x.contents[i] for i in numbers)
    return Fact(x.shape[:axis] + index.shape + x.shape[axis + 1 :], contents, x.dtype)


def gather_nd(node: Node, inputs: list[Fact]) -> Fact:
    x, index = inputs
    if x.shape is None or not index.shape or not isinstance(index.shape[-1], int):
        return Fact(None, None, x.dtype)
    batch = node.attributes.get("batch_dims", 0)
    return Fact(index.shape[:-1] + x.shape[batch + index.shape[-1] :], None, x.dtype)


def whole(contents: tuple[Length, ...] | None) -> list[int] | None:
    """The contents if they are all numbers."""
    if contents is None:
        return None
    numbers = [c for c in contents if isinstance(c, int)]
    return numbers if len(numbers) == len(contents) else None


def axes_of(node: Node, inputs: list[Fact], rank: int) -> list[int] | None:
    """The axes, from the attribute or, in later opsets, the second input; None: not known."""
    if "axes" in node.attributes:
        return [a % rank for a in node.attributes["axes"]]
    if len(node.inputs) < 2 or not node.inputs[1]:
        return []
    numbers = whole(inputs[1].contents)
    return None if numbers is None else [a % rank for a in numbers]


def tile(node: Node, inputs: list[Fact]) -> Fact:
    x, repeats = inputs[0], inputs[1].contents
    if x.shape is None or repeats is None or len(repeats) != len(x.shape):
        return Fact(None if x.shape is None else ("",) * len(x.shape), None, x.dtype)
    shape = tuple("" if "" in pair else times(*pair) for pair in zip(x.shape, repeats, strict=True))
    return Fact(shape, None, x.dtype)


def gather_elements(node: Node, inputs: list[Fact]) -> Fact:
    return Fact(inputs[1].shape, None, inputs[0].dtype)


def unsqueeze(node: Node, inputs: list[Fact]) -> Fact:
    x = inputs[0]
    if x.shape is None:
        return UNKNOWN
    given = node.attributes.get("axes")
    axes = list(given) if given is not None else whole(inputs[1].contents)
    if axes is None:
        return Fact(None, None, x.dtype)
    shape, rank = list(x.shape), len(x.shape) + len(axes)
    for axis in sorted(a % rank for a in axes):
        shape.insert(axis, 1)
    return Fact(tuple(shape), x.contents if rank <= 1 else None, x.dtype)


def squeeze(node: Node, inputs: list[Fact]) -> Fact:
    x = inputs[0]
    axes = axes_of(node, inputs, len(x.shape)) if x.shape else []
    if x.shape is None or axes is None:
        return Fact(None, None, x.dtype)
    if not axes and any(isinstance(d, str) for d in x.shape):
        return Fact(None, None, x.dtype)
    axes = axes or [i for i, d in enumerate(x.shape) if d == 1]
    shape = tuple(d for i, d in enumerate(x.shape) if i not in axes)
    return Fact(shape, x.contents, x.dtype)


def concat(node: Node, inputs: list[Fact]) -> Fact:
    if any(fact.shape is None for fact in inputs):
        return Fact(None, None, inputs[0].dtype)
    shapes = [fact.shape for fact in inputs if fact.shape is not None]
    axis = node.attributes["axis"] % len(shapes[0])
    total: Length = 0
    for shape in shapes:
        longer = None if total == "" else added(total, shape[axis])
        total = "" if longer is None else longer
    shape = tuple(map(clearest, zip(*shapes, strict=True)))
    shape = (*shape[:axis], total, *shape[axis + 1 :])
    known = [fact.contents for fact in inputs if fact.contents is not None]
    contents = tuple(c for part in known for c in part) if len(known) == len(inputs) else None
    return Fact(shape, contents if len(shape) == 1 else None, inputs[0].dtype)


def clearest(lengths: tuple[Length, ...]) -> Length:
    """Of lengths that are the same: a number, a name that the graph gives, or any."""
    return min(lengths, key=lambda each: isinstance(each, str) + str(each).startswith("?"))


def padded(node: Node, inputs: list[Fact]) -> Fact:
    """Pad; axes that become longer have a length of their own."""
    x, pads = inputs[0], whole(inputs[1].contents)
    if x.shape is None or pads is None or len(pads) != 2 * len(x.shape):
        return Fact(None, None, x.dtype)
    more = (a + b for a, b in zip(pads[: len(x.shape)], pads[len(x.shape) :], strict=True))
    lengths = (added(length, n) for length, n in zip(x.shape, more, strict=True))
    return Fact(tuple("" if n is None else n for n in lengths), None, x.dtype)


def cut(node: Node, inputs: list[Fact]) -> Fact:
    """Slice."""
    x = inputs[0]
    bounds = [whole(fact.contents) for fact in inputs[1:]]
    if x.shape is None or len(inputs) < 3:
        return Fact(None, None, x.dtype)
    axes = bounds[2] if len(inputs) > 3 and node.inputs[3] else list(range(len(bounds[0] or [])))
    steps = bounds[3] if len(inputs) > 4 and node.inputs[4] else [1] * len(axes or [])
    if axes is None or steps is None:
        return Fact(("",) * len(x.shape), None, x.dtype)
    shape, contents = list(x.shape), x.contents
    for i, axis in enumerate(a % len(x.shape) for a in axes):
        start = bounds[0][i] if bounds[0] else None
        end = inputs[2].contents[i] if inputs[2].contents else None
        shape[axis] = cut_length(x.shape[axis], start, end, steps[i])
        if contents is not None and isinstance(start, int) and isinstance(end, int):
            contents = contents[start : end : steps[i]]
        else:
            contents = None
    return Fact(tuple(shape), contents, x.dtype)


def cut_length(length: Length, start: int | None, end: Length | None, step: int) -> Length:
    if isinstance(length, int) and isinstance(start, int) and isinstance(end, int):
        return len(range(*slice(start, end, step).indices(length)))
    if start == 0 and step == 1 and end is not None:
        whole_axis = isinstance(end, int) and end >= 2**31 - 1
        if end == length or whole_axis:
            return length
        if isinstance(end, str) and isinstance(length, int):
            return end  # a table cut to a free length; a longer one cannot run
    return ""


def flatten(node: Node, inputs: list[Fact]) -> Fact:
    x = inputs[0]
    if x.shape is None:
        return Fact((("", "")), None, x.dtype)
    axis = node.attributes.get("axis", 1)
    place = axis + len(x.shape) if axis < 0 else axis
    lengths: list[Length] = []
    for part in (x.shape[:place], x.shape[place:]):
        total: Length = 1
        for length in part:
            total = "" if "" in (total, length) else times(total, length)
        lengths.append(total)
    return Fact(tuple(lengths), None, x.dtype)


def transpose(node: Node, inputs: list[Fact]) -> Fact:
    x = inputs[0]
    if x.shape is None:
        return Fact(None, None, x.dtype)
    order = node.attributes.get("perm") or tuple(reversed(range(len(x.shape))))
    return Fact(tuple(x.shape[i] for i in order), None, x.dtype)


def reshape(node: Node, inputs: list[Fact]) -> Fact:
    x, target = inputs[0], inputs[1].contents
    if target is None:
        rank = inputs[1].shape[0] if inputs[1].shape else None
        return Fact(("",) * rank if isinstance(rank, int) else None, None, x.dtype)
    shape = list(target)
    for i, length in enumerate(target):
        if length == 0 and not node.attributes.get("allowzero", 0):
            shape[i] = x.shape[i] if x.shape and i < len(x.shape) else ""
    if -1 in shape:
        shape[shape.index(-1)] = remaining(x.shape, [d for d in shape if d != -1])
    contents = x.contents if len(shape) <= 1 else None
    return Fact(tuple(shape), contents, x.dtype)


def remaining(shape: Shape | None, others: list[Length]) -> Length:
    """The length that -1 stands for."""
    if shape is None or "" in others:
        return ""
    total: Length = 1
    for length in shape:
        total = times(total, length)
    for length in others:
        result = divided(total, length)
        if result is None:
            return ""
        total = result
    return total


def expand(node: Node, inputs: list[Fact]) -> Fact:
    contents = inputs[1].contents
    if contents is None:
        rank = inputs[1].shape[0] if inputs[1].shape else None
        return Fact(("",) * rank if isinstance(rank, int) else None, None, inputs[0].dtype)
    return Fact(broadcast(inputs[0].shape, contents), None, inputs[0].dtype)


def filled(node: Node, inputs: list[Fact]) -> Fact:
    """ConstantOfShape."""
    value = node.attributes.get("value")
    number = 0.0 if value is None else np.asarray(value).reshape(-1)[0]
    dtype = "float32" if value is None else str(np.asarray(value).dtype)
    shape = inputs[0].contents
    contents: tuple[Length, ...] | None = None
    if shape is not None and len(shape) <= 1 and dtype.startswith("int"):
        count = shape[0] if shape else 1
        contents = (int(number),) * count if isinstance(count, int) and count <= LARGEST else None
    return Fact(shape, contents, dtype)


def counted(node: Node, inputs: list[Fact]) -> Fact:
    """Range."""
    start, end, step = (fact.contents for fact in inputs)
    if start == (0,) and step == (1,) and end is not None:
        return Fact((end[0],), None, inputs[0].dtype)
    return Fact(("",), None, inputs[0].dtype)


RULES: dict[str, Rule] = {
    **dict.fromkeys(kinds(Trait.BROADCASTS), elementwise),
    **dict.fromkeys(kinds(Trait.COMPARES), comparison),
    "Cast": cast,
    "Concat": concat,
    "ConstantOfShape": filled,
    "Expand": expand,
    "Flatten": flatten,
    "Gather": gather,
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    "Pad": padded,
    "Range": counted,
    "Reshape": reshape,
    "Shape": shape_of,
    "Size": size_of,
    "Slice": cut,
    "Squeeze": squeeze,
    "Tile": tile,
    "Transpose": transpose,
    "Unsqueeze": unsqueeze,
    "Where": choice,
}
