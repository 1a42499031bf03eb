"""Whether a tail may run on what kernels hand over: at masked tokens that is 0, in ONNX it is not.

An operator that works token by token makes of a masked token's 0 something that nobody may read.
One that mixes tokens is right only where masked ones count nothing: they were multiplied by the
mask's 0, chosen away by Where, or made so low that softmax and maximum pass over them.  So each
value of the tail has its Rows, which a rule for each kind of operator finds from its inputs':

    hidden [batch, tokens, channels]   stale at axis -2
    mask   [batch, tokens]             0 at axis -1;  1 - mask: 1;  (1 - mask) * -10000: -10000
    hidden * mask[..., None]           0 at axis -2: as in ONNX, whatever hidden is
    scores + (1 - mask) * -10000       stale, but low
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineError
from ..graph import Graph, Node
from ..passes.shape_rules import Fact, axes_of
from ..passes.shapes import infer
from ..reference import evaluate

__all__ = ["mixes_tokens"]

Array = NDArray[Any]
Axes = frozenset[int]  # counted from the end, as broadcasting does
NONE: Axes = frozenset()
HOPELESS = -9999.0  # exp of anything this low is 0


@dataclass(frozen=True)
class Rows:
    """What a value holds at masked tokens."""

    batch: int = 0  # the axis of sentences; 0: none is known
    stale: Axes = NONE  # axes of tokens where masked ones hold something else than in ONNX
    at: Mapping[int, Array] = field(
        default_factory=dict
    )  # axis -> the number they hold in ONNX too
    low: Axes = NONE  # axes where they are HOPELESS or less
    wild: bool = False  # what is stale may be infinite or NaN: 0 times it is not 0

    def moved(self, place: Callable[[int], int | None]) -> Rows:
        """With its axes elsewhere; None: the axis is gone, and what stale it held was checked."""
        at = {new: n for axis, n in self.at.items() if (new := place(axis)) is not None}
        stale, low = (
            frozenset(new for axis in axes if (new := place(axis)) is not None)
            for axes in (self.stale, self.low)
        )
        return Rows((place(self.batch) or 0) if self.batch else 0, stale, at, low, self.wild)

    def zero(self, axis: int) -> bool:
        return axis in self.at and not self.at[axis].any()

    def hopeless(self, axis: int) -> bool:
        known = axis in self.at and bool((self.at[axis] <= HOPELESS).all())
        return (known or axis in self.low) and not self.wild


CLEAN = Rows()


class MixedError(Exception):
    """A masked token's value reaches something that is read; says how."""


@dataclass(frozen=True)
class Place:
    """A node of the tail with the Rows of its inputs."""

    node: Node
    inputs: list[Rows]
    facts: Mapping[str, Fact]
    graph: Graph

    def rank(self, name: str) -> int:
        rank = self.facts[name].rank
        if rank is None:
            raise MixedError(f"the rank of '{name}' is not known")
        return rank

    def axis(self, default: int) -> int:
        """The attribute `axis`, from the end."""
        axis = int(self.node.attributes.get("axis", default))
        return axis if axis < 0 else axis - self.rank(self.node.inputs[0])

    def constant(self, place: int) -> Array | None:
        given = self.node.inputs
        return self.graph.constants.get(given[place]) if len(given) > place else None

    def axes(self) -> Axes:
        """Those that are reduced, taken out or put in: attribute `axes` or the second input."""
        node, facts = self.node, [self.facts.get(name, Fact()) for name in self.node.inputs]
        rank = self.rank(node.outputs[0] if node.kind == "Unsqueeze" else node.inputs[0])
        found = axes_of(node, facts, rank)
        if found is None:
            raise MixedError("its axes are not known")
        return frozenset(
            axis - rank for axis in found or (range(rank) if "Reduce" in node.kind else ())
        )

    def untouched(self, axes: Iterable[int], *, over_low: bool = False) -> Rows:
        """The first input's Rows, if tokens along these axes are all as in ONNX.  over_low: what
        is hopelessly low counts nothing.
        """
        x = self.inputs[0]
        hit = x.stale.intersection(axes)
        if over_low and all(map(x.hopeless, hit)):
            x, hit = replace(x, stale=x.stale - hit), NONE
        if hit or (x.stale and x.batch in axes):
            raise MixedError("masked tokens would count")
        return x


# --- rules ---
def by_element(p: Place) -> Rows:
    """Broadcasting keeps axes that are counted from the end."""
    stale = frozenset[int]().union(*(x.stale for x in p.inputs))
    batches = {x.batch for x in p.inputs if x.stale}
    if len(batches) > 1:
        raise MixedError("sentences lie along different axes")
    batch = batches.pop() if batches else max((x.batch for x in p.inputs), key=abs, default=0)
    operands = [x if x.batch == batch else CLEAN for x in p.inputs]
    at: dict[int, Array] = {}
    for axis in stale.union(*(x.at for x in operands)):
        number = at_masked(p, operands, axis)
        if number is not None:
            at[axis] = number
    low = frozenset(axis for axis in stale - set(at) if gets_low(p.node, operands, axis))
    for x in operands[p.node.kind == "Div" :] if p.node.kind in ("Div", "Reciprocal") else ():
        for axis in filter(x.zero, x.at):  # what is divided by 0 depends on the sign of 0
            at.pop(axis, None)
            stale |= {axis}
    stale -= set(at)
    return Rows(batch, stale, at, low, bool(stale) and gets_wild(p))


def at_masked(p: Place, operands: list[Rows], axis: int) -> Array | None:
    """The number that all masked tokens hold, whatever is stale; None where it is not known."""
    numbers: list[Array | None] = []
    for name, x in zip(p.node.inputs, operands, strict=True):
        constant = p.graph.constants.get(name)
        alone = constant.reshape(()) if constant is not None and constant.size == 1 else None
        numbers.append(x.at.get(axis, alone))
    if p.node.kind in ("Mul", "And"):
        tame = not any(x.wild for x in operands)
        for x in operands:
            if x.zero(axis) and tame:
                return x.at[axis]
    if p.node.kind == "Where" and numbers[0] is not None:
        return numbers[1] if numbers[0] else numbers[2]
    if any(number is None for number, name in zip(numbers, p.node.inputs, strict=True) if name):
        return None
    try:
        return evaluate(p.node, numbers, p.graph.opset)[0]
    except EngineError:
        return None


def gets_low(node: Node, operands: list[Rows], axis: int) -> bool:
    return node.kind in ("Add", "Cast") and any(x.hopeless(axis) for x in operands)


def gets_wild(p: Place) -> bool:
    if any(x.wild for x in p.inputs):
        return True
    if p.node.kind == "Div":
        divisor = p.constant(1)
        return divisor is None or not divisor.all()
    return p.node.kind not in TAME or p.node.attributes.get("to") == "float16"


def along_axis(p: Place) -> Rows:
    """Softmax, normalisation, sorting: each place along the axis depends on all others."""
    first, kind = p.axis(-1), p.node.kind
    axes = [first]
    if kind == "LayerNormalization" or (kind.endswith("Softmax") and p.graph.opset < 13):
        axes = list(range(p.axis(1) if "Softmax" in kind else first, 0))
    if p.inputs[1:] and any(x.stale for x in p.inputs[1:]):
        raise MixedError("its parameters depend on tokens")
    x = p.untouched(axes, over_low=kind == "Softmax")
    at = {axis: np.zeros((), np.float32) for axis in p.inputs[0].stale - x.stale}
    return Rows(x.batch, x.stale, at, NONE, x.wild)


def reduced(p: Place) -> Rows:
    kind = p.node.kind
    axes = frozenset([p.axis(0)]) if kind.startswith("Arg") else p.axes()
    if p.node.attributes.get("noop_with_empty_axes"):
        raise MixedError("it may reduce nothing")
    x = p.untouched(axes, over_low=kind in ("ReduceMax", "ArgMax", "ReduceLogSumExp"))
    zero = {axis: n for axis, n in x.at.items() if not n.any() and kind in SUMS}
    x = replace(x, at=zero, low=NONE, wild=x.wild or kind not in SUMS)
    if p.node.attributes.get("keepdims", 1):
        return x.moved(lambda axis: None if axis in axes else axis)
    return x.moved(without(axes))


def without(axes: Axes) -> Callable[[int], int | None]:
    """Where an axis comes when these are taken out."""
    return lambda axis: None if axis in axes else axis + sum(out > axis for out in axes)


def matmul(p: Place) -> Rows:
    a, b = p.inputs
    if min(p.rank(name) for name in p.node.inputs) < 2 or a.batch == -1 or b.batch == -2:
        return mixed_unless_clean(p)
    alike = a.batch == b.batch
    for x, axis, other, its in ((a, -1, b, -2), (b, -2, a, -1)):
        if axis in x.stale and not (alike and other.zero(its) and not x.wild):
            raise MixedError("masked tokens would count in the product")
    if a.stale and b.stale and not alike:
        raise MixedError("sentences lie along different axes")
    main = a if a.stale or not b.stale else b
    kept = [(x, axis) for x, axis in ((a, -1), (b, -2)) if x.batch == main.batch]
    at = {i: n for x, inner in kept for i, n in x.at.items() if i != inner and x.zero(i)}
    stale = (a.stale - {-1}) | (b.stale - {-2})
    wild = a.wild or b.wild
    return Rows(
        main.batch, stale - (NONE if wild else frozenset(at)), {} if wild else at, NONE, wild
    )


def linear(p: Place) -> Rows:
    if p.node.attributes.get("dynamic") and p.inputs[0].stale:
        raise MixedError("its input is quantised over all tokens")
    x = p.untouched([-1])
    return Rows(x.batch, x.stale, {}, NONE, x.wild)


def layer_norm(p: Place) -> Rows:
    x = by_element(replace(p, inputs=p.inputs[:2], node=p.node.changed(inputs=p.node.inputs[:2])))
    x = replace(p, inputs=[x]).untouched([-1])
    return Rows(x.batch, x.stale, {}, NONE, any(each.wild for each in p.inputs))


def attention(p: Place) -> Rows:
    query, key, value = p.inputs[:3]
    masked = len(p.inputs) > 3 and p.inputs[3].batch == -2 and p.inputs[3].zero(-1)
    for x in (key, value):
        if x.stale - {-2} or (x.stale and (x.wild or x.batch != -3 or not masked)):
            raise MixedError("masked tokens would be attended to")
    if query.stale - {-2}:
        raise MixedError("channels of masked tokens would count")
    return Rows(query.batch, query.stale, {}, NONE, query.wild)


# --- what only moves ---
def transposed(p: Place) -> Rows:
    rank = p.rank(p.node.inputs[0])
    order = list(p.node.attributes.get("perm") or reversed(range(rank)))
    return p.inputs[0].moved(lambda axis: order.index(axis + rank) - rank)


def unsqueezed(p: Place) -> Rows:
    rank, added = p.rank(p.node.outputs[0]), p.axes()
    left = [axis for axis in range(-rank, 0) if axis not in added]
    return p.inputs[0].moved(lambda axis: left[axis])


def squeezed(p: Place) -> Rows:
    axes = p.axes()
    if not axes:
        raise MixedError("its axes are not named")
    return p.untouched(axes).moved(without(axes))


def reshaped(p: Place) -> Rows:
    """Axes up to the last of tokens and sentences must stay."""
    x, before, after = (
        p.inputs[0],
        *(p.facts[n].shape for n in (p.node.inputs[0], p.node.outputs[0])),
    )
    if before is None or after is None:
        raise MixedError("its shape is not known")
    named = [axis + len(before) for axis in (*x.stale, *x.at, *x.low, x.batch) if axis]
    kept = max(named, default=-1) + 1
    if before[:kept] != after[:kept]:
        raise MixedError(f"tokens are rearranged: {before} to {after}")
    return x.moved(lambda axis: axis + len(before) - len(after))


def gathered(p: Place) -> Rows:
    axis, index = p.axis(0), p.constant(1)
    if p.inputs[1].stale:
        raise MixedError("what is gathered depends on masked tokens")
    first = index is not None and not index.any()  # a sentence's first token is no masked one
    x = p.inputs[0]
    x = replace(x, stale=x.stale - {axis}) if first else x
    x = replace(p, inputs=[x]).untouched([axis])
    more = p.rank(p.node.inputs[1]) - 1
    return x.moved(lambda a: None if a == axis else a - more if a < axis else a)


def cut(p: Place) -> Rows:
    """Slice: of tokens only the first, which is none that is masked."""
    x, (start, end, axes) = p.inputs[0], (p.constant(i) for i in (1, 2, 3))
    if axes is None:
        raise MixedError("its axes are not known")
    rank = p.rank(p.node.inputs[0])
    touched = [int(axis) - rank if axis >= 0 else int(axis) for axis in axes]
    if len(touched) == 1 and start is not None and end is not None and (start[0], end[0]) == (0, 1):
        x = replace(x, stale=x.stale - set(touched))
    x = replace(p, inputs=[x]).untouched(touched)
    return x.moved(lambda axis: None if axis in touched else axis)


def split(p: Place) -> Rows:
    axis = p.axis(0)
    return p.untouched([axis]).moved(lambda a: None if a == axis else a)


def joined(p: Place) -> Rows:
    axis = p.axis(0)
    for x in p.inputs:
        replace(p, inputs=[x]).untouched([axis])
    made = by_element(p)
    return Rows(made.batch, made.stale, {}, NONE, any(x.wild for x in p.inputs))


def selected(p: Place) -> Rows:
    x = p.untouched([-2]) if p.node.attributes.get("index", 0) else p.inputs[0]
    return replace(x, stale=x.stale - {-2}, at={}, low=NONE)


def spread(p: Place) -> Rows:
    """Expand: the shape is no operand."""
    if p.rank(p.node.outputs[0]) < p.rank(p.node.inputs[0]):
        raise MixedError("its rank is not known")
    return p.inputs[0]


def lengths(p: Place) -> Rows:
    del p  # the shape of a value does not depend on its numbers
    return CLEAN


def mixed_unless_clean(p: Place) -> Rows:
    if any(x.stale for x in p.inputs):
        raise MixedError("no rule says what masked tokens do here")
    return CLEAN


TAME = {
    "Abs", "Add", "And", "Cast", "Ceil", "Clip", "Cos", "DequantizeLinear", "Dropout", "Equal",
    "Erf", "Floor", "Gelu", "Greater", "GreaterOrEqual", "Identity", "IsInf", "IsNaN", "LeakyRelu",
    "Less", "LessOrEqual", "Max", "Min", "Mul", "Neg", "Not", "Or", "QuantizeLinear", "Relu",
    "Round", "Sigmoid", "Sign", "Sin", "Softplus", "Sub", "Sum", "Tanh", "Where", "Xor",
    "com.microsoft.BiasGelu", "com.microsoft.FastGelu", "com.microsoft.Gelu",
    "com.microsoft.QuickGelu",
}  # fmt: skip
SUMS = {"ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum"}  # finite, and 0 of zeros
REDUCTIONS = {
    *SUMS, "ArgMax", "ArgMin", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp",
    "ReduceProd", "ReduceSumSquare",
}  # fmt: skip
RULES: dict[str, Callable[[Place], Rows]] = {
    **dict.fromkeys([*TAME, "Div", "Exp", "Log", "Pow", "Reciprocal", "Sqrt"], by_element),
    **dict.fromkeys(["LayerNormalization", "LogSoftmax", "Softmax", "TopK"], along_axis),
    **dict.fromkeys(REDUCTIONS, reduced),
    **dict.fromkeys(["Flatten", "Reshape"], reshaped),
    **dict.fromkeys(["Shape", "Size"], lengths),
    "Concat": joined,
    "Expand": spread,
    "Gather": gathered,
    "MatMul": matmul,
    "Slice": cut,
    "Split": split,
    "Squeeze": squeezed,
    "Transpose": transposed,
    "Unsqueeze": unsqueezed,
    "engine.Attention": attention,
    "engine.LayerNorm": layer_norm,
    "engine.Linear": linear,
    "engine.Select": selected,
}


def mixes_tokens(tail: Graph, handed: Iterable[str], mask: str) -> str | None:
    """A sentence about the first node that masked tokens' values would reach; None where there is
    none.  handed: values [batch, tokens, channels] that kernels make; mask: the input they go by.
    """
    dtype = next((value.dtype for value in tail.inputs if value.name == mask), "int64")
    rows = {mask: Rows(-2, at={-1: np.zeros((), dtype)})}
    rows.update(dict.fromkeys(handed, Rows(-3, frozenset([-2]))))
    facts = infer(tail)
    for node in tail:
        inputs = [rows.get(name, CLEAN) for name in node.inputs]
        if not any(x.stale or x.at for x in inputs):
            continue
        try:
            made = RULES.get(node.kind, mixed_unless_clean)(Place(node, inputs, facts, tail))
        except MixedError as reason:
            if any(x.stale for x in inputs):
                return f"{node}: {reason}"
            made = CLEAN
        rows.update(dict.fromkeys(node.outputs, made))
    return None
