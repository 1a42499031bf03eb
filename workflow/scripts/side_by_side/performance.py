"""docs/performance.md from the results of make bench: tables into a template."""

import argparse
import csv
import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from string import Template
from typing import Any

from workflow.rulebook.writing import read_json, run_main, whole

Row = dict[str, str]
OURS = ("engine", "int8")
PEAK_OF = {"int8": "u8", "bf16": "bf16", "fp32": "f32"}


def markdown(head: Sequence[str], rows: Iterable[Sequence[object]], left: int = 1) -> str:
    """The first columns start at the left, numbers end at the right."""
    rule = ["---" if i < left else "---:" for i in range(len(head))]
    lines = (head, rule, *(tuple(map(str, row)) for row in rows))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


class Times:
    """Shortest milliseconds of every contender of one model."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.rows = list(rows)
        self.name = self.rows[0]["model"]
        self._ms = {
            (row["contender"], row["precision"], row["batch"], row["length"]): float(row["min_ms"])
            for row in self.rows
        }

    def ms(self, contender: str, precision: str, batch: int, length: int = 128) -> float:
        """nan where it was not measured."""
        return self._ms.get((contender, precision, str(batch), str(length)), float("nan"))

    def shapes(self) -> list[tuple[int, int]]:
        return list(dict.fromkeys((int(r["batch"]), int(r["length"])) for r in self.rows))

    def contenders(self) -> list[tuple[str, str]]:
        return list(dict.fromkeys((row["contender"], row["precision"]) for row in self.rows))

    def better(self, contender: str, batch: int) -> float:
        """Of a contender's precisions."""
        every = [self.ms(name, p, batch) for name, p in self.contenders() if name == contender]
        return min(every, default=float("nan"))


def times_table(times: Times) -> str:
    head = ["engine", "precision", *(f"{batch} x {length}" for batch, length in times.shapes())]
    rows = [
        [name, precision, *(_cell(times, name, precision, *shape) for shape in times.shapes())]
        for name, precision in times.contenders()
    ]
    return f"### {times.name}\n\n{markdown(head, rows, 2)}\n"


def _cell(times: Times, name: str, precision: str, batch: int, length: int) -> str:
    own, ms = times.ms(*OURS, batch, length), times.ms(name, precision, batch, length)
    if ms != ms:
        return ""
    return f"{ms:.3f}" if (name, precision) == OURS else f"{ms:.3f} ({ms / own:.1f}x)"


# --- what is asked of it ---


def demands(times: Times, run: dict[str, Any], whole_run: dict[str, Any]) -> list[list[str]]:
    """Rows: what, measured, must, goal; those that could be measured."""
    own = times.ms(*OURS, 1)
    many = times.ms(*OURS, 32)

    def faster(value: float, must: float, goal: float, what: str) -> list[str]:
        return [what, f"{value:.2f}", f">= {must:g}", f">= {goal:g}", _verdict(value >= must)]

    fp32 = times.ms("DeepSparse", "fp32", 1)
    found = [
        faster(times.ms("ITREX sparse", "int8", 1) / own, 2.6, 3.5, "batch 1, ITREX's time / ours"),
        faster(times.better("DeepSparse", 1) / own, 4.6, 6, "batch 1, DeepSparse's better one"),
        faster(times.ms("ONNX Runtime", "int8", 1) / own, 11, 14, "batch 1, ONNX Runtime int8"),
        faster(times.ms("ITREX sparse", "int8", 32) / many, 4, 5.2, "batch 32, ITREX"),
        faster(times.better("DeepSparse", 32) / many, 5.5, 7, "batch 32, DeepSparse's better one"),
        faster(times.ms("ONNX Runtime", "int8", 32) / many, 12, 16, "batch 32, ONNX Runtime int8"),
        faster(fp32 / times.ms("engine", "fp32", 1), 1.15, 1.5, "batch 1, DeepSparse fp32 / fp32"),
        faster(fp32 / times.ms("engine", "bf16", 1), 1.7, 2.5, "batch 1, DeepSparse fp32 / bf16"),
        _at_most(times.ms(*OURS, 8) / 8 / own, 1.1, "a sentence at batch 8 / at batch 1", "1.0"),
        _at_most(many / 32 / own, 1.1, "a sentence at batch 32 / at batch 1", "1.0"),
    ]
    for batch in (1, 8, 32):
        share, what = needed_share(run, batch, 128), f"batch {batch}, multiply-adds needed"
        found.append(faster(share, 0.58, 0.75, f"{what} / peak of vpdpbusd"))
    found += _whole_demands(whole_run)
    return [row for row in found if "nan" not in row[1]]


def _whole_demands(record: dict[str, Any]) -> list[list[str]]:
    first, found = record["start"], []
    if record.get("two_cores"):
        cores = record["two_cores"]
        found.append(_at_most(cores["time_ratio"], 0.6, "two cores, time / that of one"))
        rate = cores["rate_ratio"]
        row = ["two instances, sentences / those of one", f"{rate:.2f}", ">= 1.9", ""]
        found.append([*row, _verdict(rate >= 1.9)])
    if record.get("padding"):
        ratio = record["padding"]["ratio"]
        row = ["padded to 128 with masks, sentences / full ones", f"{ratio:.2f}", ">= 3.5", ""]
        found.append([*row, _verdict(ratio >= 3.5)])
    found.append(_at_most(first["warm_seconds"], 2, "first answer of a process, warm cache, s"))
    found.append(_at_most(first["cold_seconds"], 20, "first answer of a process, cold cache, s"))
    found.append(_at_most(first["peak_bytes"] / 1e6, 350, "peak memory of batch 32, MB"))
    return found


def _at_most(value: float, must: float, what: str, goal: str = "") -> list[str]:
    return [what, f"{value:.2f}", f"<= {must:g}", goal, _verdict(value <= must)]


def _verdict(holds: bool) -> str:
    return "yes" if holds else "**no**"


# --- multiply-adds ---


def needed_share(run: dict[str, Any], batch: int, length: int, precision: str = "int8") -> float:
    """The median of the turns; in each the shortest call against the peak right after it."""
    shape = next((s for s in run["shapes"] if (s["batch"], s["length"]) == (batch, length)), None)
    if shape is None or precision not in shape["macs"]:
        return float("nan")
    shares = [
        shape["macs"][precision] / turn["ms"] * 1e3 / turn["peaks"][PEAK_OF[precision]]
        for turn in shape["turns"][precision]
    ]
    return statistics.median(shares)


def needed_table(times: Times, run: dict[str, Any]) -> str:
    rows = []
    for shape in run["shapes"]:
        for precision, macs in shape["macs"].items():
            batch, length = shape["batch"], shape["length"]
            ms = times.ms("engine", precision, batch, length)
            rate, peak = macs / ms * 1e3, shape["peaks"][PEAK_OF[precision]]
            cells = [f"{macs / 1e6:.1f}", f"{rate / 1e9:.0f}", f"{peak / 1e9:.0f}"]
            share, done = needed_share(run, batch, length, precision), shape["done"][precision]
            cells += [f"{share:.0%}", f"{done / 1e6:.1f}", f"{share * done / macs:.0%}"]
            rows.append([precision, f"{batch} x {length}", *cells])
    head = ["precision", "shape", "M needed", "G a second", "highest peak", "share"]
    head += ["M done", "share"]
    return f"### {times.name}\n\n{markdown(head, rows, 2)}\n"


# --- kernels ---


def kernel_tables(rows: Sequence[Row]) -> str:
    text = ""
    for precision in dict.fromkeys(row["precision"] for row in rows):
        own = [row for row in rows if row["precision"] == precision]
        kinds = list(dict.fromkeys((r["pattern"], float(r["zeros"])) for r in own))
        head = [precision, "tokens", *(_kind(*kind) for kind in kinds)]
        if precision == "int8":
            head.append("90 % 4x1 / dense")
        places = dict.fromkeys((r["outputs"], r["inputs"], r["tokens"]) for r in own)
        text += markdown(head, (_kernel_line(own, place, kinds, precision) for place in places))
        text += "\n"
    return text


def _kind(pattern: str, zeros: float) -> str:
    return "dense" if pattern == "dense" else f"{pattern} {zeros:.0%}"[:-1]


def _kernel_line(
    rows: Sequence[Row],
    place: tuple[str, str, str],
    kinds: Sequence[tuple[str, float]],
    precision: str,
) -> list[str]:
    at = {
        (row["pattern"], float(row["zeros"])): row
        for row in rows
        if (row["outputs"], row["inputs"], row["tokens"]) == place
    }
    cells = [f"{float(at[kind]['share']):.0%}" if kind in at else "" for kind in kinds]
    if precision == "int8":
        both = at.get(("dense", 0.0)), at.get(("4x1", 0.9))
        speedup = float(both[0]["us"]) / float(both[1]["us"]) if both[0] and both[1] else 0.0
        cells.append(f"{speedup:.1f}x" if speedup else "")
    return [f"{place[0]} x {place[1]}", place[2], *cells]


# --- whole runs, profiles ---


def whole_table(record: dict[str, Any]) -> str:
    first = record["start"]
    rows = [
        ("first answer of a new process, nothing compiled", f"{first['cold_seconds']:.1f} s"),
        ("first answer of a new process, compiled before", f"{first['warm_seconds']:.2f} s"),
        ("peak memory, batch 32 included", f"{first['peak_bytes'] / 1e6:.0f} MB"),
        ("outputs of a call of batch 32", f"{first['output_bytes']} bytes"),
        ("Python's memory at the height of a call", f"{first['python_bytes_a_call']} bytes"),
        ("growth of the process over 200 calls", f"{first['grown_bytes']} bytes"),
    ]
    if padded := record.get("padding"):
        text = f"{padded['sentences']} sentences of {padded['mean_tokens']:.1f} tokens"
        rate, full = padded["padded_sentences_per_s"], padded["full_sentences_per_s"]
        rows.append((f"{text}, padded to 128, masks", f"{rate:.0f} a second"))
        rows.append(("as many of 128 tokens", f"{full:.0f} a second"))
    if cores := record.get("two_cores"):
        rows.append(("batch 1, one core", f"{cores['one_core_ms']:.3f} ms"))
        rows.append(("batch 1, two cores", f"{cores['two_cores_ms']:.3f} ms"))
        rows.append(("one instance of one core", f"{cores['one_instance_per_s']:.0f} a second"))
        rows.append(("two instances of one core", f"{cores['two_instances_per_s']:.0f} a second"))
    return f"### {record['model']}\n\n{markdown(['', ''], rows)}\n"


def profile_table(name: str, record: dict[str, Any]) -> str:
    """A line per kernel at a batch, a line per step at batch 1."""
    steps = record["steps"]
    each = record["work"]["sentences"] == 1
    lines = steps if each else _by_kernel(steps)
    inside = sum(step["seconds"] for step in steps)
    rows = [
        [
            step["name"] if each else step["kernel"],
            *([step["kernel"]] if each else []),
            f"{step['seconds'] * 1e6:.1f}",
            f"{step['seconds'] / inside:.1%}",
            f"{step['macs'] / step['seconds'] / 1e9:.0f}" if step["macs"] else "",
            f"{step['bytes'] / step['seconds'] / 1e9:.0f}",
            f"{_share(step):.0%}",
        ]
        for step in lines
        if step["seconds"]
    ]
    head = [
        *(["step", "kernel"] if each else ["kernel"]),
        "us",
        "of all",
        "GMAC/s",
        "GB/s",
        "share",
    ]
    return (
        f"### {name}\n\nA call takes {record['seconds'] * 1e6:.0f} us, {inside * 1e6:.0f} us in"
        f" steps; its {record['macs'] / 1e6:.0f} M multiply-adds take"
        f" {record['roofline_seconds'] * 1e6:.0f} us at their peaks:"
        f" {record['roofline_share']:.0%}.\n\n{markdown(head, rows, 2 if each else 1)}\n"
    )


def _share(step: dict[str, Any]) -> float:
    done = step["bytes"] if step["peak"] == "bytes" else step["macs"]
    return done / step["seconds"] / step["rate"] if step["rate"] else 0.0


def _by_kernel(steps: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for step in steps:
        row = rows.setdefault(step["kernel"], {**step, "seconds": 0.0, "macs": 0, "bytes": 0})
        for key in ("seconds", "macs", "bytes"):
            row[key] += step[key]
    return sorted(rows.values(), key=lambda row: -row["seconds"])


def left_out(run: dict[str, Any]) -> str:
    """A line per engine and reason, with the shapes."""
    shapes: dict[tuple[str, str], list[str]] = {}
    for key, why in run["failed"].items():
        name, _, shape = key.rpartition(" ")
        shapes.setdefault((name, why), []).append(shape)
    return "".join(
        f"\n\nLeft out of {run['name']}: {name} at {', '.join(every)} ({why})."
        for (name, why), every in shapes.items()
    )


def page(
    template: str,
    tables: Sequence[Times],
    runs: Sequence[dict[str, Any]],
    whole_runs: Sequence[dict[str, Any]],
    profiles: Sequence[tuple[str, dict[str, Any]]],
    kernels: Sequence[Row],
) -> str:
    """The filled template."""

    def joined(table: Callable[..., str], *columns: Sequence[Any]) -> str:
        return "\n".join(table(*items) for items in zip(*columns, strict=True)).strip()

    def targets(times: Times, run: dict[str, Any], record: dict[str, Any]) -> str:
        head = ["what", "measured", "must", "goal", "holds"]
        return f"### {times.name}\n\n{markdown(head, demands(times, run, record))}\n"

    return Template(template).substitute(
        cpu=runs[0]["cpu_model"],
        isa=runs[0]["isa"],
        cpus=runs[0]["machine"]["cpus"],
        commit=runs[0]["commit"][:12] or "unknown",
        time=runs[0]["time"],
        length=128,
        models="".join(left_out(run) for run in runs),
        targets=joined(targets, tables, runs, whole_runs),
        times=joined(times_table, tables),
        needed=joined(needed_table, tables, runs),
        whole=joined(whole_table, whole_runs),
        kernels=kernel_tables(kernels).strip(),
        profiles="\n".join(profile_table(*item) for item in profiles).strip(),
    )


def read_table(path: Path) -> list[Row]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def main(arguments: argparse.Namespace) -> None:
    text = page(
        arguments.template.read_text(encoding="utf-8"),
        [Times(read_table(path)) for path in arguments.tables],
        [read_json(path) for path in arguments.runs],
        [read_json(path) for path in arguments.whole],
        [
            (path.stem.replace("_", " "), json.loads(path.read_text()))
            for path in arguments.profiles
        ],
        read_table(arguments.kernels),
    )
    with whole(arguments.out) as partial:
        partial.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("tables", "runs", "whole", "profiles"):
        parser.add_argument(f"--{name}", type=Path, nargs="+", required=True)
    for name in ("kernels", "template", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    run_main(main, parser)
