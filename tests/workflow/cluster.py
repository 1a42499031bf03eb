"""A SLURM of one node on loopback, for tests and for trying; no systemd, nothing in /etc.

    python tests/workflow/cluster.py up FOLDER      starts munged, slurmctld, slurmd
    . FOLDER/env.sh                                 sbatch, squeue, snakemake now speak to it
    python tests/workflow/cluster.py down FOLDER    cancels jobs, stops the daemons by their pids

Needs root (slurmd starts jobs as their owner) and Debian's slurmctld slurmd slurm-client munge.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "srun")
FEATURE = "loopback"  # what a job can ask for by --constraint
CONFIGURATION = """\
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
SchedulerParameters=sched_interval=2,sched_min_interval=200000,batch_sched_delay=0,bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
# squeue has to remember finished jobs: there is no accounting to ask
MinJobAge=3600
KillWait=5
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} Feature={feature} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE DefMemPerCPU=500 State=UP
"""
NO_CGROUPS = "CgroupAutomount=no\nConstrainCores=no\nConstrainRAMSpace=no\n"
# snakemake's plugin drops SLURM_CONF before the srun inside a job; where the configuration is not
# in /etc/slurm, a srun first on PATH has to give it back.
SRUN = '#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {srun} "$@"\n'


class ClusterError(RuntimeError):
    """The cluster cannot be started; the message says what is missing or which log to read."""


def missing() -> str:
    """Why there can be no cluster on this machine; "" if there can."""
    search = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    absent = [name for name in PROGRAMS if not shutil.which(name, path=search)]
    if absent:
        packages = "slurmctld slurmd slurm-client munge"
        return f"no {', '.join(absent)}: apt-get install --no-install-recommends {packages}"
    return "" if os.getuid() == 0 else "slurmd needs root"


class Cluster:
    """The daemons and files below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()

    @property
    def environment(self) -> dict[str, str]:
        """What a program needs to speak to this cluster."""
        path = f"{self.folder}/bin:{os.environ['PATH']}:/usr/sbin"
        return {"SLURM_CONF": f"{self.folder}/slurm.conf", "PATH": path}

    def up(self) -> None:
        if reason := missing():
            raise ClusterError(reason)
        if (self.folder / "pids").exists():
            raise ClusterError(f"{self.folder}: a cluster is there already; `down` first")
        self._write_files()
        folder = self.folder
        socket_path = f"--socket={folder}/munge.socket"
        files = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
        self._start(["munged", "--foreground", "--force", socket_path, *files])
        self._wait("munged", lambda: self._answers("munge", "-n", "-S", f"{folder}/munge.socket"))
        self._start(["slurmctld", "-D"])
        self._wait("slurmctld", lambda: self._answers("scontrol", "ping"))
        self._start(["slurmd", "-D"])
        self._wait("slurmd", lambda: self.ask("sinfo", "-h", "-o", "%t") == "idle")

    def down(self) -> None:
        """Stop what `up` started, newest first, if the pid still is that program."""
        pids = self.folder / "pids"
        if not pids.exists():
            return
        if jobs := self.ask("squeue", "-h", "-o", "%i").split():
            self._answers("scancel", *jobs)
            self._wait("scancel", lambda: not self.ask("squeue", "-h", "-o", "%i"), tolerant=True)
        for line in reversed(pids.read_text().splitlines()):
            name, pid = line.split()
            _stop(name, int(pid))
        pids.unlink()

    def jobs(self) -> list[tuple[str, str]]:
        """(rule, state) of every job so far, in the order of submission."""
        lines = self.ask("squeue", "-h", "-t", "all", "-S", "i", "-o", "%k|%T").splitlines()
        rows = (line.rsplit("|", 1) for line in lines)
        return [(_rule(comment), state) for comment, state in rows]

    def ask(self, *command: str) -> str:
        """What a command of SLURM prints; "" if it fails or hangs."""
        try:
            done = self._run(*command)
        except subprocess.TimeoutExpired:
            return ""
        return done.stdout.strip() if done.returncode == 0 else ""

    def _answers(self, *command: str) -> bool:
        try:
            return self._run(*command).returncode == 0
        except subprocess.TimeoutExpired:
            return False

    def _run(self, *command: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, **self.environment}
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=10, check=False
        )

    def _write_files(self) -> None:
        folder = self.folder
        for name in ("state", "spool", "bin"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        key = os.open(folder / "munge.key", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.write(key, os.urandom(128))
        os.close(key)
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 9 // 10 >> 20
        text = CONFIGURATION.format(
            host=socket.gethostname().split(".")[0],
            ports=_free_ports(2),
            folder=folder,
            cpus=os.cpu_count(),
            memory=memory,
            feature=FEATURE,
        )
        (folder / "slurm.conf").write_text(text)
        (folder / "cgroup.conf").write_text(NO_CGROUPS)
        srun = folder / "bin/srun"
        srun.write_text(SRUN.format(folder=folder, srun=shutil.which("srun")))
        srun.chmod(0o755)
        exports = (
            f'export SLURM_CONF={folder}/slurm.conf\nexport PATH={folder}/bin:"$PATH":/usr/sbin\n'
        )
        (folder / "env.sh").write_text(exports)

    def _start(self, command: list[str]) -> None:
        with (self.folder / f"{command[0]}.out").open("wb") as out:
            daemon = subprocess.Popen(
                command,
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        with (self.folder / "pids").open("a") as pids:
            pids.write(f"{command[0]} {daemon.pid}\n")

    def _wait(self, name: str, ready: Callable[[], bool], *, tolerant: bool = False) -> None:
        until = time.monotonic() + 30
        while not ready():
            if time.monotonic() > until:
                if tolerant:
                    return
                raise ClusterError(f"{name} did not come up: {self.folder}/{name}.log, {name}.out")
            time.sleep(0.1)


def _rule(comment: str) -> str:
    """`rule_export_wildcards_tiny` -> `export`."""
    return comment.removeprefix("rule_").split("_wildcards")[0]


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _stop(name: str, pid: int) -> None:
    for number, seconds in ((signal.SIGTERM, 15), (signal.SIGKILL, 5)):
        if not _is(name, pid):
            return
        os.kill(pid, number)
        until = time.monotonic() + seconds
        while _is(name, pid) and time.monotonic() < until:
            time.sleep(0.1)


def _is(name: str, pid: int) -> bool:
    try:
        words = Path(f"/proc/{pid}/stat").read_text().replace("(", ")").split(")")
    except OSError:
        return False
    return words[1] == name and words[2].split()[0] != "Z"


def main(arguments: argparse.Namespace) -> None:
    cluster = Cluster(arguments.folder)
    actions: Mapping[str, Callable[[], None]] = {"up": cluster.up, "down": cluster.down}
    try:
        actions[arguments.action]()
    except ClusterError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("action", choices=["up", "down"])
    parser.add_argument("folder", type=Path)
    main(parser.parse_args())
