"""Whole models as other CPUs plan them, in instructions that this one has: "avx512_bf16@avx2".

What an AVX-512 machine would run (its kernels, variants, forms of results) is run here, step by
step against the operators' NumPy meaning; only the instructions are others.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engine
from engine import settings
from engine.codegen import isa
from engine.codegen.compile import compiled
from engine.formats import models
from engine.kernels import builder, kernel
from engine.plan import make_plan
from engine.runtime import stepwise

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("onnxruntime")

from tests.instruction_sets import reachable  # noqa: E402
from tests.passes import exported  # noqa: E402

FORMS: dict[str, Callable[[Path, Path], Any]] = {
    "int8": exported.static_int8,
    "dynamic_int8": exported.dynamic_int8,
    "bf16": exported.bfloat16_weights,
}
CASES = [  # one of each form for AVX-512; what VNNI changes where a register has 256 bits
    ("avx512_bf16", "fp32"),
    ("avx512_bf16", "int8"),
    ("avx512_bf16", "dynamic_int8"),
    ("avx512_bf16", "bf16"),
    ("avx_vnni", "int8"),
    ("avx_vnni", "dynamic_int8"),
    *(
        pytest.param(name, form, marks=pytest.mark.slow)
        for name, forms in {
            "avx512": ("fp32", "int8", "dynamic_int8", "bf16"),
            "avx512_vnni": ("int8", "dynamic_int8"),
        }.items()
        for form in forms
    ),
]
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 192,
    "max_position_embeddings": 128,
}


def pruned(model: Any) -> Any:
    """Every encoder Linear without four fifths of its blocks of 4x1."""
    torch.manual_seed(0)
    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.Linear) and ".encoder." in name:
            weight = layer.weight.data
            keep = torch.rand(weight.shape[0] // 4, weight.shape[1]) < 0.2
            weight *= keep.repeat_interleave(4, 0)
    return model


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A model of a form, made once."""
    folder = tmp_path_factory.mktemp("models")

    def path(form: str) -> Path:
        found, source = folder / f"{form}.onnx", folder / "fp32.onnx"
        if not source.exists():
            exported.export(pruned(exported.bert(**SIZES)), source)
        if not found.exists():
            FORMS[form](source, found)
        return found

    return path


def feeds(lengths: list[int]) -> dict[str, np.ndarray]:
    """Sentences of these lengths, padded and masked."""
    mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int64)
    ids = np.random.default_rng(1).integers(2, 90, mask.shape)
    return {"input_ids": ids * mask, "attention_mask": mask, "token_type_ids": 0 * mask}


@pytest.mark.parametrize(("name", "form"), CASES)
def test_a_model_as_another_cpu_runs_it(name: str, form: str, file: Callable[[str], Path]) -> None:
    """A row of one sentence, rows of some; tiles that are full and that are not."""
    graph, which = models.read(file(form)), reachable(name, cap="avx2")
    with settings.override(isa=which.name):
        session = engine.Session(graph)
        for lengths in ([9], [31, 64, 3, 50, 17]):
            assert stepwise.check(graph, feeds(lengths)) > 20
    assert session.plan is not None and session.plan.fallback is None
    native = make_plan(graph, isa.named(name))
    assert native is not None
    assert [step.kernel_name for step in session.plan.steps] == [
        step.kernel_name for step in native.steps
    ]


@pytest.mark.skipif(
    "avx512_bf16" not in {row.name for row in isa.detected()},
    reason="the native instruction set, to compare with, is not there",
)
@pytest.mark.parametrize("form", ["fp32", "int8", "dynamic_int8", "bf16"])
def test_results_are_those_of_the_native_set(form: str, file: Callable[[str], Path]) -> None:
    """To the bit, but for bfloat16, whose products take and give numbers below 2^-126 as 0."""
    graph, given, made = models.read(file(form)), feeds([31, 64, 3, 50, 17]), []
    for which in (isa.named("avx512_bf16"), reachable("avx512_bf16", cap="avx2")):
        with settings.override(isa=which.name):
            made.append(engine.Session(graph).run(given)["logits"])
    np.testing.assert_array_equal(*made)


def test_code_is_that_of_the_set_below() -> None:
    """Kernels ask nothing of an instruction set: all their tests on AVX2 are tests of this too."""
    below = reachable("avx2").native
    for name in ("avx_vnni", "avx512_bf16"):
        which = reachable(name, cap="avx2")
        assert kernel(which, "clock") is compiled("clock", builder("clock"), below)
