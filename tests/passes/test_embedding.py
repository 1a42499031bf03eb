"""Embeddings: words, positions, token types."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.graph import Graph
from engine.passes.clean import clean
from engine.passes.embedding import FUSIONS, embedding
from engine.passes.fusion import why
from engine.passes.layer_norm import layer_norm
from engine.passes.simulate import simulate
from tests.passes.sketch import Sketch, assert_same, normal, only, operators

IDS = ("int64", ("batch", "sequence"))
WORDS, POSITIONS, TYPES = normal(30, 8, seed=1), normal(12, 8, seed=2), normal(2, 8, seed=3)
FEEDS = {
    "ids": np.random.default_rng(0).integers(0, 30, (2, 6)),
    "types": np.random.default_rng(1).integers(0, 2, (2, 6)),
}


def whole(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def length(s: Sketch) -> str:
    return str(s.Gather(s.Shape("ids"), whole(1)))


def sliced(s: Sketch, first: int = 0) -> str:
    """A table 0, 1, 2 ... cut to the length."""
    table = np.arange(first, 12)[None]
    return str(s.Slice(table, whole(0), length(s), whole(1)))


def counted(s: Sketch) -> str:
    return str(s.Range(np.int64(0), s.Squeeze(length(s), whole(0)), np.int64(1)))


def normalised(s: Sketch, total: str) -> Graph:
    gamma, beta = s.constant(normal(8), "bert.embeddings.LayerNorm.weight"), normal(8)
    return s.graph(s.LayerNormalization(total, gamma, beta, axis=-1, epsilon=1e-12))


def sketch_of(
    places: Any, *, types: bool = True, positions: np.ndarray = POSITIONS, kinds: np.ndarray = TYPES
) -> tuple[Sketch, Graph]:
    inputs = {"ids": IDS} | ({"types": IDS} if types else {})
    s = Sketch(**inputs)
    total = s.Gather(s.constant(WORDS, "words"), "ids", axis=0)
    if types:
        total = s.Add(total, s.Gather(kinds, "types", axis=0))
    return s, normalised(s, s.Add(total, s.Gather(positions, places(s), axis=0)))


def fused(graph: Graph) -> Graph:
    return embedding(layer_norm(simulate(clean(graph))))


@pytest.mark.parametrize("places", [sliced, counted])
@pytest.mark.parametrize("types", [True, False])
def test_positions_counted_from_0(places: Any, types: bool) -> None:
    _, graph = sketch_of(places, types=types)
    after = fused(graph)
    assert operators(after) == ["Embedding"]
    node = only(after, "Embedding")
    assert node.inputs[:3] == ("ids", "types" if types else "", "words")
    assert node.attributes["position_offset"] == 0
    assert node.name == "bert.embeddings"
    assert_same(graph, after, **{n: FEEDS[n] for n in (["ids", "types"] if types else ["ids"])})


def test_positions_counted_from_an_offset() -> None:
    _, graph = sketch_of(lambda s: sliced(s, 2))
    after = fused(graph)
    assert only(after, "Embedding").attributes["position_offset"] == 2
    assert_same(graph, after, **FEEDS)


def test_positions_of_what_is_no_padding() -> None:
    """RoBERTa: cumsum(ids != 1) * (ids != 1) + 1."""

    def places(s: Sketch) -> str:
        real = s.Cast(s.Not(s.Equal("ids", np.int64(1))), to="int64")
        return str(s.Add(s.Mul(s.CumSum(real, np.int64(1)), real), np.int64(1)))

    _, graph = sketch_of(places)
    after = fused(graph)
    assert only(after, "Embedding").attributes["padding_id"] == 1
    ids = np.where(np.arange(6) < [[6], [3]], FEEDS["ids"], 1)
    assert_same(graph, after, ids=ids, types=FEEDS["types"])


def test_one_type_for_all_is_added_to_the_positions() -> None:
    s = Sketch(ids=IDS)
    zeros = s.ConstantOfShape(s.Shape("ids"), value=np.array([0]))
    total = s.Add(s.Gather(WORDS, "ids", axis=0), s.Gather(TYPES, zeros, axis=0))
    graph = normalised(s, s.Add(total, s.Gather(POSITIONS, sliced(s), axis=0)))
    after = fused(graph)
    node = only(after, "Embedding")
    assert (node.inputs[1], node.inputs[4]) == ("", "")
    np.testing.assert_array_equal(after.constants[node.inputs[3]], POSITIONS + TYPES[0])
    assert_same(graph, after, ids=FEEDS["ids"])


def test_tables_in_8_bits_are_dequantised() -> None:
    s = Sketch(ids=IDS)
    table = np.random.default_rng(0).integers(0, 256, (30, 8)).astype(np.uint8)
    words = s.DequantizeLinear(table, np.float32(0.02), np.uint8(128))
    rows = s.round_trip(s.Gather(words, "ids", axis=0), 0.03)
    graph = normalised(s, s.Add(rows, s.Gather(POSITIONS, sliced(s), axis=0)))
    after = fused(graph)
    assert operators(after) == ["Embedding"]
    assert_same(graph, after, ids=FEEDS["ids"])


@pytest.mark.parametrize("positions", [1, 8], ids="positions of {}".format)
@pytest.mark.parametrize("kinds", [1, 8], ids="types of {}".format)
def test_tables_of_one_column_are_spread(positions: int, kinds: int) -> None:
    _, graph = sketch_of(sliced, positions=POSITIONS[:, :positions], kinds=TYPES[:, :kinds])
    after = fused(graph)
    node = only(after, "Embedding")
    assert {after.constants[name].shape[1] for name in node.inputs[2:5]} == {8}
    assert_same(graph, after, **FEEDS)


def test_one_column_of_one_type_for_all_is_spread() -> None:
    s = Sketch(ids=IDS)
    kind = s.Gather(TYPES[:, :1], s.ConstantOfShape(s.Shape("ids"), value=np.array([1])), axis=0)
    total = s.Add(s.Gather(WORDS, "ids", axis=0), kind)
    graph = normalised(s, s.Add(total, s.Gather(POSITIONS[:, :1], counted(s), axis=0)))
    after = fused(graph)
    assert operators(after) == ["Embedding"]
    assert_same(graph, after, ids=FEEDS["ids"])


# --- refused ---
@pytest.mark.parametrize("widths", [(1, 8, 1), (1, 1, 8), (1, 8, 8)], ids=str)
def test_words_narrower_than_another_table_are_refused(widths: tuple[int, int, int]) -> None:
    """The sum is as wide as the widest."""
    s = Sketch(ids=IDS, types=IDS)
    words, positions, types = widths
    total = s.Add(
        s.Gather(WORDS[:, :words], "ids", axis=0), s.Gather(TYPES[:, :types], "types", axis=0)
    )
    total = s.Add(total, s.Gather(POSITIONS[:, :positions], counted(s), axis=0))
    graph = normalised(s, total)
    after = fused(graph)
    assert "Embedding" not in operators(after)
    assert_same(graph, after, **FEEDS)


ROWS = [(8,), (1, 8), (1, 1, 8), (6, 8), (6, 1), (2, 6, 8), (1, 1), (2, 1, 8)]


@pytest.mark.parametrize("shape", ROWS, ids=str)
@pytest.mark.parametrize("length", ["sequence", 6], ids=str)
def test_constant_rows_are_positions_of_that_very_length(
    shape: tuple[int, ...], length: int | str
) -> None:
    """A row for all tokens (or for each sentence) is nothing that numbers tokens."""
    s = Sketch(ids=("int64", ("batch", length)))
    graph = normalised(s, s.Add(s.Gather(WORDS, "ids", axis=0), normal(*shape, seed=7)))
    after = fused(graph)
    right = length == 6 and shape in [(6, 8), (6, 1)]
    assert ("Embedding" in operators(after)) == right
    assert_same(graph, after, ids=FEEDS["ids"])


def clipped(s: Sketch) -> str:
    return str(s.Min(counted(s), np.int64(9)))


def wrapped(s: Sketch) -> str:
    return str(s.Mod(counted(s), np.int64(10)))


@pytest.mark.parametrize("places", [clipped, wrapped])
def test_positions_that_part_late_are_refused(places: Any) -> None:
    """0, 1, 2 ... for the first ten tokens only, in a table of twelve rows."""
    _, graph = sketch_of(places)
    after = fused(graph)
    assert "Embedding" not in operators(after)
    given = {name: np.tile(array, 2) for name, array in FEEDS.items()}
    assert_same(graph, after, **given)


def test_types_that_change_late_are_refused() -> None:
    s = Sketch(ids=IDS)
    kinds = s.Cast(s.Greater(counted(s), np.int64(9)), to="int64")
    total = s.Add(s.Gather(WORDS, "ids", axis=0), s.Gather(TYPES, kinds, axis=0))
    graph = normalised(s, s.Add(total, s.Gather(POSITIONS, sliced(s), axis=0)))
    after = fused(graph)
    assert "Embedding" not in operators(after)
    assert_same(graph, after, ids=np.tile(FEEDS["ids"], 2))


def test_ids_of_one_sentence_without_a_batch_are_refused() -> None:
    s = Sketch(ids=("int64", ("sequence",)))
    places = s.Range(np.int64(0), s.Gather(s.Shape("ids"), np.int64(0)), np.int64(1))
    total = s.Add(s.Gather(WORDS, "ids", axis=0), s.Gather(POSITIONS, places, axis=0))
    graph = normalised(s, total)
    after = fused(graph)
    assert "Embedding" not in operators(after)
    assert_same(graph, after, ids=FEEDS["ids"][0])


def test_positions_of_another_length_are_refused() -> None:
    """Five numbers do not go with six tokens; ONNX refuses the sum."""
    _, graph = sketch_of(lambda s: s.constant(np.arange(5)[None]))
    assert "Embedding" not in operators(fused(graph))


def test_a_position_for_each_sentence_is_refused() -> None:
    def places(s: Sketch) -> str:
        rows = s.Range(np.int64(0), s.Gather(s.Shape("ids"), np.int64(0)), np.int64(1))
        return str(s.Unsqueeze(rows, np.array([1])))

    _, graph = sketch_of(places)
    after = fused(graph)
    assert "Embedding" not in operators(after)
    assert_same(graph, after, **FEEDS)


@pytest.mark.parametrize("rows", ["batch", 1], ids="{} rows".format)
@pytest.mark.parametrize("types", [False, True], ids=["no types", "types"])
def test_positions_given_as_an_input(rows: int | str, types: bool) -> None:
    """Of two tables that inputs look up, the longer one is that of the positions."""
    s = Sketch(ids=IDS, types=IDS, places=("int64", (rows, "sequence")))
    total = s.Add(s.Gather(WORDS, "ids", axis=0), s.Gather(POSITIONS, "places", axis=0))
    total = s.Add(total, s.Gather(TYPES, "types", axis=0)) if types else total
    graph = normalised(s, total)
    after = fused(graph)
    node = only(after, "Embedding")
    alone = not types and rows == "batch"  # looked up as token types are, whatever the numbers
    wanted = ("", "places") if alone else ("places", "types" if types else "")
    assert (node.position_ids, node.token_type_ids) == wanted
    places = np.array([[3, 0, 1, 5, 4, 2], [0, 1, 2, 3, 4, 5]])[: 1 if rows == 1 else 2]
    assert_same(graph, after, **FEEDS, places=places)


def test_positions_of_every_second_sentence_are_refused() -> None:
    s = Sketch(ids=IDS, places=("int64", ("2*batch", "sequence")))
    places = s.Slice("places", whole(0), whole(2), whole(0))
    total = s.Add(s.Gather(WORDS, "ids", axis=0), s.Gather(POSITIONS, places, axis=0))
    graph = layer_norm(normalised(s, total))
    assert "Embedding" not in operators(embedding(graph))
    assert "does not number the tokens" in why(graph, FUSIONS[0])


def test_every_second_position_is_refused() -> None:
    _, graph = sketch_of(lambda s: s.Div(sliced(s), np.int64(2)))
    assert "Embedding" not in operators(fused(graph))


def test_rows_read_elsewhere_are_refused_with_a_reason() -> None:
    s = Sketch(ids=IDS)
    rows = s.Gather(WORDS, "ids", axis=0)
    total = s.Add(rows, s.Gather(POSITIONS, sliced(s), axis=0))
    norm = s.LayerNormalization(total, normal(8), normal(8), axis=-1)
    graph = layer_norm(clean(s.graph(norm, s.Neg(rows))))
    assert "Embedding" not in operators(embedding(graph))
    assert "is also read by" in why(graph, FUSIONS[0])


def test_a_model_of_one_length_has_its_positions_folded() -> None:
    s = Sketch(ids=("int64", ("batch", 6)), types=("int64", ("batch", 6)))
    total = s.Add(s.Gather(WORDS, "ids", axis=0), s.Gather(TYPES, "types", axis=0))
    graph = normalised(s, s.Add(total, s.Gather(POSITIONS, sliced(s), axis=0)))
    after = fused(graph)
    assert operators(after) == ["Embedding"]
    assert_same(graph, after, **FEEDS)


def test_padding_may_have_any_small_id() -> None:
    def places(s: Sketch) -> str:
        real = s.Cast(s.Not(s.Equal("ids", np.int64(0))), to="int64")
        return str(s.Mul(s.CumSum(real, np.int64(1)), real))

    _, graph = sketch_of(places)
    after = fused(graph)
    assert only(after, "Embedding").attributes["padding_id"] == 0
    assert_same(graph, after, **FEEDS)


def with_a_norm(s: Sketch, total: str, *more: str) -> Graph:
    """What T5's first layer reads: the value itself, and its RMSNorm."""
    norm = s.RMSNormalization(total, normal(8, seed=5), axis=-1, epsilon=1e-6)
    return s.graph(s.Add(total, norm), *more)


def test_words_alone_where_a_norm_reads_them() -> None:
    s = Sketch(opset=23, ids=IDS)
    graph = with_a_norm(s, s.Gather(s.constant(WORDS, "words"), "ids", axis=0))
    after = fused(graph)
    assert operators(after) == ["Embedding", "LayerNorm", "Add"]
    assert after.nodes[0].inputs == ("ids", "", "words", "", "", "", "")
    assert_same(graph, after, ids=FEEDS["ids"])


def test_words_alone_stay_where_something_is_added_first() -> None:
    s = Sketch(opset=23, ids=IDS)
    total = s.Add(s.Gather(WORDS, "ids", axis=0), normal(8))
    graph = fused(with_a_norm(s, total))
    assert "Embedding" not in operators(graph)
    assert "no norm reads" in why(graph, FUSIONS[1])


@pytest.mark.parametrize("types", [True, False])
def test_normalised_without_positions(types: bool) -> None:
    s = Sketch(**({"ids": IDS} | ({"types": IDS} if types else {})))
    total = s.Gather(s.constant(WORDS, "words"), "ids", axis=0)
    graph = normalised(s, s.Add(total, s.Gather(TYPES, "types", axis=0)) if types else total)
    after = fused(graph)
    assert operators(after) == ["Embedding"]
    assert after.nodes[0].inputs[:4] == ("ids", "types" if types else "", "words", "")
    assert_same(graph, after, **{n: FEEDS[n] for n in (["ids", "types"] if types else ["ids"])})


def test_a_norm_that_is_not_centred_is_no_embeddings() -> None:
    s = Sketch(opset=23, ids=IDS)
    graph = fused(s.graph(s.RMSNormalization(s.Gather(WORDS, "ids", axis=0), normal(8), axis=-1)))
    assert operators(graph) == ["Embedding", "LayerNorm"]
    assert only(graph, "Embedding").inputs[5:] == ("", "")


@pytest.mark.parametrize("types", [True, False])
@pytest.mark.parametrize("first", ["types", "positions"])
def test_sums_that_are_rounded_one_after_the_other(first: str, types: bool) -> None:
    """As BERT adds them, and SqueezeBERT; types are an input, or always the same."""
    s = Sketch(ids=IDS, types=IDS)
    kinds = "types" if types else s.Mul(s.Shape("ids"), np.int64(0))
    kinds = kinds if types else s.Expand(s.Gather(kinds, whole(0)), s.Shape("ids"))
    parts = {
        "types": s.Gather(TYPES, kinds, axis=0),
        "positions": s.Gather(POSITIONS, counted(s), axis=0),
    }
    total = s.Gather(s.constant(WORDS, "words"), "ids", axis=0)
    for name in sorted(parts, key=lambda each: each != first):
        total = s.round_trip(s.Add(total, parts[name]), 0.037)
    graph = normalised(s, total)
    after = embedding(layer_norm(simulate(clean(graph))))
    node = only(after, "Embedding")
    assert node.attributes["first"] == (first if types or first == "positions" else "types")
    assert_same(graph, after, **FEEDS)
