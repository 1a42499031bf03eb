"""One handler per kind of node that kernels have."""

from __future__ import annotations

from .attention import plan_attention
from .elementwise import ELEMENTWISE, plan_elementwise
from .embedding import plan_embedding
from .linear import plan_linear
from .normalize import plan_layer_norm
from .planner import Handler
from .rows import plan_renaming, plan_select

__all__ = ["HANDLERS"]

HANDLERS: dict[str, Handler] = {
    "engine.Embedding": plan_embedding,
    "engine.Linear": plan_linear,
    "engine.Attention": plan_attention,
    "engine.LayerNorm": plan_layer_norm,
    "engine.Select": plan_select,
    **dict.fromkeys(ELEMENTWISE, plan_elementwise),
    "Squeeze": plan_renaming,
    "Flatten": plan_renaming,
    "Reshape": plan_renaming,
}
