"""Mutations by the thousand, in children; a table at the end.

    python -m tests.fuzz.run N [SEED] [FOLDER]

Kinds take turns in chunks, on all cores.  Each finished chunk is kept in FOLDER (results/fuzz), so
what was stopped goes on; the exit status is 1 where anything failed.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.fuzz.attempt import FINE, KINDS
from tests.fuzz.child import MOST_SECONDS

__all__ = ["Outcome", "failures", "main", "table", "tried"]

HANG = f"hang of {MOST_SECONDS} s"
CHUNK = 250
PATIENCE = 60  # seconds without a word: stuck without using the processor
SHARES = {"ir": 4, "original": 2, "onnx": 3, "configuration": 1}


@dataclass(frozen=True)
class Outcome:
    """What became of a mutation."""

    kind: str
    seed: int
    found: str
    what: str
    megabytes: int = 0


def tried(kind: str, seeds: Sequence[int]) -> Iterator[Outcome]:
    """The outcomes, in order; a child that dies is told and replaced.  What takes too long is tried
    twice: the first time it may have compiled kernels that nobody had asked for.
    """
    left, again = list(seeds), -1
    while left:
        for outcome in child(kind, left):
            if outcome.found == HANG and outcome.seed != again:
                again = outcome.seed
                break
            yield outcome
            left.remove(outcome.seed)


def child(kind: str, seeds: Sequence[int]) -> Iterator[Outcome]:
    command = [sys.executable, "-m", "tests.fuzz.child", kind, ",".join(map(str, seeds))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    begun: int | None = None
    for line in lines_of(process):
        said = json.loads(line)
        if isinstance(said, list):
            yield Outcome(kind, *said)
            begun = None
        elif isinstance(said, int):
            begun = said
    status = process.wait()
    if begun is not None:
        yield Outcome(kind, begun, ended_by(status), f"exit status {status}")
    elif status:
        raise RuntimeError(f"{' '.join(command)} ended with {status} between mutations")


def lines_of(process: subprocess.Popen[bytes]) -> Iterator[str]:
    assert process.stdout is not None
    rest = b""
    while True:
        ready, _, _ = select.select([process.stdout], [], [], PATIENCE)
        if not ready:
            process.kill()
        piece = os.read(process.stdout.fileno(), 1 << 16)
        if not piece:
            return
        *whole, rest = (rest + piece).split(b"\n")
        yield from (line.decode() for line in whole)


def ended_by(status: int) -> str:
    if status == -signal.SIGPROF:
        return HANG
    return "stuck" if status == -signal.SIGKILL else f"signal {-status}" if status < 0 else "exit"


def failures(outcomes: list[Outcome]) -> list[Outcome]:
    return [outcome for outcome in outcomes if outcome.found not in FINE]


def table(outcomes: list[Outcome]) -> str:
    """A row for each class, a column for each kind, and the most memory."""
    counts = Counter((outcome.found, outcome.kind) for outcome in outcomes)
    classes = sorted({outcome.found for outcome in outcomes}, key=lambda c: (c not in FINE, c))
    rows = [["", *KINDS, "all"]]
    for found in classes:
        row = [counts[found, kind] for kind in KINDS]
        rows.append([found, *map(str, row), str(sum(row))])
    total = [sum(counts[found, kind] for found in classes) for kind in KINDS]
    rows.append(["all", *map(str, total), str(len(outcomes))])
    most = max((outcome.megabytes for outcome in outcomes), default=0)
    lines = ["".join(f"{cell:>18}" for cell in row) for row in rows]
    return "\n".join([*lines, f"most memory of one mutation: {most} MB"])


# --- many ---
def chunks(count: int, seed: int) -> list[tuple[str, int, int]]:
    """Kind, first seed and number, kinds in turn."""
    whole = sum(SHARES.values())
    parts = {
        kind: range(seed, seed + round(count * share / whole), CHUNK)
        for kind, share in SHARES.items()
    }
    listed = [
        (kind, first, min(CHUNK, part.stop - first))
        for kind, part in parts.items()
        for first in part
    ]
    return sorted(listed, key=lambda chunk: (chunk[1], chunk[0]))


def chunk_outcomes(folder: Path, chunk: tuple[str, int, int]) -> list[Outcome]:
    """From the file if it was tried before."""
    path = folder / "{}-{}-{}.jsonl".format(*chunk)
    if not path.exists():
        part = path.with_suffix(".part")
        with part.open("w", buffering=1) as file:
            for outcome in tried(chunk[0], range(chunk[1], chunk[1] + chunk[2])):
                file.write(json.dumps(asdict(outcome)) + "\n")
        part.rename(path)
    return [Outcome(**json.loads(line)) for line in path.read_text().splitlines()]


def main(count: int, seed: int = 0, folder: Path = Path("results/fuzz")) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    outcomes: list[Outcome] = []
    workers = int(os.environ.get("FUZZ_WORKERS", "0")) or len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(workers) as pool:
        for made in pool.map(lambda chunk: chunk_outcomes(folder, chunk), chunks(count, seed)):
            outcomes += made
            for outcome in failures(made):
                sys.stdout.write(f"{outcome}\n")
                sys.stdout.flush()
    sys.stdout.write(table(outcomes) + "\n")
    return 1 if failures(outcomes) else 0


if __name__ == "__main__":
    first_seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    kept = Path(sys.argv[3]) if len(sys.argv) > 3 else Path("results/fuzz")
    sys.exit(main(int(sys.argv[1]), first_seed, kept))
