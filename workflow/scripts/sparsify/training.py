"""One training loop for teacher, student and pruning: resumable, logged, deterministic.

A step is a function of the seed, the step's number and the state in the checkpoint, so a run that
was killed and started again ends where an undisturbed one would have ended.
"""

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from workflow.scripts.sparsify.checkpoints import read_checkpoint, write_checkpoint, write_metrics

log = logging.getLogger("sparsify")
AVERAGE_DECAY = 0.998  # per step, of the moving average of weights: about the last 500 steps
AVERAGE_EVERY = 10  # steps between two updates of it, which cost as much as an optimizer's step


@dataclass(frozen=True)
class Settings:
    """What a run needs beside its model and batches; steps and intervals count batches."""

    learning_rate: float
    checkpoint: Path
    metrics: Path  # CSV, columns checkpoints.COLUMNS
    identity: str  # of everything the result depends on: a checkpoint of another is not resumed
    epochs: float = 1.0
    embeddings: float = 1.0  # factor on the learning rate of the embeddings
    warmup: float = 0.05  # share of the steps
    every: int = 100  # steps between two lines of the metrics
    save_every: int = 500  # steps between two checkpoints
    bfloat16: bool = False
    average: bool = False  # end with the moving average of the weights


@dataclass
class Run:
    """State of a run; `rows` are the lines of the metrics so far."""

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    average: dict[str, torch.Tensor] | None
    step: int = 0
    seconds: float = 0.0
    rows: list[dict] = field(default_factory=list)


class Dense:
    """What happens to the weights beside the optimizer's step: here nothing."""

    def resume(self, run: Run) -> None:
        """Called once, with the weights of the checkpoint or of the start."""

    def step(self, run: Run, steps: int) -> float:
        """Called after each step; returns the share of zeros wanted by now."""
        return 0.0

    def finish(self, run: Run) -> None:
        """Called once, with the weights the run ends with."""


def schedule(step: int, steps: int, *, warmup: float) -> float:
    """Factor on the learning rate: linear warm-up, then linear decay to zero."""
    rise = max(1, round(warmup * steps))
    if step < rise:
        return (step + 1) / rise
    return max(0.0, (steps - step) / max(1, steps - rise))


def train(
    model: torch.nn.Module,
    batches: Sequence[np.ndarray],
    loss_of: Callable[[torch.nn.Module, np.ndarray], torch.Tensor],
    settings: Settings,
    *,
    pruner: Dense | None = None,
    accuracy_of: Callable[[torch.nn.Module], float] = lambda model: float("nan"),
) -> None:
    """Train `model` in place over all batches, from the checkpoint if there is one."""
    run = _start(model, settings)
    pruner = pruner or Dense()
    pruner.resume(run)
    steps, losses, began = len(batches), [], time.monotonic()
    while run.step < steps:
        factor = schedule(run.step, steps, warmup=settings.warmup)
        for group in run.optimizer.param_groups:
            group["lr"] = factor * group["peak"]
        with torch.autocast("cpu", torch.bfloat16, enabled=settings.bfloat16):
            loss = loss_of(model, batches[run.step])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        run.optimizer.step()
        run.optimizer.zero_grad(set_to_none=True)
        run.step += 1
        sparsity = pruner.step(run, steps)
        losses.append(loss.item())
        last = run.step == steps
        if run.average is not None and (run.step % AVERAGE_EVERY == 0 or last):
            decay = min(AVERAGE_DECAY, run.step / (run.step + 9)) ** AVERAGE_EVERY
            _follow(run.average, model, decay)
        if run.step % settings.every == 0 or last:
            elapsed, began = time.monotonic() - began, time.monotonic()
            run.seconds += elapsed
            _record(run, settings, steps, losses, sparsity, factor, accuracy_of(model))
            losses = []
        if run.step % settings.save_every == 0 or last:
            _save(run, settings)
    if run.average is not None:
        model.load_state_dict(run.average)
    pruner.finish(run)


def parameter_groups(model: torch.nn.Module, settings: Settings) -> list[dict]:
    """Matrices decay, vectors do not; `peak` is the highest learning rate of a group."""
    embeddings = [p for name, p in model.named_parameters() if "_embeddings." in name]
    others = [p for name, p in model.named_parameters() if "_embeddings." not in name]
    peak = settings.learning_rate
    return [
        {"params": [p for p in others if p.ndim > 1], "peak": peak, "weight_decay": 0.01},
        {"params": [p for p in others if p.ndim < 2], "peak": peak, "weight_decay": 0.0},
        {"params": embeddings, "peak": peak * settings.embeddings, "weight_decay": 0.0},
    ]


def _start(model: torch.nn.Module, settings: Settings) -> Run:
    groups = parameter_groups(model, settings)
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98), fused=True)
    average = None
    if settings.average:
        average = {name: value.clone() for name, value in model.state_dict().items()}
    run = Run(model, optimizer, average)
    state = read_checkpoint(settings.checkpoint, settings.identity)
    if state:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        run.average, run.step = state["average"], state["step"]
        run.seconds, run.rows = state["seconds"], state["rows"]
        log.info("resumed at step %d from %s", run.step, settings.checkpoint)
    return run


def _save(run: Run, settings: Settings) -> None:
    state = {
        "model": run.model.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "random": torch.get_rng_state(),
        "average": run.average,
        "step": run.step,
        "seconds": run.seconds,
        "rows": run.rows,
    }
    write_checkpoint(settings.checkpoint, settings.identity, state)


@torch.no_grad()
def _follow(average: dict[str, torch.Tensor], model: torch.nn.Module, decay: float) -> None:
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            average[name].lerp_(value, 1 - decay)


def _record(
    run: Run,
    settings: Settings,
    steps: int,
    losses: list[float],
    sparsity: float,
    factor: float,
    accuracy: float,
) -> None:
    row = {
        "step": run.step,
        "epoch": round(settings.epochs * run.step / steps, 4),
        "loss": round(float(np.mean(losses)), 5),
        "accuracy": round(accuracy, 5),
        "sparsity": round(sparsity, 5),
        "learning_rate": float(f"{factor * settings.learning_rate:.4g}"),
        "seconds": round(run.seconds, 1),
    }
    run.rows.append(row)
    log.info("%s", json.dumps(row | {"of": steps}))
    write_metrics(settings.metrics, run.rows)
