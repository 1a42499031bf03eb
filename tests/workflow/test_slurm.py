"""The workflow on a SLURM that the tests start: jobs that end, fail, run too long, are stopped.

Two runs share the node: `hanging` fetches a model for ever, with a limit of one minute; meanwhile
`broken` measures sentences that are longer than the model takes, and is mended.
"""

import csv
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import partial

import pytest

from .cluster import FEATURE, Cluster, missing
from .conftest import TINY, Clone

pytestmark = [
    pytest.mark.slow,
    pytest.mark.slurm,
    pytest.mark.skipif(bool(missing()), reason=missing()),
]

PROFILE = ["--workflow-profile", "profiles/slurm", "--configfile", "config/test.yaml"]
SOON = ["--slurm-init-seconds-before-status-checks", "2", "--seconds-between-status-checks", "2"]
TARGET = "results/tiny_int8_throughput.csv"
CONFIG = {**TINY, "cluster": {"cores": 1, "constraint": FEATURE, "partition": "main"}}
TOO_LONG = {**CONFIG["throughput"], "seq_lens": [4096]}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        cluster.up()
        yield cluster
    finally:
        cluster.down()


@pytest.fixture(scope="module")
def make_clone(tmp_path_factory, tiny_files):
    def make(name):
        clone = Clone(tmp_path_factory.mktemp(name))
        shutil.copytree(tiny_files, clone.folder / "tiny")
        clone.configure(**CONFIG)
        return clone

    return make


def submit(clone, cluster, *arguments):
    """snakemake at work: its process, whose output goes to snakemake.log."""
    environment = clone.environment(**cluster.environment)
    log = (clone.folder / "snakemake.log").open("w")
    command = [sys.executable, "-m", "snakemake", *arguments, *PROFILE, *SOON]
    return subprocess.Popen(
        command,
        cwd=clone.folder,
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT,
        # a shell that runs tests in the background has SIGINT ignored, and children inherit that
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )


def finish(clone, cluster, *arguments):
    """(exit status, output) of a run to its end."""
    status = submit(clone, cluster, *arguments).wait(600)
    return status, (clone.folder / "snakemake.log").read_text()


@contextmanager
def jobs_of(cluster):
    """The jobs that are submitted meanwhile: rule and state, without those of `hanging`."""
    before, found = len(cluster.jobs()), []
    yield found
    found += [job for job in cluster.jobs()[before:] if job[0] != "fetch_model"]


def hang(clone):
    script = clone.folder / "workflow/scripts/fetch/fetch_model.py"
    script.write_text("import time\n\ntime.sleep(3600)\n")


@pytest.fixture(scope="module", autouse=True)
def hanging(cluster, make_clone):
    clone = make_clone("hanging")
    hang(clone)
    limit = ["--set-resources", "fetch_model:runtime=1"]
    process = submit(clone, cluster, "results/tiny/model", *limit)
    yield process, clone
    process.kill()
    process.wait()


@pytest.fixture(scope="module")
def broken(cluster, make_clone):
    """A run in which one step failed, and the jobs it had."""
    clone = make_clone("broken")
    clone.configure(**{**CONFIG, "throughput": TOO_LONG})
    clone.snakemake("results/tiny/data/validation.npz")  # some steps here, the rest there
    with jobs_of(cluster) as jobs:
        clone.status, clone.log = finish(clone, cluster, TARGET)
    clone.jobs = dict(jobs)
    return clone


def test_a_job_that_fails_is_told_with_its_log(broken):
    assert broken.status != 0
    assert broken.jobs.pop("benchmark") == "FAILED"
    before = ["tokenize", "export", "quantize_int8", "compile"]
    assert broken.jobs == dict.fromkeys(before, "COMPLETED")
    assert "length 4096: the model has positions for" in broken.log


def test_only_what_failed_runs_again(broken, cluster):
    broken.configure(**CONFIG)
    with jobs_of(cluster) as jobs:
        status, log = finish(broken, cluster, TARGET)
    assert status == 0, log[-6000:]
    assert jobs == [("benchmark", "COMPLETED")]


def test_the_measurement_is_that_of_the_node(broken, cluster):
    with (broken.folder / TARGET).open() as file:
        rows = list(csv.DictReader(file))
    assert {row["engine"] for row in rows} == {"engine"}
    last = cluster.ask("squeue", "-h", "-t", "all", "-S", "-i", "-o", "%k|%f|%P|%h|%C").splitlines()
    job, _failed = (line for line in last if "benchmark" in line)  # the newest first
    feature, partition, oversubscribed, cores = job.split("|")[1:]
    assert (feature, partition, oversubscribed) == (FEATURE, "main", "NO")
    assert int(cores) == int(cluster.ask("sinfo", "-h", "-o", "%c")), "a node of its own"


def test_a_job_beyond_its_time_is_ended(hanging, cluster):
    process, clone = hanging
    assert process.wait(180) != 0
    assert ("fetch_model", "TIMEOUT") in cluster.jobs()
    assert not (clone.folder / "results/tiny/model").exists()


def test_stopping_snakemake_stops_its_jobs(cluster, make_clone):
    clone = make_clone("stopped")
    hang(clone)
    process = submit(clone, cluster, "results/tiny/model")
    wait_until(lambda: cluster.jobs()[-1] == ("fetch_model", "RUNNING"))
    process.send_signal(signal.SIGINT)
    process.wait(180)
    wait_until(lambda: cluster.jobs()[-1] == ("fetch_model", "CANCELLED"))


def wait_until(happened, seconds=180):
    until = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < until, "nothing happened"
        time.sleep(0.2)
