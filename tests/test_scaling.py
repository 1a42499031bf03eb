"""The model of more cores: against sums by hand, and against a run on two cores here."""

from __future__ import annotations

import os

import numpy as np
import pytest

from engine import Session
from engine.kernels.call import EVERYWHERE, WHERE_UNEVEN
from engine.measure.peaks import barrier_seconds, bytes_from_memory
from engine.measure.profile import profile
from engine.measure.scaling import FAR, CoreFacts, Part, Server, Whole, latency, observed, rate
from tests.tiny import feeds, tiny_graph

MIB, NS = 1 << 20, 1e-9
CORE = CoreFacts(bytes_a_second=20e9, barrier_seconds=100 * NS)
SERVER = Server(CORE, 8, 32 * MIB, 64, socket_bytes_a_second=400e9)
PARTS = (
    Part(80e-6, units=8, tiles=2),
    Part(8e-6, units=2, tiles=2, barrier=WHERE_UNEVEN),
    Part(40e-6, units=3, tiles=2, barrier=EVERYWHERE),
    Part(4e-6, units=1, barrier=EVERYWHERE),
)
SMALL = Whole(PARTS, beside=2e-6, weight_bytes=MIB, arena_bytes=MIB // 4)


def test_one_worker_does_all() -> None:
    assert latency(SMALL, SERVER, 1) == pytest.approx(134e-6)


def test_between_barriers_the_slowest_worker_counts() -> None:
    """Of two: tiles are even, three units are two and one. Of four: four workers, one without."""
    two = 2 + 40 + 4 + 40 * 2 / 3 + 4
    assert latency(SMALL, SERVER, 2) == pytest.approx((two + 3 * 0.1) * 1e-6)
    four = 2 + 20 + 4 + 40 / 3 + 4
    assert latency(SMALL, SERVER, 4) == pytest.approx((four + 4 * 0.2) * 1e-6)


def test_barriers_cost_more_from_cache_to_cache() -> None:
    assert SERVER.barrier(8) == pytest.approx(400 * NS)
    assert SERVER.barrier(16) == pytest.approx(50 * (8 + 8 * FAR) * NS)
    assert latency(SMALL, SERVER, 64) > latency(SMALL, SERVER, 8)


def test_instances_add_up_while_caches_hold_them() -> None:
    one = 1 / latency(SMALL, SERVER, 1)
    assert rate(SMALL, SERVER, 128) == pytest.approx(128 * one)
    assert rate(SMALL, SERVER, 16, 4) == pytest.approx(16 / latency(SMALL, SERVER, 4))


def test_what_no_cache_holds_comes_at_the_memorys_rate() -> None:
    large = Whole(PARTS, 0.0, weight_bytes=100 * MIB, arena_bytes=MIB)
    assert latency(large, SERVER, 1) == pytest.approx(100 * MIB / 20e9)
    assert latency(large, SERVER, 16) == pytest.approx(100 * MIB / 320e9)
    assert rate(large, SERVER, 64) == pytest.approx(400e9 / (100 * MIB))
    assert rate(large, SERVER, 128) == pytest.approx(800e9 / (100 * MIB)), "two sockets"
    half = Whole(PARTS, 0.0, weight_bytes=28 * MIB, arena_bytes=MIB)
    slow, quick = 8 / rate(half, SERVER, 8), 1 / rate(half, SERVER, 1)
    assert slow > quick, "eight arenas do not fit beside the weights"


def test_a_plan_is_observed() -> None:
    session, feed = Session(tiny_graph()), feeds([64, 60], 64)
    whole = observed(session, profile(session, feed, iterations=2))
    plan = session.plan
    assert plan is not None and len(whole.parts) == len(plan.steps)
    assert whole.parts[-1].barrier == EVERYWHERE and all(p.tiles == 2 for p in whole.parts)
    by_name = dict(zip((step.name for step in plan.steps), whole.parts, strict=True))
    assert by_name["a_Attention"].units == 2 * 2, "tiles times heads"
    table = session.graph.constants["words"]
    assert 0 < whole.weight_bytes < table.nbytes
    assert 0 < latency(whole, SERVER, 2) < latency(whole, SERVER, 1) + 1e-5


def test_what_a_core_gives_is_measured() -> None:
    assert 1e8 < bytes_from_memory(1 << 20, rounds=1) < 1e12
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) > 1:
        assert 1e-9 < barrier_seconds((cpus[0], cpus[1]), turns=100, rounds=3) < 1
    assert os.sched_getaffinity(0) == set(np.asarray(cpus)), "threads alone are pinned"
