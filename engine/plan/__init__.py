"""Graph of engine operators -> choices -> Plan: steps over buffers; Plan + capacity -> Program:
steps over an arena, ready to run.

`choose` says for every node which kernel makes it and how, or why none does; `emit` makes the
steps of these choices.  The first node that is refused begins the fallback subgraph, which the
reference runs op by op on the arrays that the program makes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from .. import settings
from ..codegen.isa import Isa
from ..graph import Graph
from ..ops import checked, not_finite
from .choose import Choices, choices_of
from .emit import plan_of
from .heads import with_whole_heads
from .kept import keep, place_of, recall
from .measured import read_measured
from .memory import Buffer
from .program import PACK_TOKENS, Plan, Program, Result
from .steps import Step
from .tune import measure_layers

__all__ = [
    "PACK_TOKENS",
    "Buffer",
    "Plan",
    "Program",
    "Result",
    "Step",
    "make_choices",
    "make_plan",
    "ready_plan",
]

log = logging.getLogger(__name__)


def ready_plan(graph: Graph, isa: Isa, is_finite: Callable[[], bool]) -> Plan | None:
    """The plan that was made and kept before, or as `make_plan`; is_finite: whether all constants
    are, asked where nothing is kept.
    """
    place = place_of(graph, isa)
    plan = recall(place, graph, isa)
    if plan is None:
        finite = is_finite()
        plan = make_plan(graph, isa, finite=finite)
        if plan is not None and finite:
            plan = keep(place, graph, plan)
    return plan


def make_plan(
    graph: Graph, isa: Isa, *, whole: bool = False, finite: bool | None = None
) -> Plan | None:
    """The plan, or None where the graph begins with something no kernel has; whole: channels that
    nobody reads are made too; finite: all constants are, None if that is not known.
    """
    choices = make_choices(graph, isa, whole=whole, finite=finite)
    if left := _left(choices):
        log.warning("%s: %s", graph.name, left)
    if choices.refusal:
        return None
    plan = replace(plan_of(choices), left=left)
    if settings.current().debug >= 2:
        for number, step in enumerate(plan.steps):
            log.info("%3d %s for %s", number, step.kernel_name, step.name or "what follows")
    packs = read_measured(isa).packs
    return replace(plan, pack_tokens=packs.get(plan.signature, PACK_TOKENS))


def make_choices(
    graph: Graph, isa: Isa, *, whole: bool = False, finite: bool | None = None
) -> Choices:
    """What make_plan emits the steps of, or the reasons why there are none; autotuning comes before
    it.
    """
    finite = not not_finite(graph) if finite is None else finite
    measured, (graph, places) = read_measured(isa), with_whole_heads(checked(graph))
    choices = choices_of(graph, isa, measured.layers or None, whole=whole, finite=finite)
    if settings.current().tune and finite:
        measure_layers(choices, measured)
        choices = choices_of(graph, isa, measured.layers, whole=whole)
    return replace(choices, places=places)


def _left(choices: Choices) -> str:
    """What NumPy is left with, and why: it takes many times as long."""
    nodes, total = choices.fallback, len(choices.graph.nodes)
    if refusal := choices.refusal:
        return f"all {total} operators are left to NumPy: {refusal.reason}"
    if not nodes:
        return ""
    first, why = nodes[0], choices.reason(nodes[0])
    return f"{len(nodes)} of {total} operators are left to NumPy, the first {first}: {why}"
