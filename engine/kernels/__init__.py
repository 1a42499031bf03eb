"""All kernels: a row names the function that builds it and the variants there are; tests,
benchmarks and the plan's choice read it.

A kernel's full name is its row's name and its variant joined by "_", e.g.
sparse_dot_u8s8_4x1_64_table_none: it is the test id, the line of the profile and the key of the
code cache.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..codegen.compile import Compiled, compiled
from ..codegen.isa import Isa
from . import params
from .attention.records import ATTENTION_BYTES, ATTENTION_FLOATS, KEYS
from .linear.records import DYNAMIC_LINEAR, FEW_ROWS, LINEAR, REARRANGE

__all__ = ["KERNELS", "Kernel", "kernel", "kernel_name"]


@dataclass(frozen=True)
class Kernel:
    """A family of kernels: module and function that build a variant, and the names of what a
    variant is made of.
    """

    name: str
    module: str
    function: str
    variant: tuple[str, ...]
    meaning: str  # the operator of ops whose NumPy meaning it has
    params: Any = None  # the record of its parameters


KERNELS: dict[str, Kernel] = {
    row.name: row
    for row in (
        Kernel(
            "embedding",
            "embedding",
            "embedding",
            ("output", "normalised"),
            "Embedding",
            params.EMBEDDING,
        ),
        Kernel(
            "sparse_dot_u8s8_4x1",
            "linear.bytes_4x1",
            "sparse_dot_u8s8_4x1",
            ("lanes", "epilogue", "activation"),
            "Linear",
            LINEAR,
        ),
        Kernel(
            "rows_dot_u8s8_4x1",
            "linear.few_rows",
            "rows_dot_u8s8_4x1",
            ("epilogue", "activation"),
            "Linear",
            FEW_ROWS,
        ),
        Kernel(
            "interleave_rows",
            "linear.rearrange",
            "interleave_rows",
            ("lanes", "width"),
            "",
            REARRANGE,
        ),
        Kernel(
            "sparse_dot_u8s8_1x4",
            "linear.bytes",
            "sparse_dot_u8s8_1x4",
            ("lanes", "width", "epilogue", "activation"),
            "Linear",
            DYNAMIC_LINEAR,
        ),
        Kernel(
            "narrow_dot_u8s8_4x1",
            "linear.bytes",
            "narrow_dot_u8s8_4x1",
            ("lanes", "width", "epilogue", "activation"),
            "Linear",
            DYNAMIC_LINEAR,
        ),
        Kernel(
            "sparse_dot_u8s16_4x1",
            "linear.bytes",
            "sparse_dot_u8s16_4x1",
            ("lanes", "width", "epilogue", "activation"),
            "Linear",
            DYNAMIC_LINEAR,
        ),
        Kernel(
            "quantize_tokens",
            "quantize",
            "quantize_tokens",
            ("lanes", "width"),
            "DynamicQuantizeLinear",
            params.QUANTIZE_TOKENS,
        ),
        Kernel(
            "dense_dot_u8s8",
            "linear.bytes",
            "dense_dot_u8s8",
            ("lanes", "width", "epilogue", "activation"),
            "Linear",
            DYNAMIC_LINEAR,
        ),
        Kernel(
            "round_rows",
            "linear.rearrange",
            "round_rows",
            ("lanes", "width", "form"),
            "",
            REARRANGE,
        ),
        Kernel(
            "sparse_dot_f32_4x1",
            "linear.floats",
            "sparse_dot_f32_4x1",
            ("lanes", "width", "output", "activation"),
            "Linear",
            LINEAR,
        ),
        Kernel(
            "sparse_dot_f32_1x4",
            "linear.floats",
            "sparse_dot_f32_1x4",
            ("lanes", "width", "output", "activation"),
            "Linear",
            LINEAR,
        ),
        Kernel(
            "dense_dot_f32",
            "linear.floats",
            "dense_dot_f32",
            ("lanes", "width", "output", "activation"),
            "Linear",
            LINEAR,
        ),
        Kernel(
            "sparse_dot_bf16_4x1",
            "linear.floats",
            "sparse_dot_bf16_4x1",
            ("lanes", "width", "output", "activation"),
            "Linear",
            LINEAR,
        ),
        Kernel(
            "sparse_dot_bf16_1x4",
            "linear.floats",
            "sparse_dot_bf16_1x4",
            ("lanes", "width", "output", "activation"),
            "Linear",
            LINEAR,
        ),
        Kernel(
            "dense_dot_bf16",
            "linear.floats",
            "dense_dot_bf16",
            ("lanes", "width", "output", "activation"),
            "Linear",
            LINEAR,
        ),
        Kernel(
            "interleave_keys",
            "attention.byte_scores",
            "interleave_keys",
            ("depth", "channels"),
            "Attention",
            KEYS,
        ),
        Kernel(
            "attention_u8",
            "attention.bytes",
            "attention_u8",
            ("depth", "softmax", "channels"),
            "Attention",
            ATTENTION_BYTES,
        ),
        Kernel(
            "attention_u8_rows",
            "attention.rows",
            "attention_u8_rows",
            ("depth", "softmax"),
            "Attention",
            ATTENTION_BYTES,
        ),
        Kernel(
            "attention_f32",
            "attention.floats",
            "attention_f32",
            ("depth", "width"),
            "Attention",
            ATTENTION_FLOATS,
        ),
        Kernel(
            "attention_bf16",
            "attention.floats",
            "attention_bf16",
            ("depth", "width"),
            "Attention",
            ATTENTION_FLOATS,
        ),
        Kernel(
            "attention_f32_rows",
            "attention.rows",
            "attention_f32_rows",
            ("depth",),
            "Attention",
            ATTENTION_FLOATS,
        ),
        Kernel("output_tokens", "outputs", "output_tokens", (), "", params.OUTPUT),
        Kernel(
            "layer_norm_bytes",
            "normalize",
            "layer_norm_bytes",
            ("lanes", "output"),
            "LayerNorm",
            params.LAYER_NORM_BYTES,
        ),
        Kernel(
            "layer_norm_floats",
            "normalize",
            "layer_norm_floats",
            ("lanes", "x_type", "residual_type", "output"),
            "LayerNorm",
            params.LAYER_NORM_FLOATS,
        ),
        Kernel(
            "amx_dot_u8s8",
            "linear.amx",
            "amx_dot_u8s8",
            ("lanes", "epilogue", "activation"),
            "Linear",
            LINEAR,
        ),
        Kernel(
            "amx_dot_u8s8_16x1",
            "linear.amx",
            "amx_dot_u8s8_16x1",
            ("lanes", "epilogue", "activation"),
            "Linear",
            LINEAR,
        ),
        Kernel(
            "amx_dot_bf16",
            "linear.amx",
            "amx_dot_bf16",
            ("lanes", "output", "activation"),
            "Linear",
            LINEAR,
        ),
        Kernel(
            "amx_dot_bf16_16x1",
            "linear.amx",
            "amx_dot_bf16_16x1",
            ("lanes", "output", "activation"),
            "Linear",
            LINEAR,
        ),
        Kernel(
            "amx_transpose_keys",
            "attention.amx",
            "amx_transpose_keys",
            ("depth",),
            "Attention",
            KEYS,
        ),
        Kernel(
            "amx_attention_u8",
            "attention.amx",
            "amx_attention_u8",
            ("depth", "softmax"),
            "Attention",
            ATTENTION_BYTES,
        ),
        Kernel(
            "elementwise",
            "elementwise",
            "elementwise",
            ("lanes", "x_type", "activation", "y_type"),
            "",
            params.ELEMENTWISE,
        ),
        Kernel("select", "rows", "select", ("kind",), "Select", params.SELECT),
        Kernel(
            "dense_rows", "rows", "dense_rows", ("kind", "activation"), "Linear", params.DENSE_ROWS
        ),
        Kernel("output_rows", "rows", "output_rows", (), "", params.OUTPUT),
        Kernel("prepare", "executor.calls", "prepare", (), ""),
        Kernel("run", "executor.calls", "run", ("profiled",), ""),
        Kernel("call", "executor.calls", "call", ("profiled",), ""),
        Kernel("serve", "executor.workers", "serve", (), ""),
        Kernel("peak", "peak", "peak", ("what", "lanes"), "", params.PEAK),
        Kernel("read", "peak", "read", ("lanes",), "", params.PEAK),
        Kernel("clock", "peak", "clock", (), "", params.CLOCK),
    )
}


def kernel_name(name: str, *variant: Any) -> str:
    """The full name of a variant."""
    return "_".join([name, *(str(part) for part in variant)])


def builder(name: str, *variant: Any) -> Callable[[], Any]:
    """A function that makes the kernel's Python function; imports Numba when called."""
    row = KERNELS[name]
    assert len(variant) == len(row.variant), f"{name} takes {row.variant}, got {variant}"
    return lambda: getattr(importlib.import_module(f".{row.module}", __package__), row.function)(
        *variant
    )


def kernel(isa: Isa, name: str, *variant: Any) -> Compiled:
    """The compiled kernel."""
    return compiled(kernel_name(name, *variant), builder(name, *variant), isa)
