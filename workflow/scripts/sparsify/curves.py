"""Loss, development accuracy and sparsity over the steps of distillation and pruning, as a plot."""

import argparse
import csv
from pathlib import Path

import matplotlib

from workflow.rulebook.writing import StepError, run_main, whole

matplotlib.use("svg")
from matplotlib import pyplot  # noqa: E402  the backend has to be chosen first

PANELS = (("loss", "loss"), ("accuracy", "development accuracy"), ("sparsity", "zero weights"))


def read_metrics(paths: list[Path]) -> dict[str, list[float]]:
    """Columns of the CSV files end to end; the steps of each go on where the last one ended."""
    columns: dict[str, list[float]] = {"step": [], "loss": [], "accuracy": [], "sparsity": []}
    for path in paths:
        before = columns["step"][-1] if columns["step"] else 0.0
        with path.open(newline="") as file:
            for number, row in enumerate(csv.DictReader(file), start=2):
                for name, values in columns.items():
                    try:
                        value = float(row[name])
                    except (KeyError, TypeError, ValueError):
                        raise StepError(f"{path}, line {number}: no number for {name}") from None
                    values.append(value + before if name == "step" else value)
    return columns


def draw(columns: dict[str, list[float]], path: Path) -> None:
    """Three panels above each other with one axis of steps."""
    figure, axes = pyplot.subplots(len(PANELS), sharex=True, figsize=(7, 7))
    for axis, (name, title) in zip(axes, PANELS, strict=True):
        axis.plot(columns["step"], columns[name])
        axis.set_ylabel(title)
        axis.grid(alpha=0.3)
    axes[-1].set_xlabel("steps")
    figure.tight_layout()
    with whole(path) as partial:
        figure.savefig(partial)


def main(a: argparse.Namespace) -> None:
    draw(read_metrics(a.metrics), a.output)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--metrics", type=Path, nargs="+", required=True, help="CSV files in order")
    parser.add_argument("--output", type=Path, required=True)
    run_main(main, parser, OSError)
