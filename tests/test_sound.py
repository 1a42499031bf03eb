"""Nodes against the rows of their operators: what is refused before a plan is made, in which words.

`tests/tiny.py` is sound; each case here changes one thing of it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.codegen.isa import chosen
from engine.errors import EngineError, ModelError
from engine.formats import store
from engine.graph import Graph, Node, Quantization, Value
from engine.ops import OPERATORS, checked, reference
from engine.ops.operators import DECLARED
from engine.passes.clean import clean
from engine.plan import make_plan
from tests import tiny

Change = Callable[[Graph], Graph]
STEPS = Quantization(0.05, 128)


def constant(name: str, array: Any) -> Change:
    return lambda graph: graph.changed(constants={**graph.constants, name: np.asarray(array)})


def attributes(value: str, /, **changes: Any) -> Change:
    """Of the node that makes this value."""

    def changed(node: Node) -> Node:
        return node.changed(attributes={**node.attributes, **changes})

    def change(graph: Graph) -> Graph:
        return graph.changed(nodes=tuple(changed(n) if value in n.outputs else n for n in graph))

    return change


def inputs(output: str, text: str) -> Change:
    names = tuple("" if name == "-" else name for name in text.split())

    def change(graph: Graph) -> Graph:
        nodes = (node.changed(inputs=names) if output in node.outputs else node for node in graph)
        return graph.changed(nodes=tuple(nodes))

    return change


def table(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


WIDE = np.ones(65, np.float32)
BROKEN: list[tuple[Change, str]] = [
    # shapes: what broadcasts in ONNX, too
    (constant("one", WIDE[:1]), r"'gamma' \('one'\) is float32\[1\]; expected \[C\].*C = 64"),
    (constant("one", WIDE), r"'gamma' \('one'\) is float32\[65\]"),
    (constant("one", np.float32(1)), r"'gamma' \('one'\) is float32\[\]"),
    (constant("positions", table(64, 1)), r"'positions'.*\[64, 1\]; expected \[P, C\]"),
    (constant("types", np.ones(2, np.float32)), r"'types' \('types'\) is float32\[2\]"),
    (constant("words", table(0, 64)), r"'words'.*\[0, 64\].*lengths from 1 up"),
    (constant("wide", table(128, 32)), r"'weight' \('wide'\) is float32\[128, 32\]"),
    (constant("back", table(64, 128, 1)), r"'weight' \('back'\)"),
    (constant("head", table(2, 32)), r"'weight' \('head'\).*K = 64"),
    # types
    (constant("words", np.ones((9, 64))), r"'words'.*float64\[9, 64\]; expected float32"),
    (constant("back", np.ones((64, 128), np.int8)), "precision is float32, the weight int8"),
    (constant("zero", np.zeros(64, np.int64)), r"'beta'.*int64\[64\]; expected float16 or float32"),
    # attributes: types, ranges, names
    (attributes("x", position_offset=-1), "'position_offset' is -1; expected a whole number"),
    (attributes("x", position_offset=64), "position_offset is 64; positions has 64 rows"),
    (attributes("x", padding_id=63), "padding_id is 63; positions has 64 rows"),
    (attributes("x", padding_id=-(10**6)), "'padding_id' is -1000000"),
    (attributes("x", epsilon=-1e-6), "'epsilon' is -1e-06; expected a finite number from 0 up"),
    (attributes("x", epsilon=float("nan")), "'epsilon' is nan"),
    (attributes("z", epsilon=float("inf")), "'epsilon' is inf"),
    (attributes("z", epsilon=True), "'epsilon' is True"),
    (attributes("a", heads=3), "64 channels do not divide into 3 heads"),
    (attributes("a", heads=0), "'heads' is 0; expected a whole number from 1"),
    (attributes("a", heads=2.0), "'heads' is 2.0"),
    (attributes("a", scale=float("inf")), "'scale' is inf; expected a finite number"),
    (attributes("a", scale=1e300), "'scale' is 1e"),
    (attributes("first", index=-0.0), "'index' is -0.0; expected a whole number from 0"),
    (attributes("first", index=False), "'index' is False"),
    (attributes("first", index=np.zeros(0)), r"'index' is array\(\[\]"),
    (attributes("h", activation="mish"), "'activation' is 'mish'; expected one of None, gelu"),
    (attributes("h", pattern="2x2"), "'pattern' is '2x2'; expected one of 4x1, 1x4, dense"),
    (attributes("logits", pattern="4x1"), "N is 2; its pattern needs whole fours"),
    (attributes("h", zero_ratio=1.5), "'zero_ratio' is 1.5; expected a number from 0 to 1"),
    (attributes("h", precision="int4"), "'precision' is 'int4'"),
    (attributes("h", bias=1), "attribute 'bias'; expected input, dynamic, product"),
    (attributes("h", dynamic="token"), "dynamic goes with an int8 weight"),
    (attributes("h", output=Quantization(0.0, 0)), "'output' is Quantization"),
    (attributes("h", output=Quantization(1e39, 0)), "'output' is Quantization"),
    (attributes("h", output=Quantization(1.0, 300)), "'output' is Quantization"),
    (attributes("h", output=Quantization(1.0, 0, "int16")), "'output' is Quantization"),
    # storage: what one node stores and the next reads
    (attributes("h", output=STEPS), r"'x' \('h'\) is uint8\[.*; expected float32"),
    (attributes("y", input=STEPS), r"'x' \('h'\) is float32\[.*; expected uint8"),
    (attributes("a", query=STEPS, precision="bfloat16"), "expected uint8"),
    # inputs
    (inputs("x", "input_ids - words positions types one -"), "gamma and beta come together"),
    (inputs("x", "input_ids token_type_ids words positions - one zero"), "token_type_ids need"),
    (inputs("x", "input_ids - - positions - one zero"), "input 'words' is left out"),
    (inputs("x", "words - words positions types one zero"), r"'input_ids' \('words'\) is float32"),
    (inputs("h", "a x - -"), r"'weight' \('x'\) is float32.*; expected a constant"),
    (inputs("y", "h back one -"), "weight_scale goes with an int8 weight"),
    (inputs("h", "a wide - zero"), r"'bias' \('zero'\) is float32\[64\].*N = 128"),
    (inputs("h", "a wide - - -"), "5 inputs.*; expected x, weight, weight_scale, bias"),
    (inputs("h", "a wide"), "2 inputs.*; expected x, weight, weight_scale, bias"),
    (inputs("z", "y h - one zero"), r"'residual' \('h'\).*C = 64"),
    (inputs("a", "x words x attention_mask"), r"'key' \('words'\)"),
    (inputs("a", "x x x one"), r"'mask' \('one'\)"),
    (inputs("a", "x x x attention_mask back"), r"the bias is \[64, 128\], expected \[2, an odd"),
]  # fmt: skip


def test_the_graph_that_is_changed_is_sound() -> None:
    graph = tiny.tiny_graph()
    assert checked(graph) is graph


@pytest.mark.parametrize(("change", "message"), BROKEN, ids=[m for _, m in BROKEN])
def test_what_does_not_fit_is_refused(change: Change, message: str) -> None:
    graph = change(tiny.tiny_graph())
    with pytest.raises(ModelError, match=rf"tiny: node '.*' \(.*\): .*({message})"):
        checked(graph)
    with pytest.raises(ModelError):
        make_plan(graph, chosen())


def test_the_file_is_named(tmp_path: Path) -> None:
    store.write(constant("one", WIDE[:1])(tiny.tiny_graph()), tmp_path / "ir")
    with pytest.raises(ModelError, match=r"ir/conf.yaml: node 'x_Embedding' \(Embedding\): input"):
        store.read(tmp_path / "ir")


def test_every_operator_of_the_engine_has_a_row() -> None:
    assert {str(row) for row in OPERATORS if row.domain == "engine"} == set(DECLARED)


def test_storage_goes_through_quantize_linear_and_select() -> None:
    nodes = (
        Node("QuantizeLinear", ("f", "scale", "zero"), ("q",)),
        Node("Select", ("q",), ("row",), {"index": 0}, domain="engine"),
        Node("Linear", ("row", "w", "", ""), ("y",), domain="engine"),
    )
    constants = {
        "scale": np.float32(STEPS.scale).reshape(()), "zero": np.array(128, np.uint8),
        "w": np.ones((4, 8), np.int8),
    }  # fmt: skip
    values = (Value("f", "float32", ("b", "s", 8)),), (Value("y", "float32", ("b", 1, 4)),)
    how = Quantization(float(np.float32(STEPS.scale)), 128)
    nodes = (*nodes[:2], nodes[2].changed(attributes={"input": how, "precision": "int8"}))
    graph = Graph("g", *values, nodes, constants)
    assert checked(graph) is graph
    with pytest.raises(ModelError, match="expected what is stored as .*0.1.*, not as .*0.05"):
        other = {**constants, "scale": np.float32(0.05).reshape(())}
        wrong = nodes[2].changed(attributes={"input": Quantization(0.1, 128), "precision": "int8"})
        checked(Graph("g", *values, (*nodes[:2], wrong), other))
    with pytest.raises(ModelError, match="stored as .*128.*, not as .*zero_point=0"):
        bare = nodes[0].changed(inputs=("f", "scale"))
        checked(Graph("g", *values, (bare, *nodes[1:]), constants))


# --- ONNX's own, by the signature of their meaning ---
@pytest.mark.parametrize(
    ("node", "message"),
    [
        (Node("Add", ("x",), ("y",)), r"inputs \['x'\].*expected 2 to 2 inputs"),
        (Node("MatMul", ("x", ""), ("y",)), "expected 2 to 2 inputs"),
        (Node("Relu", ("x", "x"), ("y",)), "expected 1 to 1 inputs"),
        (Node("Relu", ("x",), ("",)), r"outputs \[''\].*and an output"),
        (Node("Softmax", ("x",), ("y",), {"axis": 1.0}), "'axis' is 1.0; expected a whole number"),
        (Node("Softmax", ("x",), ("y",), {"axes": 1}), "attribute 'axes'; expected axis"),
        (Node("Transpose", ("x",), ("y",), {"perm": "10"}), "'perm' is '10'; expected whole"),
        (Node("Cast", ("x",), ("y",), {"to": "U99999"}), "'to' is 'U99999'; expected one of"),
    ],
)  # fmt: skip
def test_onnx_operators(tmp_path: Path, node: Node, message: str) -> None:
    value = Value("x", "float32", ("n", "n"))
    store.write(Graph("g", (value,), (value,), (node,), {}), tmp_path / "ir")
    with pytest.raises(ModelError, match=rf"conf.yaml: operators\[0\]: node .*{message}"):
        store.read(tmp_path / "ir")


# --- what a node may make ---
def number(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


X = np.ones((8, 1), np.float32)
HUGE: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("Add", (np.ones((1 << 14, 1)), np.ones(1 << 14)), {}),
    ("ConstantOfShape", (number(1 << 40),), {}),
    ("DequantizeLinear", (X.astype(np.int8), X), {"block_size": 1 << 40}),
    ("Einsum", (np.ones((1 << 14, 2)), np.ones(1 << 14)), {"equation": "ab,c->b"}),
    ("Expand", (X, number(8, 1 << 40)), {}),
    ("EyeLike", (np.broadcast_to(X[:1], (1 << 13, 1 << 13)),), {}),
    ("Gather", (np.ones((2, 1 << 13)), np.zeros(1 << 13, np.int64)), {}),
    ("GatherND", (np.ones((2, 1 << 13)), np.zeros((1 << 13, 1), np.int64)), {}),
    ("Gemm", (np.ones((1 << 13, 1)), np.ones((1, 1 << 13))), {}),
    ("LayerNormalization", (np.ones((1 << 14, 1)), np.ones(1 << 14)), {}),
    ("MatMul", (np.ones((1 << 13, 1)), np.ones((1, 1 << 13))), {}),
    ("OneHot", (number(1), number(1 << 40), number(0, 1)), {}),
    ("Range", (number(0).reshape(()), number(1 << 40).reshape(()), number(1).reshape(())), {}),
    ("Tile", (X, number(1 << 20, 1 << 20)), {}),
    ("TopK", (X, number(1 << 40)), {}),
    ("Where", (np.ones((1 << 14, 1), bool), np.ones(1 << 14), X[0]), {}),
]


@pytest.mark.parametrize(("op", "arrays", "how"), HUGE, ids=[op for op, *_ in HUGE])
def test_a_node_that_would_make_too_much(op: str, arrays: tuple[Any, ...], how: Any) -> None:
    names = tuple(f"i{place}" for place in range(len(arrays)))
    node = Node(op, names, ("y",), how, name="huge")
    with pytest.raises(ModelError, match=rf"node 'huge' \({op}\): makes or goes through \d+ elem"):
        reference.evaluate(node, arrays)


def test_doubling_is_bounded_by_the_graph() -> None:
    """Sixty Concats of a value with itself."""
    nodes = tuple(
        Node("Concat", (f"v{i}", f"v{i}"), (f"v{i + 1}",), {"axis": 0}) for i in range(60)
    )
    value = Value("v0", "float32", ("n",))
    graph = Graph("g", (value,), (Value("v60", "float32", ("m",)),), nodes, {})
    with pytest.raises(EngineError, match=r"node 'v\d+' \(Concat\): makes or goes through"):
        reference.run(graph, {"v0": np.ones(2, np.float32)})
    constants = {"v0": np.ones(2, np.float32)}
    folded = clean(graph.changed(inputs=(), constants=constants))
    assert sum(array.size for array in folded.constants.values()) < 1 << 26


@pytest.mark.parametrize(
    ("node", "arrays"),
    [
        (Node("Reshape", ("x", "s"), ("y",)), (X, number(-1, -1))),
        (Node("Reshape", ("x", "s"), ("y",)), (X, number(1 << 62, 1 << 62))),
        (Node("Transpose", ("x",), ("y",), {"perm": (1 << 70, 0)}), (X,)),
        (Node("Squeeze", ("x",), ("y",), {"axes": (5,)}), (X,)),
        (Node("Range", ("a", "b", "c"), ("y",)), (X[0, 0], X[0, 0], np.float32(0))),
        (Node("Flatten", ("x",), ("y",), {"axis": 9}), (np.zeros((0, 3)),)),
        (Node("Split", ("x",), ("a", "b", "c"), {"num_outputs": 1 << 40}), (X,)),
        (Node("Relu", ("x",), ("y", "more")), (X,)),
    ],
)
def test_what_numpy_raises_names_the_node(node: Node, arrays: tuple[Any, ...]) -> None:
    with pytest.raises(ModelError, match=rf"node '{node.outputs[0]}' \({node.op}\): ."):
        reference.evaluate(node, arrays)
