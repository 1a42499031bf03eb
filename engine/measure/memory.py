"""Memory of instances side by side: what each adds to the machine, counted as PSS.

PSS (proportional set size, Linux) divides a page by the number of processes that map it, so the sum
over processes is what they take together.  An instance is a process with a session that has run
once; an interpreter is a process with the engine and one loaded kernel (LLVM is up), and no model.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import EngineError, InputError
from .feeds import made_up

__all__ = ["Memory", "measure"]

ROLLUP = Path("/proc/self/smaps_rollup")


@dataclass(frozen=True)
class Memory:
    """Bytes; instances and interpreters: the PSS of each."""

    model: str
    weights: int  # model.bin, or the ONNX file
    arenas: tuple[int, ...]
    instances: tuple[int, ...]
    interpreters: tuple[int, ...]

    @property
    def shared(self) -> float:
        """Instances less interpreters and arenas, in copies of the weights."""
        own = sum(self.instances) - sum(self.interpreters) - sum(self.arenas)
        return own / self.weights


def measure(model: str, *, instances: int, batch_size: int = 1, seq_len: int = 128) -> Memory:
    """Start the processes, and as many empty ones, wait until all have run once, and ask each for
    its PSS while all are there: pages of other programs count alike for both.

    Raises:
        EngineError: a process failed; its message.
        InputError: this system does not tell PSS.
    """
    if not ROLLUP.exists():
        raise InputError(f"{ROLLUP}: not here; memory is measured on Linux")
    job = {"model": model, "batch_size": batch_size, "seq_len": seq_len}
    found = _ask([*[job] * instances, *[{"model": ""}] * instances])
    loaded, empty = found[:instances], found[instances:]
    path = Path(model)
    files = [path / "model.bin"] if path.is_dir() else [path]
    return Memory(
        model,
        sum(file.stat().st_size for file in files),
        tuple(row["arena"] for row in loaded),
        tuple(row["pss"] for row in loaded),
        tuple(row["pss"] for row in empty),
    )


def _ask(jobs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    pipe, command = subprocess.PIPE, [sys.executable, "-m", __name__]
    started = [
        subprocess.Popen([*command, json.dumps(job)], stdin=pipe, stdout=pipe, text=True)
        for job in jobs
    ]
    try:
        for process in started:
            _line(process)
        found = []
        for process in started:  # all are alive: what is shared is shared by all
            assert process.stdin is not None, "the process was started with a pipe"
            process.stdin.write("\n")
            process.stdin.flush()
            found.append(_line(process))
        return found
    finally:
        for process in started:
            process.kill()
            process.wait()


def _line(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None, "the process was started with a pipe"
    text = process.stdout.readline()
    found: dict[str, Any] = json.loads(text) if text else {"error": "it ended without a word"}
    if "error" in found:
        raise EngineError(f"instance: {found['error']}")
    return found


# --- in an instance ---
def _serve(job: dict[str, Any]) -> None:
    import engine
    from engine.codegen import isa
    from engine.kernels import kernel

    session = engine.load(job["model"], threads=1) if job["model"] else None
    if session is None:
        kernel(isa.chosen(), "prepare")
    else:
        session.run(made_up(session.graph, job["batch_size"], job["seq_len"]))
    sys.stdout.write("{}\n")
    sys.stdout.flush()
    sys.stdin.readline()
    arena = 0 if session is None else session.arena_bytes
    sys.stdout.write(json.dumps({"pss": _pss(), "arena": arena}) + "\n")
    sys.stdout.flush()
    sys.stdin.readline()


def _pss() -> int:
    for line in ROLLUP.read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"{ROLLUP} has no line Pss")


if __name__ == "__main__":
    try:
        _serve(json.loads(sys.argv[1]))
    except EngineError as error:
        sys.stdout.write(json.dumps({"error": str(error)}) + "\n")
