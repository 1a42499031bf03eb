"""The table of kernels: a row for each family, and all that others have to know of it.

The function that builds a variant has the row's name and stands in the row's module; tests,
benchmarks, profile, scratch and the plan's choice read the row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from . import params
from .attention.records import (
    ATTENTION_BYTES,
    ATTENTION_FLOATS,
    ATTENTION_POSITIONS,
    KEYS,
    PROBABILITIES,
)
from .linear.records import DYNAMIC_LINEAR, FEW_ROWS, LINEAR, REARRANGE

__all__ = ["AXES", "KERNELS", "OPEN", "PRODUCTS", "Kernel"]

# What a variant is made of -> all that it may be; the first are the usual ones.
AXES: Mapping[str, tuple[Any, ...]] = {
    "lanes": (64, 16),
    "epilogue": ("bytes", "table", "plain", "floats", "rounded", "dynamic"),
    "epilogue_of_rows": ("bytes", "table", "plain"),
    "activation": ("gelu", "none", "tanh", "relu", "gelu_tanh", "swish"),
    "function": ("none", "gelu", "tanh", "relu", "gelu_tanh", "swish", "sigmoid", "log1p"),
    "output": ("u8", "f32", "rows", "words"),
    "output_of_fours": ("u8", "f32", "rows", "words", "pairs"),
    "normalised": (True, False),
    "form": ("pairs", "rows", "pieces", "words"),
    "softmax": ("bytes", "floats", "wide", "floats_biased", "wide_biased", "rounded"),
    "softmax_of_tiles": ("bytes", "floats", "wide", "rounded"),
    "channels": ("all", "some"),
    "x_type": ("u8", "f32"),
    "y_type": ("f32", "u8"),
    "residual_type": ("f32", "u8", "none"),
    "centred": (True, False),
    "rounds": (False, True),
    "operation": ("add", "mul"),
    "adds": (True, False),
    "rounded_residual": ("u8", "none"),
    "kind": ("u8", "f32"),
    "pooling": ("mean", "sum", "max"),
    "profiled": (False, True),
    "what": ("u8", "bf16", "f32"),
}
OPEN = ("width", "depth", "lanes_of_a_register")  # a register's and the model's own numbers


@dataclass(frozen=True)
class Kernel:
    """A family of kernels; `variant`: what one of them is made of, keys of AXES, or OPEN."""

    name: str
    module: str  # of engine/kernels
    variant: tuple[str, ...] = ()
    params: Any = None  # the record of its parameters
    needs: tuple[str, ...] = ()  # features of LLVM without which there is no code
    multiplies: str = ""  # whose peak bounds it: "u8", "bf16", "f32", "tiles"; "" where bytes do
    of_pairs: bool = False  # multiply-adds are of each pair of tokens of a sentence
    precision: str = ""  # of the Linear whose product it makes
    pattern: str = ""  # of that Linear's weights as they are packed
    reads: str = ""  # the form of x, where it is not [channel][lane]
    makes: Mapping[str, str] = field(default_factory=dict)  # form of its result -> type
    scratch: str = ""  # how it uses a worker's scratch: plan/scratch.py
    looks_up: bool = False  # reads some rows of its tables, not all
    only_reads: bool = False  # hands results over, makes no activations


_BYTES, _FLOATS = (
    ("lanes", "width", "epilogue", "activation"),
    ("lanes", "width", "output_of_fours", "activation"),
)
_TILES = ("lanes", "epilogue", "activation")
_AMX_BYTES, _AMX_BF16 = ("amx-tile", "amx-int8"), ("amx-tile", "amx-bf16")


def _bytes(name: str, pattern: str, **more: Any) -> Kernel:
    return Kernel(
        name, "linear.bytes", _BYTES, DYNAMIC_LINEAR,
        multiplies="u8", precision="int8", pattern=pattern, **more,
    )  # fmt: skip


def _floats(name: str, pattern: str, *, reads: str = "", scratch: str = "") -> Kernel:
    kind, precision = ("bf16", "bfloat16") if "bf16" in name else ("f32", "float32")
    variant = ("lanes", "width", "output", "activation") if pattern == "1x4" else _FLOATS
    return Kernel(
        name, "linear.floats", variant, LINEAR,
        multiplies=kind, precision=precision, pattern=pattern, reads=reads, scratch=scratch,
    )  # fmt: skip


def _tiles(name: str, precision: str, pattern: str, reads: str = "") -> Kernel:
    needs = _AMX_BYTES if precision == "int8" else _AMX_BF16
    variant = _TILES if precision == "int8" else ("lanes", "output", "activation")
    return Kernel(
        name, "linear.amx", variant, LINEAR,
        needs=needs, multiplies="tiles", precision=precision, pattern=pattern, reads=reads,
        scratch="tile_products",
    )  # fmt: skip


def _attention(name: str, module: str, variant: tuple[str, ...], kind: str, **more: Any) -> Kernel:
    params_ = ATTENTION_FLOATS if kind in ("f32", "bf16") else ATTENTION_BYTES
    params_ = ATTENTION_POSITIONS if module == "positions" else params_
    return Kernel(
        name, f"attention.{module}", variant, params_, multiplies=kind, of_pairs=True, **more
    )


KERNELS: Mapping[str, Kernel] = {
    row.name: row
    for row in (
        # embeddings, norms, conversions
        Kernel(
            "embedding", "embedding", ("y_type", "normalised"), params.EMBEDDING,
            scratch="embedding", looks_up=True,
        ),
        Kernel(
            "trigram", "embedding", (), params.TRIGRAM, scratch="embedding", looks_up=True,
        ),
        Kernel("layer_norm_bytes", "normalize", ("lanes", "y_type"), params.LAYER_NORM_BYTES),
        Kernel(
            "layer_norm_floats", "normalize",
            ("lanes", "x_type", "residual_type", "y_type", "centred"),
            params.LAYER_NORM_FLOATS, scratch="tile_of_x",
        ),
        Kernel(
            "layer_norm_rounded", "normalize", ("lanes", "rounded_residual"),
            params.LAYER_NORM_ROUNDED, scratch="tile_of_x",
        ),
        Kernel(
            "elementwise", "elementwise", ("lanes", "x_type", "function", "y_type"),
            params.ELEMENTWISE,
        ),
        Kernel("combine", "elementwise", ("lanes", "operation"), params.COMBINE),
        Kernel("affine", "elementwise", ("lanes", "adds"), params.AFFINE),
        Kernel("look_up", "elementwise", ("lanes",), params.LOOK_UP),
        Kernel("rotary", "rotary", ("lanes",), params.ROTARY, scratch="rotary", looks_up=True),
        Kernel("quantize_tokens", "quantize", ("lanes", "width"), params.QUANTIZE_TOKENS),
        # x in the form that products and attention read
        Kernel(
            "interleave_rows", "linear.rearrange", ("lanes", "width"), REARRANGE,
            makes={"quads": "u8"},
        ),
        Kernel(
            "round_rows", "linear.rearrange", ("lanes", "width", "form"), REARRANGE,
            makes={"rows": "bf16", "pairs": "bf16", "pieces": "f32", "words": "bf16"},
        ),
        # products; of two rows for one precision and pattern the first is the usual one
        Kernel(
            "sparse_dot_u8s8_4x1", "linear.bytes_4x1", _TILES, LINEAR,
            multiplies="u8", precision="int8", pattern="4x1",
        ),
        _bytes("narrow_dot_u8s8_4x1", "4x1"),
        _bytes("sparse_dot_u8s16_4x1", "4x1"),
        Kernel(
            "rows_dot_u8s8_4x1", "linear.few_rows", ("epilogue_of_rows", "activation"), FEW_ROWS,
            multiplies="u8", precision="int8", pattern="4x1", scratch="few_rows",
        ),
        _bytes("sparse_dot_u8s8_1x4", "1x4", reads="quads", scratch="sums"),
        _bytes("dense_dot_u8s8", "dense", reads="quads"),
        _floats("sparse_dot_f32_4x1", "4x1"),
        _floats("sparse_dot_f32_1x4", "1x4", reads="pieces", scratch="sums"),
        _floats("dense_dot_f32", "dense"),
        _floats("sparse_dot_bf16_4x1", "4x1", reads="rows"),
        _floats("sparse_dot_bf16_1x4", "1x4", reads="pairs", scratch="sums"),
        _floats("dense_dot_bf16", "dense", reads="pairs"),
        _tiles("amx_dot_u8s8", "int8", "tiles", "quads"),
        _tiles("amx_dot_u8s8_16x1", "int8", "tiles 16x1"),
        _tiles("amx_dot_bf16", "bfloat16", "tiles", "pairs"),
        _tiles("amx_dot_bf16_16x1", "bfloat16", "tiles 16x1", "rows"),
        # attention
        Kernel("interleave_keys", "attention.byte_scores", ("depth", "channels"), KEYS),
        Kernel("amx_transpose_keys", "attention.amx", ("depth",), KEYS, scratch="turned_keys"),
        _attention(
            "attention_u8", "bytes", ("depth", "width", "softmax", "channels"), "u8",
            scratch="byte_attention",
        ),
        _attention("attention_u8_rows", "rows", ("depth", "softmax"), "u8", scratch="byte_rows"),
        _attention("attention_f32", "floats", ("depth", "width"), "f32", scratch="float_attention"),
        _attention(
            "attention_bf16", "floats", ("depth", "width"), "bf16",
            scratch="float_attention",
        ),
        _attention("attention_f32_rows", "rows", ("depth",), "f32", scratch="float_rows"),
        _attention(
            "attention_positions", "positions", ("depth", "width", "rounds"), "f32",
            scratch="float_attention",
        ),
        _attention(
            "attention_positions_rows", "positions", ("depth", "rounds"), "f32",
            scratch="float_rows",
        ),
        _attention(
            "amx_attention_u8", "amx", ("depth", "softmax_of_tiles"), "tiles",
            needs=_AMX_BYTES, scratch="tile_attention",
        ),
        Kernel(
            "output_probabilities", "attention.probabilities", ("depth", "width"), PROBABILITIES,
            multiplies="f32", of_pairs=True, scratch="probabilities", only_reads=True,
        ),
        # rows, what is made of all channels, and what is handed over
        Kernel("l2_norm", "along_channels", ("lanes",), params.L2_NORM),
        Kernel("softmax", "along_channels", ("lanes",), params.ALONG_CHANNELS),
        Kernel("log_softmax", "along_channels", ("lanes",), params.ALONG_CHANNELS),
        Kernel("argmax", "along_channels", ("lanes",), params.ALONG_CHANNELS),
        Kernel("pool", "pool", ("pooling",), params.POOL, scratch="pool"),
        Kernel("select", "rows", ("kind",), params.SELECT),
        Kernel(
            "dense_rows", "rows", ("kind", "activation"), params.DENSE_ROWS,
            multiplies="f32", scratch="dense_rows",
        ),
        Kernel("output_rows", "rows", (), params.OUTPUT, only_reads=True),
        Kernel(
            "output_tokens", "outputs", (), params.OUTPUT, scratch="output_tokens",
            only_reads=True,
        ),
        # the run itself, and what is measured
        Kernel("prepare", "executor.calls"),
        Kernel("run", "executor.calls", ("profiled",)),
        Kernel("call", "executor.calls", ("profiled",)),
        Kernel("serve", "executor.workers"),
        Kernel("peak", "peak", ("what", "lanes_of_a_register"), params.PEAK),
        Kernel("read", "peak", ("lanes_of_a_register",), params.PEAK),
        Kernel("clock", "peak", (), params.CLOCK),
        Kernel("barrier", "peak", (), params.PEAK),
    )
}  # fmt: skip
PRODUCTS: dict[tuple[str, str], Kernel] = {}  # by precision and pattern: the usual one
for _row in KERNELS.values():
    if _row.pattern:
        PRODUCTS.setdefault((_row.precision, _row.pattern), _row)
