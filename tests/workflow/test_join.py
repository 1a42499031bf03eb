"""Tables of several machines, or of the points of a sweep, as one."""

import pytest

from workflow.rulebook.tables import write_table
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
    write_table(tmp_path / "machines.csv", joined(paths, "machine"))
    assert (tmp_path / "machines.csv").read_text().splitlines() == [
        "machine,task,p50_ms,p99_ms",
        "icelake,sst2,1,",
        "icelake,sst2,2,",
        "genoa,sst2,3,4",
    ]


def test_cells_are_taken_as_they_are(tmp_path):
    text = 'task,revision,kernels\nNA,0123,"a,b"\nnull,1e5,\n'
    path = write(tmp_path / "a/x.csv", text)
    write_table(tmp_path / "all.csv", joined([path]))
    assert (tmp_path / "all.csv").read_text() == text


def test_an_empty_table_is_named(tmp_path):
    path = write(tmp_path / "a/x.csv", "")
    with pytest.raises(StepError, match=f"{path}: not a table .No columns"):
        joined([path])
