"""Choices: which kernel each node gets, or the reason why it gets none."""

from __future__ import annotations

import numpy as np
import pytest

from engine.codegen import isa
from engine.graph import Graph, Node, Value
from engine.plan import make_plan
from engine.plan.choose import AttentionChoice, Choices, LinearChoice, choices_of
from engine.plan.choose.linear import DENSE_ROWS
from engine.plan.steps import Refusal
from tests.plan.test_shapes import attention, ending
from tests.tiny import tiny_graph


def chosen(graph: Graph, name: str = "avx512_bf16") -> Choices:
    return choices_of(graph, isa.named(name))


@pytest.mark.parametrize("which", isa.LADDER, ids=str)
@pytest.mark.parametrize("pattern", ["4x1", "1x4", "dense"])
def test_steps_are_those_that_were_chosen(which: isa.Isa, pattern: str) -> None:
    graph = tiny_graph(pattern)
    plan, choices = make_plan(graph, which), chosen(graph, which.name)
    assert plan is not None and not choices.refusal and not choices.fallback
    kernels = {step.name: step.kernel for step in plan.steps}
    for node in graph:
        choice = choices.of[node.outputs[0]]
        if isinstance(choice, LinearChoice):
            assert kernels[node.name] == choice.how.kernel
        elif isinstance(choice, AttentionChoice):
            assert kernels[node.name] == choice.kernel
    last = choices.of["logits"]
    assert isinstance(last, LinearChoice) and last.how.kernel == DENSE_ROWS


def test_choosing_again_chooses_the_same() -> None:
    kernels = [
        [
            choice.how
            for choice in chosen(tiny_graph()).of.values()
            if isinstance(choice, LinearChoice)
        ]
        for _ in range(2)
    ]
    assert kernels[0] == kernels[1] and len(kernels[0]) == 3


REFUSED = {
    "no kernel has this operator": Node("Softplus", ("logits",), ("made",)),
    "more than one result": Node("Split", ("logits",), ("made", "rest")),
    "'back' is not an activation": Node("Tanh", ("back",), ("made",)),
    "mask '', before it was 'attention_mask'": attention("", "made"),
    "makes something else than [batch, channels], or of one channel [batch]": Node(
        "Flatten", ("z",), ("made",)
    ),
    "token 1 is chosen, not the first": Node(
        "Select", ("z",), ("made",), {"index": 1}, "", "engine"
    ),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_a_node_that_no_kernel_has_says_why(reason: str) -> None:
    node = REFUSED[reason]
    if reason == "more than one result":
        node = node.changed(op="Tanh")
    choices = chosen(ending(node, Node("Tanh", ("made",), ("end",)), outputs=("end",)))
    assert choices.of["made"] == Refusal(reason)
    assert choices.reason(choices.fallback[1]) == f"it stands behind {node}"
    assert [each.op for each in choices.fallback] == [node.op, "Tanh"]
    assert not choices.refusal and set(choices.outputs) <= {"back", "logits", "z"}


def test_what_no_kernel_needs_stands_in_nobodys_way() -> None:
    """Exporters put the Shape of an input first, for a pooling at the end."""
    graph = tiny_graph()
    first = Node("Shape", (graph.inputs[0].name,), ("size",))
    last = Node("Expand", ("logits", "size"), ("end",))
    nodes, outputs = (first, *graph.nodes, last), (Value("end", "float32", ("?",)),)
    choices = chosen(graph.changed(nodes=nodes, outputs=outputs))
    assert choices.fallback == (first, last) and choices.outputs == ["logits"]
    assert choices.reason(last) == f"it stands behind {first}"


def test_a_graph_that_no_kernel_has_says_why() -> None:
    behind = tiny_graph().changed(nodes=tiny_graph().nodes[1:])
    assert chosen(behind).refusal == Refusal("it begins with no embedding that kernels have")
    step, offset = np.float32(0.5), np.array(3, np.uint8)
    stored = Node("QuantizeLinear", ("z", "step", "offset"), ("made",))
    bytes_only = ending(stored, outputs=("made",), step=step, offset=offset)
    assert chosen(bytes_only).refusal == Refusal("the fallback subgraph reads bytes")
