"""Memory and threads: what the system does not give, what is given back, how a process ends."""

from __future__ import annotations

import _thread
import mmap
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engine
from engine.errors import InputError, ResourceError
from engine.runtime import call
from tests.runtime import calls as made
from tests.runtime.calls import Feeds, at_rest, calls, falls_to, wrong
from tests.tiny import feeds, tiny_graph


@pytest.fixture(scope="module")
def known() -> list[tuple[Feeds, np.ndarray]]:
    return calls()


def nth_fails(function: Any, place: int, error: Exception) -> Callable[..., Any]:
    """The function, whose n-th call raises the error."""
    left = [place]

    def fails(*given: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            raise error
        return function(*given)

    return fails


# --- what the system does not give ---
@pytest.mark.parametrize("threads", [1, 2])
def test_memory_that_cannot_be_had(
    known: list[tuple[Feeds, np.ndarray]], threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each mapping fails once: the call says so, calls that were possible still are."""
    before = at_rest()
    for place in range(1, 4 + 4 * threads):
        session = engine.Session(tiny_graph(), threads=threads)
        session.run(known[0][0])
        session.pack_tokens = 512  # others workers are wanted, and in vain
        with monkeypatch.context() as patch:
            lacks = OSError(12, "Cannot allocate memory")
            patch.setattr(mmap, "mmap", nth_fails(mmap.mmap, place, lacks))
            with pytest.raises(ResourceError, match="bytes of memory.*Cannot allocate"):
                session.run(known[2][0])
        session.pack_tokens = 128
        assert np.array_equal(session.run(known[0][0])["logits"], known[0][1])
        session.pack_tokens = 512
        assert wrong(session, known) == 0
        session.close()
    assert falls_to(made.threads, before)


@pytest.mark.parametrize("place", [1, 2])
def test_a_thread_that_cannot_be_started(
    known: list[tuple[Feeds, np.ndarray]], place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None is kept of those that could; the next call has all of them."""
    before, session = at_rest(), engine.Session(tiny_graph(), threads=3)
    for turn in range(2):
        lacks = RuntimeError("can't start new thread")
        with monkeypatch.context() as patch:
            start = nth_fails(_thread.start_new_thread, place, lacks)
            patch.setattr(_thread, "start_new_thread", start)
            with pytest.raises(ResourceError, match=f"thread {place} of 2: can't start"):
                session.run(known[turn][0])
        assert falls_to(made.threads, before)
    assert wrong(session, known) == 0
    assert falls_to(made.threads, before + 2)


def limited() -> int:
    """0 where no call gets what it needs under a real limit on addresses, and all do without."""
    known, session = calls(), engine.Session(tiny_graph(), threads=8)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE
    resource.setrlimit(resource.RLIMIT_AS, (taken + (4 << 20), resource.RLIM_INFINITY))
    refused = 0
    for given, _ in known:
        try:
            session.run(given)
        except ResourceError:
            refused += 1
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return 10 * (refused != len(known)) + wrong(session, known)


def test_limits_of_the_system() -> None:
    """In a fresh process: one that has had threads keeps the addresses of their stacks."""
    code = "import sys; from tests.runtime.test_resources import limited; sys.exit(limited())"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_more_tokens_than_places_have_numbers() -> None:
    """16 GiB of addresses, none of which is looked at."""
    session, shape = engine.Session(tiny_graph()), (1 << 26, 32)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
    there = mmap.mmap(-1, 8 * shape[0] * shape[1], flags)
    zeros = np.frombuffer(there, np.int64).reshape(shape)
    with pytest.raises(InputError, match="67108864 sentences of 32: more than 2147483647 tokens"):
        session.run(dict.fromkeys(feeds([1], 1), zeros))
    assert session.arena_bytes == 0


def test_outputs_that_no_memory_holds(
    known: list[tuple[Feeds, np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = engine.Session(tiny_graph(), threads=2)
    with monkeypatch.context() as patch:
        patch.setattr(call, "_shape", lambda result, batch, length: (1 << 40, batch, 2))
        with pytest.raises(ResourceError, match=r"memory for a call: Unable .* 24.0 TiB"):
            session.run(known[1][0])
    session.close()
    assert wrong(session, known) == 0


def test_no_sentences() -> None:
    nothing = {name: array[:0] for name, array in feeds([5], 5).items()}
    for threads in (1, 2):
        assert engine.Session(tiny_graph(), threads=threads).run(nothing)["logits"].shape == (
            0,
            1,
            2,
        )


# --- what is given back ---
def test_sessions_that_are_dropped_end_their_threads(
    known: list[tuple[Feeds, np.ndarray]],
) -> None:
    before = at_rest()
    for turn in range(10):
        session = engine.Session(tiny_graph(), threads=3)
        assert wrong(session, known[turn % 2 :]) == 0
    assert falls_to(made.threads, before + 2)
    del session
    assert falls_to(made.threads, before)


def test_a_closed_session_begins_again(known: list[tuple[Feeds, np.ndarray]]) -> None:
    before = at_rest()
    with engine.Session(tiny_graph(), threads=2) as session:
        assert wrong(session, known) == 0 and session.arena_bytes > 0
    assert session.arena_bytes == 0
    assert falls_to(made.threads, before)
    assert wrong(session, known) == 0


def test_a_session_is_closed_while_others_call_it(known: list[tuple[Feeds, np.ndarray]]) -> None:
    session, off = engine.Session(tiny_graph(), threads=2), []
    callers = [
        threading.Thread(target=lambda: off.append(wrong(session, known, 10))) for _ in range(3)
    ]
    for caller in callers:
        caller.start()
    while any(caller.is_alive() for caller in callers):
        session.close()
    assert off == [0, 0, 0]


# --- how a process ends ---
ENDS = {
    "at_exit": "atexit.register(answer)",
    "at_exit_again": "answer(); atexit.register(answer)",
    "in_a_daemon": "threading.Thread(target=for_ever, daemon=True).start(); time.sleep(0.05)",
    "in_a_thread": "threading.Thread(target=answer, args=(300,)).start()",
    "when_it_is_dropped": "answer(); last = Last(answer)",
    "the_first_when_it_is_dropped": "last = Last(first)",
    "by_an_exception": "answer(); threading.Thread(target=answer, args=(300,)).start(); 1 / 0",
}
SCRIPT = """
import atexit, sys, threading, time
import numpy as np
import engine
from engine.errors import ResourceError
from tests.tiny import feeds, tiny_graph
session, given = engine.Session(tiny_graph(), threads=2), feeds([20, 5, 7], 20)
logits = engine.Session(tiny_graph(), threads=1).run(given)["logits"]
same = np.array_equal
def answer(turns=1, write=sys.stdout.write, flush=sys.stdout.flush):
    right = all(same(session.run(given)["logits"], logits) for _ in range(turns))
    write(f"right {right}\\n")
    flush()
def first():
    try:
        session.run(given)
    except ResourceError as error:
        sys.stdout.write(f"right {error}\\n")
def for_ever():
    while True:
        answer()
class Last:
    def __init__(self, work):
        self.work = work
    def __del__(self):
        self.work()
"""


@pytest.mark.parametrize("how", ENDS)
def test_calls_while_the_interpreter_ends(how: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT + ENDS[how]],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sys.path))},
    )
    said = set(done.stdout.splitlines())
    wanted = (
        "right no threads or memory for 3 x 20" if how.startswith("the_first") else "right True"
    )
    assert any(line.startswith(wanted) for line in said), done.stdout + done.stderr
    assert "right False" not in said and "__del__" not in done.stderr, done.stderr
    assert done.returncode == (how == "by_an_exception"), done.stderr
