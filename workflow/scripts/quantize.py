"""fp32 ONNX to int8 ONNX by ONNX Runtime's quantiser.

int8           QDQ, activations uint8, weights int8 per channel, ranges from real sentences
dynamic_int8   activations uint8 with a range of their own at each run, weights int8 per channel
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from workflow.scripts.calibrate import METHODS, PRODUCTS, Feed, find_ranges, sentence_feeds
from workflow.scripts.writing import run_main, whole


class OneFeed:
    """ONNX Runtime wants to calibrate; as every range is given, one sentence is enough."""

    def __init__(self, feed: Feed) -> None:
        self.feeds = iter([feed])

    def get_next(self) -> Feed | None:
        return next(self.feeds, None)


def prepared(model: Path, folder: Path) -> Path:
    """The model with shapes inferred and nothing optimised, so that torch's names remain."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    out = folder / "prepared.onnx"
    quant_pre_process(str(model), str(out), skip_optimization=True, skip_symbolic_shape=True)
    return out


def quantize_static(model: Path, out: Path, sentences: Path, count: int, method: str) -> None:
    """Inputs and outputs of all products, those of attention too, get the ranges found."""
    import onnx
    import onnxruntime.quantization as quantization

    inputs = [value.name for value in onnx.load(model, load_external_data=False).graph.input]
    feeds = sentence_feeds(sentences, count, inputs)
    ranges = find_ranges(model, feeds, method)
    worst = min(ranges.items(), key=lambda item: item[1].decibels)
    print(
        f"{count} sentences, {len(ranges)} ranges; noisiest {worst[0]}: {worst[1].decibels:.1f} dB"
    )
    reader: Any = OneFeed(feeds[0])
    quantization.quantize_static(
        str(model),
        str(out),
        reader,
        quant_format=quantization.QuantFormat.QDQ,
        op_types_to_quantize=list(PRODUCTS),
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        extra_options={
            "TensorQuantOverrides": {
                name: [{"rmin": np.float32(found.low), "rmax": np.float32(found.high)}]
                for name, found in ranges.items()
            }
        },
    )


def quantize_dynamic(model: Path, out: Path) -> None:
    import onnxruntime.quantization as quantization

    quantization.quantize_dynamic(
        str(model),
        str(out),
        op_types_to_quantize=list(PRODUCTS),
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
    parser.add_argument("--method", choices=METHODS, default="minmax")
    run_main(main, parser)
