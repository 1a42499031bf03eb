"""Examples as tokens, read for a measurement: what a model is fed, and what is right."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import InputError
from engine.measure.accuracy import NEEDED, read_arrays, sample
from workflow.scripts.fetch.examples import Example, read_examples


@dataclass(frozen=True)
class Examples:
    """Of each array the rows that were chosen; several rows may belong to one example."""

    arrays: dict[str, np.ndarray]  # input_ids, ...: (rows, length)
    rows: np.ndarray  # (rows,): the example of each, counted from 0
    labels: np.ndarray  # (examples, ...), empty where the texts say what is right
    texts: tuple[Example, ...]
    of: int  # so many there were
    drawn: str
    seed: int

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def subset(self) -> dict[str, Any] | None:
        """For a record of the result."""
        if len(self) == self.of:
            return None
        return {"of": self.of, "drawn": self.drawn, "seed": self.seed}


def read_tokenized(tokens: Path, texts: Path, kind: str, count: int = 0, seed: int = 0) -> Examples:
    """`count` of the examples, or all if it is 0 or there are fewer: of classes each its share.

    Raises:
        InputError: not files that belong together.
    """
    examples = read_examples(texts, kind)
    labelled = ("labels",) if kind != "question-answering" else ()
    arrays = read_arrays(tokens, (*NEEDED, "examples", *labelled))
    rows, labels = arrays.pop("examples"), arrays.pop("labels", np.zeros((len(examples), 0)))
    if len(labels) != len(examples) or rows.shape != arrays["input_ids"].shape[:1]:
        raise InputError(
            f"{tokens}: {len(rows)} rows of {len(labels)} examples; {texts} has {len(examples)}"
        )
    by_label = kind == "text-classification"
    chosen = sample(labels if by_label else np.zeros(len(examples)), count, seed)
    kept = np.isin(rows, chosen)
    return Examples(
        arrays={name: array[kept] for name, array in arrays.items()},
        rows=np.searchsorted(chosen, rows[kept]),
        labels=labels[chosen],
        texts=tuple(examples[i] for i in chosen),
        of=len(examples),
        drawn="by label" if by_label else "at random",
        seed=seed,
    )
