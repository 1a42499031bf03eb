"""What the engine's own operators take, one row an operator: inputs by name with their types and
shapes, attributes with what they may be, and how these go together (docs/design.md, section 1).

In a shape a letter is one length wherever it stands in the row, "..." any number of lengths.
Pure data and small checks: `sound` walks a graph with them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..graph import Node, Quantization, name_inputs

__all__ = [
    "ATTRIBUTE_KINDS",
    "DECLARED",
    "Attribute",
    "Declaration",
    "Found",
    "Input",
    "counts_distances",
    "is_quantization",
]

FLOAT, FLOATS = ("float32",), ("float16", "float32", "float64")
WHOLE_WEIGHTS = ("int8", "int16")  # of 8 bits; int16 where a zero point was taken off
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
MASKS = ("bool", *INTEGERS, *FLOATS)
BYTES = 256  # different ones
LEAST_SCALE = float(np.finfo(np.float32).tiny)  # below it a float32 scale loses its digits


@dataclass(frozen=True)
class Input:
    """`stored` names the attribute that says how the input is quantised, if it may be."""

    name: str
    shape: tuple[str, ...]
    types: tuple[str, ...] = FLOAT
    optional: bool = False
    constant: bool = False
    stored: str = ""


@dataclass(frozen=True)
class Attribute:
    """What an attribute may be, in words and as a test."""

    expected: str
    allows: Callable[[Any], bool]
    required: bool = False


@dataclass(frozen=True)
class Found:
    """What a node of the row has: attributes, lengths by letter, types of its inputs by name."""

    attributes: Mapping[str, Any]
    lengths: Mapping[str, int]
    types: Mapping[str, str]  # of inputs that are there and whose type is known; else ""

    def __contains__(self, name: str) -> bool:
        return name in self.types


@dataclass(frozen=True)
class Declaration:
    """Inputs are all listed, "" where one is left out; so many of the last as `may_end` says need
    not be.  `rules` give a sentence where a node's parts do not go together.
    """

    name: str
    inputs: tuple[Input, ...]
    output: tuple[str, ...]  # its shape
    attributes: Mapping[str, Attribute]
    rules: tuple[Callable[[Found], str | None], ...] = ()
    may_end: int = 0
    follows: str = ""  # the input whose type the result has; else it is float32 or as stored

    @property
    def row_inputs(self) -> tuple[int, ...]:
        """Those of which a row makes the same row of the result; none where another input has a
        number for each row.
        """
        front = self.output[:-1]
        fitting = [each.shape[:-1] == front and not each.constant for each in self.inputs]
        others = [i.shape for i, fits in zip(self.inputs, fitting, strict=True) if not fits]
        if any(shape[-1] in front[1:] for shape in others):
            return ()
        return tuple(number for number, fits in enumerate(fitting) if fits)

    @property
    def widest(self) -> int | None:
        """The constant input whose last axis is the result's, if one has to be there."""
        last = self.output[-1:]
        found = (i for i, each in enumerate(self.inputs) if each.constant and not each.optional)
        return next((i for i in found if self.inputs[i].shape[-1:] == last), None)


# --- attributes ---
def is_whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    return isinstance(value, float | np.floating) or is_whole(value)


def is_float32(value: Any) -> bool:
    """A number that is finite in float32, too."""
    return is_number(value) and abs(value) <= float(np.finfo(np.float32).max)


def is_quantization(value: Any) -> bool:
    """None, or 8 bits with a finite scale that is no denormal and a zero point that fits."""
    if value is None:
        return True
    if not isinstance(value, Quantization) or value.dtype not in ("uint8", "int8"):
        return False
    limits = np.iinfo(value.dtype)
    scale_fits = is_float32(value.scale) and value.scale >= LEAST_SCALE
    zero_fits = is_whole(value.zero_point) and limits.min <= value.zero_point <= limits.max
    return scale_fits and zero_fits


def whole(least: int, most: int = (1 << 31) - 1, *, required: bool = False) -> Attribute:
    expected = f"a whole number from {least} to {most}"
    return Attribute(expected, lambda v: is_whole(v) and least <= v <= most, required)


def number(least: float = -math.inf, *, required: bool = False) -> Attribute:
    expected = "a finite number" + (f" from {least:g} up" if least > -math.inf else "")
    return Attribute(expected, lambda v: is_float32(v) and v >= least, required)


def one_of(*allowed: str | None) -> Attribute:
    expected = f"one of {', '.join(map(str, allowed))}"
    return Attribute(expected, lambda v: (v is None or isinstance(v, str)) and v in allowed)


STORED = Attribute("None or a quantisation of finite scale and fitting zero point", is_quantization)
EPSILON = number(0)
ROW = whole(0)
ROW_OR_NONE = Attribute(f"None or {ROW.expected}", lambda v: v is None or ROW.allows(v))
CENTRED = Attribute("true or false", lambda v: isinstance(v, bool))
NUMBER_OR_NONE = Attribute("None or a finite number", lambda v: v is None or is_float32(v))
RATIO = Attribute("a number from 0 to 1", lambda v: is_number(v) and 0 <= v <= 1)
ATTRIBUTE_KINDS: Mapping[str, Attribute] = {  # annotation of a meaning's keyword -> what it takes
    "int": Attribute("a whole number", is_whole),
    "float": Attribute("a number", is_number),
    "str": Attribute("text", lambda v: isinstance(v, str)),
    "Sequence[int]": Attribute(
        "whole numbers", lambda v: isinstance(v, tuple | list) and all(map(is_whole, v))
    ),
    "Array": Attribute("an array", lambda v: isinstance(v, np.ndarray)),
}


# --- how parts go together ---
def gamma_with_beta(found: Found) -> str | None:
    return None if ("gamma" in found) == ("beta" in found) else "gamma and beta come together"


def types_with_table(found: Found) -> str | None:
    lacking = "token_type_ids" in found and "types" not in found
    return "token_type_ids need the table types" if lacking else None


def sum_of_parts(found: Found) -> str | None:
    first = found.attributes.get("first", "types")
    if found.attributes.get("sum") is not None and first not in found:
        return f"the sum of words and {first} is rounded, and there are no {first}"
    return None


def positions_left(found: Found) -> str | None:
    """The first token has a position."""
    padding, rows = found.attributes.get("padding_id"), found.lengths.get("P")
    name = "position_offset" if padding is None else "padding_id"
    first = found.attributes.get("position_offset", 0) if padding is None else padding + 1
    if rows is None or first < rows:
        return None
    return f"{name} is {found.attributes[name]}; positions has {rows} rows, none for a first token"


def numbered_once(found: Found) -> str | None:
    """Tokens are numbered by an input, by their ids or from an offset."""
    named = [name for name in ("position_offset", "padding_id") if found.attributes.get(name)]
    if "positions" not in found and ("position_ids" in found or named):
        return "there is no table of positions, and tokens are numbered for it"
    if "position_ids" in found and named:
        return f"position_ids number the tokens, and {named[0]} is {found.attributes[named[0]]}"
    return None


def precision_of_weight(found: Found) -> str | None:
    weight, precision = found.types["weight"], found.attributes.get("precision")
    if precision is not None and (weight in WHOLE_WEIGHTS) != (precision == "int8"):
        return f"precision is {precision}, the weight {weight}"
    if weight not in WHOLE_WEIGHTS and "weight_scale" in found:
        return f"weight_scale goes with an int8 weight, and it is {weight}"
    return None


def quantised_once(found: Found) -> str | None:
    if not found.attributes.get("dynamic"):
        return None
    if found.attributes.get("input") is not None or found.types["weight"] == "float32":
        return "dynamic goes with an int8 weight and an input in float32"
    return None


def table_of_bytes(found: Found) -> str | None:
    steps, given = found.attributes["steps"], found.attributes.get("input")
    if steps is None or given not in (None, steps):
        return f"steps are {steps}, the input is stored as {given}"
    length = found.lengths.get("L", BYTES)
    return None if length == BYTES else f"a table of {length} numbers, expected {BYTES}"


def pattern_fits(found: Found) -> str | None:
    letter = {"4x1": "N", "1x4": "K"}.get(found.attributes.get("pattern", ""), "")
    length = found.lengths.get(letter, 0)
    return f"{letter} is {length}; its pattern needs whole fours" if length % 4 else None


def whole_heads(found: Found) -> str | None:
    heads, channels = found.attributes["heads"], found.lengths.get("C", 0)
    return f"{channels} channels do not divide into {heads} heads" if channels % heads else None


def bias_of_heads(found: Found) -> str | None:
    """As many numbers for keys before a query as for those behind it."""
    if "bias" not in found or "R" not in found.lengths:
        return None
    shape, heads = [found.lengths["H"], found.lengths["R"]], found.attributes["heads"]
    if shape[0] == heads and shape[1] % 2:
        return None
    return f"the bias is {shape}, expected [{heads}, an odd number]"


def turned_channels(found: Found) -> str | None:
    """Pairs of channels that are turned are those of a head."""
    depth = found.lengths.get("C", 0) // found.attributes["heads"]
    pairs = found.lengths.get("R", 0)
    return f"{pairs} pairs of a head's {depth} channels" if depth and 2 * pairs > depth else None


ROUNDED_BY = {"key_positions": "query_scores", "query_positions": "key_scores"}  # their products


def positions_fit(found: Found) -> str | None:
    """Rows for keys before a query and behind it; what is said of positions needs them."""
    names, how = [name for name in ROUNDED_BY if name in found], found.attributes
    rows = found.lengths.get("T", 1)
    if names and not rows % 2:
        return f"{names[0]} has {rows} rows, expected an odd number"
    if names and how.get("precision") == "bfloat16":
        return f"precision is bfloat16, and there are {names[0]}"
    for name, products in ROUNDED_BY.items():
        given = [each for each in (name, products) if how.get(each) is not None]
        if given and name not in found:
            return f"{given[0]} is quantised, and there are no {name}"
    return None


def bfloat16_is_not_stored(found: Found) -> str | None:
    if found.attributes.get("precision") != "bfloat16":
        return None
    names = ("query", "key", "value", "scores", "scaled", "masked", "probabilities", "product")
    how = [name for name in names if found.attributes.get(name) is not None]
    return f"precision is bfloat16, and {how[0]} is quantised" if how else None


def channels_there(found: Found) -> str | None:
    first, count = found.attributes.get("first", 0), found.attributes["count"]
    most = found.lengths.get("K", first + count)
    return f"channels {first} to {first + count - 1} of {most}" if first + count > most else None


# --- the rows ---
def constant(name: str, *shape: str, types: tuple[str, ...] = FLOAT, optional: bool = False) -> Any:
    return Input(name, shape, types, optional, constant=True)


EMBEDDING = Declaration(
    "Embedding",
    (
        Input("input_ids", ("B", "S"), INTEGERS),
        Input("token_type_ids", ("B", "S"), INTEGERS, optional=True),
        constant("words", "V", "C"),
        constant("positions", "P", "C", optional=True),
        constant("types", "T", "C", optional=True),
        constant("gamma", "C", types=FLOATS, optional=True),
        constant("beta", "C", types=FLOATS, optional=True),
        Input("position_ids", ("...", "S"), INTEGERS, optional=True),
    ),
    ("B", "S", "C"),
    {
        "epsilon": EPSILON,
        "position_offset": ROW,
        "padding_id": ROW_OR_NONE,
        "sum": STORED,
        "first": one_of("types", "positions"),
        "output": STORED,
    },
    (gamma_with_beta, types_with_table, sum_of_parts, positions_left, numbered_once),
    may_end=1,
)
TRIGRAM = Declaration(
    "Trigram",
    (
        Input("input_ids", ("B", "S"), INTEGERS),
        Input("token_type_ids", ("B", "S"), INTEGERS, optional=True),
        constant("words", "V", "E"),
        constant("positions", "P", "C"),
        constant("types", "T", "C", optional=True),
        Input("position_ids", ("...", "S"), INTEGERS, optional=True),
    ),
    ("B", "S", "N"),
    {"position_offset": ROW},
    (types_with_table, positions_left, numbered_once),
    may_end=1,
    follows="words",
)
LINEAR = Declaration(
    "Linear",
    (
        Input("x", ("...", "K"), stored="input"),
        constant("weight", "N", "K", types=("float32", *WHOLE_WEIGHTS)),
        constant("weight_scale", "N", optional=True),
        constant("bias", "N", optional=True),
    ),
    ("...", "N"),
    {
        "input": STORED,
        "dynamic": one_of(None, "tensor", "token"),
        "product": STORED,
        "activation": one_of(None, "gelu", "gelu_tanh", "tanh", "relu", "swish"),
        "output": STORED,
        "precision": one_of("float32", "bfloat16", "int8"),
        "pattern": one_of("4x1", "1x4", "dense"),
        "zero_ratio": RATIO,
    },
    (precision_of_weight, quantised_once, pattern_fits),
)
LAYER_NORM = Declaration(
    "LayerNorm",
    (
        Input("x", ("...", "C"), FLOATS, stored="input"),
        Input("residual", ("...", "C"), FLOATS, optional=True, stored="residual"),
        constant("bias", "C", optional=True),
        constant("gamma", "C", types=FLOATS),
        constant("beta", "C", types=FLOATS),
    ),
    ("...", "C"),
    {
        "epsilon": EPSILON,
        **dict.fromkeys(
            ("input", "residual", "sum", "variance", "raised", "normalised", "scaled", "output"),
            STORED,
        ),
        "centred": CENTRED,
    },
    follows="x",
)
AFFINE = Declaration(
    "Affine",
    (
        Input("x", ("...", "C")),
        Input("residual", ("...", "C"), optional=True),
        constant("gamma", "C"),
        constant("beta", "C"),
    ),
    ("...", "C"),
    {},
)
ATTENTION = Declaration(
    "Attention",
    (
        Input("query", ("B", "Q", "C"), stored="query"),
        Input("key", ("B", "S", "C"), stored="key"),
        Input("value", ("B", "S", "C"), stored="value"),
        Input("mask", ("B", "S"), MASKS, optional=True),
        constant("bias", "H", "R", optional=True),
        *(
            replace(constant(name, "T", "C", optional=True), stored=name)
            for name in ("key_positions", "query_positions")
        ),
    ),
    ("B", "Q", "C"),
    {
        "heads": whole(1, required=True),
        "scale": number(required=True),
        **dict.fromkeys(
            (
                "query",
                "key",
                "value",
                "key_positions",
                "query_positions",
                "scores",
                "query_scores",
                "key_scores",
                "scaled",
                "masked",
                "probabilities",
                "product",
                "output",
            ),
            STORED,
        ),
        "precision": one_of("float32", "bfloat16"),
        "masking": one_of("keys", "lengths"),
        "window": ROW_OR_NONE,
    },
    (whole_heads, bias_of_heads, positions_fit, bfloat16_is_not_stored),
    may_end=4,
)
PROBABILITIES = Declaration(
    "Probabilities",
    (
        Input("query", ("B", "Q", "C"), stored="query"),
        Input("key", ("B", "S", "C"), stored="key"),
        Input("mask", ("B", "S"), MASKS, optional=True),
        constant("bias", "H", "R", optional=True),
    ),
    ("B", "H", "Q", "S"),
    {
        "heads": whole(1, required=True),
        "scale": number(required=True),
        **dict.fromkeys(("query", "key", "scores", "scaled", "masked", "probabilities"), STORED),
        "precision": one_of("float32", "bfloat16"),
        "masking": one_of("keys", "lengths"),
    },
    (whole_heads, bias_of_heads, bfloat16_is_not_stored),
    may_end=2,
)
LOOKUP = Declaration(
    "Lookup",
    (Input("x", ("...", "C"), stored="input"), constant("table", "L")),
    ("...", "C"),
    {"steps": replace(STORED, required=True), "input": STORED, "output": STORED},
    (table_of_bytes,),
)
ROTARY = Declaration(
    "Rotary",
    (
        Input("x", ("B", "S", "C"), stored="input"),
        constant("cos", "P", "R"),
        constant("sin", "P", "R"),
    ),
    ("B", "S", "C"),
    {
        "heads": whole(1, required=True),
        "interleaved": whole(0, 1),
        "input": STORED,
        "output": STORED,
    },
    (whole_heads, turned_channels),
)
SELECT = Declaration(
    "Select",
    (Input("x", ("B", "S", "C"), ("bool", *INTEGERS, *FLOATS)),),
    ("B", "1", "C"),
    {"index": ROW},
    follows="x",
)
POOL = Declaration(
    "Pool",
    (
        Input("x", ("B", "S", "C")),
        Input("mask", ("B", "S"), MASKS, optional=True),
    ),
    ("B", "1", "C"),
    {
        "how": one_of("mean", "mean_sqrt_len", "sum", "max", "last"),
        "epsilon": EPSILON,
        "fill": NUMBER_OR_NONE,
        "masking": one_of("keys", "lengths"),
    },
)
L2_NORM = Declaration(
    "L2Norm", (Input("x", ("...", "C")),), ("...", "C"), {"epsilon": EPSILON}, follows="x"
)
CHANNELS = Declaration(
    "Channels",
    (Input("x", ("...", "K")),),
    ("...", "C"),
    {"first": ROW, "count": whole(1, required=True)},
    (channels_there,),
    follows="x",
)
LOG1P = Declaration("Log1p", (Input("x", ("...",)),), ("...",), {}, follows="x")
MASK = Declaration(
    "Mask",
    (Input("x", ("B", "S", "C"), stored="input"), Input("mask", ("B", "S"), MASKS)),
    ("B", "S", "C"),
    {"input": STORED},
    follows="x",
)
DECLARED: Mapping[str, Declaration] = {  # by Node.kind
    f"engine.{row.name}": row
    for row in (
        EMBEDDING, LINEAR, LAYER_NORM, ATTENTION, LOOKUP, ROTARY, SELECT, POOL, L2_NORM, CHANNELS,
        LOG1P, MASK, AFFINE, TRIGRAM, PROBABILITIES,
    )
}  # fmt: skip
for _kind, _row in DECLARED.items():
    name_inputs(_kind, tuple(each.name for each in _row.inputs))


def counts_distances(node: Node) -> bool:
    """Whether scores depend on how many tokens are between two."""
    if node.kind == "engine.Probabilities":
        return bool(node.bias)
    tables = ("bias", "key_positions", "query_positions")
    return node.kind == "engine.Attention" and any(getattr(node, name) for name in tables)
