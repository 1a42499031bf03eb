"""Engines side by side on one model: every round gives each of them its turn on the same core.

One process per engine stays alive for all shapes (contender.py), in the environment that has the
engine; the peaks of the core are measured in the same turns. An engine that fails is
left out and named in the record.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from engine.measure.instance_worker import make_feeds
from engine.measure.instances import Load
from workflow.rulebook.command_line import add_options
from workflow.rulebook.provenance import run_record
from workflow.rulebook.tables import write_table
from workflow.rulebook.writing import StepError, run_main, write_json

CONTENDER = "workflow.scripts.side_by_side.contender"
SHAPES = ((1, 128), (8, 128), (32, 128), (1, 25), (1, 64))  # batch, length
VOCABULARY = 30000  # of the random model
FEWEST_CALLS = 2


@dataclass(frozen=True)
class Contender:
    """A row of the tables: module of contenders/, environment of PEERS_HOME, key of its model."""

    name: str
    precision: str
    module: str
    model: str
    environment: str = ""


CONTENDERS = (
    Contender("engine", "int8", "engine", "int8"),
    Contender("engine", "bf16", "engine", "bf16"),
    Contender("engine", "fp32", "engine", "fp32"),
    Contender("ITREX sparse", "int8", "itrex", "itrex_sparse", "itrex"),
    Contender("ITREX dense", "int8", "itrex", "itrex_dense", "itrex"),
    Contender("DeepSparse", "int8", "deepsparse", "deepsparse_int8", "ds"),
    Contender("DeepSparse", "fp32", "deepsparse", "deepsparse_fp32", "ds"),
    Contender("OpenVINO", "int8", "openvino", "int8"),
    Contender("ONNX Runtime", "int8", "onnxruntime", "int8"),
    Contender("ONNX Runtime, exact", "int8", "exact_onnxruntime", "int8"),
    Contender("ONNX Runtime", "fp32", "onnxruntime", "fp32"),
    Contender("PyTorch", "fp32", "torch", "torch"),
)
PEAK = Contender("peak", "", "peak", "int8")


@dataclass
class Server:
    """A contender's process, and what it said."""

    contender: Contender
    model: str
    process: subprocess.Popen[str]
    failed: str = ""
    logits: list[float] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    ms: list[float] = field(default_factory=list)
    turns: list[dict[str, Any]] = field(default_factory=list)  # shortest call, peaks after it

    def ask(self, **order: Any) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(order) + "\n")
            self.process.stdin.flush()
            answer = json.loads(self.process.stdout.readline() or '{"failed": "its process ended"}')
        except BrokenPipeError:
            answer = {"failed": "its process ended"}
        self.failed = answer.get("failed", "")
        return answer


def start(contender: Contender, model: str, peers: str, cores: int, log: Path) -> Server:
    python = f"{peers}/{contender.environment}/bin/python" if contender.environment else ""
    variables = {"OMP_NUM_THREADS": str(cores), "GLOG_minloglevel": "2"}
    with log.open("a") as errors:
        process = subprocess.Popen(
            [
                python or sys.executable,
                "-m",
                "workflow.scripts.side_by_side.contender",
                contender.module,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, **variables},
        )
    return Server(contender, model, process)


# --- what they are given ---


def write_feed(path: Path, batch: int, length: int, dataset: str) -> None:
    """Full sentences: real tokens end to end, or random ones for the random model."""
    shape = (batch, length)
    if dataset:
        load = Load("", batch_size=batch, seq_len=length, dataset=dataset)
        feed = make_feeds(load, count=1)[0]
    else:
        ids = np.random.default_rng(0).integers(0, VOCABULARY, shape)
        feed = {
            "input_ids": ids,
            "attention_mask": np.ones(shape, np.int64),
            "token_type_ids": np.zeros(shape, np.int64),
        }
    np.savez(path, **feed)


# --- the turns ---


def measure_shape(
    servers: Sequence[Server], feed: Path, threads: int, rounds: int, seconds: float
) -> None:
    """Fills `ms` of every server that can do the shape."""
    cpus = sorted(os.sched_getaffinity(0))[:threads]
    for server in servers:
        server.ms, server.turns = [], []
        answer = server.ask(prepare=server.model, feed=str(feed), threads=threads, cpus=cpus)
        server.logits, server.facts = answer.get("logits", []), answer.get("facts", {})
    able = [server for server in servers if not server.failed]
    for number in range(rounds):
        for server in able[number % len(able) :] + able[: number % len(able)]:
            answer = server.ask(seconds=seconds, calls=FEWEST_CALLS)
            server.ms += answer.get("ms", [])
            if "peaks" in answer:
                server.turns.append({"ms": min(answer["ms"]), "peaks": answer["peaks"]})


def row(name: str, server: Server, batch: int, length: int, threads: int) -> dict[str, Any]:
    contender, times = server.contender, np.array(server.ms)
    return {
        "model": name,
        "contender": contender.name,
        "precision": contender.precision,
        "version": server.facts.get("version", ""),
        "batch": batch,
        "length": length,
        "threads": threads,
        "min_ms": f"{times.min():.4f}",
        "p50_ms": f"{np.median(times):.4f}",
        "calls": len(times),
        "logits": " ".join(f"{value:.4f}" for value in server.logits),
    }


def compare(arguments: argparse.Namespace) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    models = models_of(arguments)
    wanted = [
        contender
        for contender in CONTENDERS
        if contender.model in models and (arguments.peers or not contender.environment)
    ]
    servers = [
        start(c, models.get(c.model, ""), arguments.peers, arguments.threads, arguments.engines_log)
        for c in (PEAK, *wanted)
    ]
    table: list[dict[str, Any]] = []
    record: dict[str, Any] = {"shapes": [], "failed": {}}
    try:
        with tempfile.TemporaryDirectory() as folder:
            for batch, length in arguments.shapes:
                feed = Path(folder) / "feed.npz"
                write_feed(feed, batch, length, arguments.dataset)
                measure_shape(servers, feed, arguments.threads, arguments.rounds, arguments.seconds)
                note(servers, batch, length, record)
                for server in servers[1:]:
                    if server.ms:
                        table.append(row(arguments.name, server, batch, length, arguments.threads))
                        say(table[-1])
    finally:
        for server in servers:
            server.process.kill()
            server.process.wait()
    return table, record


def note(servers: Sequence[Server], batch: int, length: int, record: dict[str, Any]) -> None:
    """The peaks after all turns, the multiply-adds needed, and who could not do it."""
    peaks = servers[0].ask(facts=True).get("facts", {})
    counting = [server for server in servers if "macs" in server.facts]
    counts = {
        name: {server.contender.precision: server.facts[name] for server in counting}
        for name in ("macs", "done")
    }
    turns = {server.contender.precision: server.turns for server in servers if server.turns}
    shape = {"batch": batch, "length": length, "peaks": peaks.get("rates", {}), "turns": turns}
    record["shapes"].append({**shape, **counts})
    record["cpu_model"], record["isa"] = peaks.get("cpu_model", ""), peaks.get("isa", "")
    for server in servers:
        if server.failed:
            key = f"{server.contender.name} {server.contender.precision} {batch}x{length}"
            record["failed"][key] = server.failed
            say(f"{key}: {server.failed}")


def models_of(arguments: argparse.Namespace) -> dict[str, str]:
    """Key of CONTENDERS -> path, of the models that are given."""
    given = {each.model: getattr(arguments, f"model_{each.model}") for each in CONTENDERS}
    return {key: path for key, path in given.items() if path}


def say(line: object) -> None:
    print(line, flush=True)


def _shape(text: str) -> tuple[int, int]:
    batch, _, length = text.partition("x")
    if not (batch.isdecimal() and length.isdecimal()):
        raise StepError(f"shape {text}: expected batch x length, as 8x128")
    return int(batch), int(length)


def main(arguments: argparse.Namespace) -> None:
    arguments.shapes = [_shape(text) for text in arguments.shapes.split()]
    table, record = compare(arguments)
    if not table:
        raise StepError(f"no engine could run {arguments.name}: {record['failed']}")
    files = map(Path, models_of(arguments).values())
    run = run_record([file for file in files if file.is_file()])
    write_json(arguments.run, {"name": arguments.name, **record, **run})
    write_table(arguments.table, pd.DataFrame(table))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser, name=str, table=Path, run=Path, engines_log=Path)
    for key in sorted({each.model for each in CONTENDERS}):
        parser.add_argument(f"--model-{key.replace('_', '-')}", default="")
    parser.add_argument("--dataset", default="", help=".npz of token ids; else random ones")
    parser.add_argument("--peers", default="", help="folder with the peers' environments")
    parser.add_argument("--shapes", default=" ".join(f"{b}x{n}" for b, n in SHAPES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=0.12, help="of a turn")
    run_main(main, parser)
