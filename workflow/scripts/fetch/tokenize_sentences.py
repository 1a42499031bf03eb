"""Sentences to token ids: an .npz with input_ids, attention_mask, token_type_ids, labels.

Arrays are int64 (sentences, longest sentence), padded at the end; labels int64 (sentences,), those
of the model: by name where data and model have names, else as they are numbered.
"""

import argparse
from pathlib import Path

import numpy as np

from engine.errors import EngineError
from engine.measure.labelled import classes_of
from workflow.rulebook.command_line import add_options
from workflow.rulebook.writing import StepError, read_json, run_main, whole
from workflow.scripts.fetch.labelled import Labelled, read_labelled


def class_names(model: Path) -> list[str]:
    """What the model calls its classes, in their order."""
    from transformers import AutoConfig

    try:
        names = AutoConfig.from_pretrained(model, local_files_only=True).id2label
        return [str(names[number]) for number in range(len(names))]
    except Exception as error:  # whatever transformers meets in a file
        raise StepError(f"{model}: no usable configuration of classes ({error})") from error


def tokenize(model: Path, rows: list[Labelled], max_length: int) -> dict[str, np.ndarray]:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
        tokenizer.padding_side = "right"  # a token's position is then that of the sentence alone
        tokens = tokenizer(
            [row.sentence for row in rows],
            [row.second or "" for row in rows] if rows[0].second is not None else None,
            truncation=True,
            max_length=max_length,
            padding="longest",
            return_token_type_ids=True,
            return_tensors="np",
        )
    except Exception as error:  # tokenizers has no type of its own for what it cannot read
        raise StepError(f"{model}: no usable tokenizer ({error})") from error
    return {name: np.asarray(array, np.int64) for name, array in tokens.items()}


def main(arguments: argparse.Namespace) -> None:
    rows = read_labelled(arguments.sentences, written_here=True)
    labels = classes_of(
        [row.label for row in rows],
        class_names(arguments.model),
        where=str(arguments.sentences),
        called=read_json(arguments.dataset)["labels"],
    )
    arrays = tokenize(arguments.model, rows, arguments.max_length)
    arrays["labels"] = np.array(labels, np.int64)
    with whole(arguments.out) as partial:
        np.savez_compressed(partial, **arrays)
    lengths = arrays["attention_mask"].sum(1)
    print(
        f"{arguments.out}: {len(lengths)} sentences,"
        f" {lengths.mean():.1f} tokens, up to {lengths.max()}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser, model=Path, sentences=Path, dataset=Path, max_length=int, out=Path)
    run_main(main, parser, EngineError)
