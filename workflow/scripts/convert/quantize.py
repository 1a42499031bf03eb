"""fp32 ONNX to int8 ONNX by ONNX Runtime's quantiser.

int8           QDQ, activations uint8, weights int8 per channel, ranges from real sentences
dynamic_int8   activations uint8 with a range of their own at each run, weights int8 per channel
"""

import argparse
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import EngineError
from workflow.rulebook.writing import run_main, whole
from workflow.scripts.convert.calibrate import (
    METHODS,
    PRODUCTS,
    Feed,
    Range,
    find_ranges,
    sentence_feeds,
)
from workflow.scripts.convert.onnx_inputs import inputs_of


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


def round_biases(model: Any, ranges: Mapping[str, Range], parts: int) -> int:
    """Rounds what is added to a quantised product to `parts` parts of the product's step; how many
    layers that were.  Outputs whose biases are alike then share one function from the product's
    byte to the result's, and an engine's tables of them stay in a core's cache.  The error it adds
    has a variance of 1 / parts^2 of the product's own rounding.

    Where the sum goes on to a residual (Add), nothing is gained, and it is left as it is.
    """
    from onnx import numpy_helper

    biases = {tensor.name: tensor for tensor in model.graph.initializer}
    readers: dict[str, list[str]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.op_type)
    products = {node.output[0] for node in model.graph.node if node.op_type == "MatMul"}
    rounded = 0
    for node in model.graph.node:
        names = [name for name in node.input if name in biases]
        product = next((name for name in node.input if name in products and name in ranges), None)
        if node.op_type != "Add" or not names or product is None:
            continue
        if readers[names[0]] != ["Add"] or "Add" in readers.get(node.output[0], []):
            continue
        found, bias = ranges[product], numpy_helper.to_array(biases[names[0]])
        step = (max(found.high, 0.0) - min(found.low, 0.0)) / 255 / parts
        if step > 0:
            whole = (np.rint(bias / step) * step).astype(bias.dtype)
            biases[names[0]].CopyFrom(numpy_helper.from_array(whole, names[0]))
            rounded += 1
    return rounded


def leave_in_floats(model: Any, names: Iterable[str]) -> None:
    """Whoever reads one of these values reads it as it was before it was quantised."""
    graph = model.graph
    steps = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    bytes_of = {node.output[0]: node for node in steps if node.input[0] in set(names)}
    back = {node.output[0]: node for node in graph.node if node.input and node.input[0] in bytes_of}
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name in back:
                node.input[place] = bytes_of[back[name].input[0]].input[0]
    for node in (*bytes_of.values(), *back.values()):
        graph.node.remove(node)


def quantize_static(
    model: Path,
    out: Path,
    sentences: Path,
    count: int,
    method: str,
    bias_parts: int = 0,
    channel_decibels: float = 0,
) -> None:
    """Inputs and outputs of all products, those of attention too, get the ranges found; bias_parts:
    as `round_biases` takes them, 0: biases stay as they are.

    channel_decibels: what is added to a residual stays in floats where the middle one of its
    channels would be less above its rounding. Where few channels are hundreds of times as large as
    the others, as they may be there, one scale leaves nothing of the others
    (https://arxiv.org/abs/2109.12948).
    """
    import onnx
    import onnxruntime.quantization as quantization

    whole_model = onnx.load(model)
    feeds = sentence_feeds(sentences, count, inputs_of(whole_model.graph))
    ranges = find_ranges(model, feeds, method)
    worst = min(ranges.items(), key=lambda item: item[1].decibels)
    print(
        f"{len(feeds)} sentences, {len(ranges)} ranges;"
        f" noisiest {worst[0]}: {worst[1].decibels:.1f} dB"
    )
    loud = [name for name, found in ranges.items() if found.channel_decibels < channel_decibels]
    print(f"{len(loud)} outputs stay in floats: {', '.join(loud)}")
    if bias_parts:
        kept = {name: found for name, found in ranges.items() if name not in loud}
        rounded = round_biases(whole_model, kept, bias_parts)
        print(f"{rounded} biases rounded to 1/{bias_parts} of their product's step")
    reader: Any = OneFeed(feeds[0])
    quantization.quantize_static(
        whole_model,
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
    if loud:
        made = onnx.load(out)
        leave_in_floats(made, loud)
        onnx.save(made, out)


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
            quality = arguments.bias_parts, arguments.channel_decibels
            print(f"{arguments.model}: calibrated on {count} sentences at most", flush=True)
            quantize_static(model, partial, arguments.calibration, count, method, *quality)
    print(f"{arguments.out}: {arguments.precision}, {arguments.out.stat().st_size} bytes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("precision", choices=["int8", "dynamic_int8"])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--calibration", type=Path)
    parser.add_argument("--sentences", type=int, default=128)
    parser.add_argument("--method", choices=METHODS, default="minmax")
    parser.add_argument(
        "--bias-parts",
        type=int,
        default=0,
        help="round biases to so many parts of their product's step (0: leave them)",
    )
    parser.add_argument(
        "--channel-decibels",
        type=float,
        default=0,
        help="what is added to a residual stays in floats where its middle channel would be less"
        " above its rounding",
    )
    run_main(main, parser, EngineError)
