"""All results on one page: tables and plots, self-contained HTML; or as text on the terminal."""

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workflow.rulebook.writing import StepError, read_json, run_main, whole
from workflow.scripts.measure.page import Row, Table, as_html

ACCURACY = [
    "task",
    "precision",
    "accuracy",
    "F1",
    "sentences",
    "same class as fp32",
    "same class as ONNX Runtime",
    "dataset",
    "seconds",
]
SPEED = [
    "task",
    "precision",
    "mode",
    "batch_size",
    "seq_len",
    "instances",
    "cores_per_instance",
    "mean_ms",
    "p50_ms",
    "p99_ms",
    "sentences_per_s",
    "allocator",
    "isa",
    "cpu_model",
    "dataset",
]


def read_results(paths: Sequence[Path]) -> tuple[list[Row], list[Row]]:
    """Rows of accuracy and rows of speed (those for all instances together)."""
    accuracy, speed = [], []
    for path in paths:
        try:
            if path.suffix == ".json":
                accuracy.append(_accuracy_row(read_json(path)))
            else:
                with path.open(newline="", encoding="utf-8") as file:
                    speed += [row for row in csv.DictReader(file) if row["instance"] == "all"]
        except (OSError, ValueError, KeyError) as error:
            raise StepError(f"{path}: not a result of this workflow ({error!r})") from error
    return accuracy, speed


def _accuracy_row(result: dict[str, Any]) -> Row:
    dataset = result["dataset"]
    fp32 = result["agreement_fp32"]["same_class"]
    same_file = result["agreement_onnxruntime_same_file"]["same_class"]
    values = {
        "task": result["task"],
        "precision": result["precision"],
        "accuracy": f"{result['accuracy']:.4f}",
        "F1": f"{result['f1']:.4f}",
        "sentences": _count(result),
        "same class as fp32": f"{fp32:.4f}",
        "same class as ONNX Runtime": f"{same_file:.4f}",
        "dataset": f"{dataset['source']}:{dataset['name']}",
        "seconds": f"{result['seconds']:.2f}",
    }
    return {name: str(value) for name, value in values.items()}


def _count(result: dict[str, Any]) -> str:
    subset = result.get("subset")
    return f"{result['sentences']} of {subset['of']}" if subset else str(result["sentences"])


def tables(paths: Sequence[Path]) -> list[Table]:
    """(title, columns, rows) of each table that has rows."""
    accuracy, speed = read_results(paths)
    found = [("Accuracy", ACCURACY, accuracy)]
    found += [
        (mode.capitalize(), SPEED, [row for row in speed if row["mode"] == mode])
        for mode in ("throughput", "latency")
    ]
    return [table for table in found if table[2]]


# --- text ---


def as_text(paths: Sequence[Path]) -> str:
    parts = []
    for title, names, rows in tables(paths):
        widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in names}
        lines = ["  ".join(name.ljust(widths[name]) for name in names)]
        lines += ["  ".join(row[name].ljust(widths[name]) for name in names) for row in rows]
        parts.append("\n".join([title, *(line.rstrip() for line in lines)]))
    return "\n\n".join(parts)


def main(arguments: argparse.Namespace) -> None:
    if arguments.out is None:
        print(as_text(arguments.results))
        return
    with whole(arguments.out) as partial:
        partial.write_text(as_html(tables(arguments.results)), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, help="an HTML file; without it, text is printed")
    run_main(main, parser)
