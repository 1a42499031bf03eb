"""All results on one page: tables and plots, self-contained HTML; or as text on the terminal."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from workflow.rulebook.tables import read_table
from workflow.rulebook.writing import StepError, read_json, run_main, whole
from workflow.scripts.measure.page import Table, as_html

ACCURACY = [
    "task",
    "precision",
    "metric",
    "value",
    "others",
    "examples",
    "same as fp32",
    "same as ONNX Runtime",
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
SCORES = {  # of a result -> as they are called
    "accuracy": "accuracy",
    "f1": "F1",
    "mcc": "MCC",
    "spearman": "Spearman",
    "pearson": "Pearson",
    "entity_f1": "entity F1",
    "entity_precision": "entity precision",
    "entity_recall": "entity recall",
    "exact_match": "exact match",
}
COLUMNS = {"accuracy": ACCURACY, "throughput": SPEED, "latency": SPEED}


def read_result(path: Path) -> pd.DataFrame:
    """The row of an accuracy, or those of speed that are for all instances together."""
    try:
        if path.suffix == ".json":
            return pd.DataFrame([_accuracy_row(read_json(path))], dtype=str)
        table = read_table(path)
        return table.loc[table["instance"] == "all", SPEED]
    except (OSError, ValueError, KeyError) as error:
        raise StepError(f"{path}: not a result of this workflow ({error!r})") from error


def _accuracy_row(result: dict[str, Any]) -> dict[str, str]:
    dataset, subset, metric = result["dataset"], result.get("subset"), result["metric"]
    others = (name for name in SCORES if name in result and name != metric)
    return {
        "mode": "accuracy",
        "task": result["task"],
        "precision": result["precision"],
        "metric": SCORES[metric],
        "value": f"{result['value']:.4f}",
        "others": ", ".join(f"{SCORES[name]} {result[name]:.4f}" for name in others),
        "examples": f"{result['sentences']}" + (f" of {subset['of']}" if subset else ""),
        "same as fp32": _same(result["agreement_fp32"]),
        "same as ONNX Runtime": _same(result["agreement_onnxruntime_same_file"]),
        "dataset": f"{dataset['source']}:{dataset['name']}",
        "seconds": f"{result['seconds']:.2f}",
    }


def _same(agreement: dict[str, float]) -> str:
    """Share of equal answers; of numbers, how far they are apart."""
    if "same_class" in agreement:
        return f"{agreement['same_class']:.4f}"
    return f"+-{agreement['max_difference']:.1g}"


def tables(paths: Sequence[Path]) -> list[Table]:
    """(title, rows) of each table that has rows."""
    rows = pd.concat(read_result(path) for path in paths)
    found = [(mode, rows[rows["mode"] == mode]) for mode in COLUMNS]
    return [(mode.capitalize(), own[COLUMNS[mode]]) for mode, own in found if len(own)]


def as_text(paths: Sequence[Path]) -> str:
    return "\n\n".join(f"{title}\n{_aligned(table)}" for title, table in tables(paths))


def _aligned(table: pd.DataFrame) -> str:
    cells = table.T.reset_index().T  # the header is the first row
    padded = cells.apply(lambda column: column.str.ljust(column.str.len().max()))
    return "\n".join(padded.agg("  ".join, axis="columns").str.rstrip())


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
