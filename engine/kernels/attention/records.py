"""The parameters of attention, and what lies behind their addresses."""

from __future__ import annotations

from ..params import buffer
from ..record import ADDRESS, FLOAT, OFFSET, WHOLE, Field, record

__all__ = [
    "ATTENTION_BYTES",
    "ATTENTION_FLOATS",
    "ATTENTION_POSITIONS",
    "CHANNELS",
    "CONSTANTS",
    "KEYS",
    "NO_WINDOW",
    "PROBABILITIES",
]

NO_WINDOW = -1
CHANNELS = record(  # of a head: those that are not dead, four by four
    "CHANNELS",
    Field("count", "int32", "of the fours"),
    Field("first", "int32", "channel of each of them: depth / 4 lie here"),
)
BIAS = (  # of scores, by distance: sentences.py, bias_at
    Field("bias", ADDRESS, "of float32 [heads][2 * reach + 1], or 0"),
    Field("reach", WHOLE, "entries either way of distance 0"),
)
KEYS = record(
    "KEYS",
    *buffer("k", "keys, bytes"),
    Field("keys", OFFSET, "of the keys, interleaved four channels at a time, or turned (AMX)"),
    Field("key_sums", OFFSET, "of int32 [tile][head][64]: what a key adds to its scores"),
    Field("heads", WHOLE, "of the attention"),
    Field("flip", WHOLE, "int32 by whose bits keys are changed: u8 -> s8"),
    Field("factor", WHOLE, "of the sum of a key's bytes"),
    Field("extra", ADDRESS, "of int32 [heads], added to it"),
    Field("fours", ADDRESS, "of CHANNELS [heads]: those that count"),
)
WINDOW = Field("window", WHOLE, "places that a key is away at most; NO_WINDOW: any (window.py)")
ATTENTION_BYTES = record(
    "ATTENTION_BYTES",
    *buffer("q", "queries"),
    Field("keys", OFFSET, "as interleave_keys or amx_transpose_keys make them"),
    Field("key_sums", OFFSET, "as they make them"),
    *buffer("v", "values, less 128"),
    *buffer("y", "context"),
    Field("heads", WHOLE, "of the attention"),
    Field("constants", ADDRESS, "of CONSTANTS"),
    Field("made", ADDRESS, "of CHANNELS [heads]: of y, those that are read"),
    Field("fours", ADDRESS, "of CHANNELS [heads]: of q and k, those that count"),
    *BIAS,
    WINDOW,
)
CONSTANTS = record(  # of attention on bytes; a prime: less 128, where bytes were turned into s8
    "CONSTANTS",
    Field("query_factor", "int32", "-zero point' of keys: of the sum of a query's bytes"),
    Field("query_extra", "int32", "added to it"),
    Field("score_scale", "float32", "of sums of products: to steps, or to real scores"),
    Field("score_shift", "float32", "zero point of scores + MAGIC"),
    Field("probability_factor", "float32", "1 / scale of probabilities"),
    Field("value_zero", "int32", "-zero point' of values"),
    Field("value_scale", "float32", "of sums of values: to steps of y"),
    Field("output_zero", "float32", "zero point of y + MAGIC"),
    Field("score_step", "float32", "of quantised scores, as a bias is added to them"),
    Field("first_zero", "float32", "scores that are rounded again: zero point of scores + MAGIC"),
    Field("second_factor", "float32", "of their steps: to those of the second rounding"),
    Field("second_zero", "float32", "its zero point + MAGIC"),
    Field("third_factor", "float32", "of the steps of the second: to those of the third"),
    Field("third_zero", "float32", "its zero point + MAGIC"),
    Field("third_scale", "float32", "of its steps: to scores"),
    Field("rest", "uint8", "of the cache line", 4),
    Field("coarse", "float32", "exp of 16 steps of scores, 15 times to none", 16),
    Field("fine", "float32", "exp of a step of scores, 15 times to none", 16),
)
ATTENTION_FLOATS = record(
    "ATTENTION_FLOATS",
    *buffer("q", "queries"),
    *buffer("k", "keys"),
    *buffer("v", "values"),
    *buffer("y", "context, float32"),
    Field("heads", WHOLE, "of the attention"),
    Field("scale", FLOAT, "of scores"),
    Field("made", ADDRESS, "of CHANNELS [heads]: of y, those that are read"),
    Field("fours", ADDRESS, "of CHANNELS [heads]: of q and k, those that count"),
    *BIAS,
    WINDOW,
)
ATTENTION_POSITIONS = record(  # of keys: what queries are multiplied with
    "ATTENTION_POSITIONS",
    *ATTENTION_FLOATS.declared,
    Field("of_keys", ADDRESS, "of float32 [heads][depth][2 * far + 1]: positions.py"),
    Field("of_queries", ADDRESS, "of as many"),
    Field("far", WHOLE, "entries either way of distance 0"),
    Field("roundings", ADDRESS, "of ROUNDING [4], or 0: positions.py"),
)
PROBABILITIES = record(
    "PROBABILITIES",
    *buffer("q", "queries"),
    *buffer("k", "keys"),
    Field("number", WHOLE, "of the call's result"),
    Field("heads", WHOLE, "of the attention"),
    Field("scale", FLOAT, "of scores"),
    Field("fours", ADDRESS, "of CHANNELS [heads]: all of q and k"),
    *BIAS,
    Field(
        "roundings",
        ADDRESS,
        "of ROUNDING [4]: of products, scaled, with the mask, and of probabilities; or 0",
    ),
)
