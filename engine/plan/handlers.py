"""One handler per engine operator: node -> steps, with weights packed for the kernel that was chosen.

A handler raises Unplanned with a sentence where it has no kernel for a node; the plan ends there and the tail takes over.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..graph import Graph, Node, Quantization
from ..isa import Isa
from ..kernels import KERNELS
from ..kernels.context import ROW_TILES, TILES
from . import Plan, Result, Step
from .memory import Buffer
from .quantized import MAGIC, OutputConstants, attention_constants, dynamic_constants, float_bias, float_constants, key_factors, norm_of_bytes, of_bytes, stored
from .tiles import TILE_DEPTHS, TILE_KERNELS, tile_pattern
from .weights import aligned, linear_operands, rows_operand

log = logging.getLogger(__name__)
Array = NDArray[Any]
COUNTED = {"tokens": TILES, "rows": ROW_TILES}
LINEAR_KERNELS = {  # precision and pattern -> kernel, and the form in which it reads x (FORMS), "" for x as it is
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
FORMS = {"quads": ("interleave_rows", "u8"), "rows": ("round_rows", "bf16"), "pairs": ("round_rows", "bf16"), "pieces": ("round_rows", "f32")}
NARROW = "narrow_dot_u8s8_4x1"  # the 4x1 kernel in pieces of a tile: few registers, or scales of tokens
FIRST_LEVEL_CACHE = 40 << 10  # bytes of x that stay in it beside weights
MOST_DENSE_ROWS = 1 << 22  # weights of a dense_rows layer: it reads them once a sentence


class Unplanned(Exception):
    """No kernel for a node; says why."""


class Planner:
    """Walks the graph once, in order."""

    def __init__(self, graph: Graph, isa: Isa) -> None:
        self.graph, self.isa = graph, isa
        self.buffers: dict[str, Buffer] = {}
        self.quantized: dict[str, Quantization | None] = {}
        self.steps: list[Step] = []
        self.layers: list[dict[str, Any]] = []
        self.inputs = {"ids": "", "types": "", "mask": ""}
        self.embedding: Node | None = None
        self._forms: dict[str, Buffer] = {}  # an activation in another form: its rounding or interleaving
        self.uses_cls = False
        self.kept_axis: set[str] = set()  # rows values whose shape is [batch, 1, channels]
        self.channels: dict[str, int] = {}  # by the buffer's name, which may have more
        self.consumers = graph.consumers()
        self.wanted = [value.name for value in graph.outputs]
        self.flipped = self._values_of_attention()

    def _values_of_attention(self) -> set[str]:
        """Values that attention_u8 reads as its second operand: stored less 128."""
        return {node.inputs[2] for node in self.graph if node.op == "Attention" and attention_is_bytes(node)}

    # --- the walk
    def plan(self) -> Plan | None:
        """The plan as far as it goes."""
        for number, node in enumerate(self.graph.nodes):
            handler = HANDLERS.get((node.domain, node.op))
            try:
                if handler is None:
                    raise Unplanned("no kernel has this operator")
                handler(self, node)
            except Unplanned as reason:
                log.info("%s: %s is left to NumPy: %s", self.graph.name, node, reason)
                return self._finished(number)
        return self._finished(len(self.graph.nodes))

    def _is_stored_as_bytes(self, name: str) -> bool:
        return self.buffers[name].dtype != "f32"

    def _finished(self, planned: int) -> Plan | None:
        if self.embedding is None:
            return None
        rest = self.graph.nodes[planned:]
        read = {name for node in rest for name in node.inputs}
        handed = [name for name in self.buffers if name in read or name in self.wanted]
        if any(self._is_stored_as_bytes(name) for name in handed):
            log.info("%s: the tail reads quantised values: all of it is left to NumPy", self.graph.name)
            return None
        results = [self._result(name) for name in handed]
        for number, result in enumerate(results):
            self._hand_over(result, number)
        attributes = self.embedding.attributes
        return Plan(
            self.isa, tuple(self.steps), tuple(results), self._tail(rest, results), (self.inputs["ids"], self.inputs["types"], self.inputs["mask"]),
            tuple(self.layers), int(attributes.get("position_offset", 0)), attributes.get("padding_id"),
            self._rows_of(self.embedding.inputs[3]), self._rows_of(self.embedding.inputs[2]), self._rows_of(self.embedding.inputs[4]), self.uses_cls,
        )  # fmt: skip

    def _rows_of(self, name: str) -> int:
        return len(self.graph.constants[name]) if name else 1

    def _result(self, name: str) -> Result:
        return Result(name, self.buffers[name].domain, self.width(name), name in self.kept_axis)

    def _tail(self, nodes: tuple[Node, ...], results: list[Result]) -> Graph | None:
        names = {result.name for result in results}
        if not nodes and names.issuperset(self.wanted):
            return None
        from ..graph import Value

        middle: dict[str, tuple[int | str, ...]] = {result.name: ("sequence",) if result.domain == "tokens" else (1,) if result.keep_row_axis else () for result in results}
        inputs = tuple(Value(result.name, "float32", ("batch", *middle[result.name], result.channels)) for result in results)
        kept = tuple(value for value in self.graph.inputs if value.name not in names)
        return self.graph.changed(inputs=(*kept, *inputs), nodes=nodes).without_dead_nodes()

    def _hand_over(self, result: Result, number: int) -> None:
        buffer = self.buffers[result.name]
        name = "output_tokens" if buffer.domain == "tokens" else "output_rows"
        node = Node("Output", (result.name,), (), name=result.name)
        self.emit(node, name, (), (buffer, buffer.tile_bytes, number, result.channels), buffer.domain)

    # --- what handlers use
    def emit(self, node: Node, kernel: str, variant: tuple[Any, ...], params: tuple[Any, ...], domain: str, *, units: int = 1, macs: int = 0, **facts: Any) -> None:
        """Add a step."""
        self.steps.append(Step(node.name or node.outputs[0], kernel, variant, params, COUNTED[domain], units, macs, facts))

    def constant(self, name: str) -> Array | None:
        """The array, or None for an input left out."""
        if not name:
            return None
        if name not in self.graph.constants:
            raise Unplanned(f"'{name}' is not a constant")
        return self.graph.constants[name]

    def buffer(self, name: str) -> Buffer:
        """Where a value lies."""
        if name not in self.buffers:
            raise Unplanned(f"'{name}' is not an activation")
        return self.buffers[name]

    def make(self, name: str, domain: str, channels: int, output: Quantization | None) -> Buffer:
        """A new buffer for a value; kernels write whole groups of 4 channels."""
        buffer = Buffer(name, domain, -(-channels // 4) * 4, "f32" if output is None else "u8")
        self.buffers[name], self.quantized[name] = buffer, stored(output)
        self.channels[name] = channels
        return buffer

    def width(self, name: str) -> int:
        """Channels of a value; its buffer may have more."""
        return self.channels[self.buffer(name).name]

    def formed(self, x: Buffer, form: str, width: int) -> Buffer:
        """x as a kernel wants it, made once."""
        kernel, dtype = FORMS[form]
        name = f"{x.name}.{form}{width}"
        if name not in self._forms:
            y = Buffer(name, x.domain, -(-x.channels // 4) * 4, dtype)
            variant = (x.lanes, width) if kernel == "interleave_rows" else (x.lanes, width, form)
            self.emit(Node(form, (x.name,), (name,), name=name), kernel, variant, (x, x.tile_bytes, y, y.tile_bytes, x.channels), x.domain)
            self._forms[name] = y
        return self._forms[name]

    def quantized_tokens(self, x: Buffer) -> tuple[Buffer, Buffer]:
        """x in bytes with a scale and a zero point for each token, made once; [scale, zero point] of a tile's tokens."""
        name = f"{x.name}.bytes"
        if name not in self._forms:
            y, scales = Buffer(name, x.domain, x.channels, "u8"), Buffer(f"{name}.scales", x.domain, 2, "f32")
            width = min(x.lanes, 64 if self.isa.width == 512 else 16)
            params = (x, x.tile_bytes, y, y.tile_bytes, x.channels, scales, scales.tile_bytes)
            self.emit(Node("QuantizeTokens", (x.name,), (name,), name=name), "quantize_tokens", (x.lanes, width), params, x.domain)
            self._forms[name], self._forms[scales.name] = y, scales
        return self._forms[name], self._forms[f"{name}.scales"]

    def layer(self, node: Node, **facts: Any) -> None:
        """A line of describe()."""
        self.layers.append({"name": node.name or node.outputs[0], "op": node.op, **facts})


# --- embedding
def plan_embedding(planner: Planner, node: Node) -> None:
    """Three gathers, LayerNorm, quantise."""
    ids, types, words, positions, kinds, gamma, beta = node.inputs
    if planner.embedding is not None:
        raise Unplanned("a second embedding")
    tables = [planner.constant(name) for name in (words, positions, kinds)]
    channels = tables[0].shape[1]  # type: ignore[union-attr]
    if channels % 64:
        raise Unplanned(f"{channels} channels: no multiple of 64")
    output = stored(node.attributes.get("output"))
    planner.embedding = node
    planner.inputs.update(ids=ids, types=types)
    y = planner.make(node.outputs[0], "tokens", channels, output)
    norm = np.stack([np.ones(channels), np.zeros(channels)]) if not gamma else np.stack([planner.constant(gamma), planner.constant(beta)])
    if output is not None:
        norm = norm / output.scale + np.array([[0], [output.zero_point]])
    types_table = np.zeros((1, channels), np.float32) if not kinds else tables[2]
    held = [np.ascontiguousarray(table, np.float32) for table in (tables[0], tables[1], types_table)]
    epsilon = float(node.attributes.get("epsilon", 0.0))
    params = (*held, channels, y, y.tile_bytes, np.ascontiguousarray(norm, np.float32), epsilon, 1 / channels)
    planner.emit(node, "embedding", (y.dtype, bool(gamma)), params, "tokens")
    planner.layer(node, shape=tables[0].shape, dtype="float32", pattern="", zero_ratio=0.0, kernel=planner.steps[-1].kernel_name, bytes=sum(t.nbytes for t in held))  # type: ignore[union-attr]


# --- linear
def plan_linear(planner: Planner, node: Node) -> None:
    """Sparse or dense, bytes or floats, by what x is and what the node's attributes say."""
    x = planner.buffer(node.inputs[0])
    weight = planner.constant(node.inputs[1])
    assert weight is not None
    if weight.shape[1] != planner.width(node.inputs[0]):
        raise Unplanned(f"weight has {weight.shape[1]} inputs, x {planner.width(node.inputs[0])} channels")
    if node.attributes.get("dynamic"):
        _linear_dynamic(planner, node, x, weight)
    elif weight.dtype == np.int8:
        if x.dtype != "u8":
            raise Unplanned("int8 weights and x in float32")
        _linear_bytes(planner, node, x, weight)
    else:
        _linear_floats(planner, node, x, weight)


def _describe_linear(planner: Planner, node: Node, weight: Array, stored_bytes: int) -> None:
    attributes = node.attributes
    planner.layer(node, shape=weight.shape, dtype=str(weight.dtype), pattern=attributes.get("pattern", "dense"), zero_ratio=float(np.mean(weight == 0)),
                  kernel=planner.steps[-1].kernel_name, bytes=stored_bytes)  # fmt: skip


def _linear_bytes(planner: Planner, node: Node, x: Buffer, weight: Array) -> None:
    name = node.outputs[0]
    bias, weight_scale = planner.constant(node.inputs[3]), planner.constant(node.inputs[2])
    source = planner.quantized[x.name]
    assert source is not None and weight_scale is not None
    constants = of_bytes(node, weight, weight_scale, bias, source, flip=name in planner.flipped)
    y = planner.make(name, x.domain, len(weight), node.attributes.get("output"))
    _emit_linear(planner, node, x, y, weight, "int8", constants)


def _linear_dynamic(planner: Planner, node: Node, x: Buffer, weight: Array) -> None:
    """Each token of x is quantised by itself."""
    if node.attributes.get("output") is not None or node.attributes.get("product") is not None:
        raise Unplanned("dynamic quantisation of x and a quantised result")
    bias, weight_scale = planner.constant(node.inputs[3]), planner.constant(node.inputs[2])
    assert weight_scale is not None
    bytes_, scales = planner.quantized_tokens(x)
    y = planner.make(node.outputs[0], x.domain, len(weight), None)
    constants = dynamic_constants(weight, weight_scale, bias, node.attributes.get("activation") or "none")
    _emit_linear(planner, node, bytes_, y, weight, "int8", constants, (scales, scales.tile_bytes))


def _emit_linear(planner: Planner, node: Node, x: Buffer, y: Buffer, weight: Array, precision: str, constants: OutputConstants, more: tuple[Any, ...] = ()) -> None:
    """The step of a product; more: parameters its epilogue needs besides those of all."""
    pattern, isa = node.attributes.get("pattern", "dense"), planner.isa
    tiles = "" if more else tile_pattern(isa, weight, precision, pattern)
    kernel, form = LINEAR_KERNELS.get((precision, pattern), ("", ""))
    if kernel not in KERNELS:
        raise Unplanned(f"no kernel for {precision} weights, {pattern}")
    if tiles:
        kernel, form = TILE_KERNELS[precision, tiles]
    width = y.lanes if tiles else _width(isa, y.lanes, weight.shape[1], form)
    if precision == "int8" and pattern == "4x1" and not tiles and (more or isa.width < 512):
        kernel = NARROW
    source = planner.formed(x, form, width) if form else x
    operands = linear_operands(weight, tiles or pattern, precision, constants, y, tiles=bool(tiles))
    params = (source, source.tile_bytes, y, y.tile_bytes, operands.parts, operands.rows, *more)
    last = constants.epilogue if precision == "int8" else y.dtype
    variant = (y.lanes, last, constants.activation) if tiles or kernel == "sparse_dot_u8s8_4x1" else (y.lanes, width, last, constants.activation)
    planner.emit(node, kernel, variant, params, x.domain, units=operands.parts, macs=operands.macs, keep=operands)
    _describe_linear(planner, node, weight, operands.nbytes)


def _width(isa: Isa, lanes: int, inputs: int, form: str) -> int:
    """Tokens of a register block of four outputs: as many as registers hold; fewer where x, loaded as often as it is multiplied, would not
    stay in the first-level cache."""
    width = min(lanes, 64 if isa.width == 512 else 16)
    bytes_a_token = {"quads": 1, "pairs": 2, "pieces": 4}.get(form, 0) * inputs
    while width > 16 and bytes_a_token * width > FIRST_LEVEL_CACHE:
        width //= 2
    return width


def _linear_floats(planner: Planner, node: Node, x: Buffer, weight: Array) -> None:
    if node.attributes.get("output") is not None or node.attributes.get("product") is not None:
        raise Unplanned("float32 weights with a quantised result")
    name, bias, activation = node.outputs[0], planner.constant(node.inputs[3]), node.attributes.get("activation") or "none"
    precision, dense = node.attributes.get("precision", "float32"), node.attributes.get("pattern", "dense") == "dense"
    if x.domain == "rows" and precision == "float32" and dense and weight.size <= MOST_DENSE_ROWS:
        _dense_rows(planner, node, x, weight, bias, activation)
        return
    if x.dtype != "f32":
        raise Unplanned("float32 weights and x in bytes")
    y = planner.make(name, x.domain, len(weight), None)
    _emit_linear(planner, node, x, y, weight, precision, float_constants(len(weight), bias, activation))


def _dense_rows(planner: Planner, node: Node, x: Buffer, weight: Array, bias: Array | None, activation: str) -> None:
    name, (outputs, inputs) = node.outputs[0], weight.shape
    source = planner.quantized[x.name]
    scale, zero = (1.0, 0) if source is None else (source.scale, source.zero_point)
    operand = rows_operand(weight, bias)
    padded = operand.shape[1]
    planner.quantized[name], planner.channels[name] = None, outputs
    y = planner.buffers[name] = Buffer(name, "rows", padded, "f32")  # kernels in lanes of outputs fill whole registers
    params = (x, x.tile_bytes, y, y.tile_bytes, inputs, padded, operand, float(scale), zero)
    planner.emit(node, "dense_rows", (x.dtype, activation), params, "rows", macs=weight.size)
    if node.inputs[0] in planner.kept_axis:
        planner.kept_axis.add(name)
    _describe_linear(planner, node, weight, operand.nbytes)


# --- attention
def attention_is_bytes(node: Node) -> bool:
    """Whether everything attention_u8 needs is quantised."""
    a = node.attributes
    probabilities = stored(a.get("probabilities"))
    return (
        all(a.get(name) is not None for name in ("query", "key", "value", "probabilities", "output"))
        and a.get("product") in (None, a.get("output"))
        and probabilities is not None
        and probabilities.zero_point == 0
    )


def plan_attention(planner: Planner, node: Node) -> None:
    """Keys interleaved once, then one kernel per head and tile of queries."""
    query, key, value = (planner.buffer(name) for name in node.inputs[:3])
    mask = node.inputs[3] if len(node.inputs) > 3 else ""
    if mask:
        if mask not in {each.name for each in planner.graph.inputs} or planner.inputs["mask"] not in ("", mask):
            raise Unplanned(f"mask '{mask}' is not the graph's input")
        planner.inputs["mask"] = mask
    depth = query.channels // node.attributes["heads"]
    if depth % 16 or key.domain != "tokens" or value.domain != "tokens":
        raise Unplanned(f"heads of {depth} channels")
    (_attention_bytes if attention_is_bytes(node) else _attention_floats)(planner, node, query, key, value, depth)
    planner.layer(node, shape=(node.attributes["heads"], depth), dtype=query.dtype, pattern="", zero_ratio=0.0, kernel=planner.steps[-1].kernel_name, bytes=0)


def _attention_bytes(planner: Planner, node: Node, query: Buffer, key: Buffer, value: Buffer, depth: int) -> None:
    heads = node.attributes["heads"]
    if any(each.dtype != "u8" for each in (query, key, value)):
        raise Unplanned("query, key or value in float32")
    keys = Buffer(f"{node.outputs[0]}.keys", "tokens", key.channels, "u8")
    sums = Buffer(f"{node.outputs[0]}.sums", "tokens", heads, "i32")
    factor, extra = key_factors(node, depth)
    tiles = query.domain == "tokens" and planner.isa.has("amx-int8") and depth in TILE_DEPTHS
    turn = "amx_transpose_keys" if tiles else "interleave_keys"
    planner.emit(node, turn, (depth,), (key, key.tile_bytes, keys, sums, heads, -0x7F7F7F80, factor, extra), "tokens", units=heads)
    y = planner.make(node.outputs[0], query.domain, query.channels, node.attributes["output"])
    kernel = "attention_u8" if query.domain == "tokens" else "attention_u8_rows"
    if tiles:
        kernel = "amx_attention_u8"
    params = (query, query.tile_bytes, keys, sums, value, value.tile_bytes, y, y.tile_bytes, heads, aligned(attention_constants(node, depth)))
    softmax = "floats" if node.attributes["scores"] is None else "bytes"
    planner.emit(node, kernel, (depth, softmax), params, query.domain, units=heads)


def _attention_floats(planner: Planner, node: Node, query: Buffer, key: Buffer, value: Buffer, depth: int) -> None:
    """In float32 throughout; what is stored in bytes is converted before and after."""
    if any(node.attributes.get(name) is not None for name in ("scores", "probabilities", "product")):
        raise Unplanned("partly quantised attention")
    heads, output = node.attributes["heads"], node.attributes.get("output")
    query, key, value = (_converted(planner, node, each, None) for each in (query, key, value))
    name = node.outputs[0] if output is None else f"{node.outputs[0]}.float"
    y = planner.make(name, query.domain, query.channels, None)
    params = (query, query.tile_bytes, key, key.tile_bytes, value, value.tile_bytes, y, y.tile_bytes, heads, float(node.attributes["scale"]))
    if query.domain == "tokens":
        planner.emit(node, "attention_f32", (depth, _width(planner.isa, query.lanes, 0, "")), params, query.domain, units=heads)
    else:
        planner.emit(node, "attention_f32_rows", (depth,), params, query.domain, units=heads)
    if output is not None:
        _converted(planner, node, y, output, node.outputs[0])


# --- layer norm
def plan_layer_norm(planner: Planner, node: Node) -> None:
    """In exact integers where both inputs are bytes, else in float32."""
    x = planner.buffer(node.inputs[0])
    residual = planner.buffer(node.inputs[1]) if node.inputs[1] else None
    bias, gamma, beta = (planner.constant(name) for name in node.inputs[2:5])
    assert gamma is not None and beta is not None
    output, channels = stored(node.attributes.get("output")), planner.width(node.inputs[0])
    y = planner.make(node.outputs[0], x.domain, channels, output)
    epsilon = float(node.attributes["epsilon"])
    sources = [planner.quantized[x.name], None if residual is None else planner.quantized[residual.name]]
    norm = np.stack([gamma, beta], 1).astype(np.float64)
    if output is not None:
        norm = norm / output.scale + np.array([0, output.zero_point])
    out = (y, y.tile_bytes, 0, 0) if output is not None else (0, 0, y, y.tile_bytes)
    where = (x, x.tile_bytes, *((residual, residual.tile_bytes) if residual else (0, 0)), *out, channels)
    exact = norm_of_bytes(sources, bias, channels, epsilon)
    if exact is not None:
        params = (*where, exact.bias, norm.astype(np.float32), exact.weights, 0, exact.epsilon, 1 / channels, exact.magic)
        planner.emit(node, "layer_norm_bytes", (x.lanes, y.dtype), params, x.domain)
    else:
        floats, scales = float_bias(sources, bias, channels)
        params = (*where, floats, norm.astype(np.float32), *scales, epsilon, 1 / channels)
        planner.emit(node, "layer_norm_floats", (x.lanes, x.dtype, residual.dtype if residual else "none", y.dtype), params, x.domain)
    if node.inputs[0] in planner.kept_axis:
        planner.kept_axis.add(node.outputs[0])
    planner.layer(node, shape=(channels,), dtype=y.dtype, pattern="", zero_ratio=0.0, kernel=planner.steps[-1].kernel_name, bytes=norm.nbytes // 2)


# --- element by element
ELEMENTWISE = {"QuantizeLinear": "none", "DequantizeLinear": "none", "Tanh": "tanh", "Relu": "relu", "Gelu": "gelu"}


def plan_elementwise(planner: Planner, node: Node) -> None:
    """A conversion or an activation that no product took into its epilogue."""
    x = planner.buffer(node.inputs[0])
    if (node.op == "DequantizeLinear") == (x.dtype == "f32") or node.attributes.get("approximate", "none") != "none":
        raise Unplanned(f"x is {x.dtype}")
    output = _quantization_of(planner, node) if node.op == "QuantizeLinear" else None
    _convert(planner, node, x, output, node.outputs[0], ELEMENTWISE[node.op])
    if node.inputs[0] in planner.kept_axis:
        planner.kept_axis.add(node.outputs[0])


def _converted(planner: Planner, node: Node, x: Buffer, output: Quantization | None, name: str = "") -> Buffer:
    """x as float32 (output None) or bytes: itself where it is so already."""
    if output is None and x.dtype == "f32":
        return x
    return _convert(planner, node, x, output, name or f"{x.name}.float", "none")


def _convert(planner: Planner, node: Node, x: Buffer, output: Quantization | None, name: str, activation: str) -> Buffer:
    if name in planner.buffers:
        return planner.buffers[name]
    source = planner.quantized[x.name]
    y = planner.make(name, x.domain, planner.channels[x.name], output)
    result = planner.quantized[name]
    scale, shift = (1.0, 0.0) if source is None else (source.scale, -source.scale * source.zero_point)
    out = (1.0, 0.0) if result is None else (1 / result.scale, result.zero_point + MAGIC)
    params = (x, x.tile_bytes, y, y.tile_bytes, x.channels, float(scale), float(shift), *map(float, out))
    planner.emit(node, "elementwise", (x.lanes, x.dtype, activation, y.dtype), params, x.domain)
    return y


def _quantization_of(planner: Planner, node: Node) -> Quantization:
    scale, zero = planner.constant(node.inputs[1]), planner.constant(node.inputs[2]) if len(node.inputs) > 2 else np.uint8(0)
    if scale is None or zero is None or np.size(scale) != 1 or zero.dtype not in (np.uint8, np.int8):
        raise Unplanned("not one scale for all, or not 8 bits")
    return Quantization(float(np.ravel(scale)[0]), int(np.ravel(zero)[0]), str(zero.dtype))


# --- choosing and renaming
def plan_select(planner: Planner, node: Node) -> None:
    """The first token of each sentence."""
    x, index = planner.buffer(node.inputs[0]), node.attributes.get("index", 0)
    if index != 0 or x.domain != "tokens":
        raise Unplanned(f"token {index} is chosen, not the first")
    planner.uses_cls = True
    y = planner.make(node.outputs[0], "rows", planner.width(node.inputs[0]), planner.quantized[x.name])
    planner.kept_axis.add(node.outputs[0])
    planner.emit(node, "select", (x.dtype,), (x, x.tile_bytes, y, y.tile_bytes, x.channels, index), "rows")


def plan_renaming(planner: Planner, node: Node) -> None:
    """Squeeze, Reshape or Flatten that only drops the axis of the chosen token."""
    x = planner.buffer(node.inputs[0])
    if x.domain != "rows":
        raise Unplanned("not one row a sentence")
    if node.op == "Reshape":
        shape = planner.constant(node.inputs[1])
        if shape is None or len(shape) != 2 or int(shape[1]) not in (-1, planner.width(node.inputs[0])):
            raise Unplanned("changes the channels")
    planner.buffers[node.outputs[0]], planner.quantized[node.outputs[0]] = x, planner.quantized[x.name]


HANDLERS: dict[tuple[str, str], Callable[[Planner, Node], None]] = {
    ("engine", "Embedding"): plan_embedding,
    ("engine", "Linear"): plan_linear,
    ("engine", "Attention"): plan_attention,
    ("engine", "LayerNorm"): plan_layer_norm,
    ("engine", "Select"): plan_select,
    **{("", op): plan_elementwise for op in ELEMENTWISE},
    ("", "Squeeze"): plan_renaming,
    ("", "Flatten"): plan_renaming,
    ("", "Reshape"): plan_renaming,
}
