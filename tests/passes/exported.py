"""Small random Transformers, exported and quantised in the ways their users do it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
import transformers
from onnx import numpy_helper
from onnxruntime import quantization
from onnxruntime.quantization import matmul_nbits_quantizer
from onnxruntime.transformers import optimizer
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.fusion_options import FusionOptions

from workflow.scripts.convert import onnx_runtime

INTEGER_PRODUCTS = {
    "DynamicQuantizeMatMul",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "QGemm",
    "QLinearMatMul",
}
NAMES = ("input_ids", "attention_mask", "token_type_ids")
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 90,
    "max_position_embeddings": 48,
}


@contextmanager
def quietly() -> Iterator[None]:
    """Without the advice that ONNX Runtime's quantisers log, of all loggers."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


def seeded(model: torch.nn.Module) -> torch.nn.Module:
    """Weights large enough for attention and activations to matter, every LayerNorm different."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name.lower():
                parameter.copy_((1.0 if name.endswith("weight") else 0.0) + 0.1 * noise)
            else:
                parameter.copy_(0.15 * noise)
    return model.eval()


def bert(head: str = "BertForSequenceClassification", **changes: Any) -> torch.nn.Module:
    config = transformers.BertConfig(**{**SIZES, **changes})
    return seeded(getattr(transformers, head)(config))


def distilbert(head: str = "DistilBertForSequenceClassification") -> torch.nn.Module:
    config = transformers.DistilBertConfig(
        dim=32, n_layers=2, n_heads=2, hidden_dim=64, vocab_size=90, max_position_embeddings=48
    )
    return seeded(getattr(transformers, head)(config))


def roberta(head: str = "RobertaForSequenceClassification") -> torch.nn.Module:
    changes = {"max_position_embeddings": 50, "type_vocab_size": 1}
    config = transformers.RobertaConfig(**{**SIZES, **changes})
    return seeded(getattr(transformers, head)(config))


def electra(head: str = "ElectraForSequenceClassification") -> torch.nn.Module:
    config = transformers.ElectraConfig(**SIZES, embedding_size=32)
    return seeded(getattr(transformers, head)(config))


def mpnet(head: str = "MPNetForSequenceClassification") -> torch.nn.Module:
    """A bias of scores by distance, positions as RoBERTa's."""
    config = transformers.MPNetConfig(**{**SIZES, "max_position_embeddings": 135})
    return with_large_biases(seeded(getattr(transformers, head)(config)))


def t5(feed_forward: str = "relu") -> torch.nn.Module:
    """The encoder: norms that take no mean off, no biases, positions by distance alone."""
    sizes = {"d_model": 32, "num_layers": 2, "num_heads": 2, "d_kv": 16, "d_ff": 64}
    config = transformers.T5Config(vocab_size=90, feed_forward_proj=feed_forward, **sizes)
    model = with_large_biases(seeded(transformers.T5EncoderModel(config)))
    model.config.return_dict, model.config.use_cache = False, False
    return model


def deberta(head: str = "DebertaV2ForSequenceClassification") -> torch.nn.Module:
    """Version 3: scores by what queries, keys and the places of both hold, in buckets."""
    how = {
        "type_vocab_size": 0, "relative_attention": True, "position_buckets": 16,
        "pos_att_type": ["p2c", "c2p"], "share_att_key": True, "norm_rel_ebd": "layer_norm",
        "position_biased_input": False,
    }  # fmt: skip
    model = seeded(getattr(transformers, head)(transformers.DebertaV2Config(**SIZES, **how)))
    model.config.return_dict = False
    return model


def with_large_biases(model: torch.nn.Module) -> torch.nn.Module:
    """Scores depend on distances as much as on tokens."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "relative_attention_bias" in name:
                parameter.mul_(10)
    return model


def squeezebert(head: str = "SqueezeBertForSequenceClassification") -> torch.nn.Module:
    config = transformers.SqueezeBertConfig(**SIZES, embedding_size=32)
    return seeded(getattr(transformers, head)(config))


def mobilebert(head: str = "MobileBertForSequenceClassification") -> torch.nn.Module:
    """Words beside each token, bottlenecks, channels that are scaled without a norm."""
    sizes = {"embedding_size": 16, "intra_bottleneck_size": 32, "true_hidden_size": 32}
    config = transformers.MobileBertConfig(**SIZES, **sizes, num_feedforward_networks=2)
    return seeded(getattr(transformers, head)(config))


class Sdpa(torch.nn.Module):
    """A BERT with torch's scaled_dot_product_attention, as later versions of transformers have."""

    def __init__(self) -> None:
        super().__init__()
        self.model = bert()
        for layer in self.model.bert.encoder.layer:
            own = layer.attention.self
            own.forward = self.attend(own)

    def attend(self, own: Any) -> Callable[..., Any]:
        def forward(hidden: torch.Tensor, attention_mask: Any = None, *rest: Any) -> Any:
            batch, tokens, channels = hidden.shape

            def heads(x: torch.Tensor) -> torch.Tensor:
                return x.view(batch, tokens, own.num_attention_heads, -1).transpose(1, 2)

            parts = [heads(f(hidden)) for f in (own.query, own.key, own.value)]
            attend = torch.nn.functional.scaled_dot_product_attention
            context = attend(*parts, attn_mask=attention_mask)
            return (context.transpose(1, 2).reshape(batch, tokens, channels),)

        return forward

    def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
        return self.model(input_ids, attention_mask, token_type_ids).logits


def export(
    model: torch.nn.Module,
    path: Path,
    *,
    names: tuple[str, ...] = NAMES,
    outputs: tuple[str, ...] = ("logits",),
    opset: int = 14,
    fold: bool = True,
    dynamo: bool = False,
) -> Path:
    """The model as ONNX with free batch and length."""
    ids = torch.randint(2, 90, (2, 11))
    arguments = dict(zip(NAMES, (ids, torch.ones_like(ids), torch.zeros_like(ids)), strict=True))
    given = {name: arguments[name] for name in names}
    common: dict[str, Any] = {
        "opset_version": opset,
        "input_names": list(names),
        "output_names": list(outputs),
        "dynamo": dynamo,
    }
    if dynamo:
        batch, sequence = (torch.export.Dim(n, min=1, max=40) for n in ("batch", "sequence"))
        shapes = dict.fromkeys(given, {0: batch, 1: sequence})
        common.update(kwargs=given, dynamic_shapes=shapes, verbose=False)
    else:
        axes: dict[str, Any] = {name: {0: "batch", 1: "sequence"} for name in (*names, *outputs)}
        axes.update({name: {0: "batch"} for name in outputs if name in ("logits", "pooler_output")})
        common.update(dynamic_axes=axes, do_constant_folding=fold)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, () if dynamo else (given,), str(path), **common)
    return path


# --- sentences ---
def feeds(path: Path, batch: int, tokens: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Random sentences; the mask of all but the first ends early."""
    rng = np.random.default_rng(seed)
    mask = np.ones((batch, tokens), np.int64)
    for row in range(batch):
        mask[row, max(1, tokens - 9 * row) :] = 0
    known = {
        "attention_mask": mask,
        "token_type_ids": rng.integers(0, 2, mask.shape),
        "input_ids": np.where(mask == 1, rng.integers(2, 90, mask.shape), 1),
    }
    model = onnx.load(path, load_external_data=False)
    constants = {tensor.name for tensor in model.graph.initializer}
    return {v.name: known[v.name] for v in model.graph.input if v.name not in constants}


def runtime(path: Path, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What ONNX Runtime makes of the file: as it is where products are of floats, else at the level
    that makes integer products exact.
    """
    operators = {node.op_type for node in onnx.load(path, load_external_data=False).graph.node}
    level = onnx_runtime.LEVELS.ORT_DISABLE_ALL
    if operators & INTEGER_PRODUCTS:
        level = onnx_runtime.LEVELS.ORT_ENABLE_EXTENDED
    session = onnx_runtime.session(path, threads=1, level=level)
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, given), strict=True))


# --- quantised ---
class Calibration(quantization.CalibrationDataReader):
    def __init__(self, path: Path) -> None:
        self.batches = iter([feeds(path, 4, tokens, tokens) for tokens in (9, 20, 33)])

    def get_next(self) -> Any:
        return next(self.batches, None)


def static_int8(
    source: Path,
    path: Path,
    *,
    operators: tuple[str, ...] | None = ("MatMul", "Gemm"),
    quant_format: Any = quantization.QuantFormat.QDQ,
    activation: Any = quantization.QuantType.QUInt8,
    weight: Any = quantization.QuantType.QInt8,
    per_channel: bool = True,
    **extra: Any,
) -> Path:
    """ONNX Runtime's static quantisation; operators: of which kinds, None: of all it knows."""
    with quietly():
        quantization.quantize_static(
            str(source),
            str(path),
            Calibration(source),
            quant_format=quant_format,
            op_types_to_quantize=None if operators is None else list(operators),
            per_channel=per_channel,
            activation_type=activation,
            weight_type=weight,
            extra_options=extra,
        )
    return path


def without_product(source: Path, path: Path) -> Path:
    """Results of products are not quantised: only their inputs are."""
    return static_int8(source, path, OpTypesToExcludeOutputQuantization=["MatMul", "Gemm"])


def optimised(source: Path, path: Path) -> Path:
    """As ONNX Runtime saves a graph it has optimised, with operators of its own."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(path)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    return path


def fused(source: Path, path: Path, level: int | None = None, **options: Any) -> Path:
    """By onnxruntime.transformers, with operators of its own; options: its FusionOptions."""
    how = FusionOptions("bert")
    for name, value in options.items():
        setattr(how, name, value)
    logging.getLogger("onnxruntime.transformers").setLevel(logging.ERROR)
    model = optimizer.optimize_model(
        str(source), "bert", num_heads=0, hidden_size=0, opt_level=level, optimization_options=how
    )
    model.save_model_to_file(str(path))
    return path


def float_head(source: Path, path: Path) -> Path:
    """Pooler and classifier, which are Gemm, stay in float32."""
    return static_int8(source, path, operators=("MatMul",))


def dynamic_int8(
    source: Path,
    path: Path,
    *more: str,
    weight: Any = quantization.QuantType.QInt8,
    per_channel: bool = True,
    reduce_range: bool = False,
) -> Path:
    """more: kinds of operators that are quantised too."""
    with quietly():
        quantization.quantize_dynamic(
            str(source),
            str(path),
            op_types_to_quantize=["MatMul", "Gemm", *more],
            weight_type=weight,
            per_channel=per_channel,
            reduce_range=reduce_range,
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )
    return path


def in_blocks(source: Path, path: Path, **how: Any) -> Path:
    """Weights of products in few bits, by ONNX Runtime's quantiser of blocks."""
    logging.getLogger(matmul_nbits_quantizer.__name__).setLevel(logging.ERROR)
    made = matmul_nbits_quantizer.MatMulNBitsQuantizer(onnx.load(source), **how)
    made.process()
    made.model.save_model_to_file(str(path))
    return path


def with_fixed_ranges(source: Path, path: Path) -> Path:
    """QuantizeLinear with constants before MatMulInteger, as DeepSparse's models are."""
    model = onnx.load(source)
    nodes = []
    for node in model.graph.node:
        if node.op_type == "DynamicQuantizeLinear":
            stored, scale, zero = node.output
            for name, number in ((scale, np.float32(0.03)), (zero, np.uint8(128))):
                model.graph.initializer.append(numpy_helper.from_array(np.array(number), name))
            node = onnx.helper.make_node("QuantizeLinear", [node.input[0], scale, zero], [stored])
        nodes.append(node)
    return saved(model, nodes, path)


def bfloat16_weights(source: Path, path: Path) -> Path:
    """Weights of products in bfloat16 (nearest even), cast to float32 where they are read."""
    model = onnx.load(source)
    products = [node for node in model.graph.node if node.op_type in ("MatMul", "Gemm")]
    read = {name for node in products for name in node.input[:2]}
    casts = []
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if tensor.name in read and array.ndim == 2:
            bits = array.view(np.uint32)
            rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
            name, kind = tensor.name, onnx.TensorProto.BFLOAT16
            content, stored = rounded.tobytes(), f"{tensor.name}.bfloat16"
            tensor.CopyFrom(onnx.helper.make_tensor(stored, kind, array.shape, content, raw=True))
            to = onnx.TensorProto.FLOAT
            casts.append(onnx.helper.make_node("Cast", [stored], [name], to=to))
    return saved(model, [*casts, *model.graph.node], path)


def float16(source: Path, path: Path, **how: Any) -> Path:
    """ONNX Runtime's conversion; `keep_io_types`: what is declared stays float32."""
    onnx.save(convert_float_to_float16(onnx.load(source), **how), path)
    return path


def widened(source: Path, path: Path) -> Path:
    """The same operators and numbers, every float16 declared as float32."""
    model = onnx.load(source)
    half, whole = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    attributes = [attribute for node in model.graph.node for attribute in node.attribute]
    tensors = [a.t for a in attributes if a.type == onnx.AttributeProto.TENSOR]
    for tensor in (*model.graph.initializer, *tensors):
        if tensor.data_type == half:
            array = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    for attribute in attributes:
        if attribute.name == "to" and attribute.i == half:
            attribute.i = whole
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        if value.type.tensor_type.elem_type == half:
            value.type.tensor_type.elem_type = whole
    onnx.save(model, path)
    return path


def pruned(source: Path, path: Path, block: tuple[int, int]) -> Path:
    """Three of four blocks of every product's weight [outputs, inputs] gone, and of 64 inputs a
    quarter, which nobody reads then.
    """
    model, random = onnx.load(source), np.random.default_rng(0)
    products = {
        name for node in model.graph.node if node.op_type == "MatMul" for name in node.input
    }
    for tensor in model.graph.initializer:
        weight = numpy_helper.to_array(tensor).copy()
        if tensor.name in products and weight.ndim == 2:
            shape = [-(-n // b) for n, b in zip(weight.shape[::-1], block, strict=True)]
            kept = np.kron(random.random(shape) < 0.25, np.ones(block)).T
            weight *= 2 * kept[: len(weight), : weight.shape[1]].astype(np.float32)
            weight[48 if len(weight) == 64 else len(weight) :] = 0
            tensor.CopyFrom(numpy_helper.from_array(weight, tensor.name))
    onnx.save(model, path)
    return path


def saved(model: onnx.ModelProto, nodes: list[Any], path: Path) -> Path:
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, path)
    return path
