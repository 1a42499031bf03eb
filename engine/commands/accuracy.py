"""`engine accuracy`: classify labelled sentences and count what is right."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict

import numpy as np

import engine

from ..accuracy import classify, read_sentences, scores

__all__ = ["add_arguments", "main"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="ONNX file or IR folder")
    parser.add_argument("--dataset", required=True, help=".npz of token ids, masks and labels")
    parser.add_argument("--batch_size", type=int, default=8, help="sentences a call (8)")
    parser.add_argument("--sentences", type=int, default=0, help="only the first so many; 0: all")
    parser.add_argument("--threads", type=int, default=1, help="cores (1)")
    parser.add_argument("--json", action="store_true", help="as one JSON object")


def main(arguments: argparse.Namespace) -> int:
    sentences = read_sentences(arguments.dataset, arguments.sentences)
    session = engine.load(arguments.model, threads=arguments.threads)
    logits, seconds = classify(
        lambda feed: np.asarray(session.run(feed)["logits"]), sentences, arguments.batch_size
    )
    found = scores(logits, sentences["labels"])
    if arguments.json:
        record = {**asdict(found), "sentences": len(logits), "seconds": seconds}
        sys.stdout.write(json.dumps(record) + "\n")
        return 0
    sys.stdout.write(
        f"Accuracy {found.accuracy:.4f}, F1 {found.f1:.4f}, {len(logits)} sentences in"
        f" {seconds:.2f} s\n"
    )
    return 0
