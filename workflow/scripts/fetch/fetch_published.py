"""Quantised files published beside a model: its int8 ONNX, and its IR for another engine."""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from workflow.rulebook.fingerprint import sha256
from workflow.rulebook.writing import StepError, run_main, whole, write_json
from workflow.scripts.fetch.fetch_model import inside, model_folder
from workflow.scripts.fetch.hub import download


def published_folder(source: dict[str, Any]) -> Path:
    """A folder that has the published files, downloaded if the model is on the hub."""
    if "published" not in source:
        raise StepError(f"{source['name']}: nothing is `published` with it in the configuration")
    if source["source"] != "hub":
        return model_folder(source)
    names = source["published"]
    patterns = [names["onnx"], *(f"{names['ir']}/{name}" for name in ("conf.yaml", "model.bin"))]
    return download(source["name"], source["revision"], patterns)


def fetch(source: dict[str, Any], onnx: Path, ir: list[Path]) -> None:
    """Copies, and the sum of each in source.json beside the IR's files."""
    folder = published_folder(source)
    names = {onnx: source["published"]["onnx"]}
    names |= {path: f"{source['published']['ir']}/{path.name}" for path in ir}
    for name in names.values():
        if not (folder / name).exists():
            raise StepError(f"{source['name']}: has no {name}")
    origins = {out: inside(folder, name) for out, name in names.items()}
    for out, origin in origins.items():
        with whole(out) as partial:
            shutil.copyfile(origin, partial)
        print(f"{out}: {origin.relative_to(folder)} of {source['name']}")
    about = {name: source[name] for name in ("source", "name", "revision")}
    sums = {str(origin.relative_to(folder)): sha256(out) for out, origin in origins.items()}
    write_json(ir[0].parent / "source.json", {**about, "sha256": sums})


def main(arguments: argparse.Namespace) -> None:
    fetch(json.loads(arguments.source), arguments.onnx, arguments.ir)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", required=True, help="JSON: source, name, revision, published")
    parser.add_argument("--onnx", type=Path, required=True)
    parser.add_argument("--ir", type=Path, nargs="+", required=True)
    run_main(main, parser)
