"""The onnx package's own node tests, for every operator of the table: docs/onnx-operators.md.

`python -m tests.test_onnx_backend` writes that page again.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests

from engine.errors import UnsupportedError
from engine.formats import onnx_reader
from engine.graph import Graph
from engine.ops import OPERATORS, reference

PAGE = Path(__file__).parents[1] / "docs" / "onnx-operators.md"
KNOWN = {row.name for row in OPERATORS if row.domain == ""} | {"Constant"}
FLOAT16_STEP = 2**-11  # half a unit of the last place, relative
BFLOAT16_STEP = (
    2**-8
)  # half a unit of the last place, relative: we keep more bits between operators
TRAINING = "dropout in training, which is random"


@cache
def cases() -> dict[str, Any]:
    """Name -> case, of those with at least one operator of the table."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the generators divide by zero on purpose
        loaded = load_model_tests(kind="node")
    return {case.name: case for case in loaded if KNOWN & set(operators(case.model))}


def operators(model: onnx.ModelProto) -> list[str]:
    names = {node.op_type for node in model.graph.node if node.domain in ("", "ai.onnx")}
    foreign = {
        f"{node.domain}.{node.op_type}"
        for node in model.graph.node
        if node.domain not in ("", "ai.onnx")
    }
    return sorted(names | foreign)


def raised(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model at opset 11 or above.

    The generator writes the first opset that has the operator as tested; an operator that has not
    changed since opset 7 is the same in 11.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for item in copy.opset_import:
        item.version = max(item.version, onnx_reader.OPSETS[0])
    return copy


@cache
def graph_of(name: str) -> Graph | str:
    """The case's graph, or why it is left out."""
    model = cases()[name].model
    lacking = sorted(set(operators(model)) - KNOWN)
    if lacking:
        return f"also needs {', '.join(lacking)}"
    if name.startswith("test_training_dropout") and "zero_ratio" not in name:
        return TRAINING
    try:
        return onnx_reader.from_model(raised(model), name)
    except UnsupportedError as error:
        found = re.search(r"type ([A-Z0-9]+)|(is not a tensor)", str(error))
        assert found, error
        return f"type {found[1]}" if found[1] else "a sequence or an optional value"


def passing() -> list[str]:
    return sorted(name for name in cases() if isinstance(graph_of(name), Graph))


def as_array(value: Any) -> np.ndarray:
    """Cases hold arrays, tensors, or arrays of the package's own bfloat16."""
    array = numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value
    array = np.asarray(array)
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


@pytest.mark.parametrize("name", passing())
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_node(name: str) -> None:
    case, graph = cases()[name], graph_of(name)
    assert isinstance(graph, Graph)
    short = "bfloat16" in str(case.model.graph).lower() or _holds_bfloat16(case.model)
    for inputs, outputs in case.data_sets:
        fed = zip(case.model.graph.input, inputs, strict=False)
        found = reference.run(graph, {value.name: as_array(array) for value, array in fed})
        for value, wanted in zip(graph.outputs, outputs, strict=False):
            expected = as_array(wanted)
            assert found[value.name].dtype == expected.dtype
            assert found[value.name].shape == expected.shape
            # what ONNX's reference sums in float16 is summed in float32 here
            steps = {"float16": 4 * FLOAT16_STEP}.get(expected.dtype.name, 0)
            steps = 2 * BFLOAT16_STEP if short else steps
            rtol, atol = max(case.rtol, steps), max(case.atol, steps if short else 0)
            np.testing.assert_allclose(found[value.name], expected, rtol=rtol, atol=atol)


def _holds_bfloat16(model: onnx.ModelProto) -> bool:
    values = [*model.graph.input, *model.graph.output]
    return any(v.type.tensor_type.elem_type == onnx.TensorProto.BFLOAT16 for v in values)


# --- docs/onnx-operators.md ---
def page() -> str:
    passed: Counter[str] = Counter()
    left_out: dict[str, Counter[str]] = defaultdict(Counter)
    for name, case in cases().items():
        reason = graph_of(name)
        for operator in set(operators(case.model)) & KNOWN:
            if isinstance(reason, Graph):
                passed[operator] += 1
            else:
                left_out[operator][_kind(reason)] += 1
    done = len(passing())
    lines = [
        "# ONNX operators",
        "",
        f"Opsets {onnx_reader.OPSETS[0]} to {onnx_reader.OPSETS[-1]}. The node tests of onnx"
        f" {onnx.__version__} in which an operator below takes part: {len(cases())};"
        f" {done} pass, {len(cases()) - done} are left out.",
        "A test with several operators counts for each of them."
        " `python -m tests.test_onnx_backend` writes this page.",
        "",
        "| operator | pass | left out |",
        "|---|---:|---|",
    ]
    for operator in sorted(KNOWN):
        reasons = ", ".join(f"{count} {kind}" for kind, count in sorted(left_out[operator].items()))
        lines.append(f"| {operator} | {passed[operator]} | {reasons} |")
    for domain in ("com.microsoft", "engine"):
        names = ", ".join(sorted(row.name for row in OPERATORS if row.domain == domain))
        lines += ["", f"Of domain {domain}, tested elsewhere: {names}."]
    return "\n".join(lines) + "\n"


def _kind(reason: str) -> str:
    """Reasons in few words: for a table."""
    table = {
        r"type FLOAT(8|4)": "8-bit or 4-bit floats",
        r"type U?INT(4|2)\b": "4-bit or 2-bit integers",
        r"type STRING": "text",
        r"type COMPLEX": "complex numbers",
        r"also needs": "with an operator not in this table",
    }
    return next((text for pattern, text in table.items() if re.match(pattern, reason)), reason)


def test_page_is_current() -> None:
    assert PAGE.read_text() == page(), "run python -m tests.test_onnx_backend"


def test_every_operator_of_the_contract_is_tested() -> None:
    """Issue 5's list."""
    wanted = (
        "MatMul Gemm Add Mul Div Sub Pow Sqrt Erf Tanh Softmax LayerNormalization Gelu Gather"
        " Transpose Reshape Slice Squeeze Unsqueeze Concat Split Cast Where ReduceMean"
        " QuantizeLinear DequantizeLinear DynamicQuantizeLinear MatMulInteger QLinearMatMul"
        " ConstantOfShape Expand Shape"
    )
    tested = {operator for name in passing() for operator in operators(cases()[name].model)}
    assert set(wanted.split()) <= tested


if __name__ == "__main__":
    PAGE.write_text(page())
