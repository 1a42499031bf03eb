"""ONNX Runtime as a reference: exact on a CPU without VNNI, which QEMU shows on any machine."""

from __future__ import annotations

import ast
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

pytest.importorskip("onnxruntime")

from workflow.scripts.convert import onnx_runtime  # noqa: E402

ROOT = Path(__file__).parents[2]
FOLDERS = ("tests", "workflow")
MAKES_SESSIONS = {  # calls of onnxruntime.InferenceSession: here, of floats alone, to write a file
    "workflow/scripts/convert/onnx_runtime.py": 1,
    "workflow/scripts/convert/calibrate.py": 1,
    "tests/passes/exported.py": 1,
    "tests/test_reference.py": 1,
}
QEMU = next(filter(None, map(shutil.which, ("qemu-x86_64-static", "qemu-x86_64"))), "")
random = np.random.default_rng(0)
X = random.integers(0, 256, (3, 64)).astype(np.uint8)
WEIGHT = random.integers(-128, 128, (64, 4)).astype(np.int8)
ZERO, X_SCALE, W_SCALE, Y_SCALE, Y_ZERO = 7, 0.1, 0.02, 3.0, 99
SUMS = (X.astype(np.int64) - ZERO) @ WEIGHT.astype(np.int64)
REAL = SUMS * X_SCALE * W_SCALE
STORED = np.clip(np.rint(REAL / Y_SCALE) + Y_ZERO, 0, 255)
MICROSOFT = "com.microsoft"
PRODUCTS = {  # name -> nodes, type of y, its numbers
    "QLinearMatMul": (
        [helper.make_node("QLinearMatMul", ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz"], ["y"])],
        TensorProto.UINT8, STORED,
    ),
    "MatMulInteger": (
        [helper.make_node("MatMulInteger", ["x", "w", "xz", "wz"], ["y"])],
        TensorProto.INT32, SUMS,
    ),
    "MatMulIntegerToFloat": (
        [helper.make_node("MatMulIntegerToFloat", ["x", "w", "xs", "ws", "xz", "wz"], ["y"],
                          domain=MICROSOFT)],
        TensorProto.FLOAT, REAL,
    ),
    "QGemm": (
        [helper.make_node("QGemm", ["x", "xs", "xz", "w", "ws", "wz", "", "ys", "yz"], ["y"],
                          domain=MICROSOFT)],
        TensorProto.UINT8, STORED,
    ),
    "QDQ": (
        [helper.make_node("DequantizeLinear", ["x", "xs", "xz"], ["a"]),
         helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["b"]),
         helper.make_node("MatMul", ["a", "b"], ["c"]),
         helper.make_node("QuantizeLinear", ["c", "ys", "yz"], ["y"])],
        TensorProto.UINT8, STORED,
    ),
}  # fmt: skip


def product(name: str) -> bytes:
    """A model of one product."""
    numbers = {
        "xs": np.float32(X_SCALE), "xz": np.uint8(ZERO), "w": WEIGHT, "ws": np.float32(W_SCALE),
        "wz": np.int8(0), "ys": np.float32(Y_SCALE), "yz": np.uint8(Y_ZERO),
    }  # fmt: skip
    nodes, kind, _ = PRODUCTS[name]
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ["n", 64])],
        [helper.make_tensor_value_info("y", kind, ["n", 4])],
        [numpy_helper.from_array(np.asarray(value), key) for key, value in numbers.items()],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8).SerializeToString()


def differences(exact: bool) -> dict[str, float]:
    """Of each product's largest number, from what it means; also what the child below prints."""
    found = {}
    for name, (_, _, meant) in PRODUCTS.items():
        y = onnx_runtime.session(product(name), threads=1, exact=exact).run(None, {"x": X})[0]
        found[name] = float(np.abs(y - meant).max())
    return found


def test_products_are_exact_on_this_cpu() -> None:
    assert max(differences(exact=True).values()) < 1e-3


def test_products_are_exact_without_vnni() -> None:
    """On an emulated Haswell, where they are not without the option: the test can fail."""
    if platform.machine() != "x86_64" or not QEMU:
        pytest.skip("qemu-x86_64 (Debian: qemu-user-static) shows a CPU without VNNI")
    code = "from tests.workflow import test_onnx_runtime as t; print(t.differences(EXACT))"
    found = []
    for exact in ("True", "False"):
        command = [QEMU, "-cpu", "Haswell", sys.executable, "-c", code.replace("EXACT", exact)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found.append(ast.literal_eval(done.stdout))
    assert max(found[0].values()) < 1e-3
    assert min(found[1].values()) > 5


def test_every_reference_is_made_in_one_place() -> None:
    """A session made elsewhere would saturate on some CPUs."""
    made: dict[str, int] = {}
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                    "onnxruntime.InferenceSession",
                    "runtime.InferenceSession",
                    "InferenceSession",
                ):
                    name = str(path.relative_to(ROOT))
                    made[name] = made.get(name, 0) + 1
    assert made == MAKES_SESSIONS
