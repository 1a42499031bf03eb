"""The walk over the choices: node by node to steps, and these to a plan."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from ..graph import Graph, Node, Value
from ..ops.operators import counts_distances
from ..passes.distances import MOST_DISTANCE
from .along_channels import emit_along_channels, emit_concat, emit_l2_norm
from .attention import emit_attention, emit_probabilities
from .choose import (
    AffineChoice,
    AlongChannelsChoice,
    AttentionChoice,
    Choice,
    Choices,
    CombineChoice,
    ConcatChoice,
    ElementwiseChoice,
    EmbeddingChoice,
    Handed,
    L2NormChoice,
    LinearChoice,
    LookupChoice,
    NormChoice,
    PoolChoice,
    ProbabilitiesChoice,
    RenamingChoice,
    RotaryChoice,
    RoundedNormChoice,
    SelectChoice,
    ThroughFloats,
    TrigramChoice,
)
from .elementwise import emit_affine, emit_combine, emit_elementwise, emit_lookup
from .embedding import emit_embedding, emit_trigram
from .linear import emit_linear
from .mixing import mixes_tokens
from .normalize import emit_layer_norm, emit_rounded_norm
from .planner import Planner
from .program import Plan, Result
from .rotary import emit_rotary
from .rows import emit_pool, emit_select
from .steps import Refusal

__all__ = ["emit_steps", "plan_of"]

log = logging.getLogger(__name__)
EMITTERS: dict[type[Choice | ProbabilitiesChoice], Callable[[Planner, Node, Any], None]] = {
    EmbeddingChoice: emit_embedding,
    TrigramChoice: emit_trigram,
    LinearChoice: emit_linear,
    AttentionChoice: emit_attention,
    ProbabilitiesChoice: emit_probabilities,
    NormChoice: emit_layer_norm,
    RotaryChoice: emit_rotary,
    RoundedNormChoice: emit_rounded_norm,
    SelectChoice: emit_select,
    PoolChoice: emit_pool,
    L2NormChoice: emit_l2_norm,
    AlongChannelsChoice: emit_along_channels,
    ConcatChoice: emit_concat,
    ElementwiseChoice: emit_elementwise,
    CombineChoice: emit_combine,
    AffineChoice: emit_affine,
    LookupChoice: emit_lookup,
}


def plan_of(choices: Choices) -> Plan:
    """The plan of choices that are no refusal."""
    assert choices.embedding is not None
    graph, planner = choices.graph, emit_steps(choices)
    results = [_output(planner, choices, n, name) for n, name in enumerate(choices.outputs)]
    fallback = _fallback(choices, results)
    embedding = choices.embedding
    attributes = embedding.attributes
    by_distance = any(map(counts_distances, graph))
    return Plan(
        choices.isa,
        tuple(planner.steps),
        tuple(results),
        fallback,
        choices.inputs,
        tuple(planner.layers),
        first_position=int(attributes.get("position_offset", 0)),
        padding_id=attributes.get("padding_id"),
        most_positions=_positions(graph, embedding, by_distance=by_distance),
        vocabulary=_rows(graph, embedding.words),
        kinds=_rows(graph, embedding.types),
        places=choices.places,
        mixes=_mixes(choices, fallback, results),
        numbered=embedding.position_ids,
        by_distance=by_distance,
        handed=choices.handed,
        by_lengths=any(node.attributes.get("masking") == "lengths" for node in graph),
    )


def emit_steps(choices: Choices) -> Planner:
    """The steps of all nodes that kernels make."""
    planner = Planner(choices.graph, choices.isa, choices.outputs)
    for node in choices.graph:
        choice = choices.of[node.outputs[0]]
        if isinstance(choice, ThroughFloats):
            EMITTERS[type(choice.made)](planner, choice.wide, choice.made)
            choice = ElementwiseChoice(choice.y, choice.made.y, "none")
        # a renamed value lies where it is
        if not isinstance(choice, Refusal | RenamingChoice | Handed):
            EMITTERS[type(choice)](planner, node, choice)
    return planner


def _output(planner: Planner, choices: Choices, number: int, name: str) -> Result:
    if name in choices.probabilities:  # its own step has handed it over
        pairs = choices.probabilities[name]
        return Result(name, "pairs", pairs.heads, dtype=pairs.returned)
    value = choices.values[name]
    buffer = value.buffer
    shape = (buffer.domain, value.channels, value.kept_axis, value.flat)
    result = Result(name, *shape, value.returned)
    kernel = "output_tokens" if buffer.domain == "tokens" else "output_rows"
    params = {"x": buffer, "number": number, "channels": result.channels}
    planner.emit(Node("Output", (name,), (), name=name), kernel, (), params, buffer.domain)
    return result


def _fallback(choices: Choices, results: list[Result]) -> Graph | None:
    graph, nodes, names = choices.graph, choices.fallback, {result.name for result in results}
    outputs = tuple(value for value in graph.outputs if value.name not in choices.handed)
    if not nodes and names.issuperset(value.name for value in outputs):
        return None
    lengths = next(value.shape for value in graph.inputs if value.name == choices.inputs[0])
    named = dict(zip(("batch", "sequence"), lengths, strict=True))  # as other inputs have it
    inputs = tuple(
        Value(each.name, each.dtype, tuple(named.get(str(n), n) for n in each.shape))
        for each in results
    )
    kept = tuple(value for value in graph.inputs if value.name not in names)
    fallback = graph.changed(inputs=(*kept, *inputs), nodes=nodes, outputs=outputs)
    return fallback.without_dead_nodes()


def _mixes(choices: Choices, fallback: Graph | None, results: list[Result]) -> str:
    """How a row of all tokens, or the fallback, would read what kernels leave out, or nothing."""
    tokens = {
        result.name: (len(result.shape), 2 if result.domain == "pairs" else 1)
        for result in results
        if result.domain != "rows"
    }
    if not choices.mask:
        return ""
    whole = (
        f"{node} is of masked tokens, too" for node in choices.graph if _is_whole(choices, node)
    )
    reason = next(whole, None)
    if reason is None and fallback is not None:
        reason = mixes_tokens(fallback, tokens, choices.mask)
    if reason:
        log.info("%s: %s; calls with masked tokens are NumPy's", choices.graph.name, reason)
    return reason or ""


def _positions(graph: Graph, embedding: Node, *, by_distance: bool) -> int:
    """As many as the tables have that tokens' places are looked up in; without one as many as
    distances are known, or any.
    """
    tables = {embedding.positions, *(node.cos for node in graph if node.kind == "engine.Rotary")}
    most = MOST_DISTANCE if by_distance and not embedding.positions else Plan.most_positions
    return min([most, *(_rows(graph, name) for name in tables if name)])


def _is_whole(choices: Choices, node: Node) -> bool:
    choice = choices.of[node.outputs[0]]
    return isinstance(choice, PoolChoice) and not choice.masked


def _rows(graph: Graph, table: str) -> int:
    return len(graph.constants[table]) if table else 1
