"""Accuracy of the engine on labelled sentences, and its agreement with ONNX Runtime.

The same batches go through the engine, ONNX Runtime on the same ONNX file, and ONNX Runtime on the
fp32 model. Agreement is the share of sentences that get the same class.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from workflow.scripts.provenance import run_record
from workflow.scripts.writing import read_json, run_main, write_json

Feed = dict[str, np.ndarray]
Run = Callable[[Feed], np.ndarray]  # int64 (batch, length) each -> logits (batch, classes)

INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def batches(arrays: dict[str, np.ndarray], batch_size: int) -> Iterator[Feed]:
    """Sentences in file order, each batch padded to its own longest."""
    for start in range(0, len(arrays["labels"]), batch_size):
        rows = slice(start, start + batch_size)
        longest = arrays["attention_mask"][rows].sum(1).max()
        yield {name: arrays[name][rows, :longest] for name in INPUTS}


def classify(run: Run, arrays: dict[str, np.ndarray], batch_size: int) -> tuple[np.ndarray, float]:
    """Logits of every sentence, and the seconds it took."""
    start = time.perf_counter()
    logits = np.concatenate([run(feed) for feed in batches(arrays, batch_size)])
    return logits, time.perf_counter() - start


def scores(predicted: np.ndarray, labels: np.ndarray, classes: int) -> dict[str, Any]:
    """Accuracy, F1 (of class 1 if there are two classes, else the mean over classes), confusion."""
    confusion = np.zeros((classes, classes), int)  # [label, predicted]
    np.add.at(confusion, (labels, predicted), 1)
    f1 = [_f1(confusion, c) for c in range(classes)]
    return {
        "accuracy": float(np.trace(confusion) / confusion.sum()),
        "f1": f1[1] if classes == 2 else float(np.mean(f1)),
        "confusion": confusion.tolist(),
    }


def _f1(confusion: np.ndarray, c: int) -> float:
    members = confusion[c].sum() + confusion[:, c].sum()
    return float(2 * confusion[c, c] / members) if members else 0.0


def agreement(logits: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Share of equal classes, and how far the logits are apart."""
    apart = np.abs(logits - reference)
    return {
        "same_class": float(np.mean(logits.argmax(1) == reference.argmax(1))),
        "mean_difference": float(apart.mean()),
        "max_difference": float(apart.max()),
    }


# --- engines ---


def engine_run(path: Path, threads: int) -> Run:
    import engine

    session = engine.load(str(path), threads=threads)
    return lambda feed: np.asarray(session.run(feed)["logits"])


def onnxruntime_run(path: Path, threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return lambda feed: np.asarray(session.run(["logits"], {name: feed[name] for name in names})[0])


def read_sentences(path: Path, count: int) -> dict[str, np.ndarray]:
    """The first `count` sentences, or all if it is 0."""
    with np.load(path) as file:
        return {name: file[name][: count or None] for name in (*INPUTS, "labels")}


def main(arguments: argparse.Namespace) -> None:
    import engine

    options = json.loads(arguments.options)
    arrays = read_sentences(arguments.sentences, options["sentences"])
    size, threads, labels = options["batch_size"], arguments.threads, arrays["labels"]
    logits, seconds = classify(engine_run(arguments.ir, threads), arrays, size)
    same_file, _ = classify(onnxruntime_run(arguments.onnx, threads), arrays, size)
    fp32, _ = classify(onnxruntime_run(arguments.fp32, threads), arrays, size)
    classes = max(logits.shape[1], int(labels.max()) + 1)
    result = {
        "task": arguments.task,
        "precision": arguments.precision,
        **scores(logits.argmax(1), labels, classes),
        "sentences": len(labels),
        "seconds": seconds,
        "batch_size": size,
        "threads": threads,
        "agreement_onnxruntime_same_file": agreement(logits, same_file),
        "agreement_fp32": agreement(logits, fp32),
        "accuracy_onnxruntime_same_file": scores(same_file.argmax(1), labels, classes)["accuracy"],
        "accuracy_fp32": scores(fp32.argmax(1), labels, classes)["accuracy"],
        "model": read_json(arguments.model / "source.json"),
        "dataset": read_json(arguments.dataset),
        "engine": {"name": "engine", "version": engine.__version__, **engine.isa.describe()},
        "run": run_record([arguments.onnx, arguments.fp32, arguments.sentences]),
    }
    write_json(arguments.out, result)
    print(
        f"{arguments.out}: accuracy {result['accuracy']:.4f},"
        f" {len(labels)} sentences, {seconds:.1f} s"
    )


if __name__ == "__main__":
    from engine.errors import EngineError

    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("ir", "onnx", "fp32", "model", "sentences", "dataset", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ("task", "precision", "options"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--threads", type=int, default=1)
    run_main(main, parser, EngineError)
