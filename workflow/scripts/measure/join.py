"""Several tables of timings as one; with --column, the folder each came from is a first column."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from workflow.rulebook.tables import read_table, write_table
from workflow.rulebook.writing import run_main


def joined(paths: Sequence[Path], column: str = "") -> pd.DataFrame:
    """The rows of all tables, in their order; a column that a table lacks is empty there."""
    tables = [read_table(path) for path in paths]
    if column:
        for path, table in zip(paths, tables, strict=True):
            table.insert(0, column, path.parent.name)
    return pd.concat(tables)


def main(arguments: argparse.Namespace) -> None:
    write_table(arguments.out, joined(arguments.tables, arguments.column))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tables", type=Path, nargs="+")
    parser.add_argument("--column", default="")
    parser.add_argument("--out", type=Path, required=True)
    run_main(main, parser)
