"""docs/performance.md from the results of make bench: tables into a template."""

import argparse
import operator
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from string import Template
from typing import Any

import pandas as pd

from workflow.rulebook.command_line import add_options
from workflow.rulebook.tables import markdown, read_table
from workflow.rulebook.writing import read_json, run_main, whole

OURS = ("engine", "int8")
PEAK_OF = {"int8": "u8", "bf16": "bf16", "fp32": "f32"}
NEEDED = "multiply-adds needed / peak of vpdpbusd"
COMPARED = {">=": operator.ge, "<=": operator.le}
VERDICT = {True: "yes", False: "**no**"}

Demand = tuple[str, float, str, float, str]


def section(title: str, table: pd.DataFrame, left: int = 1) -> str:
    return f"### {title}\n\n{markdown(table, left)}\n"


def shortest(
    times: pd.DataFrame, batch: int, contender: str, *precisions: str, length: int = 128
) -> float:
    """Milliseconds of a call in the fastest of the precisions; nan where none was measured."""
    which = "batch == @batch and length == @length and contender == @contender"
    return times.query(f"{which} and precision in @precisions")["min_ms"].min()


def times_table(times: pd.DataFrame) -> str:
    """A line per contender and precision, a column per shape; in brackets, times of our own."""
    names = ["contender", "precision"]
    grid = times.pivot_table("min_ms", names, ["batch", "length"], sort=False)
    grid = grid.loc[times.set_index(names).index.unique()]  # pivoting puts contenders together
    cells, others = grid.map("{:.3f}".format), grid.index != OURS
    ratios = grid / grid.reindex([OURS]).iloc[0]
    cells[others] += ratios[others].map(" ({:.1f}x)".format)
    cells = cells.where(grid.notna(), "").rename_axis(["engine", "precision"])
    cells.columns = [f"{batch} x {length}" for batch, length in grid]
    return section(times["model"].iloc[0], cells.reset_index(), 2)


# --- what is asked of it: what, measured, how it is compared, must, goal ---


def demands(times: pd.DataFrame, run: dict[str, Any], whole_run: dict[str, Any]) -> pd.DataFrame:
    """Those that could be measured."""
    rows = [
        *_times_demands(times),
        *(
            (f"batch {batch}, {NEEDED}", needed_share(run, batch, 128), ">=", 0.58, ">= 0.75")
            for batch in (1, 8, 32)
        ),
        *_whole_demands(whole_run),
    ]
    lines = [
        (what, f"{ours:.2f}", f"{sign} {must:g}", goal, VERDICT[COMPARED[sign](ours, must)])
        for what, ours, sign, must, goal in rows
        if ours == ours
    ]
    return pd.DataFrame(lines, columns=["what", "measured", "must", "goal", "holds"])


def _times_demands(times: pd.DataFrame) -> list[Demand]:
    def ms(batch: int, *who: str) -> float:
        return shortest(times, batch, *who)

    sparse, runtime = ("ITREX sparse", "int8"), ("ONNX Runtime", "int8")
    better, fp32 = ("DeepSparse", "int8", "fp32"), ms(1, "DeepSparse", "fp32")
    own, many = ms(1, *OURS), ms(32, *OURS)
    return [
        ("batch 1, ITREX's time / ours", ms(1, *sparse) / own, ">=", 2.6, ">= 3.5"),
        ("batch 1, DeepSparse's better one", ms(1, *better) / own, ">=", 4.6, ">= 6"),
        ("batch 1, ONNX Runtime int8", ms(1, *runtime) / own, ">=", 11, ">= 14"),
        ("batch 32, ITREX", ms(32, *sparse) / many, ">=", 4, ">= 5.2"),
        ("batch 32, DeepSparse's better one", ms(32, *better) / many, ">=", 5.5, ">= 7"),
        ("batch 32, ONNX Runtime int8", ms(32, *runtime) / many, ">=", 12, ">= 16"),
        ("batch 1, DeepSparse fp32 / fp32", fp32 / ms(1, "engine", "fp32"), ">=", 1.15, ">= 1.5"),
        ("batch 1, DeepSparse fp32 / bf16", fp32 / ms(1, "engine", "bf16"), ">=", 1.7, ">= 2.5"),
        ("a sentence at batch 8 / at batch 1", ms(8, *OURS) / 8 / own, "<=", 1.1, "1.0"),
        ("a sentence at batch 32 / at batch 1", many / 32 / own, "<=", 1.1, "1.0"),
    ]


def _whole_demands(record: dict[str, Any]) -> list[Demand]:
    first, cores, padded = record["start"], record.get("two_cores"), record.get("padding")
    found = []
    if cores:
        found = [
            ("two cores, time / that of one", cores["time_ratio"], "<=", 0.6, ""),
            ("two instances, sentences / those of one", cores["rate_ratio"], ">=", 1.9, ""),
        ]
    if padded:
        what = "padded to 128 with masks, sentences / full ones"
        found.append((what, padded["ratio"], ">=", 3.5, ""))
    return [
        *found,
        ("first answer of a process, warm cache, s", first["warm_seconds"], "<=", 2, ""),
        ("first answer of a process, cold cache, s", first["cold_seconds"], "<=", 20, ""),
        ("peak memory of batch 32, MB", first["peak_bytes"] / 1e6, "<=", 350, ""),
    ]


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


def needed_table(times: pd.DataFrame, run: dict[str, Any]) -> str:
    rows = []
    for shape in run["shapes"]:
        batch, length = shape["batch"], shape["length"]
        for precision, macs in shape["macs"].items():
            ms = shortest(times, batch, "engine", precision, length=length)
            rate, peak = macs / ms * 1e3, shape["peaks"][PEAK_OF[precision]]
            cells = [f"{macs / 1e6:.1f}", f"{rate / 1e9:.0f}", f"{peak / 1e9:.0f}"]
            share, done = needed_share(run, batch, length, precision), shape["done"][precision]
            cells += [f"{share:.0%}", f"{done / 1e6:.1f}", f"{share * done / macs:.0%}"]
            rows.append([precision, f"{batch} x {length}", *cells])
    head = ["precision", "shape", "M needed", "G a second", "highest peak", "share"]
    table = pd.DataFrame(rows, columns=[*head, "M done", "share"])
    return section(times["model"].iloc[0], table, 2)


# --- kernels ---


def kernel_tables(kernels: pd.DataFrame) -> str:
    groups = kernels.groupby("precision", sort=False)
    return "\n".join(markdown(kernel_table(precision, rows)) for precision, rows in groups)


def kernel_table(precision: str, rows: pd.DataFrame) -> pd.DataFrame:
    """A line per shape and number of tokens, a column per pattern and share of zeros."""
    place, kind = ["outputs", "inputs", "tokens"], ["pattern", "zeros"]
    grid = rows.pivot_table(["share", "us"], place, kind, sort=False)
    cells = grid["share"].map("{:.0%}".format).where(grid["share"].notna(), "")
    cells.columns = [
        "dense" if pattern == "dense" else f"{pattern} {zeros * 100:.0f}"
        for pattern, zeros in cells
    ]
    if precision == "int8":
        speedup = grid["us", "dense", 0.0] / grid["us", "4x1", 0.9]
        cells["90 % 4x1 / dense"] = speedup.map("{:.1f}x".format)
    cells = cells.reset_index()
    shape = cells.pop("outputs").astype(str) + " x " + cells.pop("inputs").astype(str)
    cells.insert(0, precision, shape)
    return cells


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
    return section(record["model"], pd.DataFrame(rows, columns=["", ""]))


# --- more cores than are here ---


def scaling_tables(records: Sequence[dict[str, Any]]) -> str:
    """What the model says, and beside it what was measured; of those who have both."""
    return "\n".join(scaling_table(each) for each in records if each.get("scaling")).strip()


def scaling_table(record: dict[str, Any]) -> str:
    found, measured = record["scaling"], _measured_cores(record.get("two_cores") or {})
    core, head = found["server"]["core"], ["cores", "ms", "ms measured", "a second", "measured"]
    rows = [
        [
            row["cores"],
            _number(row["ms"], "{:.3f}"),
            *_beside(row["ms"], measured.get((row["cores"], "ms")), "{:.3f}"),
            _number(row["per_s"], "{:.0f}"),
            *_beside(row["per_s"], measured.get((row["cores"], "per_s")), "{:.0f}"),
            _number(row["per_s_of_fours"], "{:.0f}"),
        ]
        for row in found["rows"]
    ]
    table = pd.DataFrame(rows, columns=[*head, "a second, by fours"])
    facts = (
        f"{found['cpu_model']}, {found['isa']}: a barrier of two"
        f" {core['barrier_seconds'] * 1e9:.0f} ns,"
        f" {core['bytes_a_second'] / 1e9:.1f} GB/s from memory;"
        f" {found['weight_bytes'] / 2**20:.2f} MiB of weights,"
        f" {found['arena_bytes'] / 2**20:.2f} MiB of activations a core."
    )
    return section(record["model"], table).replace("\n\n", f"\n\n{facts}\n\n", 1)


def _measured_cores(cores: dict[str, float]) -> dict[tuple[int, str], float]:
    places = {(1, "ms"): "one_core_ms", (2, "ms"): "two_cores_ms",
              (1, "per_s"): "one_instance_per_s", (2, "per_s"): "two_instances_per_s"}  # fmt: skip
    return {place: cores[name] for place, name in places.items() if name in cores}


def _beside(predicted: float | None, measured: float | None, form: str) -> list[str]:
    """What was measured, and how far the prediction is off."""
    if predicted is None or measured is None:
        return [""]
    return [f"{form.format(measured)} ({predicted / measured - 1:+.0%})"]


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def profile_table(name: str, record: dict[str, Any]) -> str:
    """A line per kernel at a batch, a line per step at batch 1."""
    steps = pd.DataFrame(record["steps"]).rename(columns={"name": "step"})
    names = ["step", "kernel"] if record["work"]["sentences"] == 1 else ["kernel"]
    inside = steps["seconds"].sum()
    return (
        f"### {name}\n\nA call takes {record['seconds'] * 1e6:.0f} us, {inside * 1e6:.0f} us in"
        f" steps; its {record['macs'] / 1e6:.0f} M multiply-adds take"
        f" {record['roofline_seconds'] * 1e6:.0f} us at their peaks:"
        f" {record['roofline_share']:.0%}.\n\n{markdown(_profile(steps, names), len(names))}\n"
    )


def _profile(steps: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """Names, and what is known of the steps that took time."""
    lines = steps if "step" in names else _by_kernel(steps)
    lines = lines[lines["seconds"] > 0]
    seconds, macs, moved = lines["seconds"], lines["macs"], lines["bytes"]
    done = moved.where(lines["peak"] == "bytes", macs)
    share = (done / seconds / lines["rate"]).where(lines["rate"] > 0, 0.0)
    return lines[names].assign(
        **{
            "us": (seconds * 1e6).map("{:.1f}".format),
            "of all": (seconds / steps["seconds"].sum()).map("{:.1%}".format),
            "GMAC/s": (macs / seconds / 1e9).map("{:.0f}".format).where(macs > 0, ""),
            "GB/s": (moved / seconds / 1e9).map("{:.0f}".format),
            "share": share.map("{:.0%}".format),
        }
    )


def _by_kernel(steps: pd.DataFrame) -> pd.DataFrame:
    """Sums of each kernel's steps, the longest first."""
    sums = dict.fromkeys(["seconds", "macs", "bytes"], "sum")
    peaks = dict.fromkeys(["peak", "rate"], "first")
    kernels = steps.groupby("kernel", sort=False, as_index=False).agg(sums | peaks)
    return kernels.sort_values("seconds", ascending=False, kind="stable")


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
    tables: Sequence[pd.DataFrame],
    runs: Sequence[dict[str, Any]],
    whole_runs: Sequence[dict[str, Any]],
    profiles: Sequence[tuple[str, dict[str, Any]]],
    kernels: pd.DataFrame,
) -> str:
    """The filled template."""

    def joined(table: Callable[..., str], *columns: Sequence[Any]) -> str:
        return "\n".join(table(*items) for items in zip(*columns, strict=True)).strip()

    def targets(times: pd.DataFrame, run: dict[str, Any], record: dict[str, Any]) -> str:
        return section(times["model"].iloc[0], demands(times, run, record))

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
        scaling=scaling_tables(whole_runs),
        kernels=kernel_tables(kernels).strip(),
        profiles="\n".join(profile_table(*item) for item in profiles).strip(),
    )


def main(arguments: argparse.Namespace) -> None:
    text = page(
        arguments.template.read_text(encoding="utf-8"),
        [read_table(path, dtype=None) for path in arguments.tables],
        [read_json(path) for path in arguments.runs],
        [read_json(path) for path in arguments.whole],
        [(path.stem.replace("_", " "), read_json(path)) for path in arguments.profiles],
        read_table(arguments.kernels, dtype=None),
    )
    with whole(arguments.out) as partial:
        partial.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser, tables=[Path], runs=[Path], whole=[Path], profiles=[Path])
    add_options(parser, kernels=Path, template=Path, out=Path)
    run_main(main, parser)
