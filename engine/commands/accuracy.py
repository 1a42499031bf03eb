"""`engine accuracy`: classify labelled sentences and count what is right."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from dataclasses import asdict

import numpy as np

import engine

from ..errors import SettingError
from ..measure.accuracy import (
    Classifier,
    Sentences,
    classify,
    logits_of,
    read_sentences,
    read_text,
    scores,
)
from ..measure.feeds import Feed

__all__ = ["add_arguments", "main"]

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", help="ONNX file or IR folder")
    parser.add_argument("--config", help="conf.yaml, in place of the model")
    parser.add_argument("--weight", help="model.bin, where it is not beside conf.yaml")
    parser.add_argument(
        "--dataset", required=True, help=".npz of token ids, masks, labels; .tsv or .jsonl of text"
    )
    parser.add_argument("--tokenizer", help="folder of the tokenizer, for text")
    parser.add_argument("--seq_len", type=int, default=128, help="text is cut here (128)")
    parser.add_argument("--batch_size", type=int, default=8, help="sentences a call (8)")
    parser.add_argument(
        "--sentences", type=int, default=0, help="only so many, drawn by label; 0: all"
    )
    parser.add_argument("--seed", type=int, default=0, help="of that draw (0)")
    parser.add_argument("--threads", type=int, default=1, help="cores (1)")
    parser.add_argument("--json", action="store_true", help="as one JSON object")


def main(arguments: argparse.Namespace) -> int:
    model = arguments.model or arguments.config
    if model is None:
        raise SettingError("accuracy: a model is needed, or --config and --weight")
    for name, least in (("batch_size", 1), ("seq_len", 3), ("sentences", 0), ("seed", 0)):
        if getattr(arguments, name) < least:
            raise SettingError(f"--{name} {getattr(arguments, name)}: expected {least} or more")
    sentences = _sentences(arguments)
    session = engine.load(model, threads=arguments.threads, weight=arguments.weight)
    logits = logits_of([value.name for value in session.graph.outputs])

    def run(feed: Feed) -> np.ndarray:
        return np.asarray(session.run(feed)[logits])

    classifier = Classifier(session.graph.inputs, run)
    made, seconds = classify(classifier, sentences, arguments.batch_size)
    found = scores(made, sentences.labels)
    _say_what_is_missing(sentences, made.shape[1])
    if arguments.json:
        counted = {"sentences": len(made), "subset": sentences.subset, "seconds": seconds}
        record = {**asdict(found), **counted}
        sys.stdout.write(json.dumps(record) + "\n")
        return 0
    sys.stdout.write(
        f"Accuracy {found.accuracy:.4f}, F1 {found.f1:.4f}, {len(made)} sentences"
        f"{_drawn(sentences)} in {seconds:.2f} s\n"
    )
    return 0


def _drawn(sentences: Sentences) -> str:
    if sentences.subset is None:
        return ""
    return f" (of {sentences.of}, drawn by label, seed {sentences.seed})"


def _say_what_is_missing(sentences: Sentences, classes: int) -> None:
    missing = sorted(set(range(classes)) - set(sentences.labels.tolist()))
    if missing:
        names = ", ".join(map(str, missing))
        log.warning("no sentence has the label %s, of the model's %d classes", names, classes)


def _sentences(arguments: argparse.Namespace) -> Sentences:
    count, seed = arguments.sentences, arguments.seed
    if arguments.dataset.endswith(".npz"):
        return read_sentences(arguments.dataset, count, seed)
    if arguments.tokenizer is None:
        raise SettingError(f"{arguments.dataset} is text: --tokenizer names its tokenizer's folder")
    return read_text(arguments.dataset, arguments.tokenizer, arguments.seq_len, count, seed)
