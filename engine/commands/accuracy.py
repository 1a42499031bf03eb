"""`engine accuracy`: classify labelled sentences and count what is right."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict

import numpy as np

import engine

from ..accuracy import Feed, classify, read_sentences, read_text, scores
from ..errors import SettingError
from ..feeds import taken

__all__ = ["add_arguments", "main"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", help="ONNX file or IR folder")
    parser.add_argument("--config", help="conf.yaml, in place of the model")
    parser.add_argument("--weight", help="model.bin, where it is not beside conf.yaml")
    parser.add_argument(
        "--dataset", required=True, help=".npz of token ids, masks and labels, or .tsv of text"
    )
    parser.add_argument("--tokenizer", help="folder of the tokenizer, for text")
    parser.add_argument("--seq_len", type=int, default=128, help="text is cut here (128)")
    parser.add_argument("--batch_size", type=int, default=8, help="sentences a call (8)")
    parser.add_argument("--sentences", type=int, default=0, help="only the first so many; 0: all")
    parser.add_argument("--threads", type=int, default=1, help="cores (1)")
    parser.add_argument("--json", action="store_true", help="as one JSON object")


def main(arguments: argparse.Namespace) -> int:
    model = arguments.model or arguments.config
    if model is None:
        raise SettingError("accuracy: a model is needed, or --config and --weight")
    sentences = _sentences(arguments)
    session = engine.load(model, threads=arguments.threads, weight=arguments.weight)
    logits = session.graph.outputs[0].name

    def run(feed: Feed) -> np.ndarray:
        return np.asarray(session.run(taken(session.graph, feed))[logits])

    made, seconds = classify(run, sentences, arguments.batch_size)
    found = scores(made, sentences["labels"])
    if arguments.json:
        record = {**asdict(found), "sentences": len(made), "seconds": seconds}
        sys.stdout.write(json.dumps(record) + "\n")
        return 0
    sys.stdout.write(
        f"Accuracy {found.accuracy:.4f}, F1 {found.f1:.4f}, {len(made)} sentences in"
        f" {seconds:.2f} s\n"
    )
    return 0


def _sentences(arguments: argparse.Namespace) -> Feed:
    if arguments.dataset.endswith(".npz"):
        return read_sentences(arguments.dataset, arguments.sentences)
    if arguments.tokenizer is None:
        raise SettingError(f"{arguments.dataset} is text: --tokenizer names its tokenizer's folder")
    return read_text(arguments.dataset, arguments.tokenizer, arguments.seq_len, arguments.sentences)
