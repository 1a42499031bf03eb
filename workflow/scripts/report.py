"""All results on one page: tables and plots, self-contained HTML; or as text on the terminal."""

import argparse
import base64
import csv
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workflow.scripts.writing import StepError, read_json, run_main, whole

ACCURACY = {
    "task": "task",
    "precision": "precision",
    "accuracy": "accuracy",
    "f1": "F1",
    "sentences": "sentences",
    "like fp32": "same class as fp32",
    "like onnxruntime": "same class as ONNX Runtime",
    "dataset": "dataset",
    "seconds": "seconds",
}
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
STYLE = """
body { font: 15px sans-serif; margin: 2em }
table { border-collapse: collapse }
td, th { padding: .3em .7em; border: 1px solid #ccc; text-align: left }
"""

Row = dict[str, str]


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
    values = {
        "task": result["task"],
        "precision": result["precision"],
        "accuracy": f"{result['accuracy']:.4f}",
        "f1": f"{result['f1']:.4f}",
        "sentences": result["sentences"],
        "like fp32": f"{result['agreement_fp32']['same_class']:.4f}",
        "like onnxruntime": f"{result['agreement_onnxruntime_same_file']['same_class']:.4f}",
        "dataset": f"{dataset['source']}:{dataset['name']}",
        "seconds": f"{result['seconds']:.2f}",
    }
    return {ACCURACY[name]: str(value) for name, value in values.items()}


def tables(paths: Sequence[Path]) -> list[tuple[str, list[str], list[Row]]]:
    """(title, columns, rows) of each table that has rows."""
    accuracy, speed = read_results(paths)
    found = [("Accuracy", list(ACCURACY.values()), accuracy)]
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


# --- HTML ---


def as_html(paths: Sequence[Path]) -> str:
    sections = [_section(*table) for table in tables(paths)]
    head = f"<!doctype html><meta charset=utf-8><title>Results</title><style>{STYLE}</style>"
    return "\n".join([head, "<h1>Results</h1>", *sections])


def _section(title: str, names: list[str], rows: list[Row]) -> str:
    value = {"Accuracy": "accuracy", "Throughput": "sentences_per_s", "Latency": "p50_ms"}[title]
    heads = "".join(f"<th>{html.escape(name)}" for name in names)
    cells = ["".join(f"<td>{html.escape(row[name])}" for name in names) for row in rows]
    body = "".join(f"<tr>{row}" for row in cells)
    return f"<h2>{title}</h2>{_plot(rows, value)}<table><tr>{heads}{body}</table>"


def _plot(rows: list[Row], value: str) -> str:
    """A bar a row, as an image inside the page."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 0.6 + 0.4 * len(rows)), layout="constrained")
    bars = axes.barh(
        [_label(row) for row in rows], [float(row[value]) for row in rows], color="#4477aa"
    )
    axes.bar_label(bars, padding=3)
    axes.invert_yaxis()
    axes.set_xlabel(value)
    axes.margins(x=0.15)
    image = io.BytesIO()
    figure.savefig(image, format="svg")
    pyplot.close(figure)
    encoded = base64.b64encode(image.getvalue()).decode()
    return f'<p><img alt="{value}" src="data:image/svg+xml;base64,{encoded}">'


def _label(row: Row) -> str:
    shape = f" {row['batch_size']}x{row['seq_len']}" if "batch_size" in row else ""
    return f"{row['task']} {row['precision']}{shape}"


def main(arguments: argparse.Namespace) -> None:
    if arguments.out is None:
        print(as_text(arguments.results))
        return
    with whole(arguments.out) as partial:
        partial.write_text(as_html(arguments.results), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, help="an HTML file; without it, text is printed")
    run_main(main, parser)
