"""Results in S3, of a server that the tests start; Kubernetes, AWS Batch, LSF and Grid Engine.

Kubernetes and AWS Batch go as far as a dry run by their own plugins; LSF and Grid Engine as far as
the command that a job is submitted with, which programs of the same names write down here.
"""

import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import yaml

from .conftest import ROOT
from .test_stale import RESULT, Finished, key, steps_of

PYTHON = Path(sys.prefix, "plugins/bin/python")
BUCKET = "measured"
SUBMITTED = ("bsub", "qsub")
LSF = {"LSF_UNIT_FOR_LIMITS": "MB", "LSB_SHAREDIR": "share", "LSF_CONFDIR": "conf"}
ANSWERS = {  # to what the plugins ask before they submit
    **dict.fromkeys(("qstat", "qdel", "qacct", "bjobs", "bhist"), ""),
    "badmin": "of mbatchd\n" + "".join(f"{name} = {value}\n" for name, value in LSF.items()),
    "lsclusters": "CLUSTER_NAME STATUS\nhere ok\n",
}
TIMED = ("benchmark", "benchmark_on", "sweep_point")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON.exists(), reason="make plugins has not been run"),
]


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    """The address of a server with one bucket, nothing in it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [PYTHON, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    address = f"http://127.0.0.1:{port}"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        for name in (BUCKET, "sparse-engine"):
            ask(f"{address}/{name}", "PUT")
        yield address
        server.terminate()


def ask(url, method="GET"):
    for _ in range(100):
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method=method)) as answer:
                return answer.read().decode()
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"{url} does not answer")


class Planned(Finished):
    python = PYTHON

    def environment(self, **changes):
        secrets = {f"SNAKEMAKE_STORAGE_S3_{name}_KEY": "x" for name in ("ACCESS", "SECRET")}
        return {**super().environment(**changes), **secrets}


class Stored(Planned):
    """A clone whose results are in the bucket."""

    def snakemake(self, *arguments, **more):
        where = ["--default-storage-provider", "s3", "--default-storage-prefix", f"s3://{BUCKET}"]
        where += ["--storage-s3-endpoint-url", self.address]
        return super().snakemake(*arguments, *where, **more)


@pytest.fixture
def clone(tmp_path):
    return Planned(tmp_path)


def test_results_go_to_a_bucket_and_what_is_stale_is_known_there(tmp_path, s3):
    clone = Stored(tmp_path)
    clone.address = s3
    clone.snakemake(RESULT)
    names = re.findall("<Key>([^<]+)", ask(f"{s3}/{BUCKET}?list-type=2"))
    assert {RESULT, "results/tiny/int8.onnx", "results/tiny/ir_int8/model.bin"} <= set(names)
    assert "logs/tiny/compile_int8.log" in names
    assert not (tmp_path / "results").exists()
    assert clone.steps(RESULT) == {}
    with key("quantize", "sentences", value=3)(clone):
        again = set(steps_of("`quantize: sentences`")) - {"accuracy", "report"}
        assert clone.steps(RESULT) == dict.fromkeys(again, 1)


@pytest.mark.parametrize("name", ["kubernetes", "aws-batch", "lsf", "sge"])
def test_a_dry_run_by_the_real_plugin_has_the_resources_of_the_rules(clone, s3, name):
    options = ["--workflow-profile", f"profiles/{name}"]
    options += ["--storage-s3-endpoint-url", s3] if name in ("kubernetes", "aws-batch") else []
    text = clone.snakemake(RESULT, "--dry-run", *options).stdout
    job = text.split("\nrule benchmark:")[1].split("\n\n")[0]
    assert {"mem_mb=8000", "runtime=60"} <= set(re.findall(r"\w+=\w+", job))
    profile = yaml.safe_load((ROOT / f"profiles/{name}/profile.v9+.yaml").read_text())
    assert profile["executor"] == name
    alone = profile.get("set-resources", {})
    assert set(alone) in (set(), set(TIMED))
    for resource, value in alone.get("benchmark", {}).items():
        assert f"{resource}={str(value).strip(chr(34))}" in job


@pytest.mark.parametrize(
    "name, expected",
    [
        ("lsf", ["-W 30", "-n 4", "rusage[mem=500.0]"]),
        ("sge", ["-l h_rt=00:30:00", "-pe smp 4", "-l h_vmem=500M"]),
    ],
)
def test_what_is_submitted_asks_for_what_the_rule_says(clone, name, expected):
    for program in SUBMITTED:
        script = f'echo "$0 $*" >> {clone.folder}/submitted\nexit 1\n'
        write_program(clone.folder / "bin" / program, script)
    for program, answer in ANSWERS.items():
        write_program(clone.folder / "bin" / program, f"cat <<.\n{answer}.\n")
    parameters = clone.folder / "conf/lsbatch/here/configdir/lsb.params"
    parameters.parent.mkdir(parents=True)
    parameters.touch()
    options = ["--workflow-profile", f"profiles/{name}", "--set-threads", "fetch_model=4"]
    text = submitted(clone, "results/tiny/model", *options)
    assert all(part in text for part in expected), text


def submitted(clone, *arguments):
    """The line that was written down; Snakemake is not waited for."""
    path = clone.folder / "submitted"
    with subprocess.Popen(
        [PYTHON, "-m", "snakemake", *arguments],
        cwd=clone.folder,
        env=clone.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        while not (path.exists() and path.read_text().endswith("\n")) and process.poll() is None:
            time.sleep(0.1)
        process.kill()
        assert path.exists(), process.stdout.read()[-3000:]
    return path.read_text()


def write_program(path, script):
    path.write_text(f"#!/bin/sh\n{script}")
    path.chmod(0o755)
