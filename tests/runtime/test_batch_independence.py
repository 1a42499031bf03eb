"""Each sentence has the very logits that it has alone, whatever its batch, its place in it, the
number of threads; `make crowds BATCHES=1000` tries as many batches as one wants.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engine
from engine.formats import models
from engine.ops import reference
from engine.runtime import stepwise

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("onnxruntime")

from tests.passes import exported  # noqa: E402
from tests.runtime import crowds  # noqa: E402

BATCHES = 3  # of a model, instruction set and number of threads
LENGTHS = (1, 31, 37, 128, 511, 513, 530, 1000)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(("form", "span"), crowds.KINDS)
def test_company_changes_nothing(form: str, span: int, threads: int) -> None:
    case = crowds.Case(form, span, crowds.SETS[-1], threads)
    for seed in range(BATCHES):
        given = crowds.crowd(np.random.default_rng((span, threads, seed)))
        assert crowds.changed_by_company(case, given) == 0, f"batch {seed}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "span", "name"),
    [("int8", 120, "avx2"), ("int8", 120, "generic"), ("fp32", 20, "avx2")],
)
def test_nor_does_it_on_other_instruction_sets(form: str, span: int, name: str) -> None:
    if name not in crowds.SETS:
        pytest.skip(f"{name} is no instruction set of this CPU")
    for threads in (1, 2):
        given = crowds.crowd(np.random.default_rng((span, threads)))
        assert crowds.changed_by_company(crowds.Case(form, span, name, threads), given) == 0


@pytest.mark.parametrize("threads", [1, 2])
def test_nor_do_sentences_that_kernels_do_not_make(threads: int) -> None:
    """The first token masked, or all of them: their neighbours stay in kernels."""
    case = crowds.Case("int8", 20, crowds.SETS[-1], threads)
    given = crowds.crowd(np.random.default_rng(8))
    assert len(given["input_ids"]) > 6
    given["attention_mask"][[1, 4], 0] = 0
    given["attention_mask"][2] = 0
    assert crowds.changed_by_company(case, given) == 0
    given["attention_mask"][:, 0] = 0
    assert crowds.changed_by_company(case, given) == 0


def test_scores_range_as_far_as_they_say() -> None:
    """Both of the softmaxes for quantised scores take part, and what is tried goes beyond 80."""
    for form, span in crowds.KINDS:
        graph = crowds.graph_of(form, span)
        assert all(0.7 * span < found < 1.4 * span for found in crowds.spans(graph)), (form, span)
    kernels = {
        step.kernel_name
        for span in (20, 500)
        for step in crowds.session_of(crowds.Case("int8", span, crowds.SETS[-1], 1)).plan.steps
    }
    assert any("bytes_some" in name or "bytes_all" in name for name in kernels)
    assert any("wide_some" in name or "wide_all" in name for name in kernels)


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("long")
    sizes: dict[str, Any] = {**crowds.SIZES, "max_position_embeddings": 1024}
    exported.export(exported.bert(**sizes), folder / "f.onnx")
    return exported.static_int8(folder / "f.onnx", folder / "i.onnx")


def test_any_length_means_what_the_graph_says(long: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits within two of their steps, each step of the model within one of its own."""
    graph = models.read(long)
    session, step = engine.Session(graph), stepwise.quantizations(graph)["logits.rows.stored"].scale
    monkeypatch.setattr(stepwise, "STEPS_OF_8_BITS", 1)
    for length in LENGTHS:
        ids = np.random.default_rng(length).integers(2, 90, (1, length))
        given = {"input_ids": ids, "attention_mask": ids**0, "token_type_ids": 0 * ids}
        apart = np.abs(session.run(given)["logits"] - reference.run(graph, given)["logits"])
        assert apart.max() < 2.01 * step, length
        assert stepwise.check(graph, given) > 20
