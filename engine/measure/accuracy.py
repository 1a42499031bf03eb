"""Accuracy of a classifier on labelled sentences: batches, classes, scores, agreement of two runs.

Sentences are an .npz of int64 arrays: input_ids, attention_mask, token_type_ids (sentences, length)
and labels (sentences,); or a .tsv with a header or a .jsonl, `sentence`, `label` and for pairs
`sentence2` in it, and a tokenizer. A part of them is each label's share, drawn at random: files are
often sorted.
"""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, ModelError
from ..graph import Value
from .feeds import Feed, of_sentences
from .labelled import classes_of, read_table

__all__ = [
    "Classifier",
    "Scores",
    "Sentences",
    "agreement",
    "batches",
    "class_names",
    "classify",
    "logits_of",
    "read_arrays",
    "read_sentences",
    "read_text",
    "sample",
    "scores",
]

NEEDED = ("input_ids", "attention_mask")


@dataclass(frozen=True)
class Scores:
    """F1 is that of class 1 where there are two classes, else the mean over classes."""

    accuracy: float
    f1: float
    confusion: tuple[tuple[int, ...], ...]  # [label][predicted]


@dataclass(frozen=True)
class Sentences:
    """Token ids and classes; `of`: how many there were, `seed`: what those chosen were drawn by."""

    arrays: Feed  # input_ids, attention_mask, ...: (sentences, length)
    labels: np.ndarray  # int64 (sentences,)
    of: int
    seed: int

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def subset(self) -> dict[str, Any] | None:
        """For a record of the result."""
        if len(self) == self.of:
            return None
        return {"of": self.of, "drawn": "by label", "seed": self.seed}


@dataclass(frozen=True)
class Classifier:
    """`run` takes the inputs and returns logits (batch, classes)."""

    inputs: Sequence[Value]
    run: Callable[[Feed], np.ndarray]


# --- sentences ---


def read_sentences(path: str | Path, count: int = 0, seed: int = 0) -> Sentences:
    """Of an .npz; `count` of them, or all if it is 0 or there are fewer.

    Raises:
        InputError: not such a file; a label that is no class, a mask that is no mask.
    """
    arrays = read_arrays(path, (*NEEDED, "labels"))
    labels = arrays.pop("labels")
    mask = arrays["attention_mask"]
    if labels.shape != mask.shape[:1] or labels.dtype.kind not in "iu":
        raise InputError(
            f"{path}: labels are {labels.dtype} {labels.shape}; expected whole numbers, as many as"
            f" there are sentences, {len(mask)}"
        )
    if labels.min() < 0:
        row = int(np.argmax(labels < 0))
        raise InputError(f"{path}: label {row} is {labels[row]}; expected 0 or more")
    rows = sample(labels, count, seed)
    chosen = {name: array[rows] for name, array in arrays.items()}
    return Sentences(chosen, labels[rows].astype(np.int64), len(labels), seed)


def read_arrays(path: str | Path, needed: Sequence[str] = NEEDED) -> Feed:
    """The arrays of an .npz of sentences: `needed`, and all but labels of (sentences, length).

    Raises:
        InputError: names the file, what was found and what was expected.
    """
    try:
        with np.load(path) as file:
            arrays = {name: file[name] for name in dict.fromkeys((*needed, *file.files))}
    except Exception as error:  # of numpy, zipfile, zlib, tokenize: whatever they meet in a file
        raise InputError(f"{path}: expected an .npz with {', '.join(needed)} ({error})") from error
    ids, mask = (arrays[name] for name in NEEDED)
    others = {"labels", *needed} - set(NEEDED)
    shapes = {
        name: x.shape for name, x in arrays.items() if name not in others and x.ndim == ids.ndim
    }
    shapes |= {name: arrays[name].shape for name in NEEDED}
    kept = {name: x for name, x in arrays.items() if name in needed or name in shapes}
    if ids.ndim != 2 or len(set(shapes.values())) > 1 or ids.dtype.kind not in "iu" or not len(ids):
        raise InputError(
            f"{path}: input_ids are {ids.dtype}, shapes {shapes}; expected whole numbers and"
            " (sentences, length), all alike"
        )
    if not np.isin(mask, (0, 1)).all() or not mask.any(1).all():
        raise InputError(f"{path}: attention_mask has other values than 0 and 1, or a row of zeros")
    return kept


def sample(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Rows in their order: `count` of them, each label's share as near as can be, at random."""
    if count <= 0 or count >= len(labels):
        return np.arange(len(labels))
    _, classes, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    shares = sizes * count / len(labels)
    taken = np.floor(shares).astype(int)
    taken[np.argsort(taken - shares, kind="stable")[: count - taken.sum()]] += 1
    random = np.random.default_rng(seed)
    drawn = [
        random.permutation(np.flatnonzero(classes == c))[:size] for c, size in enumerate(taken)
    ]
    return np.sort(np.concatenate(drawn))


def read_text(
    path: str | Path, tokenizer: str | Path, seq_len: int, count: int = 0, seed: int = 0
) -> Sentences:
    """The same from a .tsv as GLUE has it, or from JSON lines with such keys; sentences longer than
    seq_len tokens are cut.

    Raises:
        InputError: see `labelled`; no tokenizer in that folder, or no package that reads it.
    """
    table = read_table(path)
    texts, words = table.words("sentence"), table.words("label")
    names, lines = class_names(Path(tokenizer)), range(table.first, len(words) + table.first)
    labels = np.array(classes_of(words, names, where=str(path), lines=lines), np.int64)
    rows = sample(labels, count, seed)
    seconds = table.words("sentence2") if "sentence2" in table.header else None
    parts = [[column[row] for row in rows] for column in (texts, seconds) if column is not None]
    return Sentences(_tokens(path, tokenizer, parts, seq_len), labels[rows], len(labels), seed)


def class_names(folder: Path) -> tuple[str, ...]:
    """As the config.json of a model's folder has them; () where it has none."""
    path = folder / "config.json"
    if not path.is_file():
        return ()
    try:
        names = json.loads(path.read_text(encoding="utf-8")).get("id2label") or {}
        return tuple(str(names[str(number)]) for number in range(len(names)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: id2label: {error}; expected a name for each of 0, 1, ...") from (
            error
        )


def _tokens(path: str | Path, tokenizer: str | Path, parts: list[list[str]], seq_len: int) -> Feed:
    try:
        transformers = importlib.import_module("transformers")
    except ImportError as error:
        raise InputError(
            f"{path}: text is split by transformers, which is not installed: pip install"
            " 'sparse-engine[workflow]', or give an .npz of token ids"
        ) from error
    try:
        split = transformers.AutoTokenizer.from_pretrained(str(tokenizer))
        split.padding_side = "right"  # a token's position is then that of the sentence alone
        tokens = split(
            *parts, padding=True, truncation=True, max_length=seq_len, return_tensors="np",
            return_token_type_ids=True,
        )  # fmt: skip
    except Exception as error:  # tokenizers has no type of its own for what it cannot read
        raise InputError(f"{tokenizer}: no tokenizer: {' '.join(str(error).split())}") from error
    return {name: array.astype(np.int64) for name, array in tokens.items()}


# --- runs ---


def batches(sentences: Feed, batch_size: int, inputs: Sequence[Value]) -> Iterator[Feed]:
    """Sentences in file order, each batch cut behind its last token; one by one and without padding
    where the model has no mask to know it by.
    """
    masked = any(value.name == "attention_mask" for value in inputs)
    mask = sentences["attention_mask"]
    for start in range(0, len(mask), batch_size if masked else 1):
        rows = slice(start, start + batch_size if masked else start + 1)
        used = mask[rows].any(0)
        columns = slice(int(np.flatnonzero(used)[-1]) + 1) if masked else used
        yield of_sentences(
            inputs, {name: array[rows, columns] for name, array in sentences.items()}
        )


def classify(model: Classifier, sentences: Sentences, batch_size: int) -> tuple[np.ndarray, float]:
    """Logits (sentences, classes), and the seconds it took.

    Raises:
        ModelError: what the model returns are no finite logits of two classes or more.
    """
    start = time.perf_counter()
    made = [model.run(feed) for feed in batches(sentences.arrays, batch_size, model.inputs)]
    seconds = time.perf_counter() - start
    logits = np.concatenate(made)
    if logits.ndim != 2 or len(logits) != len(sentences) or logits.shape[1] < 2:
        raise ModelError(
            f"outputs are {logits.shape} for {len(sentences)} sentences; expected (sentences,"
            " classes), of two classes or more"
        )
    if not np.isfinite(logits).all():
        row = int(np.argmin(np.isfinite(logits).all(1)))
        raise ModelError(f"logits of sentence {row} are {logits[row]}; expected finite numbers")
    return logits, seconds


def logits_of(names: Sequence[str]) -> str:
    """Of a model's outputs, the one that is called so, or else the first."""
    return "logits" if "logits" in names else names[0]


def scores(logits: np.ndarray, labels: np.ndarray) -> Scores:
    """Raises InputError: labels that the model has no class for."""
    classes = logits.shape[1]
    if labels.max() >= classes:
        found = ", ".join(map(str, np.unique(labels)))
        known = ", ".join(map(str, range(classes)))
        raise InputError(f"labels are {found}; the model has the classes {known}")
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
    """Share of sentences that get the same class, and how far the logits are apart.

    Raises:
        ModelError: the two models have different classes.
    """
    if logits.shape != reference.shape:
        raise ModelError(f"logits are {logits.shape}, those compared with {reference.shape}")
    apart = np.abs(logits - reference)
    return {
        "same_class": float(np.mean(logits.argmax(1) == reference.argmax(1))),
        "mean_difference": float(apart.mean()),
        "max_difference": float(apart.max()),
    }
