"""Workers that share a pack: nobody reads what another may not have made yet, or writes what
another may still read."""

from __future__ import annotations

import numpy as np
import pytest

from engine.codegen import isa
from engine.graph import Graph, Node, Value
from engine.kernels.call import EVERYWHERE, NOWHERE, WHERE_UNEVEN
from engine.plan import Buffer, Plan, make_plan
from engine.plan.barriers import barriers
from tests.tiny import CHANNELS, sparse

LAYERS = 3


def encoder() -> Graph:
    """Layers as BERT has them, then the first token and logits; float32."""
    random = np.random.default_rng(0)
    table = random.normal(size=(200, CHANNELS)).astype(np.float32)
    ones, zeros = np.ones(CHANNELS, np.float32), np.zeros(CHANNELS, np.float32)
    constants = {"words": table, "positions": table[:64], "types": table[:2]}
    constants |= {"one": ones, "zero": zeros, "head": table[:2]}
    nodes: list[Node] = []

    def node(op: str, inputs: str, output: str, **attributes: object) -> None:
        names = tuple("" if name == "-" else name for name in inputs.split())
        nodes.append(Node(op, names, (output,), attributes, output, "engine"))

    def linear(x: str, output: str, outputs: int, inputs: int) -> None:
        constants[f"{output}.w"] = sparse(random, outputs, inputs, "4x1")
        node("Linear", f"{x} {output}.w - -", output, pattern="4x1", precision="float32")

    node("Embedding", "input_ids token_type_ids words positions types one zero", "x0", epsilon=1e-6)
    for n in range(LAYERS):
        for name in "kqv":
            linear(f"x{n}", f"{name}{n}", CHANNELS, CHANNELS)
        node("Attention", f"q{n} k{n} v{n} attention_mask", f"a{n}", heads=2, scale=0.2)
        linear(f"a{n}", f"o{n}", CHANNELS, CHANNELS)
        node("LayerNorm", f"o{n} x{n} - one zero", f"m{n}", epsilon=1e-6)
        linear(f"m{n}", f"h{n}", 2 * CHANNELS, CHANNELS)
        linear(f"h{n}", f"y{n}", CHANNELS, 2 * CHANNELS)
        node("LayerNorm", f"y{n} m{n} - one zero", f"x{n + 1}", epsilon=1e-6)
    node("Select", f"x{LAYERS}", "first", index=0)
    node("Linear", "first head - -", "logits", precision="float32")
    ids = ("input_ids", "attention_mask", "token_type_ids")
    inputs = tuple(Value(name, "int64", ("batch", "sequence")) for name in ids)
    return Graph(
        "encoder", inputs, (Value("logits", "float32", ("batch", 2)),), tuple(nodes), constants
    )


@pytest.fixture(scope="module")
def plan() -> Plan:
    made = make_plan(encoder(), isa.chosen())
    assert made is not None
    return made


def makers(plan: Plan) -> dict[Buffer, int]:
    made: dict[Buffer, int] = {}
    for number, step in enumerate(plan.steps):
        for buffer in step.buffers():
            made.setdefault(buffer, number)
    return made


def who_meets(plan: Plan) -> list[int]:
    lives = {buffer: (first, len(plan.steps)) for buffer, first in makers(plan).items()}
    return barriers(plan.steps, lives, plan.late)


def test_all_meet_before_tiles_of_others_are_read(plan: Plan) -> None:
    after, made, seen = who_meets(plan), makers(plan), 0
    for number, step in enumerate(plan.steps):
        for buffer in step.buffers():
            first = made[buffer]
            if first == number:
                continue
            between = after[first:number]
            assert EVERYWHERE in between or (WHERE_UNEVEN in between and step.own_tiles)
            seen += 1
            if not step.own_tiles or step.domain == "rows":
                assert EVERYWHERE in between, step
    assert seen > 20
    assert after[-1] == after[plan.late - 1] == EVERYWHERE


def test_most_steps_need_no_barrier_where_workers_have_tiles_of_their_own(plan: Plan) -> None:
    tokens = [
        who
        for step, who in zip(plan.steps, who_meets(plan), strict=True)
        if step.domain == "tokens"
    ]
    assert tokens.count(EVERYWHERE) == LAYERS + 1  # before attention, and before rows are taken
    assert tokens.count(NOWHERE) == 2 * LAYERS  # key and query do not wait for value


def test_memory_changes_hands_at_barriers_only(plan: Plan) -> None:
    program, made = plan.program(128, shared=True), makers(plan)
    after = program.steps["barrier"].tolist()
    last = {}
    for number, step in enumerate(plan.steps):
        last.update(dict.fromkeys(step.buffers(), number))
    size = {buffer: buffer.tile_bytes * (2 if buffer.domain == "tokens" else 4) for buffer in last}
    shared = 0
    for x in size:
        for y in size:
            here, there = program.offsets[x], program.offsets[y]
            if (
                x is y
                or made[x] > made[y]
                or not here < there + size[y]
                or not there < here + size[x]
            ):
                continue
            assert EVERYWHERE in after[last[x] : made[y]], (x.name, y.name)
            shared += 1
    assert shared > 0
