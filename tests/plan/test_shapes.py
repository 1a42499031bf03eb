"""Plans of graphs that end in odd shapes, scales or masks: the reference's results."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.errors import EngineError
from engine.graph import Graph, Node, Value
from engine.ops import reference
from engine.runtime import Session
from tests.passes.sketch import normal
from tests.tiny import CHANNELS, feeds, tiny_graph


def ending(*nodes: Node, outputs: tuple[str, ...], labels: int = 2, **constants: Any) -> Graph:
    """The tiny model with nodes behind its logits [batch, 1, labels]."""
    graph = tiny_graph()
    arrays = {name: np.asarray(array) for name, array in constants.items()}
    more = {**graph.constants, "head": normal(labels, CHANNELS, seed=9), **arrays}
    values = tuple(Value(name, "float32", ("?",)) for name in outputs)
    return graph.changed(nodes=(*graph.nodes, *nodes), constants=more, outputs=values)


def assert_like_reference(graph: Graph, lengths: list[int], length: int = 8) -> Session:
    session, given = Session(graph), feeds(lengths, length)
    got, wanted = session.run(given), reference.run(graph, given)
    real = given["attention_mask"][..., None] == 1
    for name, array in wanted.items():
        assert got[name].shape == array.shape, name
        keep = real if array.shape[:2] == real.shape[:2] and array.ndim == 3 else True
        np.testing.assert_allclose(
            np.where(keep, got[name], 0), np.where(keep, array, 0), atol=3e-4, err_msg=name
        )
    return session


SHAPERS: dict[str, tuple[Node, dict[str, Any]]] = {
    "squeeze 1": (Node("Squeeze", ("logits", "to"), ("made",)), {"to": [1]}),
    "squeeze -2": (Node("Squeeze", ("logits", "to"), ("made",)), {"to": [-2]}),
    "squeeze the last": (Node("Squeeze", ("logits", "to"), ("made",)), {"to": [2]}),
    "squeeze both": (Node("Squeeze", ("logits", "to"), ("made",)), {"to": [1, 2]}),
    "squeeze what is one": (Node("Squeeze", ("logits",), ("made",)), {}),
    "flatten": (Node("Flatten", ("logits",), ("made",)), {}),
    "flatten 2": (Node("Flatten", ("logits",), ("made",), {"axis": 2}), {}),
    "flatten -1": (Node("Flatten", ("logits",), ("made",), {"axis": -1}), {}),
    "flatten all": (Node("Flatten", ("logits",), ("made",), {"axis": 0}), {}),
    "flatten to one column": (Node("Flatten", ("logits",), ("made",), {"axis": 3}), {}),
    "reshape -1 C": (Node("Reshape", ("logits", "to"), ("made",)), {"to": [-1, 1]}),
    "reshape 0 -1": (Node("Reshape", ("logits", "to"), ("made",)), {"to": [0, -1]}),
    "reshape 1 -1": (Node("Reshape", ("logits", "to"), ("made",)), {"to": [1, -1]}),
    "reshape -1": (Node("Reshape", ("logits", "to"), ("made",)), {"to": [-1]}),
    "reshape to four": (Node("Reshape", ("logits", "to"), ("made",)), {"to": [0, 0, 0, 1]}),
}


@pytest.mark.parametrize("name", SHAPERS)
@pytest.mark.parametrize("batch", [1, 3])
def test_rows_in_any_shape(name: str, batch: int) -> None:
    """One label: every axis but the batch's is one."""
    node, constants = SHAPERS[name]
    graph = ending(node, outputs=("made",), labels=1, **constants)
    assert_like_reference(graph, [8, 3, 5][:batch])


@pytest.mark.parametrize("name", SHAPERS)
def test_two_shapers_of_rows(name: str) -> None:
    """The second finds [batch, labels], or what the first has made."""
    first = Node("Squeeze", ("logits", "axis"), ("rows",))
    node, constants = SHAPERS[name]
    second = node.changed(inputs=("rows", *node.inputs[1:]))
    graph = ending(first, second, outputs=("made",), labels=1, axis=[1], **constants)
    given = feeds([8, 3], 8)
    try:
        wanted = reference.run(graph, given)["made"]
    except EngineError:  # rows do not have the axis
        with pytest.raises(EngineError):
            Session(graph).run(given)
        return
    got = Session(graph).run(given)["made"]
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, atol=3e-4)


SCALES = [
    ((0.5, 128, "uint8"), (0.5, 128, "uint8")),
    ((0.5, 128, "uint8"), (0.25, 128, "uint8")),
    ((0.5, 128, "uint8"), (0.5, 127, "uint8")),
    ((0.5, 0, "int8"), (0.5, 0, "int8")),
    ((0.5, 3, "int8"), (0.5, 0, "int8")),
]


@pytest.mark.parametrize(("stores", "reads"), SCALES, ids=str)
@pytest.mark.parametrize("value", ["z", "logits"])
def test_bytes_are_read_with_the_scale_they_are_read_with(
    stores: tuple[float, int, str], reads: tuple[float, int, str], value: str
) -> None:
    how = [
        {f"scale{i}": np.float32(scale), f"zero{i}": np.array(zero, dtype)}
        for i, (scale, zero, dtype) in enumerate((stores, reads))
    ]
    graph = ending(
        Node("QuantizeLinear", (value, "scale0", "zero0"), ("q",)),
        Node("DequantizeLinear", ("q", "scale1", "zero1"), ("made",)),
        outputs=("made",),
        **how[0],
        **how[1],
    )
    assert_like_reference(graph, [8, 3])


def norm(x: str, residual: str, y: str) -> Node:
    return Node("LayerNorm", (x, residual, "", "one", "zero"), (y,), {"epsilon": 1e-6}, y, "engine")


@pytest.mark.parametrize(("x", "residual"), [("z", "y"), ("first", "row"), ("flat", "flat")])
def test_residuals_of_the_same_shape(x: str, residual: str) -> None:
    graph = ending(
        Node("Select", ("y",), ("row",), {"index": 0}, "", "engine"),
        Node("Squeeze", ("row", "axis"), ("flat",)),
        norm(x, residual, "normed"),
        outputs=("normed",),
        axis=[1],
    )
    session = assert_like_reference(graph, [8, 3])
    assert session.plan is not None and session.plan.fallback is None


def attention(mask: str, y: str) -> Node:
    how = {"heads": 2, "scale": 0.2}
    return Node("Attention", ("z", "z", "z", mask), (y,), how, y, "engine")


@pytest.mark.parametrize("second", ["attention_mask", "other", ""], ids=["same", "other", "none"])
def test_a_second_mask_is_not_the_first(second: str) -> None:
    """Packs leave out what the first one masks: keys of the second attention, too."""
    graph = ending(attention(second, "again"), outputs=("again",))
    others = (Value("other", "int64", ("batch", "sequence")),)
    graph = graph.changed(inputs=(*graph.inputs, *(others if second == "other" else ())))
    given = feeds([8, 5, 3], 8)
    if second == "other":
        given["other"] = 1 - given["attention_mask"]
        given["other"][:, 0] = 1
    session = Session(graph)
    got, wanted = session.run(given)["again"], reference.run(graph, given)["again"]
    keep = given["attention_mask"][..., None] == 1
    np.testing.assert_allclose(np.where(keep, got, 0), np.where(keep, wanted, 0), atol=3e-4)
    assert session.plan is not None
    assert (session.plan.mixes == "") == (second == "attention_mask")


def test_masked_tokens_are_0_beside_rows_that_were_made_first() -> None:
    """Rows of the first layer's value stand before the last one's tokens among the results."""
    graph = ending(
        Node("Select", ("x",), ("early",), {"index": 0}, "", "engine"), outputs=("early", "z")
    )
    nodes = (graph.nodes[0], graph.nodes[-1], *graph.nodes[1:-1])
    session = Session(graph.changed(nodes=nodes))
    assert session.plan is not None and session.plan.results[0].domain == "rows"
    for _ in range(3):
        assert not session.run(feeds([8, 2], 8))["z"][1, 2:].any()


NUMBERS: dict[str, tuple[Node, Any]] = {  # and whether kernels make it
    "scaled": (Node("Mul", ("z", "number"), ("made",)), 3.0),
    "shifted": (Node("Add", ("number", "z"), ("made",)), np.arange(CHANNELS)),
    "taken off": (Node("Sub", ("z", "number"), ("made",)), np.arange(CHANNELS)[None]),
    "taken from": (Node("Sub", ("number", "z"), ("made",)), np.ones((1, 1))),
    "divided": (Node("Div", ("z", "number"), ("made",)), np.arange(1, CHANNELS + 1)),
}
REFUSED_NUMBERS: dict[str, tuple[Node, Any]] = {
    "divides": (Node("Div", ("number", "z"), ("made",)), 0.0),
    "by nothing": (Node("Div", ("z", "number"), ("made",)), 0.0),
    "for each token": (Node("Mul", ("z", "number"), ("made",)), np.ones((8, 1))),
    "of more axes": (Node("Mul", ("z", "number"), ("made",)), np.ones((1, 1, 1, 1))),
}


@pytest.mark.parametrize("name", [*NUMBERS, *REFUSED_NUMBERS])
def test_numbers_for_all_tokens(name: str) -> None:
    node, number = {**NUMBERS, **REFUSED_NUMBERS}[name]
    graph = ending(node, outputs=("made",), number=np.asarray(number, np.float32))
    with np.errstate(divide="ignore", invalid="ignore"):
        session = assert_like_reference(graph, [8, 8])
    assert session.plan is not None
    assert (session.plan.fallback is None) == (name in NUMBERS)


def test_a_layer_behind_rows_taken_from_a_number() -> None:
    """Rows, whichever operand they are."""
    taken = Node("Sub", ("number", "logits"), ("made",))
    layer = Node("Linear", ("made", "more", "", ""), ("end",), {}, "", "engine")
    constants = {"number": np.float32([1, 2]), "more": normal(3, 2, seed=4)}
    session = assert_like_reference(ending(taken, layer, outputs=("end",), **constants), [8, 3, 5])
    assert session.plan is not None and session.plan.fallback is None
