"""Downloads from a hub on loopback, by the scripts that the rules run: what holds, what is said."""

import json
import os
import shlex
import subprocess
import sys

import pytest

from workflow.rulebook.command_line import options
from workflow.rulebook.fingerprint import sha256

from .loopback_hub import COMMIT, LARGE, served

pytestmark = pytest.mark.slow

NAME = "owner/model"
KIND = {"kind": "text-classification"}
CHUNK = 10 << 20  # what huggingface_hub writes at a time: less of a cut connection is lost


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the hub has: a model with published files, one without safetensors, a data set."""
    import pandas

    folder = tmp_path_factory.mktemp("hub")
    model = folder / NAME
    (model / "ir").mkdir(parents=True)
    for name in ("config.json", "vocab.txt", "README.md", "ir/conf.yaml", "ir/model.bin"):
        (model / name).write_text(f"{name}\n")
    for name in ("model.safetensors", "pytorch_model.bin"):
        (model / name).write_bytes(os.urandom(CHUNK + 2 * LARGE))
    (model / "int8.onnx").write_bytes(os.urandom(LARGE))
    pickled = folder / "owner/pickled"
    pickled.mkdir()
    for name in ("config.json", "vocab.txt", "pytorch_model.bin"):
        (pickled / name).write_text(name)
    rows = pandas.DataFrame({"sentence": ["good"] * 3, "label": [1] * 3, "idx": range(3)})
    (folder / "datasets/owner/glue/sst2").mkdir(parents=True)
    for split in ("train", "validation"):
        path = folder / f"datasets/owner/glue/sst2/{split}-00000-of-00001.parquet"
        rows.to_parquet(path)
    return folder


@pytest.fixture
def hub(folder):
    with served(folder) as hub:
        yield hub


@pytest.fixture
def run(hub, tmp_path):
    """Run a script of the workflow against the hub."""

    def run(script, *arguments, name=NAME, revision=COMMIT, source=(), **variables):
        about = {"source": "hub", "name": name, "revision": revision, "content": "", **dict(source)}
        variables = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home"), **variables}
        kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        command = [sys.executable, "-m", f"workflow.scripts.fetch.{script}"]
        command += shlex.split(options(about))
        return subprocess.run(
            [*command, *map(str, arguments)],
            env={**kept, **variables},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.fixture
def fetch(run, tmp_path):
    """Fetch the model to `out`, or get the one line that says why not."""

    def fetch(**options):
        done = run("fetch_model", "--out", tmp_path / "out", **options)
        errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
        assert "Traceback" not in done.stderr, done.stderr
        assert bool(done.returncode) == bool(errors) == (not (tmp_path / "out").exists())
        return "".join(errors)

    return fetch


def test_a_model_is_fetched_with_safe_weights_alone(fetch, hub, tmp_path, folder):
    assert fetch() == ""
    kept = {"config.json", "vocab.txt", "model.safetensors"}
    about = json.loads((tmp_path / "out/source.json").read_text())
    assert about["revision"] == COMMIT
    assert about["sha256"] == {name: sha256(folder / NAME / name) for name in kept}
    for name in kept:
        assert (tmp_path / "out" / name).read_bytes() == (folder / NAME / name).read_bytes()
    assert not hub.asked("pytorch_model.bin")
    assert not hub.asked("README.md")


def test_pickled_weights_are_taken_where_there_are_no_others(fetch, hub, tmp_path):
    assert fetch(name="owner/pickled") == ""
    assert (tmp_path / "out/pytorch_model.bin").exists()


def test_what_is_there_is_not_fetched_again_and_needs_no_network(fetch, hub, tmp_path):
    assert fetch() == ""
    (tmp_path / "out").rename(tmp_path / "first")
    before = len(hub.requests)
    assert fetch(HF_HUB_OFFLINE="1") == ""
    assert len(hub.requests) == before


def test_offline_and_not_there_is_said(fetch, hub, tmp_path):
    message = fetch(HF_HUB_OFFLINE="1")
    assert f"HF_HUB_OFFLINE is set and {tmp_path}/home/hub does not have it" in message
    assert hub.requests == []


def test_a_cut_connection_goes_on_where_it_stopped(fetch, hub, tmp_path, folder):
    hub.fault("cut", CHUNK + LARGE)
    assert fetch() == ""
    first, second = hub.asked("storage/owner/model/model.safetensors")
    assert (first.get("Range"), second.get("Range")) == (None, f"bytes={CHUNK}-")
    assert sha256(tmp_path / "out/model.safetensors") == sha256(folder / NAME / "model.safetensors")


def test_a_server_that_cannot_go_on_sends_the_whole_again(fetch, hub, tmp_path, folder):
    hub.fault("cut", CHUNK + LARGE)
    hub.fault("whole")
    assert fetch() == ""
    ranges = [head.get("Range") for head in hub.asked("storage/owner/model/model.safetensors")]
    assert ranges == [None, f"bytes={CHUNK}-", None]
    assert sha256(tmp_path / "out/model.safetensors") == sha256(folder / NAME / "model.safetensors")


def test_a_wrong_checksum_deletes_the_file_and_tells_both(fetch, hub, tmp_path, folder):
    hub.fault("wrong")
    size = (folder / NAME / "model.safetensors").stat().st_size
    (tmp_path / "zeros").write_bytes(bytes(size))
    found, said = sha256(tmp_path / "zeros"), sha256(folder / NAME / "model.safetensors")
    message = fetch()
    assert (
        f"model.safetensors: sha256 is {found}, the hub says {said}; the file was deleted"
        in message
    )
    assert not list((tmp_path / "home").rglob("model.safetensors"))
    assert not list((tmp_path / "home").rglob(said))
    assert fetch() == "", "the next run fetches it anew"


def test_a_small_file_is_checked_too(fetch, tmp_path):
    assert fetch() == ""
    (tmp_path / "out").rename(tmp_path / "first")
    (vocabulary,) = (tmp_path / "home").rglob("vocab.txt")
    vocabulary.resolve().write_text("changed\n")
    assert "vocab.txt: git's sha1 is " in fetch()
    assert fetch() == ""


@pytest.mark.parametrize(
    ("name", "tag"),
    [
        ("model.safetensors", "5d41402abc4b2a76b9719d911017c592-2"),
        ("config.json", "A" * 64),
        ("config.json", "weak"),
        ("config.json", "{outside}"),
    ],
)
def test_what_has_no_checksum_is_refused(fetch, hub, tmp_path, name, tag):
    """huggingface_hub takes an ETag for the path of a file in its cache."""
    outside = tmp_path / "outside"
    outside.write_text("{}")
    hub.etags[name] = tag.format(outside=outside)
    message = fetch()
    assert f"/{NAME}/resolve/{COMMIT}/{name}: the hub says ETag" in message
    assert "neither a sha256 nor git's sha1" in message
    assert not hub.asked("storage/owner/model/model.safetensors") or name == "config.json"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "outside"]


def test_what_another_program_left_without_a_checksum_is_refused(fetch, tmp_path):
    assert fetch() == ""
    (tmp_path / "out").rename(tmp_path / "first")
    (pointer,) = (tmp_path / "home").rglob("vocab.txt")
    blob = pointer.resolve()
    pointer.unlink()
    pointer.symlink_to(blob.rename(blob.with_name("0123")))
    assert "vocab.txt: called 0123, which is neither" in fetch()
    pointer.unlink()
    pointer.write_text("a file, as where there are no links")
    assert "expected a link to the blobs of the same repository" in fetch()
    pointer.unlink()
    (tmp_path / "secret").write_text("not the hub's")
    pointer.symlink_to(tmp_path / "secret")
    assert f"vocab.txt: is {tmp_path}/secret; expected a link to the blobs" in fetch()
    assert (tmp_path / "secret").exists()


def test_a_link_to_a_folder_is_refused(fetch, tmp_path):
    assert fetch() == ""
    (tmp_path / "out").rename(tmp_path / "first")
    (pointer,) = (tmp_path / "home").rglob("vocab.txt")
    (pointer.parent / "more").symlink_to(tmp_path)
    assert "more: a link to a folder, which the hub does not have" in fetch()


@pytest.mark.parametrize("name", ["../../../../../evil.json", "/evil.json", "a/../../../evil.json"])
def test_listed_names_do_not_lead_out_of_the_folder(fetch, hub, tmp_path, name):
    hub.names.append(name)
    assert fetch() != ""
    found = tmp_path.rglob("*evil*")
    assert not [path for path in found if tmp_path / "home/hub" not in path.parents]
    assert not list(tmp_path.rglob("snapshots/**/*evil*"))


def test_an_index_of_weights_is_not_followed(fetch, hub, tmp_path, folder):
    index = folder / "owner/pickled/model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../model/model.safetensors", "b": "/etc/x"}}))
    try:
        assert fetch(name="owner/pickled") == ""
    finally:
        index.unlink()
    kept = {"config.json", "vocab.txt", "pytorch_model.bin", "source.json"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == kept
    assert not hub.asked("model.safetensors.index")[1:], "fetched as a description, no more"


@pytest.mark.parametrize("commit", ["f" * 40, "../../../../outside", "main"])
def test_another_commit_than_the_pinned_one_is_refused(fetch, hub, tmp_path, commit):
    hub.commit = commit
    assert "error: " in fetch()
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


@pytest.mark.parametrize(
    ("status", "message"),
    [
        ("401", "no such repository, or a private one that needs HF_TOKEN"),
        ("403", "forbidden (403): HF_TOKEN does not give access"),
        ("404", "no such repository, or a private one that needs HF_TOKEN"),
    ],
)
def test_what_is_refused_is_told_at_once(fetch, hub, status, message):
    hub.fault(status)
    assert fetch() == f"error: {NAME} at {COMMIT} from {hub.address}: {message}"
    assert len(hub.requests) == 1


def test_a_commit_that_is_not_there_is_named(fetch, hub):
    assert fetch(revision="f" * 40).endswith(f"{'f' * 40} from {hub.address}: no such commit")


def test_a_fault_that_passes_is_outlived(fetch, hub):
    hub.fault("503")
    hub.fault("429")
    assert fetch() == ""


def test_silence_is_given_up_and_asked_again(fetch, hub):
    hub.fault("silent", 3)
    assert fetch(HF_HUB_DOWNLOAD_TIMEOUT="1") == ""
    assert len(hub.asked("api/models")) == 2


def test_the_token_goes_to_the_hub_and_nowhere_else(fetch, hub):
    assert fetch(HF_TOKEN="hf_secret") == ""
    assert {head.get("authorization") for head in hub.asked("api/models")} == {"Bearer hf_secret"}
    stored = hub.asked("storage/")
    assert stored
    assert not [head for head in stored if "authorization" in {name.lower() for name in head}]


def test_published_files_are_fetched_from_the_same_commit(run, hub, tmp_path, folder):
    ir = [tmp_path / "ir_out" / name for name in ("conf.yaml", "model.bin")]
    source = {"published": {"onnx": "int8.onnx", "ir": "ir"}}.items()
    done = run("fetch_published", "--onnx", tmp_path / "x.onnx", "--ir", *ir, source=source)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "x.onnx").read_bytes() == (folder / NAME / "int8.onnx").read_bytes()
    about = json.loads((tmp_path / "ir_out/source.json").read_text())
    assert about["sha256"]["ir/model.bin"] == sha256(ir[1])
    assert not hub.asked("safetensors")


def test_published_files_that_are_not_there_are_named(run, tmp_path):
    source = {"published": {"onnx": "int4.onnx", "ir": "ir"}}.items()
    arguments = ["--onnx", tmp_path / "x.onnx", "--ir", tmp_path / "conf.yaml"]
    done = run("fetch_published", *arguments, source=source)
    assert f"error: {NAME}: has no int4.onnx" in done.stderr
    assert not (tmp_path / "x.onnx").exists()


def test_a_data_set_is_fetched_at_its_commit(run, hub, tmp_path):
    outs = [tmp_path / name for name in ("validation.jsonl", "calibration.jsonl", "source.json")]
    names = ("--validation-out", "--calibration-out", "--about")
    arguments = [part for pair in zip(names, outs, strict=True) for part in pair]
    source = {"validation": "validation", "calibration": "train", "labels": [], **KIND}.items()
    done = run("fetch_dataset", *arguments, name="owner/glue/sst2", source=source)
    assert done.returncode == 0, done.stderr
    assert outs[0].read_text() == '{"sentence": "good", "label": "1"}\n' * 3
    about = json.loads(outs[2].read_text())
    assert about["revision"] == COMMIT
    assert about["calibration"]["sha256"] == sha256(outs[1])


def test_a_data_set_of_another_commit_is_refused(run, hub, tmp_path):
    hub.commit = "f" * 40
    arguments = [
        part
        for name in ("validation-out", "calibration-out", "about")
        for part in (f"--{name}", tmp_path / name)
    ]
    source = {"validation": "validation", "calibration": "train", "labels": [], **KIND}.items()
    done = run("fetch_dataset", *arguments, name="owner/glue/sst2", source=source)
    assert f"of owner/glue: the hub has no such commit as {COMMIT}" in done.stderr
    assert not (tmp_path / "validation-out").exists()


def test_a_split_that_is_not_there_is_named(run, hub, tmp_path):
    arguments = [
        part
        for name in ("validation-out", "calibration-out", "about")
        for part in (f"--{name}", tmp_path / name)
    ]
    source = {"validation": "test", "calibration": "train", "labels": [], **KIND}.items()
    done = run("fetch_dataset", *arguments, name="owner/glue/sst2", source=source)
    assert "error: sst2/test-00000-of-00001.parquet of data set owner/glue at " in done.stderr
    assert len(hub.requests) == 1, "not tried again"
