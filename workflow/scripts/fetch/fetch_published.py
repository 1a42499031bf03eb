"""Quantised files published beside a model: its int8 ONNX, and its IR for another engine."""

import argparse
import shutil
from pathlib import Path
from typing import Any

from workflow.rulebook.command_line import add_options
from workflow.rulebook.fingerprint import sha256
from workflow.rulebook.writing import StepError, run_main, whole, write_json
from workflow.scripts.fetch.fetch_model import add_source, inside, model_folder
from workflow.scripts.fetch.hub import download


def published_folder(source: dict[str, Any]) -> Path:
    """A folder that has the published files, downloaded if the model is on the hub."""
    if not source["published_onnx"]:
        raise StepError(f"{source['name']}: nothing is `published` with it in the configuration")
    if source["source"] != "hub":
        return model_folder(source)
    ir = (f"{source['published_ir']}/{name}" for name in ("conf.yaml", "model.bin"))
    return download(source["name"], source["revision"], [source["published_onnx"], *ir])


def fetch(source: dict[str, Any], onnx: Path, ir: list[Path]) -> None:
    """Copies, and the sum of each in source.json beside the IR's files."""
    folder = published_folder(source)
    names = {onnx: source["published_onnx"]}
    names |= {path: f"{source['published_ir']}/{path.name}" for path in ir}
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
    fetch(vars(arguments), arguments.onnx, arguments.ir)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    add_source(parser)
    add_options(parser, onnx=Path, ir=[Path])
    run_main(main, parser)
