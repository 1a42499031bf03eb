"""Throughput or latency of the engine as a table: a row per instance, and one for all of them.

throughput   as many instances as fit, all at once; sentences per second add up
latency      one instance; a time is that of the whole request, not divided by the batch
"""

import argparse
import json
from itertools import product
from pathlib import Path
from typing import Any

from engine.errors import EngineError
from engine.measure.instances import Load, Measurement, Split, measure, split_cores
from workflow.rulebook.provenance import run_record
from workflow.rulebook.writing import read_json, run_main, write_json
from workflow.scripts.measure.timings import Subject, rows, write_raw, write_times


def split_for(mode: str, options: dict[str, Any]) -> Split:
    instances = 1 if mode == "latency" else options["instances"]
    return split_cores(options["cores_per_instance"], instances=instances)


def measure_all(
    ir: Path, sentences: Path, mode: str, options: dict[str, Any], allocator: dict[str, str]
) -> list[Measurement]:
    """One measurement for each batch size and length."""
    split = split_for(mode, options)
    found = []
    for batch_size, seq_len in product(options["batch_sizes"], options["seq_lens"]):
        load = Load(
            str(ir),
            batch_size=batch_size,
            seq_len=seq_len,
            iterations=options["iterations"],
            warmup=options["warmup"],
            dataset=str(sentences),
            mask=options["mask"],
        )
        say(
            f"batch {batch_size}, length {seq_len}:"
            f" {len(split.instances)} x {split.cores_per_instance} cores"
        )
        found.append(
            measure(
                load,
                split,
                jemalloc=allocator["prefer"] == "jemalloc",
                jemalloc_places=[allocator["path"]] if allocator["path"] else [],
                report=say,
            )
        )
        say(f"  {found[-1].sentences_per_second:.1f} sentences/s")
    return found


def say(line: str) -> None:
    print(line, flush=True)


def main(arguments: argparse.Namespace) -> None:
    options, allocator = json.loads(arguments.options), json.loads(arguments.allocator)
    model, dataset = read_json(arguments.model / "source.json"), read_json(arguments.dataset)
    found = measure_all(arguments.ir, arguments.sentences, arguments.mode, options, allocator)
    files = [arguments.ir / "conf.yaml", arguments.ir / "model.bin", arguments.sentences]
    run = run_record(files, {arguments.mode: options, "allocator": allocator})
    subject = Subject(
        arguments.task,
        f"{model['source']}:{model['name']}",
        model["revision"],
        f"{dataset['source']}:{dataset['name']} {options['mask']}",
        arguments.precision,
        arguments.mode,
        run["commit"],
    )
    table = [row for measured in found for row in rows(subject, measured)]
    write_raw(arguments.raw, found)
    note = split_for(arguments.mode, options).note
    seed = found[0].load.seed
    about = {"model": model, "dataset": dataset, "split": note, "sentences_drawn_by_seed": seed}
    write_json(arguments.run, {**about, **run})
    write_times(arguments.table, arguments.mode, table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("ir", "model", "sentences", "dataset", "table", "raw", "run"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ("task", "precision", "mode", "options", "allocator"):
        parser.add_argument(f"--{name}", required=True)
    run_main(main, parser, EngineError)
