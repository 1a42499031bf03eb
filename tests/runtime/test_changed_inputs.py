"""Inputs that another thread changes while they are read."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

import engine
from engine.errors import EngineError
from engine.kernels import kernel
from engine.runtime.workers import Worker
from tests.runtime.calls import calls, wrong
from tests.tiny import feeds, tiny_graph

HUGE = 1 << 40


class BetweenTheReadings(engine.Session):
    """Changes the inputs after they were checked and before packs are filled."""

    change: Any = None  # what does it

    def __init__(self, **options: Any) -> None:
        super().__init__(tiny_graph(), **options)
        prepare = kernel(self.isa, "prepare").function()
        run = kernel(self.isa, "run", False).function()

        def run_in_two(address: int) -> None:
            context = self.worker.address
            prepare(address, context, 0, 0)
            self.change()
            run(address, context, 0, 0)

        self._caller._call = run_in_two

    @property
    def worker(self) -> Worker:
        return self._caller.room.workers[0]

    def array(self, name: str, count: int) -> np.ndarray:
        """Of the pack, as kernels read it: at an address of the context."""
        address = getattr(self.worker.context, name)
        first = (address - self.worker.arrays.ctypes.data) // self.worker.arrays.itemsize
        return self.worker.arrays[first : first + count]


CHANGES = {
    "ids": lambda given: given["input_ids"].fill(HUGE),
    "negative_ids": lambda given: given["input_ids"].fill(-HUGE),
    "types": lambda given: given["token_type_ids"].fill(7),
    "negative_types": lambda given: given["token_type_ids"].fill(-1),
    "nothing_masked": lambda given: given["attention_mask"].fill(1),
    "all_masked": lambda given: given["attention_mask"].fill(0),
    "another_mask": lambda given: given["attention_mask"].__ixor__(1),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_is_read_again_is_in_range(what: str) -> None:
    """As many tokens of each sentence as were counted, all of which the tables have."""
    session, lengths = BetweenTheReadings(), [9, 20, 1, 13]
    given = feeds(lengths, 20)
    session.change = lambda: CHANGES[what](given)
    assert session.run(given)["logits"].shape == (4, 1, 2)
    tokens = sum(lengths)
    assert session.worker.context.tokens == tokens
    np.testing.assert_array_equal(session.array("starts", 5), np.cumsum([0, *lengths]))
    for name, most in (("ids", 200), ("types", 2), ("positions", 64)):
        there = session.array(name, tokens)
        assert there.min() >= 0 and there.max() < most
    places = session.array("places", tokens)
    np.testing.assert_array_equal(places // 20, np.repeat(np.arange(4), lengths))
    assert (np.diff(places) > 0).all()


@pytest.mark.parametrize("threads", [1, 2])
def test_changes_at_random(threads: int) -> None:
    """Nothing but the sentences that were changed comes to harm."""
    session, known, stop = engine.Session(tiny_graph(), threads=threads), calls(), threading.Event()
    victim = feeds([40] * 9, 40)
    random = np.random.default_rng(0)

    def changes() -> None:
        while not stop.is_set():
            for array in victim.values():
                array[random.integers(9), random.integers(40)] = random.choice([0, 1, HUGE, -1])

    thread = threading.Thread(target=changes)
    thread.start()
    ran = 0
    for turn in range(300):
        if turn % 20 == 0:
            for name, array in feeds([40] * 9, 40).items():
                victim[name][:] = array
        try:
            ran += session.run(victim)["logits"].shape == (9, 1, 2)
        except EngineError:
            continue
    stop.set()
    thread.join()
    assert ran and wrong(session, known) == 0
