"""Examples to token ids: an .npz with input_ids, attention_mask, token_type_ids, and what its kind
of task needs.

Arrays are int64 (rows, longest row), padded at the end; `examples` (rows,) is the example that a
row belongs to, counted from 0.

text-classification    labels (rows,): those of the model, by name where data and model have names
regression             labels (rows,) float64
sentence-similarity    the first sentences, then the second ones; labels (rows / 2,) float64
token-classification   words (rows, length): which word a token begins, -1 where none;
                       labels (rows, most words), -100 behind the last
question-answering     one row or more a question: parts of the text, which overlap by a third;
                       starts, ends (rows, length): characters of the text, -1 for other tokens
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import EngineError
from engine.measure.labelled import classes_of
from workflow.rulebook.command_line import add_options
from workflow.rulebook.writing import StepError, read_json, run_main, whole
from workflow.scripts.fetch.examples import Labelled, Question, Tagged, read_examples

NO_TAG = -100
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Text:
    """Where examples are from, and what turns them into tokens of a model."""

    model: Path
    max_length: int
    where: str = ""  # the file
    called: tuple[str, ...] = ()  # the data's names for its labels 0, 1, ...


# --- the model's side ---


def class_names(model: Path) -> list[str]:
    """What the model calls its classes, in their order."""
    from transformers import AutoConfig

    try:
        names = AutoConfig.from_pretrained(model, local_files_only=True).id2label
        return [str(names[number]) for number in range(len(names))]
    except Exception as error:  # whatever transformers meets in a file
        raise StepError(f"{model}: no usable configuration of classes ({error})") from error


def tokenizer_of(model: Path, **options: Any) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True, **options)
    except Exception as error:  # tokenizers has no type of its own for what it cannot read
        raise StepError(f"{model}: no usable tokenizer ({error})") from error
    tokenizer.padding_side = "right"  # a token's position is then that of the sentence alone
    return tokenizer


def tokens_of(text: Text, tokenizer: Any, *texts: Any, **options: Any) -> Any:
    given = {"truncation": True, "max_length": text.max_length, "padding": "longest", **options}
    try:
        return tokenizer(*texts, return_token_type_ids=True, return_tensors="np", **given)
    except Exception as error:  # as above
        raise StepError(f"{text.model}: no usable tokenizer ({error})") from error


def _integers(tokens: Mapping[str, Any]) -> Arrays:
    return {name: np.asarray(array, np.int64) for name, array in tokens.items()}


def tokenize(model: Path, rows: Sequence[Labelled], max_length: int) -> Arrays:
    """A row for each sentence or pair."""
    seconds = [row.sentence2 or "" for row in rows] if rows[0].sentence2 is not None else None
    firsts = [row.sentence for row in rows]
    return _integers(tokens_of(Text(model, max_length), tokenizer_of(model), firsts, seconds))


# --- kinds of task ---


def classified(text: Text, rows: Sequence[Labelled]) -> Arrays:
    names, lines = class_names(text.model), range(1, len(rows) + 1)
    words = [row.label for row in rows]
    labels = classes_of(words, names, where=text.where, called=text.called, lines=lines)
    arrays = tokenize(text.model, rows, text.max_length)
    return {**arrays, "labels": np.array(labels, np.int64), "examples": np.arange(len(rows))}


def rated(text: Text, rows: Sequence[Labelled]) -> Arrays:
    labels = np.array([float(row.label) for row in rows])
    arrays = tokenize(text.model, rows, text.max_length)
    return {**arrays, "labels": labels, "examples": np.arange(len(rows))}


def compared(text: Text, rows: Sequence[Labelled]) -> Arrays:
    alone = [Labelled(row.sentence, row.label) for row in rows]
    alone += [Labelled(row.sentence2 or "", row.label) for row in rows]
    labels = np.array([float(row.label) for row in rows])
    arrays = tokenize(text.model, alone, text.max_length)
    return {**arrays, "labels": labels, "examples": np.tile(np.arange(len(rows)), 2)}


def tagged(text: Text, rows: Sequence[Tagged]) -> Arrays:
    words = [word for row in rows for word in row.tags]
    lines = [line for line, row in enumerate(rows, 1) for _ in row.tags]
    names = class_names(text.model)
    classes = classes_of(words, names, where=text.where, called=text.called, lines=lines)
    labels = np.full((len(rows), max(len(row.tags) for row in rows)), NO_TAG, np.int64)
    labels[np.arange(labels.shape[1]) < [[len(row.tags)] for row in rows]] = classes
    # byte-level tokenizers take a word by its space; others leave the option alone
    tokenizer = _fast(text, tokenizer_of(text.model, add_prefix_space=True))
    tokens = tokens_of(
        text, tokenizer, [list(row.tokens) for row in rows], is_split_into_words=True
    )
    begun = np.array([_begun(tokens.word_ids(row)) for row in range(len(rows))], np.int64)
    cut = int((labels != NO_TAG).sum() - (begun >= 0).sum())
    print(
        f"{len(words)} words, {cut} of them without a token: cut off, or none of the vocabulary's"
    )
    more = {"words": begun, "labels": labels, "examples": np.arange(len(rows))}
    return {**_integers(tokens), **more}


def _begun(words: Sequence[int | None]) -> list[int]:
    """The word that a token is the first of, else -1."""
    before = [None, *words[:-1]]
    return [-1 if w is None or w == b else w for w, b in zip(words, before, strict=True)]


def asked(text: Text, rows: Sequence[Question]) -> Arrays:
    tokenizer = _fast(text, tokenizer_of(text.model))
    stride = text.max_length // 3
    _refuse_long_questions(text, tokenizer, rows, text.max_length - stride)
    tokens = tokens_of(
        text,
        tokenizer,
        [row.question for row in rows],
        [row.context for row in rows],
        truncation="only_second",
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    examples = np.asarray(tokens.pop("overflow_to_sample_mapping"), np.int64)
    offsets = np.asarray(tokens.pop("offset_mapping"), np.int64)
    inside = np.array([[s == 1 for s in tokens.sequence_ids(row)] for row in range(len(offsets))])
    starts, ends = (np.where(inside, offsets[..., end], -1) for end in (0, 1))
    return {**_integers(tokens), "starts": starts, "ends": ends, "examples": examples}


def _refuse_long_questions(text: Text, tokenizer: Any, rows: Sequence[Question], room: int) -> None:
    added = tokenizer.num_special_tokens_to_add(pair=True)
    for line, row in enumerate(rows, 1):
        length = len(tokenizer.tokenize(row.question)) + added
        if length >= room:
            raise StepError(
                f"{text.where}, line {line}: a question of {length} tokens; expected fewer than"
                f" {room}, two thirds of max_length {text.max_length}"
            )


def _fast(text: Text, tokenizer: Any) -> Any:
    if not tokenizer.is_fast:
        raise StepError(
            f"{text.model}: its tokenizer does not say where a token is from; expected one that"
            " has a tokenizer.json"
        )
    return tokenizer


ARRAYS: dict[str, Callable[[Text, Any], Arrays]] = {
    "text-classification": classified,
    "regression": rated,
    "sentence-similarity": compared,
    "token-classification": tagged,
    "question-answering": asked,
}


def main(arguments: argparse.Namespace) -> None:
    kind, path = arguments.kind, arguments.examples
    called = tuple(read_json(arguments.dataset)["labels"])
    text = Text(arguments.model, arguments.max_length, str(path), called)
    arrays = ARRAYS[kind](text, read_examples(path, kind))
    with whole(arguments.out) as partial:
        np.savez_compressed(partial, **arrays)
    lengths = arrays["attention_mask"].sum(1)
    print(
        f"{arguments.out}: {kind}, {len(lengths)} rows,"
        f" {lengths.mean():.1f} tokens, up to {lengths.max()}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser, model=Path, kind=str, examples=Path, dataset=Path, max_length=int, out=Path)
    run_main(main, parser, EngineError)
