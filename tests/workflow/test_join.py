"""Tables of several machines, or of the points of a sweep, as one."""

import pytest

from workflow.rulebook.writing import StepError
from workflow.scripts.measure.join import joined


def write(path, text):
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def test_the_folder_names_the_machine(tmp_path):
    paths = [
        write(tmp_path / "icelake/x.csv", "task,p50_ms\nsst2,1\nsst2,2\n"),
        write(tmp_path / "genoa/x.csv", "task,p50_ms,p99_ms\nsst2,3,4\n"),
    ]
    columns, rows = joined(paths, "machine")
    assert columns == ["machine", "task", "p50_ms", "p99_ms"]
    assert [(row["machine"], row["p50_ms"]) for row in rows] == [
        ("icelake", "1"),
        ("icelake", "2"),
        ("genoa", "3"),
    ]


def test_an_empty_table_is_named(tmp_path):
    path = write(tmp_path / "a/x.csv", "")
    with pytest.raises(StepError, match=f"{path}: an empty table"):
        joined([path])
