"""What docs/models.md has rows for: an architecture, a head, an exporter, a precision, an input."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

from tests.models.architectures import ARCHITECTURES, HEADS, Size, model_of
from tests.passes import exported

__all__ = ["CASES", "FIRST", "TABLES", "Case", "file_of", "main_head"]

IDS, MASK, TYPES = "input_ids", "attention_mask", "token_type_ids"
FREE, TRACED = ("batch", "sequence"), 11  # names of free lengths; tokens of the traced sentences
Make = Callable[[Path, Path], Any]
LEGACY, DYNAMO = "TorchScript 14", "dynamo 18"
EXPORTERS: Mapping[str, tuple[int, bool]] = {  # opset, dynamo
    "TorchScript 11": (11, False),
    LEGACY: (14, False),
    "TorchScript 17": (17, False),
    "TorchScript 20": (20, False),
    DYNAMO: (18, True),
    "dynamo 23": (23, True),
}
OPTIMISERS: Mapping[str, Make] = {  # of a file of the legacy exporter
    "saved by ONNX Runtime": exported.optimised,
    "onnxruntime.transformers": exported.fused,
}


def in_blocks(source: Path, path: Path, bits: int = 4) -> None:
    """MatMulNBits, a scale for each 32 weights of an output."""
    quantizer = MatMulNBitsQuantizer(onnx.load(source), block_size=32, is_symmetric=True, bits=bits)
    quantizer.process()
    quantizer.model.save_model_to_file(str(path), False)


def in_uint8(source: Path, path: Path) -> None:
    """quantize_dynamic with weights of the full range of uint8."""
    with exported.quietly():
        quantize_dynamic(str(source), str(path), weight_type=QuantType.QUInt8)


ALL: dict[str, Any] = {"operators": (), "per_channel": False}  # quantize_static's own choice
PRECISIONS: Mapping[str, Make] = {
    "fp16": exported.float16,
    "bf16": exported.bfloat16_weights,
    "int8 static": exported.static_int8,
    "int8 static, all operators": lambda s, p: exported.static_int8(s, p, **ALL),
    "int8 static, QOperator": lambda s, p: exported.static_int8(
        s, p, quant_format=QuantFormat.QOperator, **ALL
    ),
    "int8 static, S8S8": lambda s, p: exported.static_int8(s, p, activation=QuantType.QInt8),
    "int8 dynamic": exported.dynamic_int8,
    "uint8 dynamic": in_uint8,
    "int8 dynamic, all operators": lambda s, p: exported.dynamic_int8(s, p, "Gather"),
    "4 bits in blocks": in_blocks,
    "8 bits in blocks": lambda s, p: in_blocks(s, p, bits=8),
}
SPARSE: Mapping[str, tuple[str, str]] = {  # pattern, precision
    f"{precision}, 80 % {pattern}": (pattern, precision)
    for pattern in ("4x1", "1x4")
    for precision in ("fp32", "bf16", "int8 static", "int8 dynamic")
}
BOUNDS = {"fp16": 1e-2, "bf16": 5e-2, "8": 0.2}  # by what a precision's name holds
FED = ("as it is", "int32", "no mask", "float mask", "position_ids", "fixed length")


@dataclass(frozen=True)
class Case:
    """A row of the page."""

    architecture: str
    head: str = "hidden states"
    exporter: str = LEGACY
    precision: str = "fp32"
    fed: str = "as it is"

    @property
    def bound(self) -> float:
        """Beside it a difference is wrong; roundings of few bits, and of their sums, differ."""
        return next((most for name, most in BOUNDS.items() if name in self.precision), 1e-4)

    @property
    def name(self) -> str:
        return " · ".join((self.architecture, self.head, self.exporter, self.precision, self.fed))


FIRST = next(iter(ARCHITECTURES))


def heads_of(architecture: str) -> Iterator[str]:
    """Those that transformers has for it; of the first all, of the others the usual ones."""
    usual = list(HEADS)[:7]
    for head in HEADS if architecture == FIRST else usual:
        if ARCHITECTURES[architecture].auto or HEADS[head][0] == "AutoModel":
            yield head


def main_head(architecture: str) -> str:
    return "classifier" if ARCHITECTURES[architecture].auto else "mean, L2"


TABLES: Mapping[str, list[Case]] = {
    "Architectures and heads": [
        Case(name, head) for name in ARCHITECTURES for head in heads_of(name)
    ],
    "Exporters": [
        Case(name, main_head(name), exporter)
        for name in ARCHITECTURES
        for exporter in (*EXPORTERS, *OPTIMISERS)
        if exporter != LEGACY
    ],
    "Precisions": [
        Case(name, main_head(name), precision=precision)
        for name in ARCHITECTURES
        for precision in (*PRECISIONS, *SPARSE)
    ],
    "Inputs": [Case(FIRST, "classifier", fed=fed) for fed in FED[1:]],
}
CASES = [case for cases in TABLES.values() for case in cases]


# --- files ---
def file_of(case: Case, size: Size, folder: Path) -> Path:
    """The case's ONNX file, made in the folder."""
    torch.manual_seed(1)
    model = model_of(case.architecture, case.head, size)
    if case.precision in SPARSE:
        prune(model, SPARSE[case.precision][0])
    opset, dynamo = EXPORTERS.get(case.exporter, EXPORTERS[LEGACY])
    path = export(model, case, size, folder / "exported.onnx", opset, dynamo)
    precision = SPARSE.get(case.precision, ("", case.precision))[1]
    for name, makers in ((case.exporter, OPTIMISERS), (precision, PRECISIONS)):
        if name in makers:
            made = folder / "changed.onnx"
            makers[name](path, made)
            path = made
    return path


def prune(model: torch.nn.Module, pattern: str, ratio: float = 0.8) -> None:
    """The smallest blocks of the weights of every Linear, and Conv of kernel 1, become zero."""
    for module in model.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv1d):
            weight = module.weight.detach().flatten(1)
            block = (4, 1) if pattern == "4x1" else (1, 4)
            if weight.shape[0] % block[0] or weight.shape[1] % block[1]:
                continue
            rows, columns = (n // b for n, b in zip(weight.shape, block, strict=True))
            sums = weight.abs().reshape(rows, block[0], columns, block[1]).sum((1, 3))
            keep = sums > sums.flatten().kthvalue(max(1, int(ratio * sums.numel()))).values
            weight *= keep.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)


def example(case: Case, size: Size) -> dict[str, torch.Tensor]:
    """Two sentences, as the model is traced with."""
    names = [*ARCHITECTURES[case.architecture].inputs]
    if case.fed == "no mask":
        names.remove(MASK)
    ids = torch.randint(2, size.vocabulary, (2, TRACED))
    given = {
        name: torch.zeros_like(ids) if name == TYPES else torch.ones_like(ids) for name in names
    }
    given[IDS] = ids
    if case.fed == "position_ids":
        given["position_ids"] = torch.zeros_like(ids) + torch.arange(TRACED)
    if case.fed == "int32":
        given = {name: tensor.int() for name, tensor in given.items()}
    if case.fed == "float mask":
        given[MASK] = given[MASK].float()
    return given


def export(
    model: torch.nn.Module, case: Case, size: Size, path: Path, opset: int, dynamo: bool
) -> Path:
    """With free batch and length, unless the case fixes them; outputs y0, y1, ..."""
    given = example(case, size)
    with torch.no_grad():
        made = model(**given)
    outputs = {f"y{i}": y for i, y in enumerate(made if isinstance(made, tuple) else (made,))}
    how: dict[str, Any] = {"input_names": list(given), "output_names": list(outputs)}
    how |= {"opset_version": opset, "dynamo": dynamo}
    if dynamo:
        batch, sequence = (torch.export.Dim(n, min=1, max=size.most_tokens) for n in FREE)
        how |= {"dynamic_shapes": dict.fromkeys(given, {0: batch, 1: sequence})}
        how |= {"kwargs": given, "verbose": False}
    elif case.fed != "fixed length":
        how["dynamic_axes"] = {name: free_axes(x) for name, x in {**given, **outputs}.items()}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, () if dynamo else (given,), str(path), **how)
    return path


def free_axes(x: torch.Tensor) -> dict[int, str]:
    tokens = {axis: FREE[1] for axis, length in enumerate(x.shape) if length == TRACED}
    return {0: FREE[0]} | tokens
