"""Matmul, Softmax, Matmul: one Attention."""

from __future__ import annotations

from dataclasses import replace

from .content import Operator, integers
from .shapes import reshaped
from .translation import Activation, Input, Scores, Translation, permuted, plain

__all__ = ["matmul", "softmax"]

RANGES_OF_A_PRODUCT = 6  # least and greatest of both factors and of the result


def matmul(at: Translation, operator: Operator) -> None:
    """query . key, or probabilities . value."""
    first = at.meaning(operator, 0, Activation, Scores)
    (weighted_values if isinstance(first, Scores) else scores)(at, operator)


def scores(at: Translation, operator: Operator) -> None:
    query, key = (at.meaning(operator, i, Activation) for i in (0, 1))
    orders = [integers(operator, f"src{i}_perm") for i in (0, 1)]
    if permuted(query.axes, orders[0]) != "bhsd" or permuted(key.axes, orders[1]) != "bhds":
        raise at.error(operator, f"axes {query.axes}, {key.axes} in the order {orders}")
    names, mask = list(operator.inputs[2:]), ""
    if operator.attributes.get("append_op") == "binary_add":
        added = at.meaning(operator, 2, Input)
        mask = added.name
        if not added.mask:
            raise at.error(operator, f"'{names[0]}', which is added, is not a padding mask")
        del names[0]
    how = at.quantization(operator, *names[4:]) if len(names) == RANGES_OF_A_PRODUCT else None
    scale = float(operator.attributes.get("output_scale", 1.0))
    at.mean(operator, Scores(query, key, mask, scale, how))


def softmax(at: Translation, operator: Operator) -> None:
    x = at.meaning(operator, 0, Scores)
    ranged = len(operator.inputs) == 3
    how = at.quantization(operator, *operator.inputs[1:]) if ranged else None
    at.mean(operator, replace(x, softmax=True, probabilities=how))


def weighted_values(at: Translation, operator: Operator) -> None:
    """The whole of attention."""
    x, value = at.meaning(operator, 0, Scores), at.meaning(operator, 1, Activation)
    order = integers(operator, "src0_perm")
    axes = permuted("bhsd", integers(operator, "dst_perm"))
    ordered = permuted(value.axes, integers(operator, "src1_perm")) == "bhsd"
    if (
        not x.softmax
        or not ordered
        or axes not in ("bshd", "hdbs")
        or order not in ((), (0, 1, 2, 3))
    ):
        raise at.error(operator, f"axes {value.axes} to {axes}, or no softmax before it")
    names = operator.inputs[2:]
    out = plain(operator.outputs[0])
    if len(names) == RANGES_OF_A_PRODUCT:
        at.stored[out] = at.quantization(operator, *names[4:])
    at.emit(
        operator, "Attention", (x.query.name, x.key.name, value.name, x.mask), out,
        heads=value.heads, scale=x.scale, scores=x.scores, probabilities=x.probabilities,
        product=None,
    )  # fmt: skip
    made = Activation(out, value.channels, axes, value.heads)
    at.mean(
        operator, replace(made, axes=reshaped(at, operator, made, integers(operator, "reshape")))
    )
