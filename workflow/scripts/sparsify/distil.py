"""Teach a student the teacher's logits and hidden states: dense, or pruned block-wise meanwhile.

loss = T^2 KL(teacher / T || student / T) + w * mean over imitated layers of
|h - h_teacher P|^2 / |h_teacher P|^2, both over the tokens of a batch.

Without --pruning the student is new and stays dense; with it, it starts from the dense one.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import kl_div, log_softmax, mse_loss
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from workflow.rulebook.writing import run_main
from workflow.scripts.fetch.sentences import SentencesError
from workflow.scripts.sparsify.batches import plan_epochs
from workflow.scripts.sparsify.blocks import BLOCKS, BUDGETS, SCORES, Pruner, encoder_linears
from workflow.scripts.sparsify.checkpoints import identity, log_progress
from workflow.scripts.sparsify.student import new_student, student_config
from workflow.scripts.sparsify.targets import Targets, read_targets
from workflow.scripts.sparsify.teacher import accuracy, labelled_tokens, save_model
from workflow.scripts.sparsify.training import Settings, train


def imitation_loss(
    model: torch.nn.Module,
    rows: np.ndarray,
    targets: Targets,
    *,
    layers: Sequence[int],
    temperature: float,
    weight: float,
) -> torch.Tensor:
    """The loss above over these rows; `layers` are the student's, in the order of the targets."""
    ids, mask = targets.tokens.padded(rows)
    answer = model(input_ids=ids, attention_mask=mask, output_hidden_states=weight > 0)
    teacher = torch.from_numpy(targets.logits[rows])
    loss = temperature**2 * kl_div(
        log_softmax(answer.logits.float() / temperature, -1),
        log_softmax(teacher / temperature, -1),
        log_target=True,
        reduction="batchmean",
    )
    if weight == 0:
        return loss
    positions, present = targets.tokens.positions(rows), mask.bool()
    for place, layer in enumerate(layers):
        wanted = torch.from_numpy(targets.hidden[place, positions]).float()
        distance = mse_loss(answer.hidden_states[layer][present].float(), wanted)
        loss = loss + weight / len(layers) * distance / wanted.square().mean()
    return loss


def starting_student(a: argparse.Namespace, targets: Targets) -> torch.nn.Module:
    """The dense student of `--start`, or a new one with the teacher's embeddings projected."""
    if a.start:
        return AutoModelForSequenceClassification.from_pretrained(a.start)
    teacher = AutoModelForSequenceClassification.from_pretrained(a.teacher)
    layers, hidden, heads, intermediate = a.sizes
    config = student_config(
        teacher.config, layers=layers, hidden=hidden, heads=heads, intermediate=intermediate
    )
    return new_student(config, teacher.bert, targets.projection)


def main(a: argparse.Namespace) -> None:
    log_progress()
    torch.manual_seed(a.seed)
    targets = read_targets(a.targets)
    tokenizer = AutoTokenizer.from_pretrained(a.teacher)
    development = labelled_tokens(a.development, tokenizer, a.longest)
    model = starting_student(a, targets).train()
    settings = Settings(
        a.learning_rate,
        a.checkpoint,
        a.metrics,
        identity(vars(a), targets.tokens.ids, targets.logits, first_weight(model)),
        epochs=a.epochs,
        embeddings=a.embeddings,
        every=a.every,
        save_every=a.save_every,
        bfloat16=a.bfloat16,
        average=True,
    )
    loss = {"layers": a.layers, "temperature": a.temperature, "weight": a.hidden_weight}
    lengths = targets.tokens.lengths
    train(
        model,
        plan_epochs(lengths, budget=a.batch_tokens, epochs=a.epochs, seed=a.seed),
        lambda model, rows: imitation_loss(model, rows, targets, **loss),
        settings,
        pruner=pruner_for(model, a) if a.pruning else None,
        accuracy_of=lambda m: accuracy(m, *development),
    )
    save_model(model, tokenizer, a.output)
    a.checkpoint.unlink()


def first_weight(model: torch.nn.Module) -> np.ndarray:
    return next(encoder_linears(model))[1].weight.detach().numpy().copy()


def pruner_for(model: torch.nn.Module, a: argparse.Namespace) -> Pruner:
    return Pruner(
        model,
        pattern=a.pruning,
        sparsity=a.sparsity,
        budget=a.budget,
        multiple=a.multiple,
        score=a.score,
        ramp_end=a.ramp_end,
        interval=a.interval,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", type=Path, required=True, help="Hugging Face folder")
    parser.add_argument("--targets", type=Path, required=True, help="folder written by targets")
    parser.add_argument("--development", type=Path, required=True)
    parser.add_argument("--layers", type=int, nargs="+", required=True, help="student layers")
    parser.add_argument("--sizes", type=int, nargs=4, default=(4, 256, 4, 1024))
    parser.add_argument("--start", type=Path, help="folder of the dense student to start from")
    parser.add_argument("--pruning", choices=BLOCKS, help="pattern to prune to")
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--budget", choices=BUDGETS, default="layer")
    parser.add_argument("--multiple", type=int, default=1, help="of blocks that a row keeps")
    parser.add_argument("--score", choices=SCORES, default="magnitude")
    parser.add_argument("--ramp-end", type=float, default=0.5, help="share of the steps")
    parser.add_argument("--interval", type=int, default=50, help="steps between two masks")
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--embeddings", type=float, default=0.3, help="factor on their rate")
    parser.add_argument("--temperature", type=float, default=2.0)
    parser.add_argument("--hidden-weight", type=float, default=1.0, help="w of the loss")
    parser.add_argument("--batch-tokens", type=int, default=3072)
    parser.add_argument("--longest", type=int, default=64, help="tokens of a sentence")
    parser.add_argument("--every", type=int, default=200, help="steps between lines of metrics")
    parser.add_argument("--save-every", type=int, default=500, help="steps between checkpoints")
    parser.add_argument("--bfloat16", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--metrics", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    run_main(main, parser, SentencesError, ValueError, OSError)
