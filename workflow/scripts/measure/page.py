"""Tables and their plots as one HTML page that needs no other file."""

import base64
import html
import io
from collections.abc import Iterable

Row = dict[str, str]
Table = tuple[str, list[str], list[Row]]  # title, columns, rows

STYLE = """
body { font: 15px sans-serif; margin: 2em }
table { border-collapse: collapse }
td, th { padding: .3em .7em; border: 1px solid #ccc; text-align: left }
"""
VALUES = {"Accuracy": "accuracy", "Throughput": "sentences_per_s", "Latency": "p50_ms"}  # plotted


def as_html(tables: Iterable[Table]) -> str:
    sections = [_section(*table) for table in tables]
    head = f"<!doctype html><meta charset=utf-8><title>Results</title><style>{STYLE}</style>"
    return "\n".join([head, "<h1>Results</h1>", *sections])


def _section(title: str, names: list[str], rows: list[Row]) -> str:
    value = VALUES[title]
    heads = "".join(f"<th>{html.escape(name)}" for name in names)
    cells = ["".join(f"<td>{html.escape(row[name])}" for name in names) for row in rows]
    body = "".join(f"<tr>{row}" for row in cells)
    return f"<h2>{title}</h2>{_plot(rows, value)}<table><tr>{heads}{body}</table>"


def _plot(rows: list[Row], value: str) -> str:
    """A bar a row, as an image inside the page."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "results"  # the same results make the same page
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 0.6 + 0.4 * len(rows)), layout="constrained")
    places = range(len(rows))
    bars = axes.barh(places, [float(row[value]) for row in rows], color="#4477aa")
    axes.bar_label(bars, padding=3)
    axes.set_yticks(places, [_label(row) for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel(value)
    axes.margins(x=0.15)
    image = io.BytesIO()
    figure.savefig(image, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    encoded = base64.b64encode(image.getvalue()).decode()
    return f'<p><img alt="{value}" src="data:image/svg+xml;base64,{encoded}">'


def _label(row: Row) -> str:
    shape = f" {row['batch_size']}x{row['seq_len']}" if "batch_size" in row else ""
    return f"{row['task']} {row['precision']}{shape}"
