"""How right the engine is on a task's examples, and how far it agrees with ONNX Runtime.

The same batches go through the engine, ONNX Runtime on the same ONNX file, and ONNX Runtime on the
fp32 model. What is counted says metrics.py.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import EngineError, ModelError
from engine.graph import Value
from engine.measure.accuracy import batches, class_names
from engine.measure.feeds import Feed
from engine.measure.labelled import are_names
from workflow.rulebook.command_line import add_options
from workflow.rulebook.provenance import run_record
from workflow.rulebook.writing import read_json, run_main, write_json
from workflow.scripts.measure.metrics import MEASURED, Said, agreement
from workflow.scripts.measure.tokenized import Examples, read_tokenized

OPTIONS: dict[str, Any] = {"batch_size": int, "sentences": int, "seed": int}

# --- engines ---


@dataclass(frozen=True)
class Model:
    """`run` takes the inputs and returns the outputs that the task asks for."""

    inputs: Sequence[Value]
    run: Callable[[Feed], list[np.ndarray]]


def engine_model(path: Path, threads: int, wanted: Sequence[str]) -> Model:
    import engine

    session = engine.load(str(path), threads=threads)
    names = outputs_of(path, [value.name for value in session.graph.outputs], wanted)

    def run(feed: Feed) -> list[np.ndarray]:
        made = session.run(feed)
        return [np.asarray(made[name]) for name in names]

    return Model(session.graph.inputs, run)


def onnxruntime_model(path: Path, threads: int, wanted: Sequence[str]) -> Model:
    import onnx

    from workflow.scripts.convert.onnx_inputs import inputs_of
    from workflow.scripts.convert.onnx_runtime import session

    runtime = session(path, threads=threads)
    inputs = inputs_of(onnx.load(path, load_external_data=False).graph)
    names = outputs_of(path, [value.name for value in runtime.get_outputs()], wanted)
    return Model(inputs, lambda feed: runtime.run(names, feed))


def outputs_of(path: Path, names: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """Those that are called as wanted, or else the first."""
    if set(wanted) <= set(names):
        return list(wanted)
    if len(names) < len(wanted):
        raise ModelError(f"{path}: has {', '.join(names)}; expected {', '.join(wanted)}")
    return list(names[: len(wanted)])


# --- runs ---


def outputs(
    model: Model, examples: Examples, batch_size: int, *, by_token: bool
) -> tuple[list[np.ndarray], float]:
    """Of all rows, in their order, and the seconds it took; those by token are 0 behind a batch's
    longest row.

    Raises:
        ModelError: numbers that are not finite.
    """
    start = time.perf_counter()
    made = [model.run(feed) for feed in batches(examples.arrays, batch_size, model.inputs)]
    seconds = time.perf_counter() - start
    length = examples.arrays["input_ids"].shape[1]
    if by_token:
        made = [[_padded(part, length) for part in parts] for parts in made]
    whole = [np.concatenate(parts) for parts in zip(*made, strict=True)]
    for array in whole:
        bad = ~np.isfinite(array.reshape(len(array), -1)).all(1)
        if bad.any():
            raise ModelError(f"results of row {int(bad.argmax())} are not finite")
    return whole, seconds


def _padded(part: np.ndarray, length: int) -> np.ndarray:
    """(rows, tokens, ...) to (rows, length, ...)"""
    if part.ndim < 2 or part.shape[1] > length:
        raise ModelError(f"outputs are {part.shape}; expected (rows, tokens, ...)")
    return np.pad(part, [(0, 0), (0, length - part.shape[1]), *[(0, 0)] * (part.ndim - 2)])


def names_of(model: Path, called: Sequence[str]) -> Sequence[str]:
    """Of the classes: the model's, or the data's where the model has none."""
    names = class_names(model)
    return names if are_names(names) or not called else called


def main(arguments: argparse.Namespace) -> None:
    import engine

    kind, size, threads = MEASURED[arguments.kind], arguments.batch_size, arguments.threads
    examples = read_tokenized(
        arguments.validation,
        arguments.examples,
        arguments.kind,
        arguments.sentences,
        arguments.seed,
    )
    dataset = read_json(arguments.dataset)
    names = names_of(arguments.model, dataset["labels"])

    def said_by(model: Model) -> tuple[Said, float]:
        made, seconds = outputs(model, examples, size, by_token=kind.by_token)
        return kind.said(made, examples), seconds

    said, seconds = said_by(engine_model(arguments.ir, threads, kind.outputs))
    same_file, _ = said_by(onnxruntime_model(arguments.onnx, threads, kind.outputs))
    fp32, _ = said_by(onnxruntime_model(arguments.fp32, threads, kind.outputs))
    scores, *others = (kind.scores(each, examples, names) for each in (said, same_file, fp32))
    result = {
        "task": arguments.task,
        "kind": arguments.kind,
        "precision": arguments.precision,
        "metric": kind.metric,
        "value": scores[kind.metric],
        **scores,
        "sentences": len(examples),
        "subset": examples.subset,
        "seconds": seconds,
        "batch_size": size,
        "threads": threads,
        "agreement_onnxruntime_same_file": agreement(said, same_file),
        "agreement_fp32": agreement(said, fp32),
        **_of_others(kind.metric, *others),
        "model": read_json(arguments.model / "source.json"),
        "dataset": dataset,
        "engine": {"name": "engine", "version": engine.__version__, **engine.isa.describe()},
        "run": run_record(
            [arguments.onnx, arguments.fp32, arguments.validation],
            {"accuracy": {name: getattr(arguments, name) for name in OPTIONS}},
        ),
    }
    write_json(arguments.out, result)
    print(
        f"{arguments.out}: {kind.metric} {result['value']:.4f},"
        f" {len(examples)} examples, {seconds:.1f} s"
    )


def _of_others(metric: str, same_file: dict[str, Any], fp32: dict[str, Any]) -> dict[str, float]:
    """The same score of ONNX Runtime's results, by its name and as value."""
    runs = {"onnxruntime_same_file": same_file, "fp32": fp32}
    return {
        f"{key}_{run}": run_scores[metric]
        for run, run_scores in runs.items()
        for key in (metric, "value")
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser, task=str, kind=str, precision=str, ir=Path, onnx=Path, fp32=Path)
    add_options(parser, model=Path, validation=Path, examples=Path, dataset=Path, out=Path)
    add_options(parser, threads=int, **OPTIONS)
    run_main(main, parser, EngineError)
