"""docs/models.md: what of which model runs in kernels, how near and how fast.

    python -m tests.models.page [NAME ...]

measures the cases whose name holds one of the NAMEs (all without), and writes the page.  Rows stay
in results/models/, one file each, and are measured again only where the engine's sources, or ONNX
Runtime, have changed since; so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import cache
from multiprocessing import SimpleQueue
from pathlib import Path

import onnxruntime
import pandas as pd
import torch
from tqdm import tqdm

from engine.codegen import isa
from engine.errors import EngineError
from engine.files.replacing import whole
from tests.models.architectures import Size
from tests.models.cases import TABLES, Case, file_of
from tests.models.measured import Row, measure
from workflow.rulebook.tables import markdown

ROOT = Path(__file__).parents[2]
PAGE, ROWS = ROOT / "docs/models.md", ROOT / "results/models"
SIZE = Size(channels=256, layers=2, heads=4, inner=1024, vocabulary=1000, most_tokens=160)
TOKENS = 128
COLUMNS = ("architecture", "head", "exporter", "precision", "fed")
HEAD = """# Models

Which models run wholly in kernels, how far their results are from ONNX Runtime's and how fast they
are beside it. `make models` writes this page (`tests/models/page.py`), and
`tests/models/test_models.py` holds it against the engine.

Random models, {channels} channels, {layers} layers, {heads} heads; transformers' own modules, or
where the pinned version has none, small ones of this project. *Difference*: the largest to ONNX
Runtime at tokens that count, in the largest number of its result, over batches of 1 and 3 and
sentences of 1 to 37 tokens, padded; in 8 bits the two round differently. *Ratio*: ONNX Runtime's
time to the engine's for one sentence of {tokens} tokens on one core, the least of interleaved
rounds: above 1 the engine is faster. {cpu}, {isa}; ONNX Runtime {onnxruntime}.

*Wholly*: nothing is left to NumPy. *Partly*: what is behind the kernels is; the first reason stands
beside it. *None*: all of it.
"""


def main(names: Sequence[str]) -> None:
    """A process for each core, pinned to it."""
    cases = [case for table in TABLES.values() for case in table]
    wanted = [case for case in cases if not names or any(name in case.name for name in names)]
    cpus: SimpleQueue[int] = SimpleQueue()
    for cpu in sorted(os.sched_getaffinity(0)):
        cpus.put(cpu)
    workers = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(workers, initializer=begin, initargs=(cpus,)) as pool:
        for _ in tqdm(pool.map(measured, wanted), unit=" models", total=len(wanted)):
            pass
    with whole(PAGE) as path:
        path.write_text(page({case: kept(case) for case in cases}), encoding="utf-8")


def begin(cpus: SimpleQueue[int]) -> None:
    """In a process that measures."""
    os.sched_setaffinity(0, {cpus.get()})
    torch.set_num_threads(1)
    logging.getLogger("engine").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")


@cache
def fingerprint() -> str:
    """Of what rows depend on."""
    sources = sorted((ROOT / "engine").rglob("*.py")) + sorted(Path(__file__).parent.glob("*.py"))
    digest = hashlib.sha256(onnxruntime.__version__.encode() + isa.cpu_model().encode())
    for source in sources:
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def kept(case: Case) -> Row | None:
    """The row as it was measured last."""
    path = ROWS / f"{case.name}.json"
    return Row(**json.loads(path.read_text())["row"]) if path.exists() else None


def measured(case: Case) -> None:
    """The row is measured, unless it was with these very sources."""
    path, of = ROWS / f"{case.name}.json", fingerprint()
    if path.exists() and json.loads(path.read_text())["of"] == of:
        return
    with tempfile.TemporaryDirectory() as folder:
        try:
            row = measure(file_of(case, SIZE, Path(folder)), timed=TOKENS)
        except EngineError as error:
            row = Row("none", left=f"refused: {error}".replace(folder, "")[:200])
        except Exception as error:  # noqa: BLE001  of an exporter or a quantiser: no such file
            row = Row("no file", left=f"{type(error).__name__}: {str(error)[:120]}")
    with whole(path) as fresh:
        fresh.write_text(json.dumps({"of": of, "row": asdict(row)}))


# --- the page ---
def page(rows: Mapping[Case, Row | None]) -> str:
    known = {case: row for case, row in rows.items() if row is not None}
    head = HEAD.format(
        **asdict(SIZE),
        tokens=TOKENS,
        cpu=isa.cpu_model(),
        isa=isa.chosen().name,
        onnxruntime=onnxruntime.__version__,
    )
    tables = (table(title, cases, known) for title, cases in TABLES.items())
    return "\n".join([head, summary(known), *tables])


def summary(rows: Mapping[Case, Row]) -> str:
    how = Counter(row.kernels for row in rows.values())
    wrong = [case.name for case, row in rows.items() if row.difference > case.bound]
    slower = sum(row.ratio < 1 for row in rows.values())
    parts = [f"{how[each]} {each}" for each in ("wholly", "partly", "none")]
    numbers = f"{len(rows)} models: {', '.join(parts)}; {slower} slower than ONNX Runtime"
    return f"{numbers}; wrong: {', '.join(wrong) or 0}.\n"


def table(title: str, cases: Sequence[Case], rows: Mapping[Case, Row]) -> str:
    """A row a case; columns in which all cases are alike are left out."""
    lines = [{**asdict(case), **cells(rows.get(case))} for case in cases]
    frame = pd.DataFrame(lines)
    alike = [name for name in COLUMNS if frame[name].nunique() == 1]
    frame = frame.drop(columns=alike)
    return f"## {title}\n\n{markdown(frame, left=frame.shape[1] - 2)}"


def cells(row: Row | None) -> dict[str, str]:
    if row is None:
        return {"kernels": "not measured", "left to NumPy": "", "difference": "", "ratio": ""}
    numbers = {"difference": f"{row.difference:.1e}", "ratio": f"{row.ratio:.2f}"}
    known = {name: "" if text == "nan" else text for name, text in numbers.items()}
    return {"kernels": row.kernels, "left to NumPy": row.left, **known}


if __name__ == "__main__":
    main(sys.argv[1:])
