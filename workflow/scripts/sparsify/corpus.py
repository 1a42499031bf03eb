"""The sentences a teacher is fine-tuned on and a student distilled on, as one TSV without leaks.

Columns: sentence, label (0, 1, or -1 for none), source. Sources: `train` (labelled task data),
`rotten_tomatoes` (labelled, the embedded train split), `imdb` (unlabelled sentences) and
`augmented` (unlabelled variants of the first two). A second TSV holds the development rows: one
Rotten Tomatoes row in twenty, on which checkpoints may be compared, and which nothing learns from.
"""

import argparse
import hashlib
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from workflow.rulebook.writing import run_main, whole
from workflow.scripts.fetch.sentences import (
    Row,
    SentencesError,
    embedded_split,
    imdb_sentences,
    leak_free,
    normalise,
    read_tsv,
)

SOURCES = ("train", "rotten_tomatoes", "imdb", "augmented")


def is_development(text: str) -> bool:
    """One text in twenty, disjoint from `is_held_out` (which takes remainders 0 and 10)."""
    return int(hashlib.sha256(normalise(text).encode()).hexdigest(), 16) % 20 == 11


def labelled(source: str) -> tuple[list[Row], list[Row]]:
    """(train, validation) rows of `embedded`, of a folder of TSV files, or of a hub data set.

    A folder holds train.tsv and validation.tsv with the columns sentence and label. A hub data
    set is written `hub:name` or `hub:name:configuration`, for example `hub:glue:sst2`.
    """
    if source == "embedded":
        return [], []  # the Rotten Tomatoes rows are taken in any case
    if source.startswith("hub:"):
        from datasets import load_dataset

        splits = load_dataset(*source.split(":")[1:])
        train, validation = (
            [(row["sentence"].strip(), row["label"]) for row in splits[split]]
            for split in ("train", "validation")
        )
        return train, validation
    return read_tsv(Path(source) / "train.tsv"), read_tsv(Path(source) / "validation.tsv")


def augment(rows: Sequence[Row], *, copies: int, seed: int) -> list[Row]:
    """Unlabelled variants: one word in six masked or replaced, and one in three spliced.

    A splice is the first half of one row and the second half of another (Tang et al. 2019 sample
    n-grams for the same end: the teacher is asked about sentences nobody wrote).
    """
    chance = random.Random(seed)
    vocabulary = [word for text, _ in rows for word in text.split()]
    variants = []
    for _ in range(copies):
        for text, _ in rows:
            words = text.split()
            if len(words) >= 4 and chance.random() < 1 / 3:
                other = chance.choice(rows)[0].split()
                words = words[: len(words) // 2 + 1] + other[len(other) // 2 :]
            for place in range(len(words)):
                if chance.random() < 1 / 6:
                    masked = chance.random() < 0.5
                    words[place] = "[MASK]" if masked else chance.choice(vocabulary)
            variants.append((" ".join(words), -1))
    return variants


def unique(rows: Sequence[Row]) -> list[Row]:
    """First row of each text; texts that occur with two labels are dropped altogether."""
    labels: dict[str, set[int]] = {}
    for text, label in rows:
        labels.setdefault(text, set()).add(label)
    kept = {text: label for text, label in rows if len(labels[text]) == 1}
    return list(kept.items())


def build(
    source: str, *, imdb: int, longest: int, copies: int, limit: int, seed: int
) -> tuple[list[tuple[str, int, str]], list[Row]]:
    """(corpus rows with their source, development rows); `limit` 0 means all labelled rows."""
    train, validation = labelled(source)
    held_out = [text for text, _ in validation + embedded_split("validation")]
    tomatoes = unique(leak_free(embedded_split("train"), held_out))
    development = [row for row in tomatoes if is_development(row[0])]
    protected = held_out + [text for text, _ in development]
    tomatoes = leak_free(tomatoes, protected)
    train = leak_free(unique(train), protected)
    chance = random.Random(seed)
    if limit:
        train = chance.sample(train, min(limit, len(train)))
        tomatoes = chance.sample(tomatoes, min(limit, len(tomatoes)))
    reviews = [(text, -1) for text in imdb_sentences() if 2 <= text.count(" ") < longest]
    reviews = leak_free(chance.sample(reviews, min(imdb, len(reviews))), protected)
    # Rotten Tomatoes rows are whole sentences, as the task is; train is mostly phrases
    variants = augment(train, copies=copies, seed=seed)
    variants += augment(tomatoes, copies=4 * copies, seed=seed + 1)
    parts = zip(SOURCES, (train, tomatoes, reviews, leak_free(variants, protected)), strict=True)
    corpus = [(text, label, source) for source, rows in parts for text, label in rows]
    return corpus, development


def write_rows(path: Path, header: Sequence[str], rows: Sequence[tuple]) -> None:
    """A TSV; written under another name first, so that a killed run leaves no half of one."""
    lines = ["\t".join(header)] + ["\t".join(map(str, row)) for row in rows]
    with whole(path) as partial:
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_corpus(path: Path) -> list[tuple[str, int, str]]:
    """Rows (sentence, label, source) of a corpus written by this module."""
    rows = []
    lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    for number, line in enumerate(lines[1:], start=2):
        fields = line.split("\t")
        if len(fields) != 3 or fields[1] not in ("-1", "0", "1") or fields[2] not in SOURCES:
            raise SentencesError(f"{path}, line {number}: expected sentence, label, source")
        rows.append((fields[0], int(fields[1]), fields[2]))
    return rows


def main(a: argparse.Namespace) -> None:
    corpus, development = build(
        a.labelled, imdb=a.imdb, longest=a.longest, copies=a.copies, limit=a.limit, seed=a.seed
    )
    write_rows(a.corpus, ("sentence", "label", "source"), corpus)
    write_rows(a.development, ("sentence", "label"), development)
    sources = Counter(source for _, _, source in corpus)
    print(f"{a.corpus}: {dict(sources)}; {a.development}: {len(development)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--labelled", required=True, help="embedded, a folder, or hub:name:config")
    parser.add_argument("--imdb", type=int, default=0, help="number of unlabelled IMDB sentences")
    parser.add_argument("--longest", type=int, default=40, help="most words of an IMDB sentence")
    parser.add_argument("--copies", type=int, default=0, help="augmented variants of each row")
    parser.add_argument("--limit", type=int, default=0, help="labelled rows per source, 0 = all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--development", type=Path, required=True)
    run_main(main, parser, SentencesError)
