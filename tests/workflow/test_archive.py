"""The same files make the same archive; its list of sums holds."""

import os
import subprocess
import tarfile

import pytest

from workflow.rulebook.writing import StepError
from workflow.scripts.measure.archive import pack, with_companions


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.makedirs("results")
    names = ("a_throughput.csv", "a_throughput.raw.csv.gz", "a_throughput.run.json", "b.json")
    for name in names:
        (tmp_path / "results" / name).write_text(name)
    return list(
        with_companions(map(type(tmp_path), ("results/b.json", "results/a_throughput.csv")))
    )


def test_times_owners_and_order_do_not_count(files, tmp_path):
    pack(files, "{}", tmp_path / "one.tar.gz", "archive")
    for file in files:
        os.utime(file, (1, 1))
        file.chmod(0o600)
    pack(reversed(files), "{}", tmp_path / "two.tar.gz", "archive")
    assert (tmp_path / "one.tar.gz").read_bytes() == (tmp_path / "two.tar.gz").read_bytes()
    files[0].write_text("other")
    pack(files, "{}", tmp_path / "two.tar.gz", "archive")
    assert (tmp_path / "one.tar.gz").read_bytes() != (tmp_path / "two.tar.gz").read_bytes()


def test_a_table_brings_its_raw_times_and_its_sums_hold(files, tmp_path):
    pack(files, "{}", tmp_path / "one.tar.gz", "archive")
    with tarfile.open(tmp_path / "one.tar.gz") as archive:
        archive.extractall(tmp_path / "out")  # our own; filters came with Python 3.11.4
    folder = tmp_path / "out/archive"
    assert (folder / "config.json").read_text() == "{}\n"
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=folder, check=True)
    assert {path.name for path in (folder / "results").iterdir()} == {
        "a_throughput.csv",
        "a_throughput.raw.csv.gz",
        "a_throughput.run.json",
        "b.json",
    }


def test_what_is_elsewhere_is_refused(tmp_path):
    with pytest.raises(StepError, match="not a file of this folder"):
        pack([tmp_path / "absent"], "{}", tmp_path / "x.tar.gz", "archive")
