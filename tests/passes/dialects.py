"""One row per way in which a model reaches us: name -> (the model it is made from, how)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from onnxruntime.quantization import QuantFormat, QuantType

from tests.passes import exported as e

OTHER_ORDER = ("input_ids", "token_type_ids", "attention_mask")
HIDDEN, SPANS = ("last_hidden_state", "pooler_output"), ("start_logits", "end_logits")
LAYERS = ("MatMul", "Gemm", "Conv")
MOVES = ("MatMul", "Gemm", "Transpose", "Reshape")
SIGNED: dict[str, Any] = {"activation": QuantType.QInt8, "per_channel": False}
OPERATORS: dict[str, Any] = {"quant_format": QuantFormat.QOperator}

DIALECTS: dict[str, tuple[str, Callable[..., Any]]] = {
    # --- float32 ---
    "bert": ("", lambda p: e.export(e.bert(), p)),
    "bert_unfolded": ("", lambda p: e.export(e.bert(), p, fold=False)),
    "bert_opset17": ("", lambda p: e.export(e.bert(), p, opset=17)),
    "bert_dynamo": ("", lambda p: e.export(e.bert(), p, opset=18, dynamo=True)),
    "bert_tanh_gelu": ("", lambda p: e.export(e.bert(hidden_act="gelu_new"), p)),
    "bert_relu": ("", lambda p: e.export(e.bert(hidden_act="relu"), p)),
    "bert_no_types": ("", lambda p: e.export(e.bert(), p, names=e.NAMES[:2])),
    "bert_other_order": ("", lambda p: e.export(e.bert(), p, names=OTHER_ORDER)),
    "sdpa": ("", lambda p: e.export(e.Sdpa(), p)),
    "sdpa_dynamo": ("", lambda p: e.export(e.Sdpa(), p, opset=18, dynamo=True)),
    "distilbert": ("", lambda p: e.export(e.distilbert(), p, names=e.NAMES[:2])),
    "roberta": ("", lambda p: e.export(e.roberta(), p, names=e.NAMES[:2])),
    "electra": ("", lambda p: e.export(e.electra(), p)),
    "mpnet": ("", lambda p: e.export(e.mpnet(), p, names=e.NAMES[:2])),
    "mpnet_tokens": ("", lambda p: e.export(
        e.mpnet("MPNetModel"), p, names=e.NAMES[:2], outputs=HIDDEN)),
    "t5": ("", lambda p: e.export(e.t5(), p, names=e.NAMES[:2], outputs=HIDDEN[:1])),
    "t5_gated": ("", lambda p: e.export(
        e.t5("gated-gelu"), p, names=e.NAMES[:2], outputs=HIDDEN[:1])),
    "t5_gated_dynamo": ("", lambda p: e.export(
        e.t5("gated-gelu"), p, names=e.NAMES[:2], outputs=HIDDEN[:1], opset=18, dynamo=True)),
    "mobilebert": ("", lambda p: e.export(e.mobilebert(), p)),
    "mobilebert_hidden": ("", lambda p: e.export(
        e.mobilebert("MobileBertModel"), p, outputs=HIDDEN)),
    "squeezebert": ("", lambda p: e.export(e.squeezebert(), p)),
    "deberta": ("", lambda p: e.export(e.deberta(), p, names=e.NAMES[:2])),
    "deberta_tokens": ("", lambda p: e.export(
        e.deberta("DebertaV2Model"), p, names=e.NAMES[:2], outputs=HIDDEN[:1])),
    "deberta_dynamo": ("", lambda p: e.export(
        e.deberta(), p, names=e.NAMES[:2], opset=18, dynamo=True)),
    "hidden_states": ("", lambda p: e.export(e.bert("BertModel"), p, outputs=HIDDEN)),
    "spans": ("", lambda p: e.export(e.bert("BertForQuestionAnswering"), p, outputs=SPANS)),
    "tokens": ("", lambda p: e.export(e.bert("BertForTokenClassification"), p)),
    "bfloat16": ("bert", e.bfloat16_weights),
    "optimised": ("bert", e.optimised),
    "squeezebert_optimised": ("squeezebert", e.optimised),
    # --- float16 ---
    "float16": ("bert", e.float16),
    "float16_inside": ("bert", lambda s, p: e.float16(s, p, keep_io_types=True)),
    "float16_in_part": ("bert", lambda s, p: e.float16(s, p, op_block_list=["Pow", "Softmax"])),
    "float16_hidden": ("hidden_states", e.float16),
    "float16_distilbert": ("distilbert", e.float16),
    "float16_roberta": ("roberta", e.float16),
    "float16_sdpa_dynamo": ("sdpa_dynamo", lambda s, p: e.float16(s, p, keep_io_types=True)),
    "float16_optimised": ("optimised", e.float16),
    "fused": ("bert", e.fused),
    "float16_fused": ("fused", e.float16),
    "half": ("", lambda p: e.export(e.bert().half(), p)),
    "half_distilbert": ("", lambda p: e.export(e.distilbert().half(), p, names=e.NAMES[:2])),
    "half_sdpa_dynamo": ("", lambda p: e.export(e.Sdpa().half(), p, opset=18, dynamo=True)),
    # --- 8 bits ---
    "int8": ("bert", e.static_int8),
    "int8_float_head": ("bert", e.float_head),
    "int8_no_product": ("bert", e.without_product),
    "int8_unfolded": ("bert_unfolded", e.static_int8),
    "int8_opset17": ("bert_opset17", e.static_int8),
    "int8_dynamo": ("bert_dynamo", e.static_int8),
    "int8_s8s8": ("bert", lambda s, p: e.static_int8(s, p, **SIGNED)),
    "int8_moves": ("bert", lambda s, p: e.static_int8(s, p, operators=MOVES)),
    "int8_operators": ("bert", lambda s, p: e.static_int8(s, p, **OPERATORS)),
    "int8_distilbert": ("distilbert", e.static_int8),
    "int8_roberta": ("roberta", e.static_int8),
    "int8_sdpa": ("sdpa", e.static_int8),
    "pruned_t5_gated": ("t5_gated", lambda s, p: e.pruned(s, p, (4, 1))),
    "pruned_mpnet": ("mpnet", lambda s, p: e.pruned(s, p, (1, 4))),
    "int8_pruned_t5_gated": ("pruned_t5_gated", e.static_int8),
    "int8_mpnet": ("mpnet", e.static_int8),
    "int8_t5": ("t5", e.static_int8),
    "int8_t5_gated": ("t5_gated", e.static_int8),
    "fused_t5_gated": ("t5_gated", e.fused),
    "dynamic_int8_t5_gated": ("t5_gated", e.dynamic_int8),
    "bfloat16_t5_gated": ("t5_gated", e.bfloat16_weights),
    "bfloat16_mpnet": ("mpnet", e.bfloat16_weights),
    "dynamic_int8_deberta": ("deberta", e.dynamic_int8),
    "bfloat16_deberta": ("deberta", e.bfloat16_weights),
    "int8_hidden_states": ("hidden_states", e.static_int8),
    "int8_spans": ("spans", e.static_int8),
    "mobilebert_int8": ("mobilebert", e.static_int8),
    "squeezebert_int8": (
        "squeezebert", lambda s, p: e.static_int8(s, p, operators=LAYERS, **OPERATORS),
    ),
    "dynamic_int8": ("bert", e.dynamic_int8),
    "int8_optimised": ("int8", e.optimised),
    "dynamic_int8_optimised": ("dynamic_int8", e.optimised),
    "integer_products": ("dynamic_int8", e.with_fixed_ranges),
}  # fmt: skip
