"""Sentences as token ids end to end, and batches of similar lengths cut by a budget of tokens.

Padding is the enemy of two cores: SST-2 phrases average 13 tokens and reach 66. Sentences are
sorted by length inside shuffled windows, so a batch pads a few per cent only.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase as Tokenizer

WINDOW = 100  # batches' worth of sentences that are sorted by length together


@dataclass(frozen=True)
class Tokens:
    """`ids` of all sentences end to end; sentence i is ids[starts[i]:starts[i + 1]]."""

    ids: np.ndarray  # (tokens,) int32
    starts: np.ndarray  # (sentences + 1,) int64

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.starts)

    def padded(self, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """(ids, mask), both int64 (rows, longest); mask is 1 where a token is."""
        lengths = self.lengths[rows]
        mask = np.arange(lengths.max()) < lengths[:, None]
        ids = np.zeros(mask.shape, dtype=np.int64)
        ids[mask] = self.ids[self.positions(rows)]
        return torch.from_numpy(ids), torch.from_numpy(mask.astype(np.int64))

    def positions(self, rows: np.ndarray) -> np.ndarray:
        """Positions in `ids` of all tokens of these rows, in the order of a padded batch."""
        lengths = self.lengths[rows]
        before = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        return np.arange(lengths.sum()) + np.repeat(self.starts[rows] - before, lengths)


def tokenise(tokenizer: Tokenizer, sentences: Sequence[str], *, longest: int) -> Tokens:
    """Token ids with [CLS] and [SEP], cut to `longest` tokens."""
    ids = tokenizer(list(sentences), truncation=True, max_length=longest)["input_ids"]
    starts = np.concatenate([[0], np.cumsum([len(row) for row in ids])]).astype(np.int64)
    flat = np.fromiter((token for row in ids for token in row), np.int32, count=starts[-1])
    return Tokens(flat, starts)


def plan_epochs(lengths: np.ndarray, *, budget: int, epochs: float, seed: int) -> list[np.ndarray]:
    """Row numbers of each batch, for all epochs; a function of its arguments alone.

    A batch holds as many rows as fit in `budget` tokens, padding counted. A fraction of an epoch
    takes that fraction of the batches.
    """
    batches: list[np.ndarray] = []
    whole, part = divmod(epochs, 1)
    for epoch in range(int(whole) + (part > 0)):
        shuffle = np.random.default_rng([seed, epoch])
        cut = _cut(shuffle.permutation(len(lengths)), lengths, budget)
        shuffle.shuffle(cut)
        batches += cut if epoch < whole else cut[: max(1, round(part * len(cut)))]
    return batches


def _cut(order: np.ndarray, lengths: np.ndarray, budget: int) -> list[np.ndarray]:
    window = max(1, int(WINDOW * budget / lengths.mean()))
    batches = []
    for start in range(0, len(order), window):
        rows = order[start : start + window]
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        first = 0
        for last, length in enumerate(lengths[rows]):
            if (last - first + 1) * length > budget and last > first:
                batches.append(rows[first:last])
                first = last
        batches.append(rows[first:])
    return batches
