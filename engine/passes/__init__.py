"""Graph as read -> graph of the engine's operators (docs/design.md, section 1).

`optimize` runs PIPELINE in order and checks the graph after each pass; ENGINE_CHECK=1 also compares
its numbers with those before the pass, ENGINE_DEBUG=1 logs what each pass left.  What no fusion
matches stays as it was; `explain` says what was in the way.
"""

from __future__ import annotations

from collections.abc import Callable

from ..graph import Graph
from . import affine as _affine
from . import attention as _attention
from . import embedding as _embedding
from . import gelu as _gelu
from . import l2_norm as _l2_norm
from . import layer_norm as _layer_norm
from . import linear as _linear
from . import mask as _mask
from . import pool as _pool
from . import probabilities as _probabilities
from . import select as _select
from . import trigram as _trigram
from .affine import affine
from .attention import attention
from .channels import channels
from .clean import clean
from .convolution import convolution
from .dead_rows import dead_rows
from .embedding import embedding
from .fusion import Fusion, why
from .gelu import gelu
from .l2_norm import l2_norm
from .layer_norm import layer_norm, residual
from .linear import linear
from .lookup import lookup
from .mask import mask
from .pool import pool
from .probabilities import probabilities
from .quantize import quantize
from .rotary import rotary
from .run import run_pipeline
from .select import select
from .simulate import simulate
from .sparsity import sparsity
from .take_apart import take_apart
from .trigram import trigram
from .widen import widen

__all__ = ["FUSIONS", "PIPELINE", "explain", "optimize", "why"]

PIPELINE: list[Callable[[Graph], Graph]] = [
    widen,  # float16 -> float32, before constants are computed in it
    clean,  # constants, shapes and idle operators first: fewer spellings for all that follow
    take_apart,  # what another optimiser joined
    convolution,  # kernels of 1 are products, before these are simulated
    simulate,  # quantised arithmetic in whatever form -> float arithmetic on FakeQuantize
    gelu,  # before linear, which takes it as its activation
    layer_norm,
    embedding,  # needs LayerNorm without its residual
    linear,
    trigram,  # an embedding behind which a layer stands
    residual,  # after linear: the layer's own result is x, the other the residual
    affine,  # what scales and shifts channels without a norm
    rotary,  # what turns the results of linear layers
    attention,  # needs the linear layers' results as [batch, sequence, channels]
    probabilities,  # what an attention multiplies values with, where it is given out, too
    mask,  # tokens times their mask
    pool,  # rows made of a sentence's tokens, which look through it
    l2_norm,
    channels,  # what a question answerer takes out of its logits
    lookup,  # what is left between two roundings is a table of bytes
    select,  # the rows a classifier reads, and the Squeeze behind it
    quantize,  # FakeQuantize -> attributes: what is stored in 8 bits
    dead_rows,  # rows nobody reads are not computed
    sparsity,  # pattern and share of zeros of each weight, last: weights change no more
]

FUSIONS_OF: dict[Callable[[Graph], Graph], list[Fusion]] = {
    gelu: _gelu.FUSIONS,
    layer_norm: _layer_norm.FUSIONS,
    embedding: _embedding.FUSIONS,
    linear: _linear.FUSIONS,
    trigram: _trigram.FUSIONS,
    residual: [_layer_norm.RESIDUAL],
    affine: _affine.FUSIONS,
    attention: [_attention.FUSION],
    probabilities: [_probabilities.FUSION],
    pool: _pool.FUSIONS,
    mask: _mask.FUSIONS,
    l2_norm: [_l2_norm.FUSION],
    select: _select.FUSIONS,
}
FUSIONS: dict[str, Fusion] = {
    fusion.name: fusion for fusions in FUSIONS_OF.values() for fusion in fusions
}


def optimize(graph: Graph) -> Graph:
    """The graph of fused operators.

    Raises:
        PassError: a pass failed or left an unsound graph; names the pass and its number.
    """
    return run_pipeline(graph, PIPELINE)


def explain(graph: Graph) -> list[str]:
    """For each fusion a sentence: the nearest place it did not match, as its own pass leaves it."""
    sentences = []
    for run in PIPELINE:
        graph = run_pipeline(graph, [run])
        sentences += [why(graph, fusion) for fusion in FUSIONS_OF.get(run, [])]
    return sentences
