"""Tables: data frames from CSV files, and to CSV and Markdown."""

from pathlib import Path

import pandas as pd

from workflow.rulebook.writing import StepError, whole


def read_table(path: Path, dtype: type | None = str) -> pd.DataFrame:
    """Cells are text, empty ones "", unless dtype is None: then what looks like a number is one."""
    try:
        return pd.read_csv(path, dtype=dtype, keep_default_na=False)
    except ValueError as error:
        raise StepError(f"{path}: not a table ({error})") from error


def write_table(path: Path, table: pd.DataFrame) -> None:
    with whole(path) as partial:
        table.to_csv(partial, index=False)


def markdown(table: pd.DataFrame, left: int = 1) -> str:
    """The first `left` columns start at the left, numbers end at the right."""
    rule = ["---" if i < left else "---:" for i in range(table.shape[1])]
    lines = (table.columns, rule, *table.astype(str).to_numpy())
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
