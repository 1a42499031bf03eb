"""fp32 ONNX to int8 ONNX by ONNX Runtime's quantiser.

int8           QDQ, activations uint8, weights int8 per channel, ranges from real sentences
dynamic_int8   activations uint8 with a range of their own at each run, weights int8 per channel
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from workflow.scripts.writing import StepError, run_main, whole

PRODUCTS = ["MatMul", "Gemm"]


class Sentences:
    """One sentence a call, without padding, as ONNX Runtime's calibration asks for them."""

    def __init__(self, path: Path, count: int, inputs: list[str]) -> None:
        with np.load(path) as file:
            arrays = {
                name: file[name] for name in ("input_ids", "attention_mask", "token_type_ids")
            }
        total = len(arrays["input_ids"])
        if total < count:
            raise StepError(f"{path}: {total} sentences, quantize.sentences asks for {count}")
        chosen = np.linspace(0, total - 1, count).astype(int)  # spread over the whole file
        self.feeds = _unpadded({name: arrays[name][chosen] for name in inputs}, arrays, chosen)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.feeds, None)


def _unpadded(
    rows: dict[str, np.ndarray], arrays: dict[str, np.ndarray], chosen: np.ndarray
) -> Iterator[dict[str, np.ndarray]]:
    for number, length in enumerate(arrays["attention_mask"][chosen].sum(1)):
        yield {name: row[number : number + 1, :length] for name, row in rows.items()}


def prepared(model: Path, folder: Path) -> Path:
    """The model with shapes inferred and nothing optimised, so that torch's names remain."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    out = folder / "prepared.onnx"
    quant_pre_process(str(model), str(out), skip_optimization=True, skip_symbolic_shape=True)
    return out


def quantize_static(model: Path, out: Path, sentences: Path, count: int, method: str) -> None:
    import onnx
    import onnxruntime.quantization as quantization

    graph = onnx.load(model).graph
    reader: Any = Sentences(sentences, count, [value.name for value in graph.input])
    methods = quantization.CalibrationMethod
    quantization.quantize_static(
        str(model),
        str(out),
        reader,
        quant_format=quantization.QuantFormat.QDQ,
        op_types_to_quantize=PRODUCTS,
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        calibrate_method={
            "minmax": methods.MinMax,
            "entropy": methods.Entropy,
            "percentile": methods.Percentile,
        }[method],
    )


def quantize_dynamic(model: Path, out: Path) -> None:
    import onnxruntime.quantization as quantization

    quantization.quantize_dynamic(
        str(model),
        str(out),
        op_types_to_quantize=PRODUCTS,
        per_channel=True,
        weight_type=quantization.QuantType.QInt8,
    )


def main(arguments: argparse.Namespace) -> None:
    with whole(arguments.out) as partial, tempfile.TemporaryDirectory() as folder:
        model = prepared(arguments.model, Path(folder))
        if arguments.precision == "dynamic_int8":
            quantize_dynamic(model, partial)
        else:
            count, method = arguments.sentences, arguments.method
            quantize_static(model, partial, arguments.calibration, count, method)
    print(f"{arguments.out}: {arguments.precision}, {arguments.out.stat().st_size} bytes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("precision", choices=["int8", "dynamic_int8"])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--calibration", type=Path)
    parser.add_argument("--sentences", type=int, default=128)
    parser.add_argument("--method", choices=["minmax", "entropy", "percentile"], default="minmax")
    run_main(main, parser)
