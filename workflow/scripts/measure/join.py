"""Several tables of timings as one; with --column, the folder each came from is a first column."""

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

from workflow.rulebook.writing import StepError, run_main, whole

Row = dict[str, str]


def joined(paths: Sequence[Path], column: str = "") -> tuple[list[str], list[Row]]:
    """(columns, rows) of all tables, in their order; a column that a table lacks is empty there."""
    columns: dict[str, None] = {column: None} if column else {}
    rows = []
    for path in paths:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if not reader.fieldnames:
                raise StepError(f"{path}: an empty table")
            columns |= dict.fromkeys(reader.fieldnames)
            rows += [{column: path.parent.name, **row} if column else row for row in reader]
    return list(columns), rows


def main(arguments: argparse.Namespace) -> None:
    columns, rows = joined(arguments.tables, arguments.column)
    with whole(arguments.out) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tables", type=Path, nargs="+")
    parser.add_argument("--column", default="")
    parser.add_argument("--out", type=Path, required=True)
    run_main(main, parser)
