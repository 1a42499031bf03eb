"""What emits the steps of each kind of choice."""

from __future__ import annotations

from .attention import emit_attention
from .choose import (
    AttentionChoice,
    Choice,
    ElementwiseChoice,
    EmbeddingChoice,
    LinearChoice,
    NormChoice,
    RenamingChoice,
    SelectChoice,
    ThroughFloats,
)
from .elementwise import emit_elementwise, emit_through_floats
from .embedding import emit_embedding
from .linear import emit_linear
from .normalize import emit_layer_norm
from .planner import Emitter
from .rows import emit_nothing, emit_select

__all__ = ["EMITTERS"]

EMITTERS: dict[type[Choice], Emitter] = {
    EmbeddingChoice: emit_embedding,
    LinearChoice: emit_linear,
    AttentionChoice: emit_attention,
    NormChoice: emit_layer_norm,
    SelectChoice: emit_select,
    RenamingChoice: emit_nothing,
    ElementwiseChoice: emit_elementwise,
    ThroughFloats: emit_through_floats,
}
