"""Files that onnxruntime.quantization makes, in all its ways: wholly in kernels, with its numbers.

Where ranges are fixed sums are exact, and ONNX Runtime makes the same bytes; where they are found
at run time, the kernels take one for each token.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnxruntime.quantization import QuantFormat, QuantType

import engine

Models = Callable[[str], Path]
ALL: dict[str, Any] = {"operators": None}
ONE_SCALE: dict[str, Any] = {**ALL, "per_channel": False}
STATIC: dict[str, tuple[str, dict[str, Any]]] = {  # name -> model, how
    "default": ("bert", ONE_SCALE),
    "per channel": ("bert", ALL),
    "U8U8": ("bert", {**ONE_SCALE, "weight": QuantType.QUInt8}),
    "S8S8": ("bert", {**ONE_SCALE, "activation": QuantType.QInt8}),
    "operators": ("bert", {**ONE_SCALE, "quant_format": QuantFormat.QOperator}),
    "own pairs": ("bert", {**ONE_SCALE, "DedicatedQDQPair": True}),
    "distilbert": ("distilbert", ONE_SCALE),
    "a GELU behind the selected row": ("electra", ONE_SCALE),
    "positions before types": ("squeezebert", ONE_SCALE),
    "operators, with convolutions": (
        "squeezebert",
        {**ONE_SCALE, "quant_format": QuantFormat.QOperator},
    ),
    "LayerNormalization": ("bert_opset17", ONE_SCALE),
    "tokens": ("tokens", ONE_SCALE),
    "scores by positions": ("deberta_tokens", {}),
    "products beside floats": ("squeezebert", {}),
    "not the sums": ("bert_opset17", {"operators": ("MatMul", "Gather", "LayerNormalization")}),
}
SLOW = {
    "positions before types",
    "operators, with convolutions",
}  # its passes and kernels have quick tests of their own
WAYS = [pytest.param(way, marks=pytest.mark.slow) if way in SLOW else way for way in STATIC]
DYNAMIC: dict[str, dict[str, Any]] = {
    "uint8": {"weight": QuantType.QUInt8, "per_channel": False},
    "uint8 per channel": {"weight": QuantType.QUInt8},
    "7 bits": {"reduce_range": True, "per_channel": False},
}


def differences(path: Path, theirs: Callable[..., Any]) -> np.ndarray:
    """Of the numbers at tokens that count, all in kernels."""
    from tests.passes import exported

    session = engine.load(path, threads=1)
    assert session.plan is not None and session.plan.fallback is None
    found = []
    for batch, tokens in ((1, 7), (3, 31)):
        given = exported.feeds(path, batch, tokens)
        got, mask = session.run(given), given["attention_mask"] == 1
        for name, wanted in theirs(given).items():
            real = mask if wanted.ndim == 3 else ...
            found.append(np.abs(got[name] - wanted)[real].ravel())
    return np.concatenate(found)


@pytest.mark.parametrize("way", WAYS)
def test_fixed_ranges(model: Models, way: str, tmp_path: Path) -> None:
    from tests.passes import exported

    (name, how), path = STATIC[way], tmp_path / "static.onnx"
    exported.static_int8(model(name), path, **how)
    found = differences(path, lambda given: exported.runtime(path, given))
    assert np.median(found) < 1e-5 and found.max() < 0.1  # a step is hundreds of that


@pytest.mark.parametrize(("bits", "symmetric"), [(4, False), (8, True)])
def test_weights_in_blocks(model: Models, bits: int, symmetric: bool, tmp_path: Path) -> None:
    from tests.passes import exported

    path = exported.in_blocks(
        model("bert"), tmp_path / "blocks.onnx", bits=bits, block_size=16, is_symmetric=symmetric
    )
    assert differences(path, lambda given: exported.runtime(path, given)).max() < 1e-4


@pytest.mark.parametrize("way", DYNAMIC)
def test_ranges_found_at_run_time(model: Models, way: str, tmp_path: Path) -> None:
    """As near to float32 as what ONNX Runtime makes of the same file."""
    from tests.passes import exported

    source, path = model("bert"), tmp_path / "dynamic.onnx"
    exported.dynamic_int8(source, path, "Gather", **DYNAMIC[way])
    wanted = {}

    def of_floats(given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        wanted.update(exported.runtime(source, given))
        return exported.runtime(source, given)

    ours = differences(path, of_floats).max()
    given = exported.feeds(path, 3, 31)
    theirs = max(np.abs(a - wanted[k]).max() for k, a in exported.runtime(path, given).items())
    assert ours < 1.5 * theirs
