"""Sentences to token ids: an .npz with input_ids, attention_mask, token_type_ids, labels.

Arrays are int64 (sentences, longest sentence), padded at the end; labels int64 (sentences,).
"""

import argparse
from pathlib import Path

import numpy as np

from workflow.scripts.labelled import Labelled, read_labelled
from workflow.scripts.writing import StepError, run_main, whole


def tokenize(model: Path, rows: list[Labelled], max_length: int) -> dict[str, np.ndarray]:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
    except (OSError, ValueError) as error:
        raise StepError(f"{model}: no usable tokenizer ({error})") from error
    tokens = tokenizer(
        [row.sentence for row in rows],
        [row.second or "" for row in rows] if rows[0].second is not None else None,
        truncation=True,
        max_length=max_length,
        padding="longest",
        return_token_type_ids=True,
        return_tensors="np",
    )
    names = ("input_ids", "attention_mask", "token_type_ids")
    arrays = {name: np.asarray(tokens[name], np.int64) for name in names}
    return {**arrays, "labels": np.array([row.label for row in rows], np.int64)}


def main(arguments: argparse.Namespace) -> None:
    arrays = tokenize(arguments.model, read_labelled(arguments.sentences), arguments.max_length)
    with whole(arguments.out) as partial:
        np.savez_compressed(partial, **arrays)
    lengths = arrays["attention_mask"].sum(1)
    print(
        f"{arguments.out}: {len(lengths)} sentences,"
        f" {lengths.mean():.1f} tokens, up to {lengths.max()}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("model", "sentences", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--max-length", type=int, required=True)
    run_main(main, parser)
