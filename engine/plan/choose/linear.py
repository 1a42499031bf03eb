"""Which kernel makes a Linear, in which form it reads x and makes its result."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...graph import Graph, Node
from ...kernels import PRODUCTS
from ...kernels.context import ROWS, TILE
from ...pack.vectors import MOST_INPUTS
from ..measured import Configuration, Layer
from ..operands import panel_count
from ..ranges import sums_in_range
from ..steps import Refusal, Unplanned
from .amx_cycles import PACKINGS, modelled_pattern
from .attention import forms_read
from .elementwise import ThroughFloats, through_floats
from .facts import Activation, Choice, Facts, LinearKernel

__all__ = [
    "DENSE_ROWS",
    "FEW_ROWS",
    "SIXTEEN_BITS",
    "WIDE",
    "LinearChoice",
    "block_read",
    "choose_linear",
    "float_kernels",
    "layer_of",
]

Array = NDArray[Any]
WIDE = "sparse_dot_u8s8_4x1"  # the 4x1 kernel for 512 bits, a whole tile at a time
NARROW = "narrow_dot_u8s8_4x1"  # in pieces of a tile: few registers, or scales of tokens
SIXTEEN_BITS = "sparse_dot_u8s16_4x1"  # where no instruction multiplies bytes exactly
FEW_ROWS = "rows_dot_u8s8_4x1"  # for rows: few of them one by one
DENSE_ROWS = "dense_rows"  # for rows: outputs in lanes, in float32
OF_16_BITS = ("4x1", "tiles 16x1")  # patterns whose offsets name MOST_INPUTS inputs
MOST_DENSE_ROWS = 1 << 22  # weights of a dense_rows layer: it reads them once for four sentences
FARTHEST = {"int8": 128, "int16": 255}  # a weight of 8 bits, its zero point taken off, from 0
MOST_SUMMED = {name: ((1 << 31) - 1) // (255 * most) for name, most in FARTHEST.items()}  # int32


@dataclass(frozen=True)
class LinearChoice(Choice):
    """How a Linear is made.  dynamic: each token of x is quantised by itself; live: bool, the
    outputs that are made, None for all.
    """

    x: Activation
    precision: str
    how: LinearKernel
    dynamic: bool = False
    live: Array | None = None


def choose_linear(facts: Facts, node: Node) -> LinearChoice | ThroughFloats:
    """Sparse or dense, bytes or floats, by what x is and what the node's attributes say.

    Raises:
        Unplanned: no kernel does this.
    """
    some = has_whole_fours(facts.values.get(node.x))
    x, weight = facts.value(node.x, plain=not some), facts.array(node.weight)
    if weight.shape[1] != x.channels:
        raise Unplanned(f"weight has {weight.shape[1]} inputs, x {x.channels} channels")
    if not _is_whole(weight):
        return _floats(facts, node, x, weight)
    _check_sums(weight)
    if node.attributes.get("dynamic"):
        return _dynamic(facts, node, x, weight)
    return _bytes(facts, node, x, weight)


def has_whole_fours(x: Activation | None) -> bool:
    """Whether products read it as it lies among others' channels."""
    if x is None or x.flat or x.returned != "float32":
        return False
    return x.buffer.dtype == "f32" and x.buffer.domain == "tokens" and x.channels % 4 == 0


def _is_whole(weight: Array) -> bool:
    """8 bits: int8, or int16 where a zero point was taken off."""
    return bool(weight.dtype.kind == "i")


def _check_sums(weight: Array) -> None:
    inputs, most = weight.shape[1], MOST_SUMMED[str(weight.dtype)]
    if inputs > most:
        raise Unplanned(f"sums over {inputs} bytes: int32 holds those over {most}")
    if np.abs(weight.astype(np.int32)).max(initial=0) > FARTHEST[str(weight.dtype)]:
        raise Unplanned("weights of more than 8 bits")


def _bytes(facts: Facts, node: Node, x: Activation, weight: Array) -> LinearChoice | ThroughFloats:
    if x.quantization is None:
        raise Unplanned("int8 weights and x in float32")
    name, output = node.outputs[0], node.attributes.get("output")
    scale, bias = facts.array(node.weight_scale), facts.optional(node.bias)
    if not sums_in_range(node, weight, scale, bias, x.quantization):
        return through_floats(facts, node, choose_linear)
    y = _result(facts, node, x, weight)
    y = replace(y, less_128=name in facts.byte_values)
    few = y.buffer.lanes == ROWS and output is not None and facts.isa.has("avx512vbmi")
    how = _kernel(facts, node, weight, few=few)
    return LinearChoice(y, x, "int8", how, live=_live(facts, y, how))


def _dynamic(facts: Facts, node: Node, x: Activation, weight: Array) -> LinearChoice:
    _refuse_quantised_result(node)
    if x.buffer.dtype != "f32":
        raise Unplanned("dynamic quantisation of bytes")
    facts.array(node.weight_scale)
    facts.optional(node.bias)
    y, how = _result(facts, node, x, weight), _kernel(facts, node, weight)
    return LinearChoice(y, x, "int8", how, dynamic=True, live=_live(facts, y, how))


def _floats(
    facts: Facts, node: Node, x: Activation, weight: Array, made: str = ""
) -> LinearChoice | ThroughFloats:
    """made: the value whose kernel has been chosen, where the node makes another first."""
    name = node.outputs[0]
    if node.attributes.get("output") is not None:
        return through_floats(facts, node, lambda _, wide: _floats(facts, wide, x, weight, name))
    _refuse_quantised_result(node)
    facts.optional(node.bias)
    how, precision = facts.kernels[made or name], _precision(node, weight)
    if isinstance(how, Refusal):
        raise Unplanned(how.reason)
    if how.kernel == DENSE_ROWS:
        return LinearChoice(_result(facts, node, x, weight, group=16), x, precision, how)
    form = _rounded_form(facts, node, how) if precision == "bfloat16" else ""
    y = _result(facts, node, x, weight, form=form)
    return LinearChoice(y, x, precision, how, live=_live(facts, y, how))


def _result(
    facts: Facts, node: Node, x: Activation, weight: Array, *, group: int = 4, form: str = ""
) -> Activation:
    name, output = node.outputs[0], node.attributes.get("output")
    made = facts.result(name, x.buffer.domain, len(weight), output, group=group, form=form)
    return replace(made, kept_axis=x.kept_axis)


def _live(facts: Facts, y: Activation, how: LinearKernel) -> Array | None:
    some = y.buffer.domain == "tokens" and how.packing in ("4x1", "1x4") and not how.tiles
    return facts.live_of(y) if some else None


def _refuse_quantised_result(node: Node) -> None:
    if node.attributes.get("output") is not None or node.attributes.get("product") is not None:
        raise Unplanned("a float32 product with a quantised result")


def _precision(node: Node, weight: Array) -> str:
    if _is_whole(weight):
        return "int8"
    return str(node.attributes.get("precision", "float32"))


# --- the kernel ---
def float_kernels(facts: Facts) -> dict[str, LinearKernel | Refusal]:
    """The kernel of every Linear whose weights are floats, by its output."""
    found: dict[str, LinearKernel | Refusal] = {}
    for node in facts.graph:
        weight = _float_weight(facts.graph, node)
        if weight is None:
            continue
        try:
            found[node.outputs[0]] = _kernel(facts, node, weight)
        except Unplanned as reason:
            found[node.outputs[0]] = Refusal(str(reason))
    return found


def _float_weight(graph: Graph, node: Node) -> Array | None:
    if node.kind != "engine.Linear" or node.attributes.get("dynamic"):
        return None
    weight = graph.constants.get(node.weight)
    return None if weight is None or _is_whole(weight) else weight


def _kernel(facts: Facts, node: Node, weight: Array, *, few: bool = False) -> LinearKernel:
    """few: rows can be made one by one."""
    precision, dynamic = _precision(node, weight), bool(node.attributes.get("dynamic"))
    lanes = ROWS if node.x in facts.rows else TILE
    if precision != "int8" and _on_dense_rows(node, weight, lanes):
        return LinearKernel(DENSE_ROWS, "", "dense", lanes)
    if weight.dtype == np.int16:
        return _of_wide_weights(facts, weight, lanes, dynamic=dynamic)
    configuration = _configuration(facts, node, weight, lanes)
    pattern, tiles = configuration.pattern, configuration.pattern in PACKINGS
    if tiles and dynamic:  # no tile kernel has such an epilogue
        pattern, tiles = node.attributes.get("pattern", "dense"), False
    if few and pattern == "dense" and len(weight) % 4 == 0:
        pattern = "4x1"  # whose kernel makes a few rows one by one
    if weight.shape[1] > MOST_INPUTS and pattern in OF_16_BITS:
        pattern, tiles = "dense", False
    if tiles:
        row = PRODUCTS[precision, pattern]
        return LinearKernel(row.name, row.reads, PACKINGS[pattern], lanes, True)
    if (precision, pattern) not in PRODUCTS:
        raise Unplanned(f"no kernel for {precision} weights, {pattern}")
    kernel, form = PRODUCTS[precision, pattern].name, PRODUCTS[precision, pattern].reads
    if kernel == WIDE:
        kernel = _of_bytes_4x1(facts, dynamic=dynamic, few=few)
    width = min(configuration.width or facts.isa.block_width(), lanes)
    panels = panel_count(weight, precision, width) if pattern == "1x4" else 1
    return LinearKernel(kernel, form, pattern, width, panels=panels)


def _of_wide_weights(facts: Facts, weight: Array, lanes: int, *, dynamic: bool) -> LinearKernel:
    """A 4x1 kernel, as it may take an input twice: pack/vectors.py."""
    if weight.shape[1] > MOST_INPUTS:
        raise Unplanned(f"{weight.shape[1]} inputs: kernels for such weights take {MOST_INPUTS}")
    kernel = _of_bytes_4x1(facts, dynamic=dynamic, few=False)
    return LinearKernel(kernel, "", "4x1", min(facts.isa.block_width(), lanes))


def _of_bytes_4x1(facts: Facts, *, dynamic: bool, few: bool) -> str:
    if not (facts.isa.has("avx512vnni") or facts.isa.has("avxvnni")):
        return SIXTEEN_BITS
    if dynamic or facts.isa.width < 512:
        return NARROW
    return FEW_ROWS if few else WIDE


def _on_dense_rows(node: Node, weight: Array, lanes: int) -> bool:
    """Whether dense_rows makes a product of float32 or bfloat16 weights: a row costs the others as
    much as sixteen.
    """
    dense = node.attributes.get("pattern", "dense") == "dense"
    return lanes == ROWS and dense and weight.size <= MOST_DENSE_ROWS


def _configuration(facts: Facts, node: Node, weight: Array, lanes: int) -> Configuration:
    """As measured on this CPU, else the graph's pattern, on tiles where those are modelled
    faster.
    """
    if not facts.finite:  # 0 times NaN is NaN
        return Configuration("dense", 0)
    if facts.configurations is not None:
        measured = facts.configurations.get(str(layer_of(node, weight, lanes)))
        if measured is not None:
            return measured
    precision, own = _precision(node, weight), node.attributes.get("pattern", "dense")
    return Configuration(modelled_pattern(facts.isa, weight, precision, own), 0)


def layer_of(node: Node, weight: Array, lanes: int) -> Layer:
    """What a Linear's configuration depends on."""
    pattern, zeros = node.attributes.get("pattern", "dense"), float(np.mean(weight == 0))
    outputs, inputs = weight.shape
    precision = _precision(node, weight)
    return Layer(precision, pattern, outputs, inputs, lanes, round(100 * zeros))


# --- what others need to know of it ---
def block_read(how: LinearKernel | Refusal) -> int:
    """How many inputs of a float Linear are read together where any of them has a weight; 0 where
    all are read.
    """
    if isinstance(how, Refusal) or how.tiles:
        return 0
    return {"4x1": 1, "1x4": 4}.get(how.packing, 0)


def _rounded_form(facts: Facts, node: Node, how: LinearKernel) -> str:
    """The form in which all readers want the result, if the kernel can make it; else ""."""
    lanes, forms = ROWS if node.x in facts.rows else TILE, {""}
    if not how.tiles and how.width == lanes:
        forms = _forms_wanted(facts, node.outputs[0], lanes)
    alone = how.packing == "1x4"  # one output after the other
    return forms.pop() if len(forms) == 1 and not (alone and "pairs" in forms) else ""


def _forms_wanted(facts: Facts, value: str, lanes: int) -> set[str]:
    """The forms in which a value's readers take whole tiles of it in bfloat16; "" among them where
    one reads anything else.
    """
    forms = {"" for output in facts.graph.outputs if output.name == value}
    for node in facts.graph:
        for place, name in enumerate(node.inputs):
            if name == value:
                forms.add(_form_wanted(facts, node, place, lanes))
    return forms


def _form_wanted(facts: Facts, node: Node, place: int, lanes: int) -> str:
    if node.kind == "engine.Attention":
        return forms_read(facts, node)[place] if place < 3 else ""
    how = facts.kernels.get(node.outputs[0])
    low = node.attributes.get("precision") == "bfloat16"
    if place or not low or how is None or isinstance(how, Refusal):
        return ""
    return how.form if how.width == lanes else ""
