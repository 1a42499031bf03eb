"""Throughput or latency of the engine as a table: a row per instance, and one for all of them.

throughput   as many instances as fit, all at once; sentences per second add up
latency      one instance; a time is that of the whole request, not divided by the batch
"""

import argparse
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

from engine.errors import EngineError
from engine.measure.instances import Load, Measurement, measure
from engine.measure.placement import Split, split_cores
from workflow.rulebook.command_line import add_options
from workflow.rulebook.provenance import run_record
from workflow.rulebook.writing import read_json, run_main, write_json
from workflow.scripts.measure.timings import Subject, rows, write_raw, write_times

OPTIONS: dict[str, Any] = {
    "batch_sizes": [int],
    "seq_lens": [int],
    "cores_per_instance": int,
    "instances": int,
    "sockets": str,
    "smt": bool,
    "iterations": int,
    "warmup": int,
    "mask": str,
}


def measure_all(arguments: argparse.Namespace, split: Split) -> list[Measurement]:
    """One measurement for each batch size and length."""
    path = arguments.allocator_path
    found = []
    for batch_size, seq_len in product(arguments.batch_sizes, arguments.seq_lens):
        load = Load(
            str(arguments.ir),
            batch_size=batch_size,
            seq_len=seq_len,
            iterations=arguments.iterations,
            warmup=arguments.warmup,
            dataset=str(arguments.sentences),
            mask=arguments.mask,
        )
        say(
            f"batch {batch_size}, length {seq_len}:"
            f" {len(split.instances)} x {split.cores_per_instance} cores, {split.threads} threads"
        )
        found.append(
            measure(
                load,
                split,
                jemalloc=arguments.allocator_prefer == "jemalloc",
                jemalloc_places=[path] if path else [],
                report=say,
            )
        )
        say(f"  {found[-1].sentences_per_second:.1f} sentences/s")
    return found


def say(line: str) -> None:
    print(line, flush=True)


def main(arguments: argparse.Namespace) -> None:
    model, dataset = read_json(arguments.model / "source.json"), read_json(arguments.dataset)
    split = split_cores(
        arguments.cores_per_instance,
        instances=arguments.instances,
        sockets=arguments.sockets,
        smt=arguments.smt,
    )
    found = measure_all(arguments, split)
    files = [arguments.ir / "conf.yaml", arguments.ir / "model.bin", arguments.sentences]
    options = {name: getattr(arguments, name) for name in OPTIONS}
    allocator = {"prefer": arguments.allocator_prefer, "path": arguments.allocator_path}
    run = run_record(files, {arguments.mode: options, "allocator": allocator})
    subject = Subject(
        arguments.task,
        f"{model['source']}:{model['name']}",
        model["revision"],
        f"{dataset['source']}:{dataset['name']} {arguments.mask}",
        arguments.precision,
        arguments.mode,
        run["commit"],
    )
    table = [row for measured in found for row in rows(subject, measured)]
    write_raw(arguments.raw, found)
    seed = found[0].load.seed
    used = asdict(split.all_used)
    where = {"split": split.note, "limits": split.limits, "used": used}
    about = {"model": model, "dataset": dataset, **where}
    write_json(
        arguments.run,
        {**about, "sentences_drawn_by_seed": seed, **run},
    )
    write_times(arguments.table, arguments.mode, table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser, task=str, precision=str, mode=str, ir=Path, model=Path, sentences=Path)
    add_options(parser, dataset=Path, table=Path, raw=Path, run=Path)
    add_options(parser, **OPTIONS, allocator_prefer=str, allocator_path=str)
    run_main(main, parser, EngineError)
