"""Examples of a task from a package, the hub or a folder: a file to validate, one to calibrate."""

import argparse
import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from engine.errors import EngineError
from workflow.rulebook.command_line import add_options
from workflow.rulebook.fingerprint import sha256
from workflow.rulebook.writing import StepError, run_main, write_json
from workflow.scripts.fetch.examples import (
    FORMS,
    Example,
    Form,
    Labelled,
    example,
    read_examples,
    repeated,
    split_file,
    write_examples,
)
from workflow.scripts.fetch.hub import download_data_file
from workflow.scripts.fetch.sentences import SentencesError, embedded_split

EMBEDDED = "movie-reviews"
PAIRS = (
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
    ("query", "passage"),
)
RENAMED = {"label": ("label", "score"), "tags": ("tags", "ner_tags")}  # by the hub's data sets


def read_split(source: dict[str, Any], split: str) -> list[Example]:
    if source["source"] == "embedded":
        if source["name"] != EMBEDDED or source["kind"] != "text-classification":
            raise StepError(
                f"embedded data set '{source['name']}' for {source['kind']}: there is {EMBEDDED},"
                " for text-classification"
            )
        return [Labelled(sentence, str(label)) for sentence, label in embedded_split(split)]
    if source["source"] == "hub":
        return _from_hub(source, split)
    return read_examples(split_file(Path(source["name"]), split), source["kind"])


def _from_hub(source: dict[str, Any], split: str) -> list[Example]:
    """Rows of the parquet file that the hub keeps for a split of owner/repository/subset."""
    table = _hub_table(source, split).to_pydict()
    form, where = FORMS[source["kind"]], f"{source['name']}, {split}"
    columns = {name: table[theirs] for name, theirs in _columns(form, where, list(table)).items()}
    rows = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
    return [example(form, f"{where}, row {i}", row) for i, row in enumerate(rows)]


def _columns(form: Form, where: str, there: Sequence[str]) -> dict[str, str]:
    """Column of the form -> that of the data set which holds it."""
    theirs = {name: name for name in there}
    pair = next((pair for pair in PAIRS if set(pair) <= set(there)), ())
    theirs |= dict(zip(("sentence", "sentence2"), pair, strict=False))
    for ours, others in RENAMED.items():
        theirs.update((ours, name) for name in reversed(others) if name in there)
    for header in reversed(form.headers):  # a pair, before its first sentence alone
        if set(header) <= set(theirs):
            return {name: theirs[name] for name in header}
    wanted = " or ".join(", ".join(header) for header in form.headers)
    raise StepError(f"{where}: the columns {', '.join(there)}; expected {wanted}")


def _hub_table(source: dict[str, Any], split: str) -> Any:
    import pyarrow
    from pyarrow import parquet

    repository, _, subset = source["name"].rpartition("/")
    file = split if split.endswith(".parquet") else f"{split}-00000-of-00001.parquet"
    filename = f"{subset}/{file}"
    path = download_data_file(repository, source["revision"], filename)
    try:
        # no threads: a thread pool of pyarrow's may end the process at exit (std::terminate)
        return parquet.read_table(path, use_threads=False, pre_buffer=False)
    except (OSError, pyarrow.ArrowException) as error:
        raise StepError(f"{filename} of {repository}: no parquet file ({error})") from error


def label_names(source: dict[str, Any]) -> list[str]:
    """What the labels or tags 0, 1, ... of the data are called; [] where nobody says."""
    if source.get("labels") or source["source"] == "local":
        return list(source.get("labels", []))
    if source["source"] == "embedded":
        return ["negative", "positive"]
    table = _hub_table(source, source["validation"])
    try:
        about = json.loads((table.schema.metadata or {})[b"huggingface"])["info"]["features"]
        column = next(
            about[name] for name in (*RENAMED["label"], *RENAMED["tags"]) if name in about
        )
        names = column.get("feature", column).get("names", [])  # of a list, what it is a list of
        return [str(name) for name in names]
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration):
        return []


def revision_of(source: dict[str, Any]) -> str:
    if source["source"] == "embedded":
        return f"{EMBEDDED}=={version(EMBEDDED)}"
    return str(source["revision"] or f"sha256:{source['content']}")


def main(arguments: argparse.Namespace) -> None:
    source = vars(arguments)
    splits = {}
    for part in ("validation", "calibration"):
        path = source[f"{part}_out"]
        rows = read_split(source, source[part])
        write_examples(path, rows)
        again = repeated(rows)
        about = {"split": source[part], "sentences": len(rows), **again, "sha256": sha256(path)}
        splits[part] = about
        print(f"{path}: {len(rows)} examples, split '{source[part]}' of {source['name']}, {again}")
    origin = {"source": source["source"], "name": source["name"], "revision": revision_of(source)}
    write_json(arguments.about, {**origin, "labels": label_names(source), **splits})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser, source=str, name=str, revision=str, content=str, kind=str)
    add_options(parser, validation=str, calibration=str, labels=[str])
    add_options(parser, validation_out=Path, calibration_out=Path, about=Path)
    run_main(main, parser, SentencesError, EngineError)
