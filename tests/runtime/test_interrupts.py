"""After an exception at any place of a call the next one is right."""

from __future__ import annotations

import ctypes
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

import numpy as np
import pytest

import engine
from tests.runtime import calls as made
from tests.runtime.calls import Feeds, at_rest, calls, falls_to, wrong
from tests.tiny import tiny_graph

INTERRUPTS = 300
EVERY = 7  # bytecodes of a call that makes its room are some thousand: a test takes these


class Stop(Exception):  # noqa: N818
    """What a signal's handler raises."""


@pytest.fixture(scope="module")
def known() -> list[tuple[Feeds, np.ndarray]]:
    return calls()


@pytest.fixture
def alarm() -> Iterator[None]:
    """SIGALRM raises Stop."""

    def stop(*_: Any) -> None:
        raise Stop

    before = signal.signal(signal.SIGALRM, stop)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def interrupted(session: engine.Session, given: Feeds, seconds: float) -> bool:
    """Whether a signal came in the midst of the call."""
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        session.run(given)
        signal.setitimer(signal.ITIMER_REAL, 0)
    except Stop:
        return True
    return False


@pytest.mark.parametrize("threads", [1, 2])
def test_signals_at_random(
    known: list[tuple[Feeds, np.ndarray]], threads: int, alarm: None
) -> None:
    session, random, hits = (
        engine.Session(tiny_graph(), threads=threads),
        np.random.default_rng(0),
        0,
    )
    for turn in range(20 * INTERRUPTS):
        given, _ = known[turn % len(known)]
        if interrupted(session, given, random.uniform(1e-6, 3e-4)):
            hits += 1
            given, logits = known[(turn + 1) % len(known)]
            assert np.array_equal(session.run(given)["logits"], logits), f"turn {turn}"
        if hits == INTERRUPTS:
            break
        if hits % 50 == 25:
            time.sleep(0.003)  # the workers sleep
    assert hits == INTERRUPTS


class Nth:
    """A trace that raises Stop at the n-th bytecode of the engine's Python."""

    def __init__(self, place: int) -> None:
        self.left = place

    def __call__(self, frame: FrameType, event: str, _: Any) -> Any:
        if "/engine/" not in frame.f_code.co_filename:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            self.left -= 1
            if self.left == 0:
                raise Stop
        return self

    def interrupts(self, session: engine.Session, given: Feeds) -> bool:
        before = sys.gettrace()
        sys.settrace(self)
        try:
            session.run(given)
        except Stop:
            return True
        finally:
            sys.settrace(before)
        return False


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("first", [True, False])
def test_an_exception_at_every_bytecode(
    known: list[tuple[Feeds, np.ndarray]], threads: int, first: bool
) -> None:
    """first: of calls that make memory and threads."""
    session, before = engine.Session(tiny_graph(), threads=threads), at_rest()
    place, (given, logits) = 1, known[1]
    session.run(given)
    while True:
        if first:
            session.close()
        if not Nth(place).interrupts(session, given):
            break
        assert np.array_equal(session.run(given)["logits"], logits), f"bytecode {place}"
        place += (EVERY if first else 1) * threads
    assert place > 100
    assert wrong(session, known) == 0
    assert falls_to(made.threads, before + threads - 1)


def test_exceptions_from_another_thread(known: list[tuple[Feeds, np.ndarray]]) -> None:
    """PyThreadState_SetAsyncExc, with which thread pools and test frameworks end a task."""
    session, hits, off = engine.Session(tiny_graph(), threads=2), [], []

    def caller() -> None:
        while len(hits) < 50:
            try:
                off.append(wrong(session, known))
            except Stop:
                hits.append(1)

    thread = threading.Thread(target=caller)
    thread.start()
    while thread.is_alive():
        if not len(hits) >= 50:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(thread.ident or 0), ctypes.py_object(Stop)
            )
        time.sleep(0.001)
    assert wrong(session, known) == 0 and not any(off)


def test_who_waits_for_a_turn_is_interrupted(
    known: list[tuple[Feeds, np.ndarray]], alarm: None
) -> None:
    session, inside, leave = engine.Session(tiny_graph()), threading.Event(), threading.Event()

    def stays() -> None:
        with session._caller._lock:
            inside.set()
            leave.wait()

    thread = threading.Thread(target=stays)
    thread.start()
    inside.wait()
    try:
        assert interrupted(session, known[0][0], 0.02)
    finally:
        leave.set()
        thread.join()
    assert wrong(session, known) == 0


@pytest.mark.parametrize("threads", [1, 2])
def test_a_handler_that_calls_the_session(
    known: list[tuple[Feeds, np.ndarray]], threads: int
) -> None:
    """In the midst of a call of its own thread: both answers are right, neither waits."""
    session = engine.Session(tiny_graph(), threads=threads)
    for begun in (False, True):
        run, inner = session._caller._call, []

        def handler(address: int, run: Any = run, inner: Any = inner, begun: bool = begun) -> None:
            session._caller._call = run
            if begun:
                run(address)
            inner.append(session.run(known[2][0])["logits"])
            if not begun:
                run(address)

        session._caller._call = handler  # type: ignore[assignment]
        assert np.array_equal(session.run(known[1][0])["logits"], known[1][1])
        assert np.array_equal(inner[0], known[2][1])
    assert wrong(session, known) == 0
