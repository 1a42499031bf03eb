"""The small models that are mutated: one layer, 32 channels, in every form that is read.

Made once for each process; the same every time.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from engine.formats import models, store
from engine.graph import BLOCKS, Graph, Quantization
from engine.ops.numbers import round_to_bfloat16
from tests import original_writer

__all__ = ["IRS", "ONNX", "ORIGINAL", "ir_files", "onnx_model", "original_files"]

CHANNELS, HEADS, INNER, WORDS, PLACES = 32, 2, 64, 40, 24
DEPTH = CHANNELS // HEADS
IRS = ("float32", "sparse_4x1", "sparse_1x4", "bfloat16", "int8", "dynamic", "padded")
ONNX = ("float32", "int8", "function", "padded")
ORIGINAL = (("fp32", False), ("int8", False), ("int8", True), ("bf16", False))
STEPS = {  # activation -> scale and zero point of the QDQ model
    "x": (0.04, 128), "context": (0.02, 120), "normed": (0.04, 128), "inner": (0.02, 9),
}  # fmt: skip


# --- ONNX ---
class Writer:
    """Nodes and constants of a graph, one after the other."""

    def __init__(self, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}

    def constant(self, name: str, array: Any) -> str:
        self.constants[name] = np.asarray(array)
        return name

    def weight(self, name: str, *shape: int) -> str:
        return self.constant(name, 0.2 * self.random.standard_normal(shape, np.float32))

    def op(self, kind: str, out: str, *inputs: str, **how: Any) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [out], out, **how))
        return out

    def whole(self, name: str, *numbers: int) -> str:
        return self.constant(name, np.array(numbers, np.int64))


def linear(at: Writer, out: str, x: str, *shape: int, quantized: str = "") -> str:
    """x W + b; quantized: the activation whose steps x has."""
    weight = at.weight(f"{out}.weight", *shape)
    if quantized:
        array, scale, zero = at.constants.pop(weight), *STEPS[quantized]
        steps = np.abs(array).max(0) / 127
        stored = at.constant(f"{weight}.stored", np.rint(array / steps).astype(np.int8))
        names = at.constant(f"{weight}.scale", steps.astype(np.float32)), f"{weight}.zero"
        at.constant(names[1], np.zeros(shape[1], np.int8))
        at.op("DequantizeLinear", weight, stored, *names, axis=1)
        how = (
            at.constant(f"{out}.scale", np.float32(scale)),
            at.constant(f"{out}.zero", np.array(zero, np.uint8)),
        )
        x = at.op(
            "DequantizeLinear", f"{out}.x", at.op("QuantizeLinear", f"{out}.q", x, *how), *how
        )
    return at.op("Add", out, at.op("MatMul", f"{out}.product", x, weight), bias(at, out, shape[1]))


def bias(at: Writer, out: str, count: int) -> str:
    return at.constant(f"{out}.bias", 0.1 * at.random.standard_normal(count, np.float32))


def norm(at: Writer, out: str, x: str) -> str:
    gamma = at.constant(f"{out}.gamma", 1 + 0.1 * at.random.standard_normal(CHANNELS, np.float32))
    beta = at.constant(f"{out}.beta", 0.1 * at.random.standard_normal(CHANNELS, np.float32))
    return at.op("LayerNormalization", out, x, gamma, beta, axis=-1, epsilon=1e-5)


def embedded(at: Writer, *, padded: bool) -> str:
    x = at.op("Gather", "words", at.weight("word_table", WORDS, CHANNELS), "input_ids")
    if padded:  # as RoBERTa counts
        real = at.op("Not", "real", at.op("Equal", "padding", "input_ids", at.whole("pad", 1)))
        real = at.op("Cast", "ones", real, to=TensorProto.INT64)
        axis = at.constant("axis", np.array(1, np.int64))
        counted = at.op("Mul", "counted", at.op("CumSum", "sums", real, axis), real)
        places = at.op("Add", "places", counted, at.whole("first", 1))
    else:
        length = at.op("Gather", "length", at.op("Shape", "shape", "input_ids"), at.whole("one", 1))
        rows = at.constant("all_places", np.arange(PLACES, dtype=np.int64)[None])
        places = at.op("Slice", "places", rows, at.whole("zero", 0), length, at.whole("axis1", 1))
    table = at.weight("place_table", PLACES, CHANNELS)
    x = at.op("Add", "placed", x, at.op("Gather", "place_rows", table, places))
    if not padded:
        kinds = at.op("Gather", "kinds", at.weight("type_table", 2, CHANNELS), "token_type_ids")
        x = at.op("Add", "typed", x, kinds)
    return norm(at, "embedding", x)


def attended(at: Writer, x: str, *, quantized: bool) -> str:
    split, whole = at.whole("split", 0, 0, HEADS, DEPTH), at.whole("joined", 0, 0, CHANNELS)
    how = "x" if quantized else ""
    heads = {}
    for name, order in (("query", (0, 2, 1, 3)), ("key", (0, 2, 3, 1)), ("value", (0, 2, 1, 3))):
        y = linear(at, name, x, CHANNELS, CHANNELS, quantized=how)
        y = at.op("Reshape", f"{name}.heads", y, split)
        heads[name] = at.op("Transpose", f"{name}.turned", y, perm=order)
    scores = at.op("MatMul", "scores", heads["query"], heads["key"])
    scores = at.op("Div", "scaled", scores, at.constant("root", np.float32(DEPTH**0.5)))
    mask = at.op("Unsqueeze", "mask4", "attention_mask", at.whole("mask_axes", 1, 2))
    mask = at.op("Cast", "maskf", mask, to=TensorProto.FLOAT)
    mask = at.op("Sub", "unmasked", at.constant("onef", np.float32(1)), mask)
    mask = at.op("Mul", "added", mask, at.constant("low", np.float32(-10000)))
    p = at.op("Softmax", "chances", at.op("Add", "masked", scores, mask), axis=-1)
    y = at.op("MatMul", "weighted", p, heads["value"])
    y = at.op("Transpose", "back", y, perm=(0, 2, 1, 3))
    y = at.op("Reshape", "context", y, whole)
    return linear(at, "attended", y, CHANNELS, CHANNELS, quantized="context" if quantized else "")


def fed_forward(at: Writer, x: str, *, quantized: bool) -> str:
    h = linear(at, "wide", x, CHANNELS, INNER, quantized="normed" if quantized else "")
    half = at.op("Mul", "half", h, at.constant("half_factor", np.float32(0.5)))
    root = at.op("Div", "rooted", h, at.constant("root2", np.float32(2**0.5)))
    erf = at.op("Add", "erf1", at.op("Erf", "erf", root), "onef")
    h = at.op("Mul", "gelu", half, erf)
    return linear(at, "narrow", h, INNER, CHANNELS, quantized="inner" if quantized else "")


@cache
def onnx_model(kind: str) -> bytes:
    """One of ONNX, as a file has it."""
    at, quantized = Writer(), kind == "int8"
    x = embedded(at, padded=kind == "padded")
    x = norm(at, "normed", at.op("Add", "sum1", attended(at, x, quantized=quantized), x))
    x = norm(at, "last", at.op("Add", "sum2", fed_forward(at, x, quantized=quantized), x))
    x = at.op("Gather", "first_row", x, at.constant("row", np.array(0, np.int64)), axis=1)
    weight = at.weight("pooler", CHANNELS, CHANNELS)
    x = at.op("Tanh", "pooled", at.op("Gemm", "pool", x, weight, bias(at, "pool", CHANNELS)))
    at.op("Gemm", "logits", x, at.weight("head", 2, CHANNELS), bias(at, "logits", 2), transB=1)
    model = _model(at, ("input_ids", "attention_mask") if kind == "padded" else INPUTS)
    return (_with_function(model) if kind == "function" else model).SerializeToString()


INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def _model(at: Writer, names: tuple[str, ...]) -> onnx.ModelProto:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        at.nodes,
        "tiny",
        [value(name, TensorProto.INT64, ["batch", "sequence"]) for name in names],
        [value("logits", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(array, name) for name, array in at.constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _with_function(model: onnx.ModelProto) -> onnx.ModelProto:
    """Tanh is a function of the model's own, which calls another."""
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    model.opset_import.append(imports[1])
    for name, calls, domain in (("Squash", "Inner", "own"), ("Inner", "Tanh", "")):
        body = [helper.make_node(calls, ["a"], ["b"], domain=domain)]
        model.functions.append(helper.make_function("own", name, ["a"], ["b"], body, imports))
    node = next(node for node in model.graph.node if node.op_type == "Tanh")
    node.op_type, node.domain = "Squash", "own"
    return model


# --- IR ---
@cache
def ir_files(kind: str) -> dict[str, bytes]:
    """conf.yaml and model.bin of one of IRS."""
    folder = Path(tempfile.mkdtemp())
    source = kind if kind in ONNX else "float32"
    (folder / "model.onnx").write_bytes(onnx_model(source))
    graph = models.compiled(folder / "model.onnx")
    store.write(CHANGES.get(kind, lambda graph: graph)(graph), folder / "ir")
    files = {name: (folder / "ir" / name).read_bytes() for name in (store.CONF, store.BIN)}
    shutil.rmtree(folder)
    return files


def pruned(graph: Graph, pattern: str) -> Graph:
    """Every other block of each large weight is zero."""
    constants, nodes = dict(graph.constants), []
    for node in graph:
        if node.op == "Linear" and len(constants[node.inputs[1]]) > 2:
            weight = constants[node.inputs[1]].copy()
            rows, columns = BLOCKS[pattern]
            blocks = np.indices((weight.shape[0] // rows, weight.shape[1] // columns)).sum(0) % 4
            weight *= np.kron(blocks == 0, np.ones((rows, columns))).astype(weight.dtype)
            constants[node.inputs[1]] = weight
            node = node.changed(attributes={**node.attributes, "pattern": pattern})
        nodes.append(node)
    return graph.changed(nodes=tuple(nodes), constants=constants)


def rounded(graph: Graph) -> Graph:
    constants, nodes = dict(graph.constants), []
    for node in graph:
        if node.op == "Linear":
            constants[node.inputs[1]] = round_to_bfloat16(constants[node.inputs[1]])
        if node.op in ("Linear", "Attention"):
            node = node.changed(attributes={**node.attributes, "precision": "bfloat16"})
        nodes.append(node)
    return graph.changed(nodes=tuple(nodes), constants=constants)


def dynamic(graph: Graph) -> Graph:
    constants, nodes = dict(graph.constants), []
    for node in graph:
        if node.op == "Linear":
            weight, scale = constants[node.inputs[1]], f"{node.inputs[1]}.scale"
            constants[scale] = (np.abs(weight).max(1) / 127).astype(np.float32)
            constants[node.inputs[1]] = np.rint(weight / constants[scale][:, None]).astype(np.int8)
            how = {**node.attributes, "precision": "int8", "dynamic": "token"}
            node = node.changed(inputs=(*node.inputs[:2], scale, *node.inputs[3:]), attributes=how)
        nodes.append(node)
    return graph.changed(nodes=tuple(nodes), constants=constants)


def stored(graph: Graph) -> Graph:
    """Attention and what is around it in bytes, as trained quantisation leaves it."""
    how = Quantization(0.05, 128)
    nodes = []
    for node in graph:
        changes: dict[str, Any] = {}
        if node.op == "Attention":
            changes = dict.fromkeys(("query", "key", "value"), how)
            changes |= {"scores": Quantization(0.1, 128), "probabilities": Quantization(1 / 255, 0)}
        elif node.outputs[0] in ("query", "key", "value"):
            changes = {"output": how}
        nodes.append(node.changed(attributes={**node.attributes, **changes}))
    made = {value: node for node in nodes for value in node.outputs}
    attention = next(node for node in nodes if node.op == "Attention")
    wanted = {made[name].outputs[0] for name in attention.inputs[:3]}
    nodes = [
        node.changed(attributes={**node.attributes, "output": how})
        if node.outputs[0] in wanted
        else node
        for node in nodes
    ]
    return replace(graph, nodes=tuple(nodes))


CHANGES = {
    "sparse_4x1": lambda graph: pruned(graph, "4x1"),
    "sparse_1x4": lambda graph: pruned(graph, "1x4"),
    "bfloat16": rounded,
    "dynamic": dynamic,
    "int8": stored,
}


# --- the original's ---
@cache
def original_files(precision: str, transposed: bool) -> dict[str, bytes]:
    """conf.yaml and model.bin as the original engine writes them."""
    folder = Path(tempfile.mkdtemp())
    original_writer.write(folder / "ir", precision, transposed=transposed)
    files = {name: (folder / "ir" / name).read_bytes() for name in (store.CONF, store.BIN)}
    shutil.rmtree(folder)
    return files
