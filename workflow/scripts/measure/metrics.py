"""What a model's outputs say of examples, and how right that is, for each kind of task.

Scores are shares, 1 is all. Those of classes are scikit-learn's, correlations scipy's, those of
entities seqeval's; answers are compared as SQuAD does: https://arxiv.org/abs/1606.05250, 6.1.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.errors import InputError, ModelError
from workflow.scripts.fetch.examples import Question
from workflow.scripts.measure.tokenized import Examples

LONGEST_ANSWER = 30  # tokens, as usual with SQuAD
Outputs = Sequence[np.ndarray]
Scores = dict[str, Any]


@dataclass(frozen=True)
class Said:
    """By one model: `numbers` are what two models are compared by, `answers` what they decided."""

    numbers: np.ndarray
    answers: Sequence[Any] | None = None


@dataclass(frozen=True)
class Kind:
    """`metric`: the score that stands for the task."""

    metric: str
    outputs: tuple[str, ...]  # by these names, or else the first of the model
    said: Callable[[Outputs, Examples], Said]
    scores: Callable[[Said, Examples, Sequence[str]], Scores]  # the last: names of classes
    by_token: bool = False  # outputs are (rows, length, ...)


def agreement(said: Said, other: Said) -> dict[str, float]:
    """How far two models' numbers are apart, and the share of examples, words or questions of which
    they say the same.
    """
    if said.numbers.shape != other.numbers.shape:
        raise ModelError(f"outputs are {said.numbers.shape}, those compared {other.numbers.shape}")
    apart = np.abs(said.numbers - other.numbers)
    found = {"mean_difference": float(apart.mean()), "max_difference": float(apart.max())}
    if said.answers is None or other.answers is None:
        return found
    same = [a == b for a, b in zip(said.answers, other.answers, strict=True)]
    return {"same_class": float(np.mean(same)), **found}


# --- classes ---


def classes_said(outputs: Outputs, examples: Examples) -> Said:
    (logits,) = outputs
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ModelError(
            f"outputs are {logits.shape} for {len(examples)} sentences; expected (sentences,"
            " classes), of two classes or more"
        )
    return Said(logits, logits.argmax(1).tolist())


def class_scores(said: Said, examples: Examples, names: Sequence[str]) -> Scores:
    """F1 is that of class 1 where there are two classes, else the mean over classes."""
    from sklearn import metrics

    count, labels = said.numbers.shape[1], examples.labels
    if labels.max() >= count:
        found = ", ".join(map(str, np.unique(labels)))
        known = ", ".join(map(str, range(count)))
        raise InputError(f"labels are {found}; the model has the classes {known}")
    every, average = list(range(count)), "binary" if count == 2 else "macro"
    kept = {"labels": None if count == 2 else every, "average": average, "zero_division": 0.0}
    return {
        "accuracy": float(metrics.accuracy_score(labels, said.answers)),
        "f1": float(metrics.f1_score(labels, said.answers, **kept)),
        "mcc": float(metrics.matthews_corrcoef(labels, said.answers)),
        "confusion": metrics.confusion_matrix(labels, said.answers, labels=every).tolist(),
    }


# --- numbers ---


def number_said(outputs: Outputs, examples: Examples) -> Said:
    (logits,) = outputs
    if logits.shape[1:] not in ((), (1,)):
        raise ModelError(f"outputs are {logits.shape}; expected (sentences, 1), a number of each")
    return Said(logits.reshape(-1))


def cosine_said(outputs: Outputs, examples: Examples) -> Said:
    """Of the first sentence of a pair, and the second, which stand one behind the other."""
    (embeddings,) = outputs
    if embeddings.ndim != 2:
        raise ModelError(
            f"outputs are {embeddings.shape}; expected (sentences, width), pooled embeddings"
        )
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    first, second = np.split(embeddings / np.maximum(lengths, 1e-12), 2)
    return Said((first * second).sum(1))


def correlations(said: Said, examples: Examples, names: Sequence[str]) -> Scores:
    from scipy import stats

    for what, values in (("labels", examples.labels), ("results", said.numbers)):
        if len(values) < 2 or np.ptp(values) == 0:
            raise InputError(f"{len(values)} {what}, all alike: nothing correlates with them")
    return {
        "spearman": float(stats.spearmanr(examples.labels, said.numbers).statistic),
        "pearson": float(stats.pearsonr(examples.labels, said.numbers).statistic),
    }


# --- entities ---


def tags_said(outputs: Outputs, examples: Examples) -> Said:
    """A word has the class of its first token; one without a token has -1."""
    (logits,) = outputs
    words = examples.arrays["words"]
    if logits.ndim != 3 or logits.shape[:2] != words.shape:
        raise ModelError(
            f"outputs are {logits.shape} for {words.shape} tokens; expected (sentences, tokens,"
            " classes)"
        )
    classes = np.full(examples.labels.shape, -1)
    row, token = np.nonzero(words >= 0)
    classes[row, words[row, token]] = logits[row, token].argmax(1)
    return Said(logits[row, token], classes[examples.labels >= 0].tolist())


def entity_scores(said: Said, examples: Examples, names: Sequence[str]) -> Scores:
    from seqeval import metrics

    labels = examples.labels
    lengths = (labels >= 0).sum(1)
    if labels.max() >= len(names):
        raise InputError(f"tags up to {labels.max()}; the model has {len(names)}")
    assert said.answers is not None
    cuts = np.cumsum(lengths)[:-1]
    found = [[names[c] if c >= 0 else "O" for c in part] for part in np.split(said.answers, cuts)]
    right = [[names[c] for c in part[:n]] for part, n in zip(labels, lengths, strict=True)]
    _refuse_no_entities(right)
    return {
        "entity_f1": float(metrics.f1_score(right, found, zero_division=0)),
        "entity_precision": float(metrics.precision_score(right, found, zero_division=0)),
        "entity_recall": float(metrics.recall_score(right, found, zero_division=0)),
        "accuracy": float(metrics.accuracy_score(right, found)),
    }


def _refuse_no_entities(tags: Sequence[Sequence[str]]) -> None:
    others = sorted({tag for row in tags for tag in row if not re.match("[BIES]-|O$", tag)})
    if others:
        raise InputError(
            f"tags are {', '.join(others[:5])}; expected O, B-..., I-...: names of entities, in the"
            " model's id2label or the key `labels`"
        )


# --- answers ---


def answers_said(outputs: Outputs, examples: Examples) -> Said:
    """Of all parts of a text the span whose first and last token have the greatest sum."""
    begins, ends = outputs
    starts, stops = examples.arrays["starts"], examples.arrays["ends"]
    if begins.shape != starts.shape or ends.shape != starts.shape:
        raise ModelError(
            f"outputs are {begins.shape}, {ends.shape}; expected twice {starts.shape}, a first and"
            " a last token"
        )
    best = [(-np.inf, "")] * len(examples)
    for row, place in enumerate(examples.rows):
        score, first, last = best_span(begins[row], ends[row], starts[row] >= 0)
        if score > best[place][0]:
            context = _question(examples, place).context
            best[place] = score, context[starts[row, first] : stops[row, last]]
    inside = starts >= 0
    return Said(np.stack([begins[inside], ends[inside]]), [text for _, text in best])


def best_span(begins: np.ndarray, ends: np.ndarray, inside: np.ndarray) -> tuple[float, int, int]:
    """Score, first and last token of the best span of up to LONGEST_ANSWER tokens inside."""
    places = np.arange(len(inside))
    apart = places[None] - places[:, None]
    allowed = inside[None] & inside[:, None] & (apart >= 0) & (apart < LONGEST_ANSWER)
    sums = np.where(allowed, begins[:, None] + ends[None], -np.inf)
    first, last = np.unravel_index(int(sums.argmax()), sums.shape)
    return float(sums[first, last]), int(first), int(last)


def answer_scores(said: Said, examples: Examples, names: Sequence[str]) -> Scores:
    assert said.answers is not None
    exact, f1 = [], []
    for place, answer in enumerate(said.answers):
        wanted = _question(examples, place).answers
        exact.append(max(plain(answer) == plain(each) for each in wanted))
        f1.append(max(overlap(answer, each) for each in wanted))
    return {"f1": float(np.mean(f1)), "exact_match": float(np.mean(exact))}


def _question(examples: Examples, place: int) -> Question:
    text = examples.texts[place]
    assert isinstance(text, Question)
    return text


def plain(answer: str) -> str:
    """Lower case, without punctuation, articles and spare space."""
    kept = "".join(c for c in answer.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", kept).split())


def overlap(answer: str, wanted: str) -> float:
    """F1 of words."""
    found, right = plain(answer).split(), plain(wanted).split()
    common = (Counter(found) & Counter(right)).total()
    if not found or not right:
        return float(found == right)
    return 2 * common / (len(found) + len(right))


MEASURED: Mapping[str, Kind] = {
    "text-classification": Kind("accuracy", ("logits",), classes_said, class_scores),
    "regression": Kind("spearman", ("logits",), number_said, correlations),
    "sentence-similarity": Kind("spearman", ("sentence_embedding",), cosine_said, correlations),
    "token-classification": Kind("entity_f1", ("logits",), tags_said, entity_scores, True),
    "question-answering": Kind(
        "f1", ("start_logits", "end_logits"), answers_said, answer_scores, True
    ),
}
