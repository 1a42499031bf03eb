"""Accuracy of teacher, dense and sparse student, and the zeros of each encoder Linear, as JSON."""

import argparse
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from workflow.rulebook.writing import run_main, write_json
from workflow.scripts.fetch.sentences import Row, SentencesError, embedded_split, read_tsv
from workflow.scripts.sparsify.batches import tokenise
from workflow.scripts.sparsify.blocks import BLOCKS, encoder_linears, zero_share
from workflow.scripts.sparsify.corpus import labelled
from workflow.scripts.sparsify.teacher import accuracy


def splits(source: str, development: Path) -> dict[str, list[Row]]:
    """Rows nothing was trained on: embedded validation, development, the task's validation."""
    found = {"embedded_validation": embedded_split("validation")}
    found["development"] = read_tsv(development)
    validation = labelled(source)[1]
    return found | ({"validation": validation} if validation else {})


def score(folder: Path, rows: dict[str, list[Row]], *, longest: int) -> dict[str, float]:
    """Accuracy in fp32 of the model in a folder, for each split."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    result = {}
    for name, split in rows.items():
        tokens = tokenise(tokenizer, [text for text, _ in split], longest=longest)
        right = accuracy(model, tokens, np.array([label for _, label in split]))
        result[name] = round(right, 5)
    return result


def zeros(model: torch.nn.Module, pattern: str) -> dict[str, float]:
    """Share of zero blocks of each encoder Linear."""
    return {n: round(zero_share(m.weight, pattern), 6) for n, m in encoder_linears(model)}


def main(a: argparse.Namespace) -> None:
    rows = splits(a.labelled, a.development)
    folders = {"teacher": a.teacher, "dense": a.dense, "sparse": a.sparse}
    sparse = AutoModelForSequenceClassification.from_pretrained(a.sparse)
    result = {
        "accuracy": {n: score(f, rows, longest=a.longest) for n, f in folders.items() if f},
        "sentences": {name: len(split) for name, split in rows.items()},
        "pattern": a.pattern,
        "zero_blocks": zeros(sparse, a.pattern),
    }
    write_json(a.output, result)
    print(result["accuracy"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--labelled", required=True, help="embedded, a folder, or hub:name:config")
    parser.add_argument("--development", type=Path, required=True, help="TSV of the corpus rule")
    parser.add_argument("--teacher", type=Path)
    parser.add_argument("--dense", type=Path)
    parser.add_argument("--sparse", type=Path, required=True)
    parser.add_argument("--pattern", choices=BLOCKS, default="4x1")
    parser.add_argument("--longest", type=int, default=64, help="tokens of a sentence")
    parser.add_argument("--output", type=Path, required=True)
    run_main(main, parser, SentencesError, OSError)
