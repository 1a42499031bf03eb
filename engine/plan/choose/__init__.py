"""What kernels make of a graph, and how: a choice for every node, before any step is made.

A choice names the kernel and its variant, the buffer and the form of the result, how weights are
packed and which channels nobody reads.  It follows from the graph, the instruction set and what
autotuning has measured; where no kernel has a node, the choice is a Refusal with the reason.

The nodes that are refused, and those that need their results, are the fallback subgraph, which the
reference runs after the kernels: what it makes no kernel reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from ...codegen.isa import Isa
from ...graph import Graph, Node
from ...passes.lengths import alike
from ..dead_channels import live_channels, varying_fours
from ..measured import Configuration
from ..ranges import attention_is_bytes
from ..steps import Refusal, Unplanned
from .along_channels import (
    AlongChannelsChoice,
    ConcatChoice,
    L2NormChoice,
    choose_argmax,
    choose_concat,
    choose_l2_norm,
    choose_softmax,
)
from .attention import (
    AttentionChoice,
    MaskChoice,
    choose_attention,
    choose_mask,
    choose_probabilities,
)
from .elementwise import (
    ELEMENTWISE,
    NUMBERS,
    AffineChoice,
    CombineChoice,
    ElementwiseChoice,
    LookupChoice,
    ThroughFloats,
    choose_affine,
    choose_arithmetic,
    choose_elementwise,
    choose_lookup,
)
from .facts import Activation, Choice, Facts, Handed, LinearKernel, ProbabilitiesChoice, row_values
from .linear import LinearChoice, block_read, choose_linear, float_kernels
from .normalize import (
    EmbeddingChoice,
    NormChoice,
    RoundedNormChoice,
    TrigramChoice,
    choose_embedding,
    choose_layer_norm,
    choose_trigram,
)
from .rotary import RotaryChoice, choose_rotary
from .rows import (
    PoolChoice,
    RenamingChoice,
    SelectChoice,
    choose_cast,
    choose_channels,
    choose_pool,
    choose_renaming,
    choose_select,
)

__all__ = [
    "Activation",
    "AffineChoice",
    "AlongChannelsChoice",
    "AttentionChoice",
    "Choice",
    "Choices",
    "CombineChoice",
    "ConcatChoice",
    "ElementwiseChoice",
    "EmbeddingChoice",
    "Handed",
    "L2NormChoice",
    "LinearChoice",
    "LinearKernel",
    "LookupChoice",
    "NormChoice",
    "PoolChoice",
    "ProbabilitiesChoice",
    "RenamingChoice",
    "RoundedNormChoice",
    "RotaryChoice",
    "SelectChoice",
    "ThroughFloats",
    "TrigramChoice",
    "choices_of",
]

Chosen = Choice | Refusal | Handed | ProbabilitiesChoice
CHOOSERS: dict[str, Callable[[Facts, Node], Choice | ProbabilitiesChoice]] = {
    "engine.Embedding": choose_embedding,
    "engine.Trigram": choose_trigram,
    "engine.Affine": choose_affine,
    "engine.Linear": choose_linear,
    "engine.Attention": choose_attention,
    "engine.Probabilities": choose_probabilities,
    "engine.LayerNorm": choose_layer_norm,
    "engine.Lookup": choose_lookup,
    "engine.Rotary": choose_rotary,
    "engine.Select": choose_select,
    "engine.Pool": choose_pool,
    "engine.L2Norm": choose_l2_norm,
    "engine.Channels": choose_channels,
    "engine.Mask": choose_mask,
    "Softmax": choose_softmax,
    "LogSoftmax": choose_softmax,
    "Concat": choose_concat,
    "ArgMax": choose_argmax,
    **dict.fromkeys(ELEMENTWISE, choose_elementwise),
    **dict.fromkeys(NUMBERS, choose_arithmetic),
    "Cast": choose_cast,
    "Squeeze": choose_renaming,
    "Flatten": choose_renaming,
    "Reshape": choose_renaming,
}


@dataclass(frozen=True)
class Choices:
    """For each node of a graph, by its first output: how kernels make it, or why they do not."""

    graph: Graph
    isa: Isa
    of: Mapping[str, Chosen]
    values: Mapping[str, Activation]  # what kernels make
    embedding: Node | None
    mask: str  # the input that says which tokens count, or ""
    places: Mapping[str, NDArray[Any]] = field(default_factory=dict)  # of channels: heads.py

    def reason(self, node: Node) -> str:
        """Why no kernel makes it, or nothing."""
        choice = self.of[node.outputs[0]]
        return choice.reason if isinstance(choice, Refusal) else ""

    @property
    def fallback(self) -> tuple[Node, ...]:
        """The nodes that are left to the reference."""
        return tuple(node for node in self.graph if self.reason(node))

    @property
    def handed(self) -> dict[str, str]:
        """The graph's outputs that are inputs of it."""
        return {name: how.value for name, how in self.of.items() if isinstance(how, Handed)}

    @property
    def outputs(self) -> list[str]:
        """The values that the fallback subgraph reads or the graph gives."""
        wanted = {name for node in self.fallback for name in node.inputs}
        wanted.update(value.name for value in self.graph.outputs)
        return [name for name in (*self.values, *self.probabilities) if name in wanted]

    @property
    def probabilities(self) -> dict[str, ProbabilitiesChoice]:
        """Results that lie in no buffer."""
        return {name: how for name, how in self.of.items() if isinstance(how, ProbabilitiesChoice)}

    @property
    def inputs(self) -> tuple[str, str, str]:
        """Names of ids, types and mask, "" where there is none."""
        ids, types = self.embedding.inputs[:2] if self.embedding else ("", "")
        return ids, types, self.mask

    @property
    def refusal(self) -> Refusal | None:
        """Why kernels take nothing of the graph; None where they do."""
        if self.embedding is None:
            return Refusal("it begins with no embedding that kernels have")
        shapes = [value.shape for value in self.graph.inputs if value.name in self.inputs]
        # kernels read ids, types and mask as [batch, length]; in ONNX they may broadcast
        if not all(len(shape) == 2 and alike(shape, shapes[0]) for shape in shapes):
            return Refusal("ids, types and mask have other shapes")
        lying = [self.values[name] for name in self.outputs if name in self.values]
        if any(value.buffer.dtype != "f32" for value in lying):
            return Refusal("the fallback subgraph reads bytes")
        return None


def choices_of(
    graph: Graph,
    isa: Isa,
    configurations: Mapping[str, Configuration] | None = None,
    *,
    whole: bool = False,
    finite: bool = True,
    given: Mapping[str, Activation] | None = None,
) -> Choices:
    """configurations: what was measured, by the text of a measured.Layer; whole: channels that
    nobody reads are made too; so is, unless constants are finite, whatever is multiplied by 0;
    given: values that are there already.
    """
    given = given or {}
    of_rows = [name for name, value in given.items() if value.buffer.domain == "rows"]
    attentions = [node for node in graph if node.kind == "engine.Attention"]
    facts = Facts(
        graph,
        isa,
        configurations,
        finite,
        row_values(graph, of_rows),
        frozenset(node.value for node in attentions if attention_is_bytes(node)),
        values=dict(given),
    )
    facts.kernels = float_kernels(facts)
    if finite and not whole:
        # tiles multiply all channels of queries and keys in bytes
        facts.varying = varying_fours(graph, in_bytes=not isa.has("amx-int8"))
        blocks = {name: block_read(how) for name, how in facts.kernels.items()}
        facts.live = live_channels(graph, facts.varying, blocks)
    of: dict[str, Chosen] = {}
    fallback: dict[str, Node] = {}  # value -> the refused node that makes it
    for node in graph:
        needed = next((fallback[name] for name in node.inputs if name in fallback), None)
        choice = Refusal(f"it stands behind {needed}") if needed else _chosen(facts, node)
        of[node.outputs[0]] = choice
        if isinstance(choice, Refusal):
            fallback.update(dict.fromkeys(filter(None, node.outputs), node))
        elif isinstance(choice, ProbabilitiesChoice):
            facts.probabilities[node.outputs[0]] = choice
        elif isinstance(choice, Choice):
            facts.values[node.outputs[0]] = choice.y
    return Choices(graph, isa, of, facts.values, facts.embedding, facts.mask or "")


def _chosen(facts: Facts, node: Node) -> Chosen:
    if node.kind == "Identity" and _is_handed(facts.graph, node):
        return Handed(node.inputs[0])
    try:
        if node.kind not in CHOOSERS:
            raise Unplanned("no kernel has this operator")
        if any(node.outputs[1:]):
            raise Unplanned("more than one result")
        choice = CHOOSERS[node.kind](facts, node)
    except Unplanned as reason:
        return Refusal(str(reason))
    for each in (choice, choice.made if isinstance(choice, ThroughFloats) else None):
        if isinstance(each, EmbeddingChoice | TrigramChoice):
            facts.embedding = node
        elif isinstance(each, AttentionChoice | MaskChoice | ProbabilitiesChoice):
            facts.mask = each.mask
    return choice


def _is_handed(graph: Graph, node: Node) -> bool:
    """Whether an input of the graph goes out of it, and nowhere else."""
    given = {value.name for value in graph.inputs}
    return node.inputs[0] in given and not graph.consumers().get(node.outputs[0])
