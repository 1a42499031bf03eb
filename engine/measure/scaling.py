"""How fast a model would be on more cores than there are here: a model of a call.

    latency      between barriers the slowest worker's time; and the barriers themselves
    throughput   instances times calls a second while caches hold what they use; else at most what
                 the socket's memory gives

A step's time on one worker is measured; its units are shared out as kernels/executor/sharing.py
does.  What a barrier costs two workers of one cache is measured: arrivals take a cache line from
one another in turn, so it grows with the workers.  Clocks are taken to be the same however many
cores work.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..kernels import KERNELS
from ..kernels.call import EVERYWHERE, NOWHERE
from ..kernels.context import CONTEXT
from ..runtime import Session
from .profile import Profile

__all__ = ["FAR", "CoreFacts", "Part", "Server", "Whole", "latency", "observed", "rate"]

FAR = 3.0  # times the cost of a line within a cache: from another cache of the socket (assumed)


@dataclass(frozen=True)
class Part:
    """A step of a call of one pack, on one worker."""

    seconds: float
    units: int
    alone: bool = False  # all of it is the first worker's
    tiles: int = 1
    barrier: int = NOWHERE  # behind it


@dataclass(frozen=True)
class Whole:
    """A call of one pack: its steps, what it takes beside them, what it reads."""

    parts: tuple[Part, ...]
    beside: float  # seconds: the call's begin and end, filling the pack
    weight_bytes: int  # without tables of which a call reads some rows
    arena_bytes: int


@dataclass(frozen=True)
class CoreFacts:
    """Measured here."""

    bytes_a_second: float  # of one core, from memory
    barrier_seconds: float  # of two workers that share a cache


@dataclass(frozen=True)
class Server:
    """A machine of such cores."""

    core: CoreFacts
    cores_a_cache: int
    cache_bytes: int
    cores_a_socket: int
    socket_bytes_a_second: float  # from memory

    def barrier(self, workers: int) -> float:
        """Seconds: one arrival after the other, those from other caches FAR."""
        near = min(workers, self.cores_a_cache)
        return self.core.barrier_seconds / 2 * (near + FAR * (workers - near))


def observed(session: Session, found: Profile) -> Whole:
    """What the profile of a call of one pack says (measure/profile.py), and the plan of it."""
    plan, work = session.plan, found.work
    assert plan is not None and work.packs == 1, "a call of one pack, in kernels"
    rows = plan.program(session.pack_tokens, shared=True).steps
    tiles = {CONTEXT.tiles: work.token_tiles, CONTEXT.row_tiles: work.row_tiles, 0: 1}
    parts = tuple(
        Part(
            step.seconds,
            int(row["units"]) * tiles[int(row["counted"])],
            bool(row["alone"]),
            work.token_tiles,
            int(row["barrier"]),
        )
        for step, row in zip(found.steps, rows, strict=True)
    )
    beside = max(0.0, found.seconds - sum(part.seconds for part in parts))
    weights = sum(s.weight_bytes for s in plan.steps if not KERNELS[s.kernel].looks_up)
    return Whole(parts, beside, weights, session.arena_bytes)


# --- the model ---


def latency(whole: Whole, server: Server, workers: int) -> float:
    """Seconds of a call whose one pack so many workers of a socket share."""
    if workers == 1:
        at_work = whole.beside + sum(part.seconds for part in whole.parts)
        return max(at_work, _reading(whole, server))
    spent, waited, barriers = np.zeros(workers), 0.0, 0
    for part in whole.parts:
        spent += part.seconds * _shares(part, workers)
        if part.barrier == EVERYWHERE or (part.barrier != NOWHERE and part.tiles % workers):
            barriers += bool(spent[1:].any())  # the first worker alone has nobody to wait for
            waited, spent = waited + float(spent.max()), np.zeros(workers)
    at_work = whole.beside + waited + float(spent.max()) + (barriers + 2) * server.barrier(workers)
    return max(at_work, _reading(whole, server, workers))


def _shares(part: Part, workers: int) -> NDArray[np.float64]:
    """Of each worker: what sharing.share_of gives it."""
    if part.alone or part.units == 1:
        return (np.arange(workers) == 0).astype(np.float64)
    bounds = (part.units * np.arange(workers + 1) + workers - 1) // workers
    return np.diff(bounds) / part.units


def _reading(whole: Whole, server: Server, workers: int = 1) -> float:
    """Seconds that weights take from memory, where the workers' caches do not hold them."""
    caches = -(-workers // server.cores_a_cache)
    if whole.weight_bytes + whole.arena_bytes <= caches * server.cache_bytes:
        return 0.0
    most = min(workers * server.core.bytes_a_second, server.socket_bytes_a_second)
    return whole.weight_bytes / most


def rate(whole: Whole, server: Server, instances: int, cores: int = 1) -> float:
    """Calls a second of instances side by side, filling cache by cache and socket by socket."""
    a_cache = max(1, server.cores_a_cache // cores)
    a_socket = max(1, server.cores_a_socket // cores)
    neighbours, on_socket = min(instances, a_cache), min(instances, a_socket)
    seconds = latency(whole, server, cores)
    held = whole.weight_bytes + neighbours * whole.arena_bytes  # weights are shared
    if held > server.cache_bytes * max(1, cores // server.cores_a_cache):
        most = server.socket_bytes_a_second / on_socket, cores * server.core.bytes_a_second
        seconds = max(seconds, whole.weight_bytes / min(most))
    return instances / seconds
