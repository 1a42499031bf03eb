"""The driver and its workers, with a session that sleeps."""

import argparse
import errno
import fcntl
import json
import os
import signal
import socket
import threading
from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest

from engine.commands import bench as command
from engine.errors import EngineError, InputError, SettingError
from engine.measure import instances as bench
from engine.measure.allocator import find_jemalloc, loaded_allocator
from engine.measure.instance_worker import make_feeds
from engine.measure.instances import Load, Split, measure, split_cores

OPENER = "tests.workflow.sleeper:load"
CPUS = sorted(os.sched_getaffinity(0))


def load(model="sleeps", **options):
    return Load(model, iterations=20, warmup=2, seq_len=8, opener=OPENER, **options)


@pytest.fixture(autouse=True)
def own_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "LOCK", tmp_path / "lock")


# --- who runs where ---


def test_split_clips_to_what_is_there(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    split = split_cores(4)
    assert split.instances == ((0, 1),)
    assert split.note == "4 cores per instance were asked for, 2 are here"


def test_split_fills_the_machine_and_says_what_idles(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(2, 12)))
    split = split_cores(4)
    assert split.instances == ((2, 3, 4, 5), (6, 7, 8, 9))
    assert split.note == "CPUs 10-11 stay idle"


def test_split_refuses_cpus_it_may_not_use(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    with pytest.raises(SettingError, match="cpus 5: this process may use 0-1 only"):
        split_cores(1, cpus=[0, 5])
    with pytest.raises(SettingError, match="3 instances of 1 cores: only 2 CPUs are here"):
        split_cores(1, instances=3)


# --- what is fed ---


def test_feeds_without_a_dataset_are_full():
    feeds = make_feeds(load(batch_size=3), count=2)
    assert [feed["input_ids"].shape for feed in feeds] == [(3, 8), (3, 8)]
    assert all(feed["attention_mask"].all() for feed in feeds)


def test_feeds_of_sentences(tmp_path):
    path = tmp_path / "sentences.npz"
    ids = np.array([[1, 2, 3, 0], [4, 5, 0, 0]])
    np.savez(path, input_ids=ids, attention_mask=(ids > 0).astype(int))
    real = make_feeds(load(dataset=str(path), mask="real"), count=3)
    rows = [feed["input_ids"].tolist() for feed in real]
    assert sorted(rows[:2]) == [[[1, 2, 3, 0, 0, 0, 0, 0]], [[4, 5, 0, 0, 0, 0, 0, 0]]]
    assert rows[2] == rows[0]
    assert [feed["attention_mask"].sum() for feed in real[:2]] == [
        row[0].index(0) for row in rows[:2]
    ]
    full = make_feeds(load(dataset=str(path)), count=1)
    assert full[0]["input_ids"].tolist() in ([[1, 2, 3, 4, 5, 1, 2, 3]], [[4, 5, 1, 2, 3, 4, 5, 1]])
    assert full[0]["attention_mask"].all()


def test_feeds_are_no_head_of_a_sorted_file(tmp_path):
    """Sorted by length: the first sentences would be the short ones."""
    path = tmp_path / "sentences.npz"
    mask = np.tri(64, dtype=int)
    np.savez(path, input_ids=mask * np.arange(1, 65)[:, None], attention_mask=mask)

    def drawn(seed):
        feeds = make_feeds(load(dataset=str(path), mask="real", seed=seed, batch_size=4), count=4)
        return [int(row[0]) for feed in feeds for row in feed["input_ids"]]

    assert drawn(0) == drawn(0) != drawn(1)
    assert len(set(drawn(0))) == 16
    assert 16 < np.mean(drawn(0)) < 48, "of 1 to 64"


def test_tokens_come_first_however_a_sentence_is_padded(tmp_path):
    path = tmp_path / "sentences.npz"
    mask = np.array([[0, 0, 1, 1]])
    np.savez(path, input_ids=np.array([[9, 9, 1, 2]]), attention_mask=mask)
    (feed,) = make_feeds(Load("", dataset=str(path), mask="real", seq_len=3), count=1)
    assert feed["input_ids"].tolist() == [[1, 2, 9]]
    assert feed["attention_mask"].tolist() == [[1, 1, 0]]


def test_feeds_name_a_file_that_is_no_dataset(tmp_path):
    with pytest.raises(InputError, match="absent.npz"):
        make_feeds(load(dataset=str(tmp_path / "absent.npz")))


# --- the measurement ---


def test_every_instance_counts_in_one_window():
    split = split_cores(1, instances=min(2, len(CPUS)))
    measured = measure(load(batch_size=4), split, jemalloc=False)
    assert len(measured.samples) == len(split.instances)
    for sample in measured.samples:
        assert len(sample.starts) == len(sample.ends) >= 20
        assert sample.starts.min() >= 0
        assert sample.ends.max() <= measured.seconds * 1e9
        assert sample.milliseconds.min() >= 1.0
    assert min(len(sample.ends) for sample in measured.samples) == 20
    rate = sum(4 * len(s.ends) / (s.ends[-1] / 1e9) for s in measured.samples)
    assert measured.sentences_per_second == pytest.approx(rate)


def test_a_worker_describes_itself():
    measured = measure(load(), Split(((CPUS[0],),)), jemalloc=False)
    assert measured.worker["kernels"] == "sleep:2"
    assert measured.worker["version"] == "9.9"
    assert measured.worker["allocator"].startswith("glibc")


@pytest.mark.skipif(find_jemalloc() is None, reason="no jemalloc here")
def test_jemalloc_is_loaded_in_the_worker_alone():
    measured = measure(load(), Split(((CPUS[0],),)))
    assert measured.worker["allocator"].startswith("jemalloc 5")
    assert loaded_allocator().startswith("glibc")


def test_absent_jemalloc_is_said(monkeypatch):
    monkeypatch.setattr(bench, "find_jemalloc", lambda places: None)
    lines = []
    measured = measure(load(), Split(((CPUS[0],),)), report=lines.append)
    assert "jemalloc was asked for and not found" in lines[0]
    assert measured.worker["allocator"].startswith("glibc")


@pytest.mark.parametrize(
    ("model", "message"),
    [("fails", "OSError: the disk is gone"), ("dies", "ended with status 7, no result")],
)
def test_a_failed_instance_fails_all(model, message):
    with pytest.raises(EngineError, match=rf"instance 0 \(CPUs {CPUS[0]}\): {message}"):
        measure(load(model), Split(((CPUS[0],),)), jemalloc=False)


def test_a_second_measurement_waits_for_the_first():
    lines = []
    bench.LOCK.touch()
    with bench.LOCK.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        threading.Timer(0.5, lambda: fcntl.flock(file, fcntl.LOCK_UN)).start()
        measure(load(), Split(((CPUS[0],),)), jemalloc=False, report=lines.append)
    assert "waiting for another measurement" in lines[0]


@pytest.mark.parametrize("there", ["link", "dangling link", "fifo", "folder", "socket"])
def test_what_is_no_lock_is_named_and_left_alone(tmp_path, there):
    (tmp_path / "other").touch()
    with socket.socket(socket.AF_UNIX) as bound, bench_directory(tmp_path):
        make = {
            "link": lambda: bench.LOCK.symlink_to("other"),
            "dangling link": lambda: bench.LOCK.symlink_to("absent"),
            "fifo": lambda: os.mkfifo(bench.LOCK),
            "folder": bench.LOCK.mkdir,
            "socket": lambda: bound.bind(bench.LOCK.name),
        }
        make[there]()
        before = bench.LOCK.lstat()
        with (
            pytest.raises(SettingError, match=f"{bench.LOCK}: .*; expected the file that"),
            bench._machine_to_itself(print),
        ):
            pass
    assert os.path.samestat(before, bench.LOCK.lstat())
    assert not (tmp_path / "absent").exists()


@contextmanager
def bench_directory(folder):
    """The name of a socket may not be long."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def test_a_lock_may_not_be_readable(tmp_path, monkeypatch):
    def refused(path, flags, mode=0o777):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(SettingError, match="lock: Permission denied"):
        bench._opened_lock()


def test_a_lock_is_for_every_user():
    before = os.umask(0o077)
    try:
        with bench._machine_to_itself(print):
            assert bench.LOCK.stat().st_mode & 0o777 == 0o644
    finally:
        os.umask(before)


def test_a_dead_holder_holds_nothing():
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        with bench._machine_to_itself(print):
            os.write(told, b".")
            signal.pause()
    os.read(ready, 1)
    lines = []
    threading.Timer(0.2, os.kill, (child, signal.SIGKILL)).start()
    with bench._machine_to_itself(lines.append):
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
    with bench._machine_to_itself(lines.append):
        pass
    assert len(lines) == 1, "waited for the living alone"


def test_a_lock_that_was_removed_meanwhile_is_taken_anew():
    bench.LOCK.touch()
    with bench.LOCK.open() as first:
        fcntl.flock(first, fcntl.LOCK_EX)

        def remove(line):
            bench.LOCK.unlink()
            fcntl.flock(first, fcntl.LOCK_UN)

        with (
            bench._machine_to_itself(remove),
            bench.LOCK.open() as second,
            pytest.raises(BlockingIOError),
        ):
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)


# --- the command ---


def test_cpus_are_numbers_and_ranges():
    assert command._cpus("0,2,4-6") == [0, 2, 4, 5, 6]
    with pytest.raises(SettingError, match="--cpus 0,x: 'x' is neither"):
        command._cpus("0,x")


def test_a_model_is_named_one_way_or_the_other(tmp_path):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    with pytest.raises(SettingError, match="--config and --weight"):
        command.main(parser.parse_args([]))
    (tmp_path / "c").write_text("c")
    words = ["--config", str(tmp_path / "c"), "--weight", str(tmp_path / "w")]
    with pytest.raises(InputError, match="w: no such file"):
        command.main(parser.parse_args(words))
    (tmp_path / "w").write_text("w")
    with command._model(parser.parse_args(words)) as folder:
        assert (folder / "conf.yaml").read_text() == "c"
        assert (folder / "model.bin").read_text() == "w"


def test_the_result_is_told_as_lines_and_as_json(monkeypatch, capsys):
    monkeypatch.setattr(command, "Load", partial(Load, opener=OPENER))
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    words = ["sleeps", "--iterations", "5", "--w", "1", "--batch_size", "2", "--cpus", str(CPUS[0])]
    assert command.main(parser.parse_args(words)) == 0
    text = capsys.readouterr().out
    assert text.startswith(" Batch Size is 2\n Sequence Length is 128\n Latency is ")
    assert " sentences/s\n" in text
    assert command.main(parser.parse_args([*words, "--json"])) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["counted"] == 5
    assert record["min_ms"] <= record["p50_ms"] <= record["p99.9_ms"]
    assert record["cpus"] == [[CPUS[0]]]
