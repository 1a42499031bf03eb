"""Tables and their plots as one HTML page that needs no other file."""

import base64
import io
from collections.abc import Iterable

import pandas as pd

Table = tuple[str, pd.DataFrame]  # title, cells of text

STYLE = """
body { font: 15px sans-serif; margin: 2em }
table { border-collapse: collapse }
td, th { padding: .3em .7em; border: 1px solid #ccc; text-align: left }
"""
VALUES = {"Accuracy": "value", "Throughput": "sentences_per_s", "Latency": "p50_ms"}  # plotted


def as_html(tables: Iterable[Table]) -> str:
    sections = [_section(*table) for table in tables]
    head = f"<!doctype html><meta charset=utf-8><title>Results</title><style>{STYLE}</style>"
    return "\n".join([head, "<h1>Results</h1>", *sections])


def _section(title: str, rows: pd.DataFrame) -> str:
    with pd.option_context("display.max_colwidth", None):  # else long cells end in dots
        table = rows.to_html(index=False, border=0, justify="left")
    return f"<h2>{title}</h2>{_plot(rows, VALUES[title])}{table}"


def _plot(rows: pd.DataFrame, value: str) -> str:
    """A bar a row, as an image inside the page."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "results"  # the same results make the same page
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 0.6 + 0.4 * len(rows)), layout="constrained")
    places = range(len(rows))
    bars = axes.barh(places, rows[value].astype(float), color="#4477aa")
    axes.bar_label(bars, padding=3)
    axes.set_yticks(places, _labels(rows))
    axes.invert_yaxis()
    axes.set_xlabel(value)
    axes.margins(x=0.15)
    image = io.BytesIO()
    figure.savefig(image, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    encoded = base64.b64encode(image.getvalue()).decode()
    return f'<p><img alt="{value}" src="data:image/svg+xml;base64,{encoded}">'


def _labels(rows: pd.DataFrame) -> pd.Series:
    of = " " + rows["batch_size"] + "x" + rows["seq_len"] if "seq_len" in rows else ""
    of = ": " + rows["metric"] if "metric" in rows else of
    return rows["task"] + " " + rows["precision"] + of
