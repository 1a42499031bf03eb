"""Whether a fallback subgraph may run on what kernels make: at masked tokens that is 0, in ONNX it
is not.

An operator that works token by token makes of a masked token's 0 something that nobody may read.
One that mixes tokens is right only where masked ones count nothing: they were multiplied by the
mask's 0, chosen away by Where, or made so low that softmax and maximum pass over them.  So each
value of the subgraph has its Rows, which a rule for each kind of operator finds from its inputs':

    hidden [batch, tokens, channels]   stale at axis -2
    mask   [batch, tokens]             0 at axis -1;  1 - mask: 1;  (1 - mask) * -10000: -10000
    hidden * mask[..., None]           0 at axis -2: as in ONNX, whatever hidden is
    scores + (1 - mask) * -10000       stale, but low
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineError
from ..graph import Graph, Node
from ..ops import Trait, kinds
from ..ops.reference import evaluate
from ..passes.shapes import infer
from .masked import CLEAN, MOVES, NONE, MixedError, Place, Rows, without

__all__ = ["mixes_tokens"]

Array = NDArray[Any]


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
    if kind.endswith("Normalization") or (kind.endswith("Softmax") and p.graph.opset < 13):
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
    x = p.untouched(axes, over_low=kind.endswith(("Max", "LogSumExp")))
    zero = {axis: n for axis, n in x.at.items() if not n.any() and kind in SUMS}
    x = replace(x, at=zero, low=NONE, wild=x.wild or kind not in SUMS)
    if p.node.attributes.get("keepdims", 1):
        return x.moved(lambda axis: None if axis in axes else axis)
    return x.moved(without(axes))


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


def pooled(p: Place) -> Rows:
    x, mask = p.inputs
    if x.batch == -3 and mask.batch == -2 and mask.zero(-1):
        x = replace(x, stale=x.stale - {-2})
    x = replace(p, inputs=[x]).untouched([-2])
    return Rows(x.batch, x.stale)


def masked(p: Place) -> Rows:
    x, mask = p.inputs
    if x.stale - {-2} or x.batch != -3 or mask.batch != -2 or not mask.zero(-1):
        return mixed_unless_clean(p)
    how = p.node.attributes.get("input")
    held = np.array(0 if how is None else how.zero_point, np.float32)
    return Rows(x.batch, NONE, {-2: held}, NONE, False)


def l2_norm(p: Place) -> Rows:
    x = p.untouched([-1])
    return Rows(x.batch, x.stale, {}, NONE, wild=True)


def joined(p: Place) -> Rows:
    axis = p.axis(0)
    for x in p.inputs:
        replace(p, inputs=[x]).untouched([axis])
    made = by_element(p)
    return Rows(made.batch, made.stale, {}, NONE, any(x.wild for x in p.inputs))


def mixed_unless_clean(p: Place) -> Rows:
    if any(x.stale for x in p.inputs):
        raise MixedError("no rule says what masked tokens do here")
    return CLEAN


TAME, SUMS = kinds(Trait.TAME), kinds(Trait.SUMS)
RULES: dict[str, Callable[[Place], Rows]] = {
    **MOVES,
    **dict.fromkeys(kinds(Trait.EACH), by_element),
    **dict.fromkeys(kinds(Trait.ALONG), along_axis),
    **dict.fromkeys(kinds(Trait.REDUCES), reduced),
    "Concat": joined,
    "MatMul": matmul,
    "engine.Attention": attention,
    "engine.LayerNorm": layer_norm,
    "engine.Channels": lambda p: p.untouched([-1]),
    "engine.L2Norm": l2_norm,
    "engine.Linear": linear,
    "engine.Mask": masked,
    "engine.Pool": pooled,
    "engine.Rotary": linear,  # token by token likewise
}


def mixes_tokens(fallback: Graph, handed: Mapping[str, tuple[int, int]], mask: str) -> str | None:
    """A sentence about the first node that masked tokens' values would reach; None where there is
    none.  handed: values [batch, ..., tokens, ...] that kernels make, their ranks and which
    axis that of tokens is; mask: the input they go by.
    """
    dtype = next((value.dtype for value in fallback.inputs if value.name == mask), "int64")
    rows = {mask: Rows(-2, at={-1: np.zeros((), dtype)})}
    for name, (rank, axis) in handed.items():
        rows[name] = Rows(-rank, frozenset([axis - rank]))
    facts = infer(fallback)
    for node in fallback:
        inputs = [rows.get(name, CLEAN) for name in node.inputs]
        if not any(x.stale or x.at for x in inputs):
            continue
        try:
            made = RULES.get(node.kind, mixed_unless_clean)(Place(node, inputs, facts, fallback))
        except MixedError as reason:
            if any(x.stale for x in inputs):
                return f"{node}: {reason}"
            made = CLEAN
        rows.update(dict.fromkeys(node.outputs, made))
    return None
