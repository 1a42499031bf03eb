"""Who runs where, on trees of /sys made after real machines."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import pytest

from engine.errors import SettingError
from engine.machine import quota, topology
from engine.measure.placement import Split, Used, split_cores, usable
from tests import machines
from tests.machines import EPYC, HALF_OFF, XEON, Made


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory):
    """A machine's tree, which is written once."""
    return cache(lambda machine: machines.write(tmp_path_factory.mktemp("machine"), machine))


@pytest.fixture
def on(tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """(machine, CPUs that are allowed) -> the root of its tree, for this process."""
    monkeypatch.delenv("SLURM_CPUS_ON_NODE", raising=False)

    def made(machine: Made, allowed=()) -> Path:
        cpus = set(allowed or machine.online)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: cpus)
        devices = tmp_path / "sys/devices"
        devices.parent.mkdir(exist_ok=True)
        devices.unlink(missing_ok=True)
        devices.symlink_to(tree(machine) / "sys/devices")
        return tmp_path

    return made


def is_one_thread_a_core(split: Split) -> bool:
    return split.all_used.cores == sum(map(len, split.instances))


def parts(split: Split, of: str) -> list[int]:
    """How many caches, nodes, sockets each instance has cores of."""
    return [len({getattr(split.topology.of(cpu), of) for cpu in cpus}) for cpus in split.instances]


# --- machines ---


def test_xeon_numbered_in_halves(on) -> None:
    """As the original: 4 cores an instance, occupying one socket."""
    split = split_cores(4, root=on(XEON))
    assert split.instances == tuple(tuple(range(4 * n, 4 * n + 4)) for n in range(6))
    assert split.limits == ("socket 0 of 0-1 (sockets: 1)", "one thread a core (smt: false)")
    assert split.note == ""
    assert split.all_used == Used(1, 24, 24)


def test_xeon_with_all_its_threads_and_sockets(on) -> None:
    split = split_cores(4, sockets="all", smt=True, root=on(XEON))
    assert split.instances[0] == (0, 48, 1, 49, 2, 50, 3, 51) and len(split.instances) == 12
    assert (split.threads, split.cores_per_instance) == (8, 4)
    assert set(parts(split, "socket")) == set(parts(split, "node")) == {1}
    assert split.limits == ()
    assert split.all_used == Used(2, 48, 96)


def test_epyc_with_siblings_side_by_side(on) -> None:
    split = split_cores(4, root=on(EPYC))
    assert split.instances[:3] == ((0, 2, 4, 6), (8, 10, 12, 14), (16, 18, 20, 22))
    assert len(split.instances) == 8 and is_one_thread_a_core(split)
    assert set(parts(split, "cache")) == set(parts(split, "socket")) == {1}


@pytest.mark.parametrize(
    ("cores", "count", "caches", "note"),
    [
        (3, 8, 1, "CPUs 12,14,28,30,44,46,60,62 stay idle"),
        (8, 4, 1, ""),
        (16, 2, 2, "an instance has cores of 2 last-level caches"),
        (100, 1, 4, "100 cores per instance were asked for, 32 are here; an instance has cores of"),
    ],
)
def test_epyc_instances_lie_inside_caches(on, cores, count, caches, note) -> None:
    split = split_cores(cores, root=on(EPYC))
    assert (len(split.instances), set(parts(split, "cache"))) == (count, {caches})
    assert is_one_thread_a_core(split) and split.note.startswith(note)


def test_more_instances_than_caches_have_room_for_lie_across_them(on) -> None:
    split = split_cores(3, instances=10, root=on(EPYC))
    assert len(split.instances) == 10 and set(parts(split, "socket")) == {1}
    split = split_cores(64, sockets="all", root=on(EPYC))
    assert parts(split, "socket") == [2] and is_one_thread_a_core(split)


def test_offline_cpus_are_not_there(on) -> None:
    root = on(HALF_OFF)
    split = split_cores(2, root=root)
    assert split.instances == ((0, 2), (3, 5), (6, 7)) and split.note == "CPUs 9 stay idle"
    smt = split_cores(7, smt=True, root=root)
    assert smt.all_used == Used(1, 7, 13)
    with pytest.raises(SettingError, match="cpus 12: this process may use 0,2-3,5-11,13-15 only"):
        split_cores(1, cpus=[0, 12], root=root)


def test_what_is_not_told_is_a_core_of_its_own(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 4, 5})
    split = split_cores(2, root=tmp_path)
    assert (split.instances, split.limits) == (((3, 4),), ())
    assert usable(tmp_path) == Used(1, 3, 3)


def test_a_file_that_is_no_list_is_named(tmp_path) -> None:
    root = machines.write(tmp_path, HALF_OFF)
    machines.put(root / "sys/devices/system/cpu/cpu5/topology/core_cpus_list", "5-x")
    with pytest.raises(SettingError, match="cpu5/topology/core_cpus_list: found '5-x'"):
        split_cores(1, root=root)


# --- what a container or a scheduler leaves ---


def test_a_cpuset_of_one_socket_and_half_of_the_other(on) -> None:
    allowed = [*range(20, 28), *range(68, 76)]  # four cores of each socket, both threads
    split = split_cores(4, root=on(XEON, allowed))
    assert split.instances == ((20, 21, 22, 23),)
    assert split.limits[0] == "CPUs 20-27,68-75 of 0-95 (a cpuset, or affinity)"
    split = split_cores(2, root=on(XEON, [0, 24, 25, 26]))
    assert split.instances == ((24, 25),), "the socket that has the most"


@pytest.mark.parametrize("version", ["v1", "v2", "v2 above"])
def test_a_quota_of_two_and_a_half(on, version) -> None:
    root = on(EPYC)
    if version == "v1":
        machines.quota_v1(root, 250_000)
    elif version == "v2":
        machines.quota_v2(root, "250000 100000")
    else:
        machines.quota_v2(root, "400000 100000", above="250000 100000")
    split = split_cores(4, root=root)
    assert split.instances == ((0, 2),)
    assert split.note.startswith("4 cores per instance were asked for, 2 are here")
    assert split.limits[0] in (
        "2.5 CPUs of time (cpu.max)",
        "2.5 CPUs of time (cpu.cfs_quota_us)",
    )
    assert split.all_used == Used(1, 2, 2, 2.5)
    assert split_cores(1, root=root).instances == ((0,), (2,))
    assert split_cores(4, smt=True, root=root).instances == ((0, 1),)
    with pytest.raises(SettingError, match=r"3 instances of 1 cores: .*; 2.5 CPUs of time"):
        split_cores(1, instances=3, root=root)
    assert usable(root).quota == 2.5


def test_a_quota_below_one_is_one_core(on) -> None:
    split = split_cores(2, root=machines.quota_v2(on(XEON), "50000 100000"))
    assert split.instances == ((0,),) and split.quota == 0.5


@pytest.mark.parametrize("text", ["max 100000", "", "x y", "0 0", "1", "-1 100000"])
def test_no_quota(on, text) -> None:
    assert quota.of_process(machines.quota_v2(on(HALF_OFF), text)) is None


def test_a_group_outside_of_what_is_mounted_is_the_mount(on) -> None:
    root = machines.quota_v1(on(HALF_OFF), 150_000, named="/../other")
    assert quota.of_process(root) == quota.Quota(1.5, "cpu.cfs_quota_us")
    machines.quota_v1(root, -1)
    assert quota.of_process(root) is None


def test_slurm_that_does_not_pin_is_kept_to(on, monkeypatch) -> None:
    root = on(XEON)
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "8")
    split = split_cores(4, root=root)
    assert split.instances == ((0, 1, 2, 3), (4, 5, 6, 7))
    assert split.limits[0] == "8 CPUs of time (SLURM_CPUS_ON_NODE)" and split.quota == 8
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "96")
    assert split_cores(4, root=root).quota is None


# --- threads of a session, copies of weights ---


def test_workers_have_cores_of_their_own_first(on) -> None:
    order = topology.read(on(EPYC)).in_turn(EPYC.online)
    assert order[:4] == (0, 2, 4, 6) and order[63:66] == (126, 1, 3)
    assert sorted(order) == EPYC.online
    assert set(topology.usable()) == set(EPYC.online), "of this machine, which knows none of them"


def test_processes_of_a_node_share_its_copy_of_the_weights(on, monkeypatch) -> None:
    root = on(XEON, range(24, 28))
    node_of = {cpu: node for node, members in topology._nodes(root) for cpu in members}
    monkeypatch.setattr(topology, "_node_of", lambda: node_of)
    assert topology.local_node() == 1
    on(XEON, [23, 24])
    assert topology.local_node() is None, "memory of both"
    monkeypatch.setattr(topology, "_node_of", lambda: dict.fromkeys(range(4), 0))
    assert topology.local_node() is None, "one node"


def test_named_cpus_are_taken_as_they_are(on) -> None:
    split = split_cores(2, cpus=[0, 1, 64, 65], root=on(EPYC))
    assert split.instances == ((0, 1), (64, 65)) and split.limits == ()
    assert split.note == "some of the CPUs are threads of one core"
    with pytest.raises(SettingError, match="sockets 'both': expected one of 1, all"):
        split_cores(1, sockets="both", root=on(EPYC))
