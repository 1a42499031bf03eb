"""A few thousand mutated models and configurations; and every one that ever failed, again."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.attempt import FINE, KINDS
from tests.fuzz.run import Outcome, chunks, failures, table, tried

SEEDS = Path(__file__).parent / "regressions" / "seeds.txt"
COUNTS = {"ir": 900, "original": 350, "onnx": 350, "configuration": 400}


def seeds() -> list[tuple[str, int]]:
    """Kind and seed of each line, what was wrong behind them."""
    lines = [line.partition("#")[0].split() for line in SEEDS.read_text().splitlines()]
    return [(kind, int(seed)) for kind, seed in filter(None, lines)]


@pytest.mark.parametrize("kind", KINDS)
def test_mutations_are_refused_or_right(kind: str) -> None:
    outcomes = list(tried(kind, range(COUNTS[kind])))
    assert len(outcomes) == COUNTS[kind]
    assert not failures(outcomes), table(outcomes)
    refused = sum(outcome.found == "refused" for outcome in outcomes)
    assert 0.2 < refused / len(outcomes) < 0.99, "too few of them break something, or too few run"


@pytest.mark.parametrize("kind", KINDS)
def test_what_once_failed(kind: str) -> None:
    outcomes = list(tried(kind, [seed for each, seed in seeds() if each == kind]))
    assert not failures(outcomes), "\n".join(map(str, failures(outcomes)))


def test_the_table_counts_every_outcome() -> None:
    outcomes = [Outcome("ir", 0, "refused", "", 3), Outcome("onnx", 1, "signal 11", "")]
    assert failures(outcomes) == outcomes[1:]
    text = table(outcomes)
    assert "signal 11" in text and "most memory of one mutation: 3 MB" in text
    assert text.splitlines()[-2].split() == ["all", "1", "0", "1", "0", "2"]


def test_chunks_are_all_seeds_once() -> None:
    found = [
        (kind, seed)
        for kind, first, count in chunks(3000, 7)
        for seed in range(first, first + count)
    ]
    assert len(found) == len(set(found)) == 3000
    assert {kind for kind, _ in found} == set(KINDS)
    assert set(FINE).isdisjoint({"raw", "differs", "reference refuses", "no place", "memory"})
