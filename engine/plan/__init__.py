"""Graph of engine operators -> Plan: steps over buffers; Plan + capacity -> Program: steps over an
arena, ready to run.

The plan covers the longest run of nodes from the inputs that its handlers know
(`handlers.HANDLERS`); what follows, if anything, is the tail: it runs op by op on the arrays the
program hands over.
"""

from __future__ import annotations

from dataclasses import replace

from ..codegen.isa import Isa
from ..graph import Graph
from ..ops import checked, not_finite
from .handlers import HANDLERS
from .heads import with_whole_heads
from .measured import read_choices
from .memory import Buffer
from .planner import Planner
from .program import PACK_TOKENS, Plan, Program
from .steps import Step

__all__ = ["PACK_TOKENS", "Buffer", "Plan", "Program", "Step", "make_plan"]


def make_plan(
    graph: Graph, isa: Isa, *, whole: bool = False, finite: bool | None = None
) -> Plan | None:
    """The plan, or None where the graph begins with something no handler knows; whole: channels
    that nobody reads are made too; finite: all constants are, None if that is not known.
    """
    finite = not not_finite(graph) if finite is None else finite
    choices, (graph, places) = read_choices(isa), with_whole_heads(checked(graph))
    plan = Planner(graph, isa, choices, whole=whole, finite=finite).plan(HANDLERS)
    if plan is not None and places:
        plan = replace(plan, places=places)
    if plan is None or not choices.packs:
        return plan
    return replace(plan, pack_tokens=choices.packs.get(plan.signature, PACK_TOKENS))
