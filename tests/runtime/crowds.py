"""Random batches, every sentence of which has to have the very logits that it has alone.

python -m tests.runtime.crowds 1000     so many batches, spread over all models, instruction
                                        sets and numbers of threads; ends with what it found
"""

from __future__ import annotations

import argparse
import collections
import functools
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import engine
from engine import settings
from engine.codegen import isa
from engine.formats import models
from engine.graph import Graph
from tests.passes import exported
from tests.runtime.test_session import SIZES, pruned

Array = NDArray[Any]
FORMS: dict[str, Callable[[Path, Path], Any]] = {
    "int8": exported.static_int8,
    "without_product": exported.without_product,
    "bf16": exported.bfloat16_weights,
    "dynamic_int8": exported.dynamic_int8,
}
KINDS = (  # form, and what its scores range over, about
    *(("int8", span) for span in (20, 60, 120, 500)),
    ("without_product", 100),
    *((form, span) for form in ("fp32", "bf16", "dynamic_int8") for span in (20, 500)),
)
SETS = tuple(each.name for each in isa.detected() if not each.name.startswith("amx"))
MOST_SENTENCES = 24
SHORT = 40  # tokens; longer ones take most of the time
OF_SPAN_1 = 0.31, 0.44  # seeded weights of queries and keys times this: scores range over 1 or so
PATTERNS = {20: "4x1", 60: "1x4", 100: "4x1", 120: "4x1"}  # of the model of this span, else dense


@dataclass(frozen=True)
class Case:
    """A model and how it runs."""

    form: str
    span: int
    isa: str
    threads: int


def cases() -> Iterator[Case]:
    """All there are, those of one model and instruction set side by side."""
    for form, span in KINDS:
        for name in SETS:
            for threads in (1, 2, 3):
                yield Case(form, span, name, threads)


@functools.cache
def folder() -> tempfile.TemporaryDirectory[str]:
    """For this process's models."""
    return tempfile.TemporaryDirectory()


@functools.cache
def graph_of(form: str, span: int) -> Graph:
    """A model whose scores range over about so much."""
    source = Path(folder().name) / f"{span}.onnx"
    if not source.exists():
        model = exported.bert(**SIZES)
        if span in PATTERNS:
            pruned(model, PATTERNS[span])
        factor = OF_SPAN_1[span in PATTERNS] * span**0.5
        for layer in model.bert.encoder.layer:
            for linear in (layer.attention.self.query, layer.attention.self.key):
                linear.weight.data *= factor
        exported.export(model, source)
    if form == "fp32":
        return models.read(source)
    file = source.with_suffix(f".{form}.onnx")
    FORMS[form](source, file)
    return models.read(file)


def spans(graph: Graph) -> list[float]:
    """What quantised scores range over, attention by attention."""
    attentions = [node for node in graph if node.op == "Attention" and node.attributes["scores"]]
    return [255 * node.attributes["scores"].scale * node.attributes["scale"] for node in attentions]


@functools.lru_cache(maxsize=4)
def session_of(case: Case) -> engine.Session:
    with settings.override(isa=case.isa):
        session = engine.Session(graph_of(case.form, case.span), threads=case.threads)
    assert session.plan is not None and session.plan.fallback is None
    return session


def crowd(random: np.random.Generator) -> dict[str, Array]:
    """A batch of sentences of any length, short ones mostly; some with holes in their masks."""
    batch = int(random.integers(1, MOST_SENTENCES + 1))
    most = SHORT if random.random() < 0.7 else SIZES["max_position_embeddings"]
    lengths = random.integers(1, most + 1, batch)
    if random.random() < 0.5:
        lengths = np.minimum(lengths, random.integers(1, most + 1, batch))
    mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)
    for row in mask[random.random(batch) < 0.3]:
        row[1:] &= random.random(len(row) - 1) < random.random()
    ids = random.integers(2, 90, mask.shape)
    types = random.integers(0, 2, mask.shape)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}


def changed_by_company(case: Case, given: dict[str, Array]) -> int:
    """How many sentences of a batch have other logits than alone, in a session of one thread."""
    together = session_of(case).run(given)["logits"]
    by_itself = session_of(Case(case.form, case.span, case.isa, 1))
    rows = range(len(together))
    alone = [
        by_itself.run({k: x[row : row + 1] for k, x in given.items()})["logits"] for row in rows
    ]
    return int((together != np.concatenate(alone)).any(1).sum())


def main() -> None:
    """Prints what was tried and how many sentences changed, for each form."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("batches", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--isa", nargs="+", default=SETS, choices=SETS)
    arguments = parser.parse_args()
    every = [case for case in cases() if case.isa in arguments.isa]
    found: dict[Any, Any] = collections.defaultdict(lambda: np.zeros(3, int))
    for number in range(arguments.batches):
        case = every[number * len(every) // arguments.batches]
        given = crowd(np.random.default_rng((arguments.seed, number)))
        changed = changed_by_company(case, given)
        found[case.form, case.span] += 1, len(given["input_ids"]), changed
        if changed:
            print(f"{case}, batch {number}: {changed} of {len(given['input_ids'])}", flush=True)
    for (form, span), (batches, sentences, changed) in found.items():
        ranges = [round(one) for one in spans(graph_of(form, span))]
        print(f"{form:16} {span:4} {ranges}  {batches} batches, {sentences} sentences: {changed}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
