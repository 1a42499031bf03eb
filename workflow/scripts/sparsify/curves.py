"""Loss, development accuracy and sparsity over the steps of distillation and pruning, as a plot."""

import argparse
from pathlib import Path

import matplotlib
import pandas as pd

from workflow.rulebook.tables import read_table
from workflow.rulebook.writing import StepError, run_main, whole

matplotlib.use("svg")
from matplotlib import pyplot  # noqa: E402  the backend has to be chosen first

PANELS = (("loss", "loss"), ("accuracy", "development accuracy"), ("sparsity", "zero weights"))
COLUMNS = ["step", *(name for name, _ in PANELS)]


def read_metrics(paths: list[Path]) -> pd.DataFrame:
    """The tables end to end; the steps of each go on where the last one ended."""
    tables, before = [], 0.0
    for path in paths:
        try:
            table = read_table(path)[COLUMNS].astype(float)
        except (KeyError, ValueError) as error:
            raise StepError(f"{path}: not a table of metrics ({error})") from error
        table["step"] += before
        before = table["step"].iloc[-1]
        tables.append(table)
    return pd.concat(tables)


def draw(metrics: pd.DataFrame, path: Path) -> None:
    """Three panels above each other with one axis of steps."""
    figure, axes = pyplot.subplots(len(PANELS), sharex=True, figsize=(7, 7))
    for axis, (name, title) in zip(axes, PANELS, strict=True):
        axis.plot(metrics["step"], metrics[name])
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
