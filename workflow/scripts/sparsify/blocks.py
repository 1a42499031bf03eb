"""Weights that are zero in whole blocks: scores, masks, and the schedule that gets there.

Pattern "4x1" is 4 outputs x 1 input of torch's weight [out, in] ("1x4" in the [in, out] layout of
Intel's published models); "1x4" is 1 output x 4 inputs. Gradual pruning follows Zhu and Gupta
2017: after a share t of the ramp, final * (1 - (1 - t)^3) of the blocks are zero.
"""

import math
from collections.abc import Iterator

import torch

from workflow.scripts.sparsify.training import Dense, Run

BLOCKS = {"4x1": (4, 1), "1x4": (1, 4)}  # pattern -> (outputs, inputs)
SCORES = ("magnitude", "fisher")
BUDGETS = ("layer", "global")


def blocked(weight: torch.Tensor, pattern: str) -> torch.Tensor:
    """The same values as (block rows, outputs, block columns, inputs); raises ValueError."""
    outputs, inputs = BLOCKS[pattern]
    rows, columns = weight.shape
    if rows % outputs or columns % inputs:
        raise ValueError(f"weight {rows} x {columns} does not divide into blocks {pattern}")
    return weight.reshape(rows // outputs, outputs, columns // inputs, inputs)


def zero_share(weight: torch.Tensor, pattern: str) -> float:
    """Share of the blocks that are zero throughout."""
    zero = (blocked(weight, pattern) == 0).all(3).all(1)
    return zero.double().mean().item()


def encoder_linears(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Linear]]:
    """Names and modules of the Linears inside encoder layers; pooler and classifier are not."""
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and ".encoder." in f".{name}":
            yield name, module


def cubic(progress: float, final: float) -> float:
    """Sparsity after a share `progress` of the ramp, clipped to 0..1."""
    return final * (1 - (1 - min(1.0, max(0.0, progress))) ** 3)


def keep_blocks(
    scores: list[torch.Tensor], sparsity: float, budget: str, multiple: int = 1
) -> list[torch.Tensor]:
    """Boolean masks (block rows, block columns), True = kept; never fewer zeros than asked.

    With the budget `layer` each layer gets the sparsity, with `global` all of them together.

    A row keeps its blocks in bundles of `multiple`, best first, the last of a full row smaller
    where that does not divide its columns: no other masks of such rows keep a larger sum of scores.
    """
    together = [scores] if budget == "global" else [[score] for score in scores]
    return [mask for layers in together for mask in _keep(layers, sparsity, multiple)]


def _keep(scores: list[torch.Tensor], sparsity: float, multiple: int) -> list[torch.Tensor]:
    ranks = [score.argsort(dim=1, descending=True, stable=True).argsort(dim=1) for score in scores]
    worth, size = [], []  # of the bundles of each layer: (block rows, bundles)
    for score, rank in zip(scores, ranks, strict=True):
        rows, columns = score.shape
        full = torch.full((rows, columns // multiple), multiple)
        rest = torch.full((rows, columns % multiple > 0), columns % multiple)
        size.append(torch.cat([full, rest], 1))
        worth.append(torch.zeros(size[-1].shape).scatter_add(1, rank // multiple, score.float()))
    flat = torch.cat([layer.flatten() for layer in size])
    order = torch.cat([layer.flatten() for layer in worth]).argsort(descending=True, stable=True)
    most = int(flat.sum()) - math.ceil(sparsity * int(flat.sum()) - 1e-9)
    kept = torch.zeros(len(flat), dtype=torch.bool)
    kept[order] = flat[order].cumsum(0) <= most
    parts = kept.split([layer.numel() for layer in size])
    return [
        part.view(layer.shape).gather(1, rank // multiple)
        for part, layer, rank in zip(parts, size, ranks, strict=True)
    ]


class Pruner(Dense):
    """Gradual block pruning during training, then training on with the mask fixed.

    The state is in the weights: a block that is zero when a run resumes was pruned before.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        *,
        pattern: str,
        sparsity: float,
        budget: str,
        multiple: int,
        score: str,
        ramp_end: float,
        interval: int,
    ) -> None:
        """`ramp_end`: share of the steps until the mask is fixed; `interval`: steps between two."""
        self.linears = list(encoder_linears(model))
        self.pattern, self.sparsity, self.budget = pattern, sparsity, budget
        self.multiple, self.score = multiple, score
        self.ramp_end, self.interval = ramp_end, interval
        self.masks: list[torch.Tensor] = []
        self.share = 0.0  # of zero weights, mean over the layers

    def resume(self, run: Run) -> None:
        zeros = [(blocked(m.weight, self.pattern) == 0).all(3).all(1) for _, m in self.linears]
        self._set([~zero for zero in zeros])

    def step(self, run: Run, steps: int) -> float:
        ramp = max(1, int(self.ramp_end * steps))
        if run.step <= ramp and (run.step % self.interval == 0 or run.step == ramp):
            wanted = cubic(run.step / ramp, self.sparsity)
            scores = [self._score(module.weight, run) for _, module in self.linears]
            self._set(keep_blocks(scores, wanted, self.budget, self.multiple))
        self._apply()
        return self.share

    def finish(self, run: Run) -> None:
        self._apply()

    def _score(self, weight: torch.Tensor, run: Run) -> torch.Tensor:
        square = weight.detach().square()
        if self.score == "fisher":  # Adam's second moment stands for the diagonal of the Fisher
            square = square * run.optimizer.state[weight]["exp_avg_sq"]
        return blocked(square, self.pattern).sum((1, 3))

    def _set(self, keep: list[torch.Tensor]) -> None:
        self.masks = [self._spread(blocks) for blocks in keep]
        self.share = 1 - sum(mask.mean().item() for mask in self.masks) / len(self.masks)

    def _spread(self, keep: torch.Tensor) -> torch.Tensor:
        outputs, inputs = BLOCKS[self.pattern]
        return keep.repeat_interleave(outputs, 0).repeat_interleave(inputs, 1).float()

    @torch.no_grad()
    def _apply(self) -> None:
        for mask, (_, module) in zip(self.masks, self.linears, strict=True):
            module.weight.mul_(mask)
