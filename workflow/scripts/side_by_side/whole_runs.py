"""What only a process of its own shows: start, memory, allocations, padding, two cores; and what a
model says of more of them.

Times are the shortest of some runs, in turns with what they are compared to.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import EngineError
from engine.machine import topology
from engine.measure.instances import Load, Measurement, measure, split_cores
from engine.measure.peaks import barrier_seconds, bytes_from_memory
from engine.measure.profile import profile
from engine.measure.scaling import CoreFacts, Server, latency, observed, rate
from workflow.rulebook.command_line import add_options
from workflow.rulebook.provenance import run_record
from workflow.rulebook.writing import StepError, run_main, write_json

LENGTH = 128
BATCH = 32
ROUNDS = 3
ROUNDS_OF_CORES = 8  # a neighbour on one core of two disturbs for seconds
CORES = (1, 2, 4, 8, 16, 32, 64, 128)
# A socket of an AMD EPYC 9004 (its data sheet): 8 cores to a cache, 12 channels of DDR5-4800.
CORES_A_CACHE, CORES_A_SOCKET, SERVER_CACHE, SOCKET_BYTES = 8, 64, 32 << 20, 460.8e9


# --- start: a new process loads the model and answers once ---


def start(model: str, cache: str) -> dict[str, Any]:
    """Seconds from the process' begin to its first answer, by its own words."""
    done = subprocess.run(
        [sys.executable, "-m", "workflow.scripts.side_by_side.first_answer", model],
        env={**os.environ, **({"ENGINE_CACHE": cache} if cache else {})},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise StepError(f"{model}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def starts(model: str) -> dict[str, Any]:
    """Cold: nothing compiled; warm: the shortest of some. Memory after a batch of 32."""
    with tempfile.TemporaryDirectory() as cache:
        cold = start(model, cache)
        warm = [start(model, cache) for _ in range(ROUNDS)]
    shortest = min(warm, key=lambda found: found["seconds"])
    return {"cold_seconds": cold["seconds"], "warm_seconds": shortest["seconds"], **shortest}


# --- padding: sentences as they are against sentences that fill the batch ---


def padding(model: str, dataset: str, threads: int = 1) -> dict[str, Any]:
    """Sentences a second of real sentences padded to 128, and of as many full ones."""
    import engine

    session = engine.load(model, threads=threads)
    with np.load(dataset) as content:
        ids, mask = content["input_ids"].astype(np.int64), content["attention_mask"]
    ids, mask = (np.pad(a, ((0, 0), (0, LENGTH)))[:, :LENGTH] for a in (ids, mask))
    full = np.resize(ids[mask == 1], ids.shape)
    real_seconds, full_seconds = [], []
    for _ in range(ROUNDS):
        real_seconds.append(_seconds(session, ids, mask.astype(np.int64)))
        full_seconds.append(_seconds(session, full, np.ones_like(full)))
    return {
        "sentences": len(ids),
        "mean_tokens": float(mask.sum(1).mean()),
        "padded_sentences_per_s": len(ids) / min(real_seconds),
        "full_sentences_per_s": len(ids) / min(full_seconds),
        "ratio": min(full_seconds) / min(real_seconds),
    }


def _seconds(session: Any, ids: np.ndarray, mask: np.ndarray) -> float:
    names = {value.name for value in session.graph.inputs}
    began = time.perf_counter()
    for first in range(0, len(ids), BATCH):
        rows = slice(first, first + BATCH)
        feed = {"input_ids": ids[rows], "attention_mask": mask[rows]}
        if "token_type_ids" in names:
            feed["token_type_ids"] = np.zeros_like(ids[rows])
        session.run(feed)
    return time.perf_counter() - began


# --- two cores ---


def two_cores(model: str, dataset: str, iterations: int) -> dict[str, Any]:
    """One sentence on both cores; two instances of one core; each against one core."""
    if len(os.sched_getaffinity(0)) < 2:
        return {}
    shapes = {"one": (1, 1), "both": (2, 1), "two": (1, 2)}  # cores of an instance, instances
    found: dict[str, list[Measurement]] = {name: [] for name in shapes}
    load = Load(model, iterations=iterations, warmup=20, dataset=dataset)
    for _ in range(ROUNDS_OF_CORES):
        for name, (cores, instances) in shapes.items():
            split = split_cores(cores, instances=instances)
            found[name].append(measure(load, split, jemalloc=False))
    least = {name: min(m.milliseconds.min() for m in runs) for name, runs in found.items()}
    rate = {name: max(m.sentences_per_second for m in runs) for name, runs in found.items()}
    return {
        "one_core_ms": float(least["one"]),
        "two_cores_ms": float(least["both"]),
        "time_ratio": float(least["both"] / least["one"]),
        "one_instance_per_s": rate["one"],
        "two_instances_per_s": rate["two"],
        "rate_ratio": rate["two"] / rate["one"],
    }


# --- more cores, by a model ---


def scaling(model: str) -> dict[str, Any]:
    """What a sentence of LENGTH tokens takes on so many cores, and instances of one and of four."""
    import engine
    from engine.measure.instance_worker import make_feeds

    cpus = topology.usable()
    if len(cpus) < 2:
        return {}
    session = engine.load(model, threads=1)
    feed = make_feeds(Load(model, seq_len=LENGTH), session.graph, count=1)[0]
    whole = observed(session, profile(session, feed, iterations=200))
    cache = topology.read().of(cpus[0]).cache_bytes or SERVER_CACHE
    core = CoreFacts(bytes_from_memory(cache), barrier_seconds((cpus[0], cpus[1])))
    server = Server(core, CORES_A_CACHE, cache, CORES_A_SOCKET, SOCKET_BYTES)
    rows = [
        {
            "cores": cores,
            "ms": 1e3 * latency(whole, server, cores) if cores <= CORES_A_SOCKET else None,
            "per_s": rate(whole, server, cores),
            "per_s_of_fours": rate(whole, server, cores // 4, 4) if cores >= 4 else None,
        }
        for cores in CORES
    ]
    return {
        "cpu_model": engine.isa.cpu_model(),
        "isa": session.isa.name,
        "server": asdict(server),
        "weight_bytes": whole.weight_bytes,
        "arena_bytes": whole.arena_bytes,
        "rows": rows,
    }


def main(arguments: argparse.Namespace) -> None:
    model, dataset = str(arguments.model), arguments.dataset
    record: dict[str, Any] = {"model": arguments.name, "start": starts(model)}
    if dataset:
        record["padding"] = padding(model, dataset)
    record["two_cores"] = two_cores(model, dataset, arguments.iterations)
    record["scaling"] = scaling(model)
    write_json(arguments.out, {**record, **run_record([arguments.model])})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser, name=str, model=Path, out=Path)
    parser.add_argument("--dataset", default="", help=".npz of token ids; else nothing is padded")
    parser.add_argument("--iterations", type=int, default=5000)
    run_main(main, parser, EngineError)
