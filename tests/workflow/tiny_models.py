"""Random models of every kind of task, with tokenizers of their own, and a few examples for each.

A folder for each: <name>/model as save_pretrained writes it, <name>/examples with train and
validation. Weights are wide, so that no two classes are alike.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

TEXT = "a an the film story is was not very good bad great dull warm cold , ."
WORDS = TEXT.split()
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCABULARY = [*SPECIAL, *sorted(set(WORDS))]
NAMES = ["negative", "neutral", "positive"]
TAGS = ["O", "B-THING", "I-THING", "B-KIND"]
KINDS = {
    "distil": "text-classification",
    "roberta": "text-classification",
    "rated": "regression",
    "alike": "sentence-similarity",
    "tagged": "token-classification",
    "asked": "question-answering",
}
SIZES: dict[str, Any] = {
    "vocab_size": len(VOCABULARY), "hidden_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": 64,
    "initializer_range": 0.3,
}  # fmt: skip


def sentence(number: int) -> list[str]:
    return [WORDS[(3 * number + k) % len(WORDS)] for k in range(3 + number % 9)]


def tag(words: list[str]) -> list[str]:
    return [
        "B-THING" if w in ("film", "story") else "B-KIND" if w == "good" else "O" for w in words
    ]


def example(kind: str, number: int) -> dict[str, Any]:
    words, other = sentence(number), sentence(number + 5)
    text, second = " ".join(words), " ".join(other)
    return {
        "text-classification": {"sentence": text, "label": NAMES[number % 3]},
        "regression": {"sentence": text, "sentence2": second, "label": number % 6 / 2},
        "sentence-similarity": {"sentence": text, "sentence2": second, "label": f"{number % 6}.5"},
        "token-classification": {"tokens": words, "tags": tag(words)},
        "question-answering": {
            "question": " ".join(words[:3]),
            "context": f"{second} {text} {second}",
            "answers": [words[0], " ".join(words[:2])],
        },
    }[kind]


def write_examples(folder: Path, kind: str, count: int = 12) -> None:
    """Some as JSON lines, some tab-separated; few to calibrate on."""
    folder.mkdir(parents=True)
    for split, rows in (("train", range(count, count + 6)), ("validation", range(count))):
        made = [example(kind, number) for number in rows]
        if kind in ("sentence-similarity", "text-classification"):
            lines = ["\t".join(made[0]), *("\t".join(map(str, row.values())) for row in made)]
            (folder / f"{split}.tsv").write_text("\n".join(lines) + "\n")
        else:
            text = "".join(f"{json.dumps(row)}\n" for row in made)
            (folder / f"{split}.jsonl").write_text(text)


def named(names: list[str]) -> dict[str, Any]:
    return {"id2label": dict(enumerate(names)), "label2id": {n: i for i, n in enumerate(names)}}


def word_pieces(folder: Path, lower: Callable[..., Any]) -> None:
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    lower(str(folder / "vocab.txt")).save_pretrained(folder)


def byte_pairs(folder: Path) -> int:
    """RoBERTa's kind of tokenizer, of the same words; how many tokens it has."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import RobertaTokenizerFast

    bpe = ByteLevelBPETokenizer(add_prefix_space=True)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    bpe.train_from_iterator([" ".join(WORDS)] * 3, 300, special_tokens=special, show_progress=False)
    files = bpe.save_model(str(folder))
    RobertaTokenizerFast(*files, add_prefix_space=True).save_pretrained(folder)
    return bpe.get_vocab_size()


def write_model(folder: Path, name: str) -> None:
    import torch
    import transformers as t

    torch.manual_seed(3)
    folder.mkdir(parents=True)
    if name == "roberta":
        sizes = {**SIZES, "vocab_size": byte_pairs(folder), "type_vocab_size": 1}
        # its positions count from 2
        config = t.RobertaConfig(
            **sizes, pad_token_id=1, bos_token_id=0, eos_token_id=2, **named(NAMES)
        )
        model = t.RobertaForSequenceClassification(config)
    elif name == "distil":
        word_pieces(folder, t.DistilBertTokenizerFast)
        config = t.DistilBertConfig(
            vocab_size=len(VOCABULARY), dim=32, n_layers=2, n_heads=2, hidden_dim=64,
            max_position_embeddings=64, initializer_range=0.3, **named(NAMES[::-1]),
        )  # fmt: skip
        model = t.DistilBertForSequenceClassification(config)
    elif name == "tagged":
        word_pieces(folder, t.ElectraTokenizerFast)
        config = t.ElectraConfig(**SIZES, embedding_size=16, **named(TAGS[::-1]))
        model = t.ElectraForTokenClassification(config)
    else:
        word_pieces(folder, t.BertTokenizerFast)
        model = {
            "rated": lambda: t.BertForSequenceClassification(t.BertConfig(**SIZES, num_labels=1)),
            "alike": lambda: t.BertModel(t.BertConfig(**SIZES)),
            "asked": lambda: t.BertForQuestionAnswering(t.BertConfig(**SIZES)),
        }[name]()
    model.save_pretrained(folder, safe_serialization=True)
    if name == "alike":
        write_pooling(folder, pooling_mode_mean_tokens=True, pooling_mode_cls_token=False)


def write_pooling(folder: Path, *, normalize: bool = True, **modes: bool) -> None:
    """What sentence-transformers adds to a folder."""
    kinds = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    kept = list(kinds.items())[: 3 if normalize else 2]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(kept)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    about = {"word_embedding_dimension": SIZES["hidden_size"], **modes}
    (folder / "1_Pooling/config.json").write_text(json.dumps(about))


def write(folder: Path, name: str) -> dict[str, Any]:
    """The task's part of a configuration."""
    write_model(folder / name / "model", name)
    write_examples(folder / name / "examples", KINDS[name])
    source = {"source": "local"}
    return {
        "task": KINDS[name],
        "model": {**source, "name": f"{name}/model"},
        "dataset": {**source, "name": f"{name}/examples"},
        "max_length": 32,
    }
