"""Small ONNX files made here: what is read, and what is refused with which words."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from engine.errors import EngineError, IntegrityError, ModelError, UnsupportedError
from engine.formats import onnx_reader
from engine.graph import Value
from engine.ops import reference

WEIGHT = np.arange(12, dtype=np.float32).reshape(3, 4)


def model_of(
    *nodes: onnx.NodeProto, opset: int = 17, weight: TensorProto | None = None
) -> onnx.ModelProto:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        list(nodes) or [helper.make_node("MatMul", ["x", "w"], ["y"], "product")],
        "g",
        [value("x", TensorProto.FLOAT, ["batch", 3])],
        [value("y", TensorProto.FLOAT, ["batch", 4])],
        [weight or numpy_helper.from_array(WEIGHT, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)


def saved(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_structure(tmp_path: Path) -> None:
    graph = onnx_reader.read(saved(model_of(), tmp_path))
    assert graph.inputs == (Value("x", "float32", ("batch", 3)),)
    assert graph.outputs == (Value("y", "float32", ("batch", 4)),)
    assert graph.opset == 17
    (node,) = graph.nodes
    assert (node.op, node.inputs, node.outputs, node.name) == (
        "MatMul", ("x", "w"), ("y",), "product",
    )  # fmt: skip
    np.testing.assert_array_equal(graph.constants["w"], WEIGHT)


def test_constant_nodes_become_constants() -> None:
    nodes = [
        helper.make_node("Constant", [], ["a"], value=numpy_helper.from_array(WEIGHT[:1])),
        helper.make_node("Constant", [], ["b"], value_floats=[1.0, 2.0, 3.0, 4.0]),
        helper.make_node("Constant", [], ["axes"], value_int=7),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    graph = onnx_reader.from_model(model_of(*nodes))
    assert [node.op for node in graph] == ["Add"]
    assert graph.constants["b"].dtype == np.float32
    assert graph.constants["axes"].dtype == np.int64
    assert graph.constants["axes"].shape == ()


def test_nodes_come_in_an_order_in_which_they_can_run() -> None:
    pairs = [("c", "y"), ("x", "a"), ("b", "c"), ("a", "b")]
    nodes = [helper.make_node("Neg", [before], [after]) for before, after in pairs]
    assert "".join(node.outputs[0] for node in onnx_reader.from_model(model_of(*nodes))) == "abcy"
    nodes[1].input[0] = "y"
    with pytest.raises(ModelError, match=r"reads 'c', which nothing before it makes"):
        onnx_reader.from_model(model_of(*nodes))


def test_types_are_numpy_names() -> None:
    cast = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT16)
    assert onnx_reader.from_model(model_of(cast)).nodes[0].attributes == {"to": "float16"}


@pytest.mark.parametrize("raw", [True, False])
def test_bfloat16_becomes_float32(raw: bool) -> None:
    values = np.array([1.0, -2.5, 3.140625], np.float32)
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    data = bits.tobytes() if raw else values
    tensor = helper.make_tensor("w", TensorProto.BFLOAT16, [3], data, raw=raw)
    found = onnx_reader.from_model(model_of(weight=tensor)).constants["w"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, values)


def test_initialisers_that_are_inputs_are_constants() -> None:
    model = model_of()
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [3, 4]))
    assert [value.name for value in onnx_reader.from_model(model).inputs] == ["x"]


def test_functions_are_inlined() -> None:
    model = model_of(helper.make_node("Twice", ["x"], ["y"], domain="own"), opset=18)
    model.opset_import.append(helper.make_opsetid("own", 1))
    model.ir_version = 8
    add = helper.make_node("Add", ["a", "a"], ["b"])
    imports = [helper.make_opsetid("", 18)]
    model.functions.append(helper.make_function("own", "Twice", ["a"], ["b"], [add], imports))
    assert [node.op for node in onnx_reader.from_model(model)] == ["Add"]


# --- external data ---
def external(folder: Path, **entry: str) -> Path:
    model = model_of()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": "weights.bin", **entry}.items():
        tensor.external_data.add(key=key, value=value)
    (folder / "weights.bin").write_bytes(bytes(64) + WEIGHT.tobytes())
    return saved(model, folder)


def test_external_data(tmp_path: Path) -> None:
    for entry in ({"offset": "64"}, {"offset": "64", "length": "48"}):
        found = onnx_reader.read(external(tmp_path, **entry)).constants["w"]
        np.testing.assert_array_equal(found, WEIGHT)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"offset": "80"}, "tensor 'w': 32 bytes; expected 48"),
        ({"offset": "64", "length": "49"}, "offset 64, length 49; .* has 112 bytes"),
        ({"offset": "-8"}, "offset -8"),
        ({"offset": "many"}, "external data .*many"),
        ({"location": "none.bin"}, "No such file"),
        ({"location": "../weights.bin"}, "expected a file in the model's folder"),
        ({"location": "/etc/passwd"}, "expected a file in the model's folder"),
        ({"location": ""}, "expected a file in the model's folder"),
    ],
)
def test_external_data_is_confined(tmp_path: Path, entry: dict[str, str], message: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    with pytest.raises(ModelError, match=message):
        onnx_reader.read(external(folder, **entry))


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(48))
    (folder / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(ModelError, match="expected a file in the model's folder"):
        onnx_reader.read(external(folder, location="link"))


def in_hub_cache(root: Path, folder: str) -> Path:
    """Model and weights as the hub's cache keeps them: links into blobs/."""
    kept, made = root / "blobs", root / "made"
    shown = root / "snapshots" / "abc" / folder
    for each in (kept, made, shown):
        each.mkdir(parents=True)
    external(made, offset="64")
    for number, name in enumerate(("model.onnx", "weights.bin")):
        (made / name).rename(kept / f"sha{number}")
        (shown / name).symlink_to(os.path.relpath(kept / f"sha{number}", shown))
    return shown / "model.onnx"


@pytest.mark.parametrize("folder", [".", "onnx"])
def test_external_data_in_the_layout_of_the_hubs_cache(tmp_path: Path, folder: str) -> None:
    found = onnx_reader.read(in_hub_cache(tmp_path, folder)).constants["w"]
    np.testing.assert_array_equal(found, WEIGHT)


def test_links_of_the_hubs_cache_lead_nowhere_else(tmp_path: Path) -> None:
    model = in_hub_cache(tmp_path, ".")
    (tmp_path / "secret").write_bytes(bytes(112))
    model.with_name("weights.bin").unlink()
    for target in ("../../secret", "/etc/passwd", "../../blobs"):
        model.with_name("weights.bin").symlink_to(target)
        with pytest.raises(ModelError, match="expected a file in the model's folder"):
            onnx_reader.read(model)
        model.with_name("weights.bin").unlink()


def test_a_name_that_leaves_and_comes_back_is_refused(tmp_path: Path) -> None:
    path = external(tmp_path, location=f"../{tmp_path.name}/weights.bin", offset="64")
    with pytest.raises(ModelError, match="expected a file in the model's folder"):
        onnx_reader.read(path)


def test_external_data_is_no_pipe(tmp_path: Path) -> None:
    path = external(tmp_path, location="pipe")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelError, match="location 'pipe' is no regular file"):
        onnx_reader.read(path)


# --- refusals ---
def functions(calls: int, depth: int, *, ring: bool = False) -> onnx.ModelProto:
    """f0 calls f1 `calls` times, f1 calls f2, ...; the last is an Identity, or f0 again."""
    model = model_of(helper.make_node("f0", ["x"], ["y"], domain="own"), opset=18)
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    model.opset_import.append(imports[1])
    model.ir_version = 8
    for level in range(depth):
        last = "f0" if ring else "Identity"
        name, domain = (f"f{level + 1}", "own") if level + 1 < depth else (last, "own" * ring)
        values = ["a", *(f"v{i}" for i in range(calls - 1)), "b"]
        body = [
            helper.make_node(name, [x], [y], domain=domain)
            for x, y in zip(values, values[1:], strict=False)
        ]
        model.functions.append(
            helper.make_function("own", f"f{level}", ["a"], ["b"], body, imports)
        )
    return model


def test_functions_that_would_make_a_huge_graph() -> None:
    assert len(onnx_reader.from_model(functions(2, 6)).nodes) == 64
    with pytest.raises(ModelError, match=r"functions make 1099511627776 nodes; expected at most"):
        onnx_reader.from_model(functions(2, 40))


def test_functions_that_call_themselves() -> None:
    with pytest.raises(IntegrityError, match="model: makes no sense as ONNX: RecursionError"):
        onnx_reader.from_model(functions(1, 3, ring=True))


def of_type(value: onnx.ValueInfoProto, kind: int) -> onnx.ValueInfoProto:
    other = onnx.ValueInfoProto()
    other.CopyFrom(value)
    other.type.tensor_type.elem_type = kind
    return other


def test_an_output_may_be_there_twice() -> None:
    """torch's exporter writes the last hidden state and all hidden states so."""
    model = model_of()
    model.graph.output.append(model.graph.output[0])
    graph = onnx_reader.from_model(model)
    assert [value.name for value in graph.outputs] == ["y", "y"]
    given = {value.name: np.ones((2, 3), value.dtype) for value in graph.inputs}
    assert list(reference.run(graph, given)) == ["y"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.graph.initializer.append(m.graph.initializer[0]), "constant 'w': expected"),
        (lambda m: m.graph.output.append(of_type(m.graph.output[0], 6)), "is float32 and int32"),
        (lambda m: m.graph.input.append(m.graph.input[0]), r"inputs \['x', 'x'\]: one is twice"),
        (lambda m: m.graph.node[0].ClearField("output"), r"MatMul: inputs .* and an output"),
        (lambda m: m.graph.node[0].input.pop(), "expected 2 to 2 inputs"),
        (lambda m: m.graph.initializer[0].dims.__setitem__(0, -3), "has a negative length"),
        (lambda m: m.graph.initializer[0].dims.__setitem__(0, 1 << 62), "48 bytes; expected"),
        (lambda m: m.graph.input[0].type.tensor_type.ClearField("shape"), "rank of 'x' is not"),
    ],
)  # fmt: skip
def test_structure_that_makes_no_sense(
    change: Callable[[onnx.ModelProto], None], message: str
) -> None:
    model = model_of()
    change(model)
    with pytest.raises(ModelError, match=message):
        onnx_reader.from_model(model)


def test_operator_that_is_lacking() -> None:
    node = helper.make_node("LSTM", ["x", "w", "r"], ["y"], "stem.lstm")
    with pytest.raises(UnsupportedError, match=r"node 'stem.lstm' \(LSTM\): .*supported: Abs, Add"):
        onnx_reader.from_model(model_of(node))


@pytest.mark.parametrize("opset", [10, 99])
def test_opset_that_is_lacking(opset: int) -> None:
    with pytest.raises(UnsupportedError, match=f"opset {opset}; expected 11 to"):
        onnx_reader.from_model(model_of(opset=opset))


def test_type_that_is_lacking() -> None:
    tensor = helper.make_tensor("w", TensorProto.STRING, [1], [b"text"])
    with pytest.raises(UnsupportedError, match="tensor 'w': type STRING; expected one of float32"):
        onnx_reader.from_model(model_of(weight=tensor))


def test_subgraphs_are_refused() -> None:
    body = model_of().graph
    node = helper.make_node("If", ["x"], ["y"], "branch", then_branch=body, else_branch=body)
    with pytest.raises(UnsupportedError, match=r"node 'branch' \(If\)"):
        onnx_reader.from_model(model_of(node))


def test_tensor_whose_bytes_do_not_fit() -> None:
    tensor = numpy_helper.from_array(WEIGHT, "w")
    tensor.raw_data = tensor.raw_data[:-1]
    with pytest.raises(
        IntegrityError, match=r"tensor 'w': 47 bytes; expected 48 for float32\[3, 4\]"
    ):
        onnx_reader.from_model(model_of(weight=tensor))


def test_value_that_nothing_makes() -> None:
    with pytest.raises(ModelError, match="reads 'z', which nothing before it makes"):
        onnx_reader.from_model(model_of(helper.make_node("Relu", ["z"], ["y"])))


def test_files_that_are_no_model(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with pytest.raises(ModelError, match=r"model.onnx: No such file"):
        onnx_reader.read(path)
    path.write_bytes(b"")
    with pytest.raises(ModelError, match="0 bytes hold no ONNX graph"):
        onnx_reader.read(path)
    path.write_text("<html>404 not found</html>")
    with pytest.raises(IntegrityError, match="its 26 bytes are not a whole ONNX file"):
        onnx_reader.read(path)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_damage_is_never_a_crash(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(model_of().SerializeToString())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.mktemp("damaged") / "model.onnx"
    path.write_bytes(bytes(content))
    try:
        graph = onnx_reader.read(path)
        reference.run(graph, {value.name: np.ones((2, 3), np.float32) for value in graph.inputs})
    except EngineError:
        pass
