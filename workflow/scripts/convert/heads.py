"""What a task asks of a model: the class that loads its head, and the outputs it is exported with.

A sentence-similarity model has no head: its tokens are pooled as a sentence-transformers folder
says (modules.json, 1_Pooling/config.json), else by the mean of those that are not masked, to length
1. That is part of what is exported.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workflow.rulebook.writing import StepError, read_json

ROW = {0: "batch"}
TOKENS = {0: "batch", 1: "length"}
MODULES = "modules.json"


@dataclass(frozen=True)
class Head:
    """`auto`: the class of transformers that has it; outputs with the axes that are free."""

    auto: str
    outputs: dict[str, dict[int, str]]


CLASSES = Head("AutoModelForSequenceClassification", {"logits": ROW})
HEADS = {
    "text-classification": CLASSES,
    "regression": CLASSES,
    "sentence-similarity": Head("AutoModel", {"sentence_embedding": ROW}),
    "token-classification": Head("AutoModelForTokenClassification", {"logits": TOKENS}),
    "question-answering": Head(
        "AutoModelForQuestionAnswering", {"start_logits": TOKENS, "end_logits": TOKENS}
    ),
}


def load_model(folder: Path, kind: str) -> Any:
    """The model of transformers, in evaluation.

    Raises:
        StepError: nothing that can be read, or a model of another kind.
    """
    import transformers

    auto = getattr(transformers, HEADS[kind].auto)
    try:
        model, found = auto.from_pretrained(folder, local_files_only=True, output_loading_info=True)
    except Exception as error:  # of safetensors, torch, transformers: whatever they meet in a file
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise StepError(f"{folder}: not a model that can be read ({reason})") from error
    _refuse_other_kinds(folder, kind, model.config, found)
    model.config.output_hidden_states = model.config.output_attentions = False
    return model.eval()


def _refuse_other_kinds(folder: Path, kind: str, config: Any, found: dict[str, Any]) -> None:
    """Weights that are not there would be random ones."""
    missing = [name for name in found["missing_keys"] if ".pooler." not in f".{name}"]
    if kind != "sentence-similarity":
        missing = list(found["missing_keys"])
    if missing:
        raise StepError(
            f"{folder}: no weights {', '.join(sorted(missing)[:3])}, which {kind} needs; the model"
            f" is {config.architectures}, expected what {HEADS[kind].auto} loads"
        )
    labels, several = config.num_labels, config.problem_type == "multi_label_classification"
    if kind == "regression" and labels != 1:
        raise StepError(f"{folder}: {labels} labels; expected 1, the number, for {kind}")
    if kind == "text-classification" and (labels < 2 or several):
        what = "several labels a sentence" if several else f"{labels} label"
        raise StepError(f"{folder}: {what}; expected one of two or more for {kind}")


# --- pooling ---


@dataclass(frozen=True)
class Pooling:
    modes: tuple[str, ...]  # of POOLED, one after the other
    normalize: bool


def pooling_of(folder: Path) -> Pooling:
    """As sentence-transformers has it, else mean and normalised."""
    if not (folder / MODULES).exists():
        return Pooling(("mean_tokens",), normalize=True)
    try:
        modules = [
            (each["type"].rpartition(".")[2], each["path"]) for each in _read(folder, MODULES)
        ]
        kinds = [kind for kind, _ in modules]
        if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
            raise StepError(
                f"{folder}/{MODULES}: {', '.join(kinds)}; expected Transformer, Pooling, and"
                " Normalize or nothing"
            )
        about = _read(folder, f"{modules[1][1]}/config.json")
        modes = tuple(
            name.removeprefix("pooling_mode_")
            for name, on in about.items()
            if name.startswith("pooling_mode_") and on
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise StepError(f"{folder}/{MODULES}: no list of modules ({error!r})") from error
    if not modes or not set(modes) <= set(POOLED):
        raise StepError(f"{folder}: pooled by {modes}; expected some of {', '.join(POOLED)}")
    if _lowers(folder):
        raise StepError(f"{folder}/{LENGTHS}: do_lower_case, which its tokenizer does not do")
    return Pooling(modes, normalize=len(kinds) == 3)


LENGTHS = "sentence_bert_config.json"


def _lowers(folder: Path) -> bool:
    path = folder / LENGTHS
    return path.exists() and bool(_read(folder, LENGTHS).get("do_lower_case"))


def _read(folder: Path, name: str) -> Any:
    try:
        return read_json(folder / name)
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise StepError(f"{folder}/{name}: {error}; expected JSON") from error


def _mean(hidden: Any, mask: Any) -> Any:
    return (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)


def _first(hidden: Any, mask: Any) -> Any:
    return hidden[:, 0]


def _greatest(hidden: Any, mask: Any) -> Any:
    return (hidden + (mask - 1) * 1e9).max(1)[0]


POOLED: dict[str, Callable[[Any, Any], Any]] = {  # of (batch, length, width), (batch, length, 1)
    "mean_tokens": _mean,
    "cls_token": _first,
    "max_tokens": _greatest,
}


def embedder(model: Any, pooling: Pooling, inputs: Sequence[str]) -> Any:
    """A module of these inputs, in this order, with the embedding as its one output."""
    import torch

    class Embedder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *values: Any) -> Any:
            given = dict(zip(inputs, values, strict=True))
            hidden = self.model(**given)[0]
            mask = given.get("attention_mask", torch.ones_like(given["input_ids"]))
            wide = mask.unsqueeze(-1).to(hidden.dtype)
            made = torch.cat([POOLED[mode](hidden, wide) for mode in pooling.modes], 1)
            return torch.nn.functional.normalize(made) if pooling.normalize else made

    return Embedder().eval()
