"""Accuracy of a classifier on labelled token ids: batches, classes, scores, agreement of two runs.

Sentences are an .npz of int64 arrays: input_ids, attention_mask, token_type_ids (sentences, length)
and labels (sentences,); or a .tsv with a head, `sentence` and `label` in it, and a tokenizer.
"""

from __future__ import annotations

import csv
import importlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .errors import InputError

__all__ = ["Scores", "agreement", "batches", "classify", "read_sentences", "read_text", "scores"]

Feed = dict[str, np.ndarray]
Run = Callable[[Feed], np.ndarray]  # int64 (batch, length) each -> logits (batch, classes)

INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@dataclass(frozen=True)
class Scores:
    """F1 is that of class 1 where there are two classes, else the mean over classes."""

    accuracy: float
    f1: float
    confusion: tuple[tuple[int, ...], ...]  # [label][predicted]


def read_sentences(path: str | Path, count: int = 0) -> Feed:
    """The first `count` sentences and their labels, or all if it is 0."""
    names = (*INPUTS, "labels")
    try:
        with np.load(path) as file:
            return {name: file[name][: count or None] for name in names}
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: expected an .npz with {', '.join(names)} ({error})") from error


def read_text(path: str | Path, tokenizer: str | Path, seq_len: int, count: int = 0) -> Feed:
    """The same from a .tsv as GLUE has it; sentences longer than seq_len tokens are cut.

    Raises:
        InputError: no such columns, no tokenizer in that folder, or no package that reads it.
    """
    texts, labels = _columns(Path(path), count)
    try:
        transformers = importlib.import_module("transformers")
    except ImportError as error:
        raise InputError(
            f"{path}: text is split by transformers, which is not installed: pip install"
            " 'engine[workflow]', or give an .npz of token ids"
        ) from error
    try:
        split = transformers.AutoTokenizer.from_pretrained(str(tokenizer))
    except (OSError, ValueError) as error:
        raise InputError(f"{tokenizer}: no tokenizer: {str(error).splitlines()[0]}") from error
    tokens = split(texts, padding=True, truncation=True, max_length=seq_len, return_tensors="np")
    found = {name: tokens[name].astype(np.int64) for name in INPUTS if name in tokens}
    found.setdefault("token_type_ids", np.zeros_like(found["input_ids"]))
    return {**found, "labels": np.array(labels, np.int64)}


def _columns(path: Path, count: int) -> tuple[list[str], list[int]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
        rows = rows[: count or None]
        return [row["sentence"] for row in rows], [int(row["label"]) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: expected lines of `sentence` and `label`, tabs between ({error})"
        ) from error


def batches(sentences: Feed, batch_size: int) -> Iterator[Feed]:
    """Sentences in file order, each batch cut to its own longest."""
    for start in range(0, len(sentences["labels"]), batch_size):
        rows = slice(start, start + batch_size)
        longest = sentences["attention_mask"][rows].sum(1).max()
        yield {name: sentences[name][rows, :longest] for name in INPUTS}


def classify(run: Run, sentences: Feed, batch_size: int) -> tuple[np.ndarray, float]:
    """Logits of every sentence, and the seconds it took."""
    start = time.perf_counter()
    logits = np.concatenate([run(feed) for feed in batches(sentences, batch_size)])
    return logits, time.perf_counter() - start


def scores(logits: np.ndarray, labels: np.ndarray) -> Scores:
    classes = max(logits.shape[1], int(labels.max()) + 1)
    confusion = np.zeros((classes, classes), int)
    np.add.at(confusion, (labels, logits.argmax(1)), 1)
    f1 = [_f1(confusion, c) for c in range(classes)]
    return Scores(
        accuracy=float(np.trace(confusion) / confusion.sum()),
        f1=f1[1] if classes == 2 else float(np.mean(f1)),
        confusion=tuple(tuple(map(int, row)) for row in confusion),
    )


def _f1(confusion: np.ndarray, c: int) -> float:
    members = confusion[c].sum() + confusion[:, c].sum()
    return float(2 * confusion[c, c] / members) if members else 0.0


def agreement(logits: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Share of sentences that get the same class, and how far the logits are apart."""
    apart = np.abs(logits - reference)
    return {
        "same_class": float(np.mean(logits.argmax(1) == reference.argmax(1))),
        "mean_difference": float(apart.mean()),
        "max_difference": float(apart.max()),
    }
