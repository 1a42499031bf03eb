"""Operators of the original engine -> Graph of engine operators.

Each name of theirs stands for a meaning (an Activation, a mask, scores, ...) with the order of its
axes, so the transposed IR, whose activations are [channels, tokens], and the other one end in the
same graph; an order that makes no sense is refused.

Numbers.  Ranges are read as the quantiser wrote them: a weight's scale is max / 127, where the
original takes 128 / 127 of that; their bias, which holds minus zero point times sum of weights, in
their scale, is restored.  Values stored in 8 bits follow the ranges, as in the ONNX file the IR was
made from, so residuals are the quantised values, and scores and products before a residual are
quantised.
"""

from __future__ import annotations

from ...graph import Graph
from .attention import matmul, softmax
from .content import Content
from .layers import inner_product, layer_norm, quantize
from .shapes import gather, output, padding_sequence, reorder, reshape, strided_slice
from .translation import Translate, Translation

__all__ = ["translate"]

OPERATORS: dict[str, Translate] = {
    "Gather": gather,
    "InnerProduct": inner_product,
    "LayerNorm": layer_norm,
    "Matmul": matmul,
    "Output": output,
    "PaddingSequence": padding_sequence,
    "Quantize": quantize,
    "Reorder": reorder,
    "Reshape": reshape,
    "Softmax": softmax,
    "StridedSlice": strided_slice,
}


def translate(content: Content) -> Graph:
    """The graph before dead_rows and sparsity.

    Raises:
        UnsupportedError: names the operator and what about it has no translation.
    """
    return Translation(content, OPERATORS).run()
