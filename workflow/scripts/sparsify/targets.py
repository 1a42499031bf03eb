"""What the student is to imitate: the teacher's logits and projected hidden states, once for all.

The folder written holds ids.npy and starts.npy (batches.Tokens), logits.npy fp32 (sentences,
labels), hidden.npy fp16 (layers, tokens, student width), projection.npy and, last of all,
targets.json. A run that was killed goes on after its last finished slice.
"""

import argparse
import json
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers import PreTrainedModel as Teacher

from workflow.rulebook.writing import run_main, write_json
from workflow.scripts.fetch.sentences import SentencesError
from workflow.scripts.sparsify.batches import Tokens, plan_epochs, tokenise
from workflow.scripts.sparsify.checkpoints import identity, log_progress
from workflow.scripts.sparsify.corpus import read_corpus
from workflow.scripts.sparsify.student import projection

log = logging.getLogger("sparsify")
SLICE = 200  # batches between two records of progress


@dataclass(frozen=True)
class Targets:
    """See the module; `layers` are the teacher's layers in the order of `hidden`."""

    tokens: Tokens
    logits: np.ndarray  # (sentences, labels) fp32
    hidden: np.ndarray  # (layers, tokens, width) fp16, memory-mapped
    projection: np.ndarray  # (teacher width, width) fp32
    layers: tuple[int, ...]


def read_targets(folder: Path) -> Targets:
    """The targets in a folder that `write_targets` has completed."""
    layers = json.loads((folder / "targets.json").read_text())["layers"]
    tokens = Tokens(np.load(folder / "ids.npy"), np.load(folder / "starts.npy"))
    hidden = np.load(folder / "hidden.npy", mmap_mode="r")
    logits, matrix = np.load(folder / "logits.npy"), np.load(folder / "projection.npy")
    return Targets(tokens, logits, hidden, matrix, tuple(layers))


@torch.inference_mode()
def hidden_states(
    teacher: Teacher, tokens: Tokens, rows: np.ndarray, *, bfloat16: bool
) -> tuple[np.ndarray, list[torch.Tensor]]:
    """(logits (rows, labels), hidden states of embeddings and layers, each (tokens, width))."""
    ids, mask = tokens.padded(rows)
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        answer = teacher(input_ids=ids, attention_mask=mask, output_hidden_states=True)
    present = mask.bool()
    return answer.logits.float().numpy(), [h[present].float() for h in answer.hidden_states]


def fit_projection(
    teacher: Teacher, tokens: Tokens, *, width: int, seed: int, bfloat16: bool
) -> np.ndarray:
    """The projection from about 2,000 sentences' states of all layers together."""
    rows = np.random.default_rng(seed).permutation(len(tokens))[:2000]
    parts = [
        torch.cat(hidden_states(teacher, tokens, part, bfloat16=bfloat16)[1]).numpy()
        for part in np.array_split(rows, max(1, len(rows) // 50))
    ]
    states = np.concatenate(parts)
    matrix = projection(states, hidden=width, seed=seed)
    kept = np.square(states @ matrix).sum() / np.square(states).sum()
    log.info("projection to %d of %d keeps %.4f of the energy", width, states.shape[1], kept)
    return matrix


def write_targets(
    teacher: Teacher,
    tokens: Tokens,
    folder: Path,
    *,
    layers: list[int],
    width: int,
    budget: int,
    seed: int,
    bfloat16: bool,
) -> None:
    """Fill `folder`; `budget` is the tokens of a batch."""
    progress = folder / "progress.json"
    classifier = teacher.classifier.weight.detach().numpy()  # stands for the teacher
    options = {"layers": layers, "width": width, "seed": seed, "bfloat16": bfloat16}
    same = identity(options, tokens.ids, classifier)
    done = _finished_batches(progress, same)
    if not done:
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "ids.npy", tokens.ids)
        np.save(folder / "starts.npy", tokens.starts)
        fitted = fit_projection(teacher, tokens, width=width, seed=seed, bfloat16=bfloat16)
        np.save(folder / "projection.npy", fitted)
    onto = torch.from_numpy(np.load(folder / "projection.npy"))
    shape = (len(layers), len(tokens.ids), width)
    hidden = _open(folder / "hidden.npy", np.float16, shape, new=not done)
    labels = teacher.config.num_labels
    logits = _open(folder / "logits.npy", np.float32, (len(tokens), labels), new=not done)
    batches = plan_epochs(tokens.lengths, budget=budget, epochs=1, seed=0)
    for number in range(done, len(batches)):
        rows = batches[number]
        answers, states = hidden_states(teacher, tokens, rows, bfloat16=bfloat16)
        logits[rows] = answers
        positions = tokens.positions(rows)
        for place, layer in enumerate(layers):
            hidden[place, positions] = (states[layer] @ onto).half().numpy()
        if (number + 1) % SLICE == 0 or number + 1 == len(batches):
            hidden.flush()
            logits.flush()
            write_json(progress, {"batches": number + 1, "of": len(batches), "identity": same})
            log.info("batch %d of %d", number + 1, len(batches))
    facts = {"layers": layers, "sentences": len(tokens), "width": width, "identity": same}
    write_json(folder / "targets.json", facts)
    progress.unlink()


def _finished_batches(progress: Path, same: str) -> int:
    if not progress.exists():
        return 0
    state = json.loads(progress.read_text())
    return state["batches"] if state["identity"] == same else 0


def _open(path: Path, dtype: type, shape: tuple[int, ...], *, new: bool) -> np.memmap:
    mode = "w+" if new else "r+"
    return np.lib.format.open_memmap(path, mode=mode, dtype=dtype, shape=shape)  # type: ignore[no-untyped-call]


def main(a: argparse.Namespace) -> None:
    log_progress()
    sentences = [row[0] for row in read_corpus(a.corpus)]
    teacher = AutoModelForSequenceClassification.from_pretrained(a.teacher).eval()
    tokens = tokenise(AutoTokenizer.from_pretrained(a.teacher), sentences, longest=a.longest)
    write_targets(
        teacher,
        tokens,
        a.output,
        layers=a.layers,
        width=a.width,
        budget=a.batch_tokens,
        seed=a.seed,
        bfloat16=a.bfloat16,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", type=Path, required=True, help="Hugging Face folder")
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--layers", type=int, nargs="+", required=True, help="teacher layers")
    parser.add_argument("--width", type=int, required=True, help="hidden size of the student")
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--longest", type=int, default=64, help="tokens of a sentence")
    parser.add_argument("--bfloat16", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, required=True)
    run_main(main, parser, SentencesError, OSError)
