"""Folding, shapes and idle operators."""

from __future__ import annotations

import numpy as np

from engine.passes.clean import clean
from tests.passes.sketch import Sketch, assert_same, normal, only, operators

HIDDEN = ("float32", ("batch", "sequence", 8))
X = {"x": normal(2, 5, 8)}


def whole(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def test_constants_are_computed() -> None:
    sketch = Sketch(x=HIDDEN)
    graph = sketch.graph(sketch.Add("x", sketch.Sqrt(sketch.Mul(3.0, 3.0))))
    after = clean(graph)
    assert operators(after) == ["Add"]
    assert_same(graph, after, **X)


def test_weights_in_8_bits_keep_their_8_bits() -> None:
    sketch = Sketch(x=HIDDEN)
    weight = sketch.DequantizeLinear(np.ones((8, 4), np.int8), np.float32(0.5), np.int8(0))
    assert operators(clean(sketch.graph(sketch.MatMul("x", weight)))) == [
        "DequantizeLinear",
        "MatMul",
    ]


def split_into_heads(sketch: Sketch, *, order: tuple[int, ...] = (0, 1)) -> str:
    """As torch writes x.view(x.shape[0], x.shape[1], 2, 4)."""
    lengths = [
        sketch.Unsqueeze(sketch.Gather(sketch.Shape("x"), np.int64(i)), whole(0)) for i in order
    ]
    return str(sketch.Reshape("x", sketch.Concat(*lengths, whole(2), whole(4), axis=0)))


def test_the_shape_of_a_reshape_is_read_off() -> None:
    sketch = Sketch(x=HIDDEN)
    graph = sketch.graph(split_into_heads(sketch))
    after = clean(graph)
    assert operators(after) == ["Reshape"]
    assert after.constants[only(after, "Reshape").inputs[1]].tolist() == [0, 0, 2, 4]
    assert_same(graph, after, **X)


def test_a_shape_that_cannot_be_read_off_stays() -> None:
    sketch = Sketch(x=HIDDEN)
    graph = sketch.graph(split_into_heads(sketch, order=(1, 0)))
    assert "Concat" in operators(clean(graph))  # two lengths moved: neither 0 nor one -1 says it
    assert_same(graph, clean(graph), **X)


def test_minus_one_in_expand_is_resolved() -> None:
    """torch's expand(-1, ...): Where(shape == -1, lengths, shape)."""
    sketch = Sketch(x=("float32", ("batch", 1, "sequence")))
    wanted = whole(-1, 1, -1)
    minus = sketch.Mul(sketch.ConstantOfShape(whole(3), value=np.array([1])), whole(-1))
    lengths = sketch.Where(sketch.Equal(wanted, minus), sketch.Shape("x"), wanted)
    graph = sketch.graph(sketch.Neg(sketch.Expand("x", lengths)))
    assert operators(clean(graph)) == ["Neg"]


def test_lengths_are_read_from_inputs() -> None:
    sketch = Sketch(x=HIDDEN)
    heavy = sketch.Exp("x")
    length = sketch.Gather(sketch.Shape(heavy), np.int64(1))
    rows = sketch.Slice(
        np.arange(40).reshape(1, 40), whole(0), sketch.Unsqueeze(length, whole(0)), whole(1)
    )
    graph = sketch.graph(sketch.Tanh(heavy), rows)
    after = clean(graph)
    assert only(after, "Shape").inputs == ("x",)
    assert_same(graph, after, **X)


def test_idle_operators_go() -> None:
    sketch = Sketch(x=HIDDEN)
    y = sketch.Identity(sketch.Dropout(sketch.Cast("x", to="float32")))
    y = sketch.Transpose(sketch.Mul(sketch.Reshape(y, whole(0, 0, 8)), 1.0), perm=(0, 1, 2))
    y = sketch.Slice(y, whole(0), whole(2**63 - 1), whole(1), whole(1))
    assert operators(clean(sketch.graph(sketch.Neg(y)))) == ["Neg"]


def test_an_output_keeps_its_name() -> None:
    sketch = Sketch(x=HIDDEN)
    graph = sketch.graph(sketch.Identity(sketch.Neg("x")))
    after = clean(graph).check()
    assert operators(after) == ["Neg"]
    assert after.nodes[0].outputs == (graph.outputs[0].name,)


def test_operators_that_do_something_stay() -> None:
    sketch = Sketch(x=HIDDEN)
    y = sketch.Cast(sketch.Cast("x", to="int64"), to="float32")
    y = sketch.Add(sketch.Mul(y, np.ones((3, 1, 1, 1))), 1e-30)  # the product adds an axis
    assert operators(clean(sketch.graph(y))) == ["Cast", "Cast", "Mul", "Add"]


def test_reversing_is_not_idle() -> None:
    sketch = Sketch(x=("float32", (4,)))
    graph = sketch.graph(sketch.Slice("x", whole(-1), whole(-(2**31)), whole(0), whole(-1)))
    assert operators(clean(graph)) == ["Slice"]


def test_twins_are_computed_once() -> None:
    sketch = Sketch(x=HIDDEN)
    graph = sketch.graph(sketch.Add(sketch.Exp("x"), sketch.Exp("x")))
    assert operators(clean(graph)) == ["Exp", "Add"]
    assert_same(graph, clean(graph), **X)


def test_what_cannot_be_computed_is_left_for_the_run_to_report() -> None:
    sketch = Sketch()
    graph = sketch.graph(sketch.Add(np.ones(2), np.ones(3)))
    assert operators(clean(graph)) == ["Add"]


def put_together(sketch: Sketch, *sizes: int) -> list[str]:
    """Of two values with an axis more, one behind the other, the parts of these sizes."""
    parts = [sketch.Unsqueeze(name, whole(2)) for name in ("x", "y")]
    joined = sketch.Concat(*parts, axis=2)
    split = sketch.Split(joined, whole(*sizes), axis=2, outputs=len(sizes))
    split = [split] if isinstance(split, str) else split
    return [sketch.Relu(sketch.Squeeze(part, whole(2))) for part in split]


def test_what_is_put_together_and_split_again_is_what_it_was() -> None:
    sketch = Sketch(x=HIDDEN, y=HIDDEN)
    graph = sketch.graph(*put_together(sketch, 1, 1))
    after = clean(graph)
    assert operators(after) == ["Relu", "Relu"]
    assert_same(graph, after, **X, y=normal(2, 5, 8, seed=1))


def test_parts_of_other_sizes_stay_together() -> None:
    sketch = Sketch(x=HIDDEN, y=HIDDEN)
    parts = sketch.Split(sketch.Concat("x", "y", axis=-1), whole(4, 12), axis=-1, outputs=2)
    graph = sketch.graph(*parts)
    assert operators(clean(graph)) == ["Concat", "Split"]
