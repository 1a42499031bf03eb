"""Which kernel makes a product, and in which form it reads x."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import settings
from ..codegen.isa import Isa
from ..graph import Node
from ..kernels import KERNELS
from ..kernels.context import ROWS, TILE
from ..pack.vectors import MOST_INPUTS, piece_width
from .attention import forms_read
from .measured import Choice, Layer
from .planner import Planner
from .steps import Unplanned
from .tiles import PACKINGS, TILE_KERNELS, modelled_pattern

__all__ = [
    "LINEAR_KERNELS",
    "SIXTEEN_BITS",
    "WIDE",
    "Product",
    "block_read",
    "forms_wanted",
    "on_dense_rows",
    "product",
]

Array = NDArray[Any]
LINEAR_KERNELS = {  # precision and pattern -> kernel, and the form in which it reads x
    ("int8", "4x1"): ("sparse_dot_u8s8_4x1", ""),
    ("int8", "1x4"): ("sparse_dot_u8s8_1x4", "quads"),
    ("int8", "dense"): ("dense_dot_u8s8", "quads"),
    ("float32", "4x1"): ("sparse_dot_f32_4x1", ""),
    ("float32", "1x4"): ("sparse_dot_f32_1x4", "pieces"),
    ("float32", "dense"): ("dense_dot_f32", ""),
    ("bfloat16", "4x1"): ("sparse_dot_bf16_4x1", "rows"),
    ("bfloat16", "1x4"): ("sparse_dot_bf16_1x4", "pairs"),
    ("bfloat16", "dense"): ("dense_dot_bf16", "pairs"),
}
WIDE = "sparse_dot_u8s8_4x1"  # the 4x1 kernel for 512 bits, a whole tile at a time
NARROW = "narrow_dot_u8s8_4x1"  # in pieces of a tile: few registers, or scales of tokens
OF_16_BITS = ("4x1", "tiles 16x1")  # patterns whose offsets name MOST_INPUTS inputs
MOST_DENSE_ROWS = 1 << 22  # weights of a dense_rows layer: it reads them once for four sentences
SIXTEEN_BITS = "sparse_dot_u8s16_4x1"  # where no instruction multiplies bytes exactly


@dataclass(frozen=True)
class Product:
    """A kernel, the form (planner.FORMS) in which it reads x or "", and how its weights are packed;
    width: tokens of its register block.
    """

    kernel: str
    form: str
    packing: str
    width: int
    tiles: bool


def product(
    planner: Planner,
    node: Node,
    weight: Array,
    precision: str,
    lanes: int,
    *,
    few: bool = False,
    tokens_have_scales: bool = False,
) -> Product:
    """few: rows can be made one by one; lanes: of a tile of x.

    Raises:
        Unplanned: no kernel does this.
    """
    choice = _choice(planner, node, weight, precision, lanes)
    pattern, tiles = choice.pattern, choice.pattern in PACKINGS
    if tiles and tokens_have_scales:  # no tile kernel has such an epilogue
        pattern, tiles = node.attributes.get("pattern", "dense"), False
    if few and pattern == "dense" and len(weight) % 4 == 0:
        pattern = "4x1"  # whose kernel makes a few rows one by one
    if weight.shape[1] > MOST_INPUTS and pattern in OF_16_BITS:
        pattern, tiles = "dense", False
    if tiles:
        return Product(*TILE_KERNELS[precision, pattern], PACKINGS[pattern], lanes, True)
    isa = planner.isa
    kernel, form = _kernel(isa, precision, pattern, tokens_have_scales=tokens_have_scales)
    width = min(choice.width or piece_width(isa.width), lanes)
    return Product(kernel, form, pattern, width, False)


def _choice(planner: Planner, node: Node, weight: Array, precision: str, lanes: int) -> Choice:
    """How the product runs: as measured on this CPU, else by the graph's pattern, on tiles where
    those are modelled faster."""
    if planner.fixed_choice:
        return planner.fixed_choice
    if not planner.finite:  # 0 times NaN is NaN
        return Choice("dense", 0)
    own, tuned = node.attributes.get("pattern", "dense"), settings.current().tune
    usual = Choice(modelled_pattern(planner.isa, weight, precision, own), 0)
    if planner.choices is None or not (tuned or planner.choices.layers):
        return usual
    zeros = round(100 * float(np.mean(weight == 0)))
    layer = Layer(precision, own, weight.shape[0], weight.shape[1], lanes, zeros)
    if not tuned:
        return planner.choices.layers.get(str(layer), usual)
    from .tune import choose  # it plans a layer by itself

    return choose(planner.choices, planner.isa, layer, weight)


def _kernel(isa: Isa, precision: str, pattern: str, *, tokens_have_scales: bool) -> tuple[str, str]:
    kernel, form = LINEAR_KERNELS.get((precision, pattern), ("", ""))
    if kernel not in KERNELS:
        raise Unplanned(f"no kernel for {precision} weights, {pattern}")
    if kernel == WIDE and not (isa.has("avx512vnni") or isa.has("avxvnni")):
        return SIXTEEN_BITS, form
    if kernel == WIDE and (tokens_have_scales or isa.width < 512):
        return NARROW, form
    return kernel, form


def on_dense_rows(node: Node, weight: Array, lanes: int) -> bool:
    """Whether dense_rows makes a product of float32 or bfloat16 weights: a row costs the others as
    much as sixteen.
    """
    dense = node.attributes.get("pattern", "dense") == "dense"
    return lanes == ROWS and dense and weight.size <= MOST_DENSE_ROWS


def block_read(planner: Planner, node: Node) -> int:
    """How many inputs of a float Linear are read together where any of them has a weight; 0 where
    all are read.
    """
    weight = planner.graph.constants[node.inputs[1]]
    lanes = ROWS if node.inputs[0] in planner.of_rows else TILE
    if on_dense_rows(node, weight, lanes):
        return 0
    try:
        how = product(planner, node, weight, node.attributes.get("precision", "float32"), lanes)
    except Unplanned:
        return 0
    return 0 if how.tiles else {"4x1": 1, "1x4": 4}.get(how.packing, 0)


def forms_wanted(planner: Planner, value: str, lanes: int) -> set[str]:
    """The forms in which a value's readers take whole tiles of it in bfloat16; "" among them where
    one reads anything else.
    """
    forms = {"" for output in planner.graph.outputs if output.name == value}
    for node in planner.graph:
        for place, name in enumerate(node.inputs):
            if name == value:
                forms.add(_form_wanted(planner, node, place, lanes))
    return forms


def _form_wanted(planner: Planner, node: Node, place: int, lanes: int) -> str:
    if node.kind == "engine.Attention":
        return forms_read(planner, node)[place] if place < 3 else ""
    if (node.kind, place) != ("engine.Linear", 0):
        return ""
    weight = planner.graph.constants.get(node.inputs[1])
    if weight is None or node.attributes.get("precision") != "bfloat16":
        return ""
    if on_dense_rows(node, weight, lanes):
        return ""
    try:
        found = product(planner, node, weight, "bfloat16", lanes)
    except Unplanned:
        return ""
    return found.form if found.width == lanes else ""
