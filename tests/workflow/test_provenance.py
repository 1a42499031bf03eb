"""Results leave with what they were made of: Snakemake's own report, and the archive."""

import json
import tarfile
import zipfile

import pytest

from .test_stale import TARGET, Finished

pytestmark = pytest.mark.slow

RESULTS = [
    "results/tiny_int8_accuracy.json",
    "results/tiny_int8_latency.csv",
    "results/tiny_int8_latency.run.json",
    "results/tiny_int8_throughput.csv",
    "results/tiny_int8_throughput.run.json",
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    clone = Finished(tmp_path_factory.mktemp("finished"))
    clone.snakemake("results/archive.tar.gz")
    return clone


def test_the_report_of_snakemake_has_every_result(finished):
    finished.snakemake(TARGET, "--report", "report.zip")
    with zipfile.ZipFile(finished.folder / "report.zip") as report:
        text = "\n".join(name for name in report.namelist()) + "\n".join(
            report.read(name).decode(errors="replace")
            for name in report.namelist()
            if name.endswith((".html", ".js"))
        )
    for name in [*RESULTS, TARGET]:
        assert name in text, name


def test_the_archive_has_results_their_records_and_the_configuration(finished):
    with tarfile.open(finished.folder / "results/archive.tar.gz") as archive:
        names = {name.removeprefix("archive/") for name in archive.getnames()}
        config = json.load(archive.extractfile("archive/config.json"))
    pins = {f"envs/{path.name}" for path in (finished.folder / "envs").glob("*.yaml")}
    expected = {*RESULTS, TARGET, *pins, "requirements.txt", "config.json", "SHA256SUMS"}
    raw = {name.replace(".run.json", ".raw.csv.gz") for name in RESULTS if ".run." in name}
    assert names == expected | raw
    assert config["tasks"]["tiny"]["model"]["revision"] == "0" * 40
