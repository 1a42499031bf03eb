"""One engine in a process of its own, told what to do by JSON lines on stdin; answers on stdout.

{"prepare": model, "feed": .npz, "threads": n, "cpus": [..]}  ->  {"logits": [..], "facts": {..}}
{"seconds": s, "calls": n}  ->  {"ms": [..]}: calls for that long, and at least that many, and what
    the engine's `after` adds
{"facts": true}  ->  {"facts": {..}}: once more, after the calls

Runs in the environment of its engine: it may import that, NumPy and the standard library.
"""

import importlib
import json
import os
import sys
import time
from typing import Any, TextIO

import numpy as np

WARM_UP = 3


def serve(module: Any, orders: TextIO, answers: TextIO) -> None:
    """Until the orders end; what goes wrong is an answer too."""
    prepared = None
    for line in orders:
        order = json.loads(line)
        try:
            if "prepare" in order:
                prepared, answer = _prepare(module, order)
            elif "facts" in order:
                answer = {"facts": module.facts(prepared)}
            else:
                answer = {"ms": _timed(module, prepared, order["seconds"], order["calls"])}
                if hasattr(module, "after"):
                    answer |= module.after(prepared)
        except Exception as error:  # noqa: BLE001 - whatever an engine raises
            answer = {"failed": f"{type(error).__name__}: {error}"[:300]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _prepare(module: Any, order: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    os.sched_setaffinity(0, order["cpus"])
    with np.load(order["feed"]) as content:
        feed = {name: content[name] for name in content.files}
    prepared = module.prepare(order["prepare"], order["threads"], feed)
    for _ in range(WARM_UP):
        logits = module.run(prepared)
    values = [round(float(value), 4) for value in np.ravel(logits)[:4]]
    return prepared, {"logits": values, "facts": module.facts(prepared)}


def _timed(module: Any, prepared: Any, seconds: float, calls: int) -> list[float]:
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < calls or time.perf_counter() < end:
        began = time.perf_counter()
        module.run(prepared)
        times.append((time.perf_counter() - began) * 1e3)
    return times


def main() -> None:
    """Engines print to stdout as they like: it becomes stderr, the answers get a copy of it."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    module = importlib.import_module(f"workflow.scripts.side_by_side.contenders.{sys.argv[1]}")
    serve(module, sys.stdin, answers)


if __name__ == "__main__":
    main()
