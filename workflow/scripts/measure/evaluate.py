"""Accuracy of the engine on labelled sentences, and its agreement with ONNX Runtime.

The same batches go through the engine, ONNX Runtime on the same ONNX file, and ONNX Runtime on the
fp32 model. Agreement is the share of sentences that get the same class.
"""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import EngineError
from engine.measure.accuracy import (
    Classifier,
    agreement,
    classify,
    logits_of,
    read_sentences,
    scores,
)
from workflow.rulebook.command_line import add_options
from workflow.rulebook.provenance import run_record
from workflow.rulebook.writing import read_json, run_main, write_json

OPTIONS: dict[str, Any] = {"batch_size": int, "sentences": int, "seed": int}

# --- engines ---


def engine_run(path: Path, threads: int) -> Classifier:
    import engine

    session = engine.load(str(path), threads=threads)
    logits = logits_of([value.name for value in session.graph.outputs])
    return Classifier(session.graph.inputs, lambda feed: np.asarray(session.run(feed)[logits]))


def onnxruntime_run(path: Path, threads: int) -> Classifier:
    import onnx

    from workflow.scripts.convert.onnx_inputs import inputs_of
    from workflow.scripts.convert.onnx_runtime import session

    runtime = session(path, threads=threads)
    inputs = inputs_of(onnx.load(path, load_external_data=False).graph)
    logits = logits_of([value.name for value in runtime.get_outputs()])
    return Classifier(inputs, lambda feed: np.asarray(runtime.run([logits], feed)[0]))


def main(arguments: argparse.Namespace) -> None:
    import engine

    sentences = read_sentences(arguments.validation, arguments.sentences, arguments.seed)
    size, threads, labels = arguments.batch_size, arguments.threads, sentences.labels
    logits, seconds = classify(engine_run(arguments.ir, threads), sentences, size)
    same_file, _ = classify(onnxruntime_run(arguments.onnx, threads), sentences, size)
    fp32, _ = classify(onnxruntime_run(arguments.fp32, threads), sentences, size)
    result = {
        "task": arguments.task,
        "precision": arguments.precision,
        **asdict(scores(logits, labels)),
        "sentences": len(labels),
        "subset": sentences.subset,
        "seconds": seconds,
        "batch_size": size,
        "threads": threads,
        "agreement_onnxruntime_same_file": agreement(logits, same_file),
        "agreement_fp32": agreement(logits, fp32),
        "accuracy_onnxruntime_same_file": scores(same_file, labels).accuracy,
        "accuracy_fp32": scores(fp32, labels).accuracy,
        "model": read_json(arguments.model / "source.json"),
        "dataset": read_json(arguments.dataset),
        "engine": {"name": "engine", "version": engine.__version__, **engine.isa.describe()},
        "run": run_record(
            [arguments.onnx, arguments.fp32, arguments.validation],
            {"accuracy": {name: getattr(arguments, name) for name in OPTIONS}},
        ),
    }
    write_json(arguments.out, result)
    print(
        f"{arguments.out}: accuracy {result['accuracy']:.4f},"
        f" {len(labels)} sentences, {seconds:.1f} s"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser, task=str, precision=str, ir=Path, onnx=Path, fp32=Path, model=Path)
    add_options(parser, validation=Path, dataset=Path, out=Path, threads=int, **OPTIONS)
    run_main(main, parser, EngineError)
