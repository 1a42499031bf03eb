"""Calls of random shape, callers, forks, interrupts, changed inputs, lack of memory, sessions that
come and go, for as long as one wants: `make soak MINUTES=10`.

Every answer is compared with that of a session of one thread which nobody disturbs.  Memory,
threads and open files are counted once all that is done has been done a while, and at the end.
The last line says what was done; the status is 1 if an answer was wrong, a child ended otherwise
than it should, anything has grown, or a turn took longer than PATIENCE.
"""

from __future__ import annotations

import argparse
import faulthandler
import resource
import signal
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import engine
from engine.errors import EngineError
from engine.formats import models
from engine.graph import Graph
from tests.runtime.calls import Feeds, at_rest, child, ended
from tests.tiny import feeds, tiny_graph

PATIENCE = 120  # seconds
WARM = 0.3  # of the time, after which nothing may grow
GROWTH = 16 << 20  # bytes: the interpreter's own memory comes and goes
SHAPES = 40  # different calls
SESSIONS = 4
MANY = 1 << 18  # tokens of a pack, whose arena is larger than what is left
WAYS = ("calls", "callers", "forks", "interrupts", "changes", "starves", "replaces")
HUGE = 1 << 40  # no id


class Stop(Exception):  # noqa: N818
    """What the handler of SIGALRM raises."""


@dataclass(frozen=True)
class Taken:
    """What the process has of the system."""

    memory: int  # bytes
    threads: int
    files: int

    @classmethod
    def now(cls) -> Taken:
        threads = at_rest()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        files = len(list(Path("/proc/self/fd").iterdir()))
        return cls(pages * resource.getpagesize(), threads, files)


class Soak:
    """Sessions of one model, and what is done to them."""

    def __init__(self, graph: Graph, threads: list[int], seed: int) -> None:
        self.graph, self.threads, self.random = graph, threads, np.random.default_rng(seed)
        self.done: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        alone = engine.Session(graph, threads=1)
        given = [self._feeds() for _ in range(SHAPES)]
        self.known = [(each, alone.run(each)) for each in given]
        self.sessions = self._fresh()

    def _fresh(self) -> list[engine.Session]:
        threads = [self.threads[n % len(self.threads)] for n in range(SESSIONS)]
        return [engine.Session(self.graph, threads=each) for each in threads]

    def _feeds(self) -> Feeds:
        batch, length = int(self.random.integers(0, 40)), int(self.random.integers(1, 65))
        lengths = self.random.integers(1, length + 1, batch)
        found = feeds([int(each) for each in lengths], length)
        return {value.name: found[value.name] for value in self.graph.inputs}

    def session(self) -> engine.Session:
        return self.sessions[self.random.integers(len(self.sessions))]

    def wrong(self, session: engine.Session, calls: int, seed: int) -> int:
        """How many of so many answers are."""
        off, random = 0, np.random.default_rng(seed)
        for _ in range(calls):
            given, wanted = self.known[random.integers(SHAPES)]
            made = session.run(given)
            off += any(not np.array_equal(made[name], wanted[name]) for name in wanted)
        return off

    def _judge(self, session: engine.Session, calls: int = 5) -> None:
        self.faults["wrong answers"] += self.wrong(session, calls, int(self.random.integers(HUGE)))
        self.done["answers"] += calls

    # --- what is done ---
    def calls(self) -> None:
        session = self.session()
        session.pack_tokens = int(self.random.choice([64, 128, 192]))
        self._judge(session, 20)

    def callers(self) -> None:
        """Several threads, and a session that is closed under their hands."""
        session, off = self.session(), []
        callers = [
            threading.Thread(target=lambda n=n: off.append(self.wrong(session, 10, n)))
            for n in range(3)
        ]
        for caller in callers:
            caller.start()
        session.close()
        for caller in callers:
            caller.join()
        self.faults["callers that failed"] += len(off) != len(callers)
        self.faults["wrong answers"] += sum(off)
        self.done["answers"] += 30

    def forks(self) -> None:
        """While another thread is in a call; a child has a child."""
        session, seed = self.session(), int(self.random.integers(HUGE))
        caller = threading.Thread(target=lambda: self.wrong(session, 10, seed))

        def work(left: int = 1) -> int:
            off = self.wrong(session, 5, seed)
            return min(off + (ended(child(lambda: work(left - 1))) if left else 0), 9)

        caller.start()
        children = [child(work) for _ in range(2)]
        self._judge(session)
        self.faults["children that failed"] += sum(ended(each) != 0 for each in children)
        caller.join()
        self.done["forks"] += 4
        self.done["answers"] += 20

    def interrupts(self) -> None:
        session = self.session()
        for turn in range(30):
            if turn % 10 == 0:
                session.close()
            try:
                signal.setitimer(signal.ITIMER_REAL, self.random.uniform(1e-6, 4e-4))
                self.wrong(session, 5, turn)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Stop:
                self.done["interrupts"] += 1
            self._judge(session, 1)

    def changes(self) -> None:
        """Answers to what changes meanwhile are nobody's; those after it are right."""
        session, (given, _) = self.session(), self.known[self.random.integers(SHAPES)]
        victim, stop = {name: array.copy() for name, array in given.items()}, threading.Event()

        random = np.random.default_rng(self.done.total())

        def change() -> None:
            while not stop.is_set():
                for array in victim.values():
                    array.reshape(-1)[: random.integers(1, 9)] = random.choice([0, 1, -1, HUGE])

        thread = threading.Thread(target=change)
        thread.start()
        for _ in range(20):
            try:
                session.run(victim)
            except EngineError:  # an id out of the vocabulary
                self.done["refused"] += 1
        stop.set()
        thread.join()
        self.done["changed inputs"] += 20
        self._judge(session)

    def starves(self) -> None:
        """In a child, as Python itself lacks memory then: refused, and right later."""

        def work() -> int:
            session = engine.Session(self.graph, threads=2)
            session.pack_tokens = MANY
            taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (taken + (4 << 20), resource.RLIM_INFINITY))
            refused = 0
            for _ in range(3):
                try:
                    self.wrong(session, 1, 0)
                except EngineError:
                    refused += 1
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
            session.pack_tokens = 128
            return min(3 - refused + self.wrong(session, 5, 0), 9)

        self.faults["children that failed"] += ended(child(work)) != 0
        self.done["lacks of memory"] += 1

    def replaces(self) -> None:
        place = self.random.integers(len(self.sessions))
        self.sessions[place] = engine.Session(
            self.graph, threads=int(self.random.choice(self.threads))
        )
        self.done["sessions"] += 1
        self._judge(self.sessions[place])

    # --- for how long ---
    def turns(self, ways: list[str], seconds: float) -> None:
        """All of them in turn, as often as there is time for."""
        end, turn = time.monotonic() + seconds, 0
        while time.monotonic() < end or turn < len(ways):
            faulthandler.dump_traceback_later(PATIENCE, exit=True)
            getattr(self, ways[turn % len(ways)])()
            turn += 1
        faulthandler.cancel_dump_traceback_later()

    def taken(self) -> Taken:
        """With no session: each may map files of the cache, or have copies of its own."""
        self.sessions.clear()
        found = Taken.now()
        self.sessions = self._fresh()
        return found


def run(soak: Soak, ways: list[str], minutes: float) -> tuple[str, bool]:
    """The line that says what was done, and whether all of it was right."""
    soak.turns(ways, 60 * minutes * WARM)
    before = soak.taken()
    soak.turns(ways, 60 * minutes * (1 - WARM))
    after = soak.taken()
    soak.faults["memory that has grown"] += after.memory > before.memory + GROWTH
    soak.faults["threads that are left"] += after.threads > before.threads
    soak.faults["files that are left"] += after.files > before.files
    done = ", ".join(f"{count} {what}" for what, count in soak.done.items())
    faults = ", ".join(f"{count} {what}" for what, count in soak.faults.items())
    grown = (after.memory - before.memory) / (1 << 20)
    line = (
        f"soak, {minutes:g} minutes: {done}; {faults}; memory {grown:+.1f} MiB,"
        f" threads {after.threads - before.threads:+d}, files {after.files - before.files:+d}"
    )
    return line, not any(soak.faults.values())


def stop(*_: object) -> None:
    raise Stop


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=WAYS, action="append", help="may be given again")
    parser.add_argument("--threads", type=int, action="append", help="of sessions: 1, 2 and 3")
    parser.add_argument("--model", help="a model of the BERT family with ids up to 99 and more")
    chosen = parser.parse_args(arguments)
    signal.signal(signal.SIGALRM, stop)
    graph = models.read(chosen.model) if chosen.model else tiny_graph()
    soak = Soak(graph, chosen.threads or [1, 2, 3], chosen.seed)
    line, right = run(soak, chosen.only or list(WAYS), chosen.minutes)
    sys.stdout.write(line + "\n")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
