"""IR folder: what is written is read back the same; what is damaged is refused, never misread."""

from __future__ import annotations

import pickle
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from engine.errors import EngineError, IntegrityError, ModelError
from engine.formats import blocks, models, store
from engine.graph import BLOCKS, Graph, Node, Quantization, Value
from engine.ops import not_finite
from engine.ops.numbers import round_to_bfloat16

PLAIN_TYPES = ["bool", "int8", "uint8", "int16", "int32", "int64", "float16", "float32", "float64"]
FAST = settings(max_examples=60, deadline=None)


def pruned(shape: tuple[int, int], pattern: str, dtype: str = "int8") -> np.ndarray:
    """A weight of which one block in eight is not zero."""
    random = np.random.default_rng(3)
    block = BLOCKS[pattern]
    mask = random.random((shape[0] // block[0], shape[1] // block[1])) < 1 / 8
    return (random.integers(-127, 128, shape) * np.kron(mask, np.ones(block))).astype(dtype)


def linear_graph(weight: np.ndarray, **attributes: object) -> Graph:
    how = {"input": Quantization(0.02, 113), "activation": "gelu", "output": None, **attributes}
    node = Node("Linear", ("x", "w", "", "b"), ("y",), how, "layer.0", "engine")
    shape: tuple[int | str, ...] = ("batch", weight.shape[1])
    return Graph(
        "one",
        (Value("x", "uint8", shape),),
        (Value("y", "float32", ("batch", weight.shape[0])),),
        (node,),
        {"w": weight, "b": np.arange(weight.shape[0], dtype=np.float32)},
        14,
    )


def same(a: Graph, b: Graph) -> None:
    assert a.changed(constants={}) == b.changed(constants={})
    assert list(a.constants) == list(b.constants)
    for name, array in a.constants.items():
        assert b.constants[name].dtype == array.dtype
        assert b.constants[name].shape == array.shape
        np.testing.assert_array_equal(b.constants[name], array)


@pytest.mark.parametrize("pattern", ["4x1", "1x4", "dense"])
@pytest.mark.parametrize("precision", ["int8", "float32", "bfloat16"])
def test_linear_comes_back(tmp_path: Path, pattern: str, precision: str) -> None:
    dtype = "int8" if precision == "int8" else "float32"
    weight = pruned((64, 128), "4x1" if pattern == "dense" else pattern, dtype)
    graph = linear_graph(weight, pattern=pattern, precision=precision)
    store.write(graph, tmp_path / "ir")
    found = store.read(tmp_path / "ir")
    same(graph, found)
    assert isinstance(found.constants, store.Stored)
    width = {"int8": 1, "float32": 4, "bfloat16": 2}[precision]
    assert (found.constants.size("w") < weight.size * width) == (pattern != "dense")


def test_reads_from_conf_and_bin_paths(tmp_path: Path) -> None:
    graph = linear_graph(pruned((8, 8), "4x1"))
    store.write(graph, tmp_path / "ir")
    (tmp_path / "ir" / "model.bin").rename(tmp_path / "moved.bin")
    same(graph, store.read(tmp_path / "ir" / "conf.yaml", tmp_path / "moved.bin"))


def test_raw_constants_are_views_of_the_map(tmp_path: Path) -> None:
    store.write(linear_graph(pruned((8, 8), "4x1")), tmp_path / "ir")
    bias = store.read(tmp_path / "ir").constants["b"]
    assert not bias.flags.owndata
    assert not bias.flags.writeable
    assert bias.ctypes.data % 64 == 0


def test_blocks_are_expanded_once_in_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not at all for what concerns numbers alone."""
    weight, asked = pruned((64, 128), "4x1"), []
    store.write(linear_graph(weight, pattern="4x1"), tmp_path / "ir")
    graph, real = store.read(tmp_path / "ir"), blocks.expand
    monkeypatch.setattr(blocks, "expand", lambda *given: asked.append(1) or real(*given))
    assert np.count_nonzero(graph.numbers("w")) == np.count_nonzero(weight)
    assert not not_finite(graph) and not asked
    assert graph.constants["w"] is graph.constants["w"] and len(asked) == 1
    models.forget(graph)
    np.testing.assert_array_equal(graph.constants["w"], weight)
    assert len(asked) == 2


def test_pickled_by_path(tmp_path: Path) -> None:
    graph = linear_graph(pruned((64, 128), "4x1"), pattern="4x1", precision="int8")
    store.write(graph, tmp_path / "ir")
    content = pickle.dumps(store.read(tmp_path / "ir"))
    assert len(content) < 2000
    same(graph, pickle.loads(content))


def test_replaces_an_ir_but_nothing_else(tmp_path: Path) -> None:
    first, second = (linear_graph(pruned((8, n), "4x1")) for n in (8, 16))
    store.write(first, tmp_path / "ir")
    store.write(second, tmp_path / "ir")
    same(second, store.read(tmp_path / "ir"))
    assert [path.name for path in tmp_path.iterdir()] == ["ir"]
    (tmp_path / "ir" / "thesis.txt").write_text("years of work")
    with pytest.raises(ModelError, match="holds other files"):
        store.write(first, tmp_path / "ir")


def test_attributes_keep_their_types(tmp_path: Path) -> None:
    attributes = {
        "order": (0, 2, 1),
        "alpha": 1e-12,
        "low": float("-inf"),
        "text": "4x1",
        "flag": True,
        "none": None,
        "how": Quantization(float(np.float32(0.1)), -3, "int8"),
        "value": np.array([[1, 2]], np.int32),
    }
    node = Node("QuickGelu", ("x",), ("y",), attributes, domain="com.microsoft")
    value = (Value("x", "float32", (1, "s", 3)),)
    graph = Graph("g", value, (Value("y", "float32", (1, 3, "s")),), (node,), {}, 17)
    store.write(graph, tmp_path / "ir")
    found = dict(store.read(tmp_path / "ir").nodes[0].attributes)
    np.testing.assert_array_equal(found.pop("value"), attributes.pop("value"))
    assert found == attributes
    assert {key: type(v) for key, v in found.items()} == {k: type(v) for k, v in attributes.items()}


@pytest.mark.parametrize("name", ["0E0", "1e5", "12", "+1", ".inf", "null", "~", "true", "a: b"])
def test_names_that_look_like_numbers_come_back_as_names(name: str, tmp_path: Path) -> None:
    values = (Value("x", "float32", (2,)),)
    node = Node("Add", ("x", name), ("y",))
    constants = {name: np.ones(2, np.float32)}
    graph = Graph("g", values, (Value("y", "float32", (2,)),), (node,), constants, 17)
    store.write(graph, tmp_path / "ir")
    found = store.read(tmp_path / "ir")
    assert found.nodes[0].inputs == node.inputs
    assert list(found.constants) == [name]


@FAST
@given(data=st.data())
def test_any_constant_comes_back(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("any") / "ir"
    dtype = st.sampled_from(PLAIN_TYPES).map(np.dtype)
    shape = arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5)
    constants = data.draw(
        st.dictionaries(st.text(min_size=1, max_size=8), arrays.arrays(dtype, shape), max_size=4)
    )
    graph = Graph("any", (), (), (), constants)
    store.write(graph, folder)
    same(graph, store.read(folder))


@FAST
@given(
    weight=arrays.arrays(
        np.float32,
        st.tuples(st.sampled_from([4, 8, 12]), st.sampled_from([4, 8])),
        elements=st.sampled_from([0.0, 0.0, 0.0, -0.0, 1.5, float("nan"), float("inf")]),
    ),
    pattern=st.sampled_from(["4x1", "1x4"]),
)
def test_blocks_come_back(weight: np.ndarray, pattern: str) -> None:
    found = blocks.expand(blocks.extract(weight, pattern), weight.shape, pattern)
    np.testing.assert_array_equal(found, weight)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("written") / "ir"
    weight = round_to_bfloat16(pruned((32, 64), "4x1", "float32"))
    store.write(linear_graph(weight, pattern="4x1", precision="bfloat16"), folder)
    return {name: (folder / name).read_bytes() for name in (store.CONF, store.BIN)}


def place(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damage_is_refused(
    tmp_path_factory: pytest.TempPathFactory, written: dict[str, bytes], data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted(written)))
    content = bytearray(written[name])
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    folder = place(tmp_path_factory.mktemp("damaged"), {**written, name: bytes(content)})
    try:
        found = store.read(folder)
    except EngineError:
        return
    # Only padding between tensors may change unseen; what is read is then the same.
    whole = store.read(place(folder.with_name(f"{folder.name}.whole"), written))
    same(whole, found)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("format: sparse engine", "format: other", "format 'other'; expected 'sparse engine'"),
        ("version: 1", "version: 9", "version 9; expected 1"),
        ("op: Linear", "op: Convolution", "Convolution is not supported"),
        ("form: 4x1", "form: 9x9", r"tensors\[0\]: form: '9x9'; expected one of raw, 4x1, 1x4"),
        ("zero_point: 113", "zero_point: 400", "expected a whole number that fits uint8"),
        ("scale: 0.02", "scale: -1.0", "expected a number above 0"),
        ("dtype: uint8\n", "dtype: string\n", "expected one of bool"),
        ("name: one", "name: [one]", r"name: \['one'\]; expected text"),
        ("name: one", "name: &a [*a]", "alias"),
        ("name: one", "name: one\nname: two", "key 'name' is there twice"),
        ("name: one", f"name: {'[' * 20000}{']' * 20000}", "at most 32 lists and maps"),
        ("name: one", f"name: {'9' * 10**6}", "a word of 1000000 letters"),
        ("name: one", "name: !!python/object/apply:os.getpid []", "a tag"),
        ("name: one", "name: 'one", "not YAML as expected"),
        ("name: one", "name: !!str one", "a tag"),
        ("name: one", "name: one\n---\nname: two", "not YAML as expected: too many values"),
        ("opset: 14", "opset: " + "9" * 3000, r"opset: \d+\.\.\.; expected a whole number"),
        ("name: b\n  dtype", "name: w\n  dtype", "tensors: a name is there twice"),
        ("  - 32\n  - 64\n", "  - 32\n  - 9223372036854775807\n", "at most 32 lengths and"),
    ],
)
def test_conf_is_checked(
    tmp_path: Path, written: dict[str, bytes], old: str, new: str, message: str
) -> None:
    body = written[store.CONF].decode().rpartition("# crc32")[0]
    assert old in body
    body = body.replace(old, new, 1)
    text = f"{body}# crc32 of the lines above: {zlib.crc32(body.encode()):08x}\n"
    with pytest.raises(ModelError, match=message):
        store.read(place(tmp_path, {**written, store.CONF: text.encode()}))


@pytest.mark.parametrize("form", ["4x1", "1x4"])
def test_blocks_of_a_few_bytes_do_not_become_gigabytes(tmp_path: Path, form: str) -> None:
    lines, inputs = {"4x1": 4, "1x4": 1}[form], 1 << 28
    weight = np.zeros((lines, 64), np.float32)
    store.write(linear_graph(weight, pattern=form, precision="float32"), tmp_path / "ir")
    conf = tmp_path / "ir" / store.CONF
    text = conf.read_text().rpartition("# crc32")[0].replace("- 64\n", f"- {inputs}\n")
    conf.write_text(f"{text}# crc32 of the lines above: {zlib.crc32(text.encode()):08x}\n")
    with pytest.raises(IntegrityError, match=rf"{lines * inputs} elements in blocks; expected"):
        store.read(tmp_path / "ir")


def test_bfloat16_weights_are_exact(tmp_path: Path) -> None:
    weight = np.full((4, 8), 1.001, np.float32)
    store.write(linear_graph(weight, precision="bfloat16"), tmp_path / "ir")
    with pytest.raises(ModelError, match=r"'weight' \('w'\) is float32; expected bfloat16 values"):
        store.read(tmp_path / "ir")


def test_messages_name_file_offset_and_expectation(
    tmp_path: Path, written: dict[str, bytes]
) -> None:
    with pytest.raises(ModelError, match=r"conf\.yaml: No such file"):
        store.read(tmp_path / "nothing" / "conf.yaml")
    short = place(tmp_path / "short", {**written, store.BIN: written[store.BIN][:-64]})
    with pytest.raises(IntegrityError, match=r"model\.bin: \d+ bytes; conf.yaml expects \d+"):
        store.read(short)
    altered = bytearray(written[store.BIN])
    altered[64] ^= 1
    with pytest.raises(IntegrityError, match=r"tensor 'w' at offset 64: crc32 \w+; expected \w+"):
        store.read(place(tmp_path / "altered", {**written, store.BIN: bytes(altered)}))
