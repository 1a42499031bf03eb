"""Ranges of a model's activations over real sentences, each at its own length.

minmax   what was seen
mse      of the ranges inside that, the one whose clipping and rounding to uint8 cost least

The noise that a range leaves is told too: signal over error in decibels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from engine.graph import Value
from engine.measure.accuracy import read_arrays
from engine.measure.feeds import of_sentences

Feed = dict[str, np.ndarray]

PRODUCTS = ("MatMul", "Gemm")
METHODS = ("minmax", "mse")
SAMPLE = 512  # values of a tensor that are kept of each sentence, for the search
SHARES = np.linspace(0.3, 1.0, 15)  # of the lowest and of the highest value seen
LEVELS = 255


@dataclass(frozen=True)
class Range:
    low: float
    high: float
    decibels: float  # signal over quantisation error; more is better
    channel_decibels: float = (
        math.inf
    )  # the same of the middle channel of what is added to a residual


def sentence_feeds(path: Path, count: int, inputs: Sequence[Value]) -> list[Feed]:
    """`count` sentences spread over the file, or all if there are fewer; one a feed, not padded."""
    arrays = read_arrays(path)
    mask = arrays["attention_mask"]
    if len(mask) < count:
        print(f"{path}: {len(mask)} sentences, all there are; quantize.sentences asks for {count}")
    return [
        of_sentences(inputs, {name: array[row : row + 1, used] for name, array in arrays.items()})
        for row in np.linspace(0, len(mask) - 1, min(count, len(mask))).astype(int)
        for used in [mask[row] == 1]
    ]


def product_tensors(graph: onnx.GraphProto) -> list[str]:
    """Activations that products read and write, in the order of the graph."""
    weights = {tensor.name for tensor in graph.initializer}
    products = [node for node in graph.node if node.op_type in PRODUCTS]
    names = [name for node in products for name in (*node.input[:2], *node.output)]
    return [name for name in dict.fromkeys(names) if name not in weights]


def residual_products(graph: onnx.GraphProto) -> set[str]:
    """Outputs of products with weights that are added to another activation, with a bias or without
    one; their last axis is channels.
    """
    weights = {tensor.name for tensor in graph.initializer}
    sums: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input if node.op_type == "Add" else ():
            sums.setdefault(name, []).append(node)

    def is_added(name: str) -> bool:
        return any(
            is_added(node.output[0]) if weights & set(node.input) else True
            for node in sums.get(name, ())
        )

    products = [node for node in graph.node if node.op_type in PRODUCTS]
    outputs = {node.output[0] for node in products if weights & set(node.input[:2])}
    return {name for name in outputs if is_added(name)}


def find_ranges(model: Path, feeds: list[Feed], method: str) -> dict[str, Range]:
    """The range of every activation of a product."""
    proto = onnx.load(model)
    names = product_tensors(proto.graph)
    present = {value.name for value in proto.graph.output}
    proto.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        for name in names
        if name not in present
    )
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    random = np.random.default_rng(0)
    seen: dict[str, list[np.ndarray]] = {name: [] for name in names}
    powers: dict[str, list[np.ndarray]] = {name: [] for name in residual_products(proto.graph)}
    for feed in feeds:
        for name, values in zip(names, session.run(names, feed), strict=True):
            flat = values.ravel()
            ends = np.array([flat.min(), flat.max()])
            seen[name].append(np.concatenate([ends, random.choice(flat, min(SAMPLE, flat.size))]))
            if name in powers:
                powers[name].append(np.square(values).reshape(-1, values.shape[-1]).mean(0))
    ranges = {name: best_range(np.concatenate(values), method) for name, values in seen.items()}
    return ranges | {
        name: replace(ranges[name], channel_decibels=_of_channels(ranges[name], np.mean(power, 0)))
        for name, power in powers.items()
    }


def _of_channels(found: Range, power: np.ndarray) -> float:
    """Of the middle channel, those without values left out; power: mean squares of each."""
    noise = ((found.high - found.low) / LEVELS) ** 2 / 12
    used = power[power > 0]
    return float(10 * np.log10(np.median(used) / noise)) if used.size else math.inf


def best_range(values: np.ndarray, method: str) -> Range:
    """Zero is inside every range, as a padded or masked value has to be exact."""
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    if method == "minmax" or low == high:
        return _rated(values, low, high)
    tried = (_rated(values, low * a, high * b) for a in SHARES for b in SHARES)
    return max(tried, key=lambda found: found.decibels)


def _rated(values: np.ndarray, low: float, high: float) -> Range:
    scale = (high - low) / LEVELS or 1.0
    zero = np.round(-low / scale)
    stored = np.clip(np.round(values / scale) + zero, 0, LEVELS)
    error = np.square((stored - zero) * scale - values).mean()
    power = np.square(values).mean()
    return Range(low, high, float(10 * np.log10(max(power, 1e-30) / max(error, 1e-30))))
