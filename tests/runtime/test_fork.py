"""Sessions in the children of a fork: pre-forking servers, multiprocessing's "fork"."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import threading
import time
from typing import Any

import numpy as np
import pytest

import engine
from engine.formats import models
from engine.graph import Graph
from tests.runtime.calls import Feeds, calls, child, ended, wrong
from tests.tiny import tiny_graph

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
CHILDREN = 4


@pytest.fixture(scope="module")
def known() -> list[tuple[Feeds, np.ndarray]]:
    return calls()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("state", ["loaded", "warm", "asleep"])
def test_children_side_by_side(
    known: list[tuple[Feeds, np.ndarray]], threads: int, state: str
) -> None:
    """Each has memory and threads of its own, and so has the parent."""
    with engine.Session(tiny_graph(), threads=threads) as session:
        if state != "loaded":
            session.run(known[0][0])
        if state == "asleep":
            time.sleep(0.02)
        children = [child(lambda: wrong(session, known, 20)) for _ in range(CHILDREN)]
        assert wrong(session, known, 20) == 0
        assert [ended(each) for each in children] == [0] * CHILDREN


@pytest.mark.parametrize("threads", [1, 2])
def test_children_of_children(known: list[tuple[Feeds, np.ndarray]], threads: int) -> None:
    session = engine.Session(tiny_graph(), threads=threads)

    def generation(left: int) -> int:
        off = wrong(session, known)
        return off + ended(child(lambda: generation(left - 1))) if left else off

    assert generation(4) == 0


@pytest.mark.parametrize("threads", [1, 2])
def test_a_fork_while_other_threads_are_in_calls(
    known: list[tuple[Feeds, np.ndarray]], threads: int
) -> None:
    """The lock is held, the call is half done and so may be the room for a new shape."""
    session, stop, off = engine.Session(tiny_graph(), threads=threads), threading.Event(), []

    def keep_calling() -> None:
        while not stop.is_set():
            off.append(wrong(session, known))
            session.close()

    callers = [threading.Thread(target=keep_calling) for _ in range(2)]
    for caller in callers:
        caller.start()
    statuses = [ended(child(lambda: wrong(session, known, 2))) for _ in range(25)]
    stop.set()
    for caller in callers:
        caller.join()
    assert statuses == [0] * 25 and off and not any(off)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_fork_in_the_midst_of_its_own_call(
    known: list[tuple[Feeds, np.ndarray]], threads: int
) -> None:
    """A signal's handler forks: both processes go on with the call."""
    session, forked = engine.Session(tiny_graph(), threads=threads), []
    session.run(known[0][0])
    run = session._caller._call

    def forks(address: int) -> None:
        forked.append(os.fork())
        run(address)

    session._caller._call = forks  # type: ignore[assignment]
    (given, logits), right = known[2], False
    try:
        right = np.array_equal(session.run(given)["logits"], logits)
        session._caller._call = run
        right = right and wrong(session, known) == 0
    finally:
        if forked == [0]:
            os._exit(0 if right else 1)
    assert right and ended(forked[0]) == 0


@pytest.mark.parametrize("threads", [1, 2])
def test_a_fork_leaves_nobody_in_a_call(
    known: list[tuple[Feeds, np.ndarray]], threads: int
) -> None:
    """A thread of the child may have the number of one that was in a call of the parent: it takes a
    room once, not with each call.
    """
    session = engine.Session(tiny_graph(), threads=threads)
    begun, goes_on = threading.Event(), threading.Event()
    given, _ = known[0]
    session.run(given)
    run = session._caller._call

    def waits(address: int) -> None:
        begun.set()
        goes_on.wait()
        run(address)

    session._caller._call = waits  # type: ignore[assignment]
    caller = threading.Thread(target=session.run, args=(given,))
    caller.start()
    begun.wait()

    def rooms_taken() -> int:
        session._caller._call, rooms = run, []

        def twice() -> None:
            for _ in range(2):
                session.run(given)
                rooms.append(session._caller.room)

        thread = threading.Thread(target=twice)
        thread.start()
        thread.join()
        return 1 if len(rooms) < 2 else int(rooms[0] is not rooms[1])

    status = ended(child(rooms_taken))
    goes_on.set()
    caller.join()
    assert status == 0


def test_a_fork_waits_for_a_load(
    known: list[tuple[Feeds, np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread has locks then that no thread of the child would give back."""
    begun, read = threading.Event(), []

    def slowly(*_: Any) -> Graph:
        begun.set()
        time.sleep(0.1)
        read.append(time.monotonic())
        return tiny_graph()

    monkeypatch.setattr(models, "read", slowly)
    loader = threading.Thread(target=engine.load, args=("model.onnx",))
    loader.start()
    begun.wait()
    number = child(lambda: wrong(engine.load("model.onnx"), known))
    assert len(read) == 1, "the fork came before the end of the load"
    loader.join()
    assert ended(number) == 0


def test_a_child_is_interrupted(known: list[tuple[Feeds, np.ndarray]]) -> None:
    session = engine.Session(tiny_graph(), threads=2)
    session.run(known[0][0])
    ready, tell = os.pipe()

    def until_interrupted() -> int:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` has it ignored
        gc.disable()  # an interrupt that comes while Python collects garbage is lost to everybody
        try:
            while True:
                wrong(session, known)
                os.write(tell, b".")
        except KeyboardInterrupt:
            return 7

    number = child(until_interrupted)
    os.read(ready, 1)
    os.kill(number, signal.SIGINT)
    assert ended(number) == 7


def _answer(session: engine.Session, given: Feeds, answers: Any) -> None:
    answers.put(session.run(given)["logits"])


def test_a_process_of_multiprocessing_ends_by_itself(
    known: list[tuple[Feeds, np.ndarray]],
) -> None:
    """It leaves through Python's own exit, its threads asleep."""
    fork, session = multiprocessing.get_context("fork"), engine.Session(tiny_graph(), threads=2)
    session.run(known[0][0])
    answers = fork.SimpleQueue()
    process = fork.Process(target=_answer, args=(session, known[1][0], answers))
    process.start()
    assert np.array_equal(answers.get(), known[1][1])
    process.join(10)
    assert process.exitcode == 0
