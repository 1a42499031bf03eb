"""ONNX file -> Graph; the only module that imports onnx.

Constant nodes become constants, tensors arrays, types NumPy's names; bfloat16 becomes float32
holding its values (Cast keeps the name "bfloat16", which rounds).  External data must lie in the
model's folder, by its name and, links followed, where the model's file lies: both may be links, as
in the hub's cache.  A model that comes as bytes has no folder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import AttributeProto, TensorProto, inliner, numpy_helper

from ..errors import FOREIGN, EngineError, IntegrityError, ModelError, UnsupportedError
from ..files.replacing import opened
from ..graph import Graph, ModelMetadata, Node, Value
from ..ops import checked, find, fits_meaning

__all__ = ["IN_MEMORY", "OPSETS", "TYPES", "from_model", "read", "with_every_value"]

Array = NDArray[Any]

OPSETS = range(11, 29)  # after 21 operators only gain types, or have their own row in `ops`
DOMAINS = {"ai.onnx": ""}  # another name of ONNX's own
IN_MEMORY = "model in memory"  # its name where it has no path

TYPES: Mapping[int, str] = {
    TensorProto.FLOAT: "float32", TensorProto.DOUBLE: "float64", TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16", TensorProto.BOOL: "bool",
    TensorProto.INT8: "int8", TensorProto.INT16: "int16", TensorProto.INT32: "int32",
    TensorProto.INT64: "int64", TensorProto.UINT8: "uint8", TensorProto.UINT16: "uint16",
    TensorProto.UINT32: "uint32", TensorProto.UINT64: "uint64",
}  # fmt: skip
MOST_NODES = 1 << 17  # of a graph whose functions are inlined: a few kB could ask for 2^40
WIDTH = {"bfloat16": 2}  # bytes; NumPy knows the others
TYPE_ATTRIBUTES = {"to", "dtype", "output_dtype"}  # whole numbers in ONNX that name a type


def read(source: str | Path | bytes) -> Graph:
    """The graph of an ONNX file, or of one's content.

    Raises:
        ModelError: no such file, or not ONNX; external data of a model that came as bytes.
        IntegrityError: truncated, or a tensor's bytes do not fit its shape.
        UnsupportedError: an operator, type or opset the engine does not have.
    """
    if isinstance(source, bytes):
        return from_model(_parsed(source, IN_MEMORY), IN_MEMORY)
    path = Path(source)
    try:
        with opened(path) as file:
            content = file.read()
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror or error}; expected an ONNX file") from error
    return from_model(_parsed(content, str(path)), str(path), path)


def _parsed(content: bytes, name: str) -> onnx.ModelProto:
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        raise IntegrityError(
            f"{name}: its {len(content)} bytes are not a whole ONNX file;"
            " expected one that is neither truncated, altered nor of another format"
        ) from error
    if not model.HasField("graph") or not model.graph.output:
        raise ModelError(f"{name}: {len(content)} bytes hold no ONNX graph")
    return model


def from_model(model: onnx.ModelProto, name: str = "model", path: Path | None = None) -> Graph:
    """The graph of a model in memory; external data is looked for beside the file at path.

    Raises:
        ModelError: see `read`.
    """
    try:
        return _graph(_inlined(model, name), name, path)
    except (RuntimeError, onnx.checker.ValidationError, *FOREIGN) as error:
        reason = f"{type(error).__name__}: {error}"
        raise IntegrityError(f"{name}: makes no sense as ONNX: {reason}") from error


def _graph(model: onnx.ModelProto, name: str, path: Path | None) -> Graph:
    opset = _opset(model, name)
    constants = _initializers(model.graph, name, path)
    nodes = []
    for proto in model.graph.node:
        if proto.op_type == "Constant" and proto.domain in ("", "ai.onnx"):
            _add(constants, "".join(proto.output), _constant(proto, name), name)
        else:
            nodes.append(_node(proto, name, opset))
    graph = Graph(
        name,
        tuple(_value(v, name) for v in model.graph.input if v.name not in constants),
        tuple(_value(v, name) for v in model.graph.output),
        _in_order(nodes),
        constants,
        opset,
        any(tensor.data_type == TensorProto.BFLOAT16 for tensor in model.graph.initializer),
        _metadata(model),
    )
    return checked(graph)


def _in_order(nodes: Sequence[Node]) -> tuple[Node, ...]:
    """An order in which they can run, if there is one: converters leave Casts at the end, which
    ONNX forbids and ONNX Runtime permits.
    """
    maker = {name: i for i, node in enumerate(nodes) for name in node.outputs if name}
    needs = {i: [maker[n] for n in node.inputs if n in maker] for i, node in enumerate(nodes)}
    if all(max(before, default=-1) < i for i, before in needs.items()):
        return tuple(nodes)
    try:
        return tuple(nodes[i] for i in TopologicalSorter(needs).static_order())
    except CycleError:  # the graph's check says where
        return tuple(nodes)


def _metadata(model: onnx.ModelProto) -> ModelMetadata:
    return ModelMetadata(
        model.graph.name,
        model.producer_name,
        model.doc_string,
        model.graph.doc_string,
        model.domain,
        model.model_version,
        {item.key: item.value for item in model.metadata_props},
    )


# --- functions ---
def _inlined(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """The model without functions of its own, if they end and do not make it huge."""
    if not model.functions:
        return model
    bodies = {(f.domain, f.name): f.node for f in model.functions}
    sizes: dict[tuple[str, str], int] = {}
    count = _count(model.graph.node, bodies, sizes)
    if count > MOST_NODES:
        raise ModelError(f"{name}: functions make {count} nodes; expected at most {MOST_NODES}")
    return inliner.inline_local_functions(model)


def _count(nodes: Any, bodies: Mapping[Any, Any], sizes: dict[tuple[str, str], int]) -> int:
    """Nodes after inlining; a function within itself makes infinitely many.

    Raises:
        RecursionError: functions call one another without end.
    """
    total = 0
    for node in nodes:
        key = node.domain, node.op_type
        if key in bodies and key not in sizes:
            sizes[key] = _count(bodies[key], bodies, sizes)
        graphs = [graph for a in node.attribute for graph in (*a.graphs, a.g)]
        total += sizes.get(key, 1) + sum(_count(graph.node, bodies, sizes) for graph in graphs)
    return total


def with_every_value(path: str | Path) -> bytes:
    """The file as another runtime may read it, with the result of each node as an output.

    Raises:
        ModelError: not an ONNX file.
    """
    try:
        model = onnx.load(str(path))
    except (OSError, DecodeError) as error:
        raise ModelError(f"{path}: {error}; expected an ONNX file") from error
    known = {value.name for value in model.graph.output}
    names = dict.fromkeys(name for node in model.graph.node for name in node.output if name)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    return model.SerializeToString()


def _opset(model: onnx.ModelProto, name: str) -> int:
    versions = {DOMAINS.get(item.domain, item.domain): item.version for item in model.opset_import}
    opset = versions.get("")
    if opset is None:
        raise ModelError(f"{name}: no opset of ONNX is imported, only of {sorted(versions)}")
    if opset not in OPSETS:
        raise UnsupportedError(f"{name}: opset {opset}; expected {OPSETS[0]} to {OPSETS[-1]}")
    return int(opset)


def _value(proto: onnx.ValueInfoProto, name: str) -> Value:
    if not proto.type.HasField("tensor_type"):
        raise UnsupportedError(f"{name}: '{proto.name}' is not a tensor")
    tensor = proto.type.tensor_type
    if not tensor.HasField("shape"):
        raise UnsupportedError(f"{name}: the rank of '{proto.name}' is not given")
    shape = tuple(
        d.dim_value if d.HasField("dim_value") else d.dim_param or f"{proto.name}.{axis}"
        for axis, d in enumerate(tensor.shape.dim)
    )
    dtype = _type(tensor.elem_type, f"{name}: '{proto.name}'")
    return Value(proto.name, "float32" if dtype == "bfloat16" else dtype, shape)


def _type(code: int, place: str) -> str:
    if code not in TYPES:
        known = code in TensorProto.DataType.values()
        shown = TensorProto.DataType.Name(code) if known else str(code)
        raise UnsupportedError(
            f"{place}: type {shown}; expected one of {', '.join(TYPES.values())}"
        )
    return TYPES[code]


# --- nodes ---
def _node(proto: onnx.NodeProto, name: str, opset: int) -> Node:
    node = Node(
        proto.op_type,
        tuple(proto.input),
        tuple(proto.output),
        {a.name: _attribute(a, proto, name) for a in proto.attribute},
        proto.name,
        DOMAINS.get(proto.domain, proto.domain),
    )
    try:
        operator = find(node.domain, node.op, opset)
    except UnsupportedError as error:
        raise UnsupportedError(f"{name}: {node}: {error}") from error
    return node if node.domain == "engine" else fits_meaning(node, operator, name)


ATTRIBUTES: Mapping[int, Callable[[AttributeProto], Any]] = {
    AttributeProto.FLOAT: lambda a: a.f,
    AttributeProto.INT: lambda a: a.i,
    AttributeProto.STRING: lambda a: a.s.decode(),
    AttributeProto.FLOATS: lambda a: tuple(a.floats),
    AttributeProto.INTS: lambda a: tuple(a.ints),
    AttributeProto.STRINGS: lambda a: tuple(s.decode() for s in a.strings),
}


def _attribute(attribute: AttributeProto, proto: onnx.NodeProto, name: str) -> Any:
    place = f"{name}: node '{proto.name}' ({proto.op_type}): attribute '{attribute.name}'"
    if attribute.type == AttributeProto.TENSOR:
        return _array(attribute.t, place, None)
    if attribute.type not in ATTRIBUTES:
        kind = AttributeProto.AttributeType.Name(attribute.type)
        raise UnsupportedError(f"{place} is a {kind}; expected numbers, text or a tensor")
    value = ATTRIBUTES[attribute.type](attribute)
    if attribute.name in TYPE_ATTRIBUTES and isinstance(value, int):
        return _type(value, place) if value else None
    return value


CONSTANTS: Mapping[str, Any] = {  # attribute of a Constant node -> type of the constant
    "value_float": np.float32, "value_floats": np.float32,
    "value_int": np.int64, "value_ints": np.int64,
}  # fmt: skip


def _constant(proto: onnx.NodeProto, name: str) -> Array:
    for attribute in proto.attribute:
        value = _attribute(attribute, proto, name)
        if attribute.name == "value" and isinstance(value, np.ndarray):
            return value
        if attribute.name in CONSTANTS:
            return np.array(value, CONSTANTS[attribute.name])
    found = [attribute.name for attribute in proto.attribute]
    expected = ["value", *CONSTANTS]
    raise UnsupportedError(
        f"{name}: node '{proto.name}' (Constant): attributes {found}; expected one of {expected}"
    )


# --- tensors ---
def _initializers(graph: onnx.GraphProto, name: str, path: Path | None) -> dict[str, Array]:
    if graph.sparse_initializer:
        shown = graph.sparse_initializer[0].values.name
        raise UnsupportedError(f"{name}: sparse initializer '{shown}'; expected a dense one")
    constants: dict[str, Array] = {}
    for tensor in graph.initializer:
        _add(constants, tensor.name, _array(tensor, f"{name}: tensor '{tensor.name}'", path), name)
    return constants


def _add(constants: dict[str, Array], key: str, array: Array, name: str) -> None:
    if not key or key in constants:
        raise ModelError(f"{name}: a constant '{key}': expected each to have a name of its own")
    constants[key] = array


def _array(tensor: TensorProto, place: str, model: Path | None) -> Array:
    dtype = _type(tensor.data_type, place)
    shape = tuple(tensor.dims)
    if any(length < 0 for length in shape):
        raise IntegrityError(f"{place}: shape {shape} has a negative length")
    if tensor.HasField("segment"):
        raise UnsupportedError(f"{place}: is a segment of a tensor")
    if tensor.data_location == TensorProto.EXTERNAL:
        return _from_bytes(_external(tensor, place, model), dtype, shape, place)
    if tensor.HasField("raw_data"):
        return _from_bytes(tensor.raw_data, dtype, shape, place)
    try:
        array = numpy_helper.to_array(tensor)
    except (ValueError, TypeError) as error:
        raise IntegrityError(f"{place}: {error}; expected {_elements(shape)} of {dtype}") from error
    return array.astype(np.float32) if dtype == "bfloat16" else array


def _from_bytes(content: bytes, dtype: str, shape: tuple[int, ...], place: str) -> Array:
    expected = _elements(shape) * (WIDTH.get(dtype) or np.dtype(dtype).itemsize)
    if len(content) != expected:
        raise IntegrityError(
            f"{place}: {len(content)} bytes; expected {expected} for {dtype}{list(shape)}"
        )
    if dtype == "bfloat16":
        bits = np.frombuffer(content, "<u2").astype(np.uint32) << 16
        return bits.view(np.float32).reshape(shape)
    little = np.dtype(dtype).newbyteorder("<")
    return np.frombuffer(content, little).astype(dtype, copy=False).reshape(shape)


def _elements(shape: tuple[int, ...]) -> int:
    count = 1
    for length in shape:  # Python's integers: a forged shape cannot overflow
        count *= length
    return count


def _external(tensor: TensorProto, place: str, model: Path | None) -> bytes:
    """The bytes of a tensor kept in another file."""
    entry = {item.key: item.value for item in tensor.external_data}
    path = _beside(model, entry.get("location", ""), place)
    try:
        offset, length = int(entry.get("offset", 0)), int(entry.get("length", -1))
        size = path.stat().st_size
        length = size - offset if "length" not in entry else length
        if offset < 0 or length < 0 or offset + length > size:
            raise IntegrityError(
                f"{place}: offset {offset}, length {length}; {path} has {size} bytes"
            )
        with opened(path) as file:
            file.seek(offset)
            content: bytes = file.read(length)
            return content
    except EngineError:
        raise
    except (OSError, ValueError) as error:
        raise ModelError(f"{place}: external data {entry}: {error}") from error


def _beside(model: Path | None, location: str, place: str) -> Path:
    """The file of this name in the model's folder.  Links are followed, but only within that folder
    or to where the model's own file lies: in the hub's cache both are links into blobs/.
    """
    if model is None:
        raise ModelError(
            f"{place}: is in file {location!r}; expected a model's path, not its bytes"
        )
    name = PurePosixPath(location)
    path = (model.parent / name).resolve() if "\0" not in location else model.parent
    roots = (model.parent.resolve(), model.resolve().parent)
    escapes = name.is_absolute() or ".." in name.parts or not name.parts
    if escapes or not any(path.is_relative_to(root) and path != root for root in roots):
        raise ModelError(f"{place}: location {location!r}; expected a file in the model's folder")
    if path.exists() and not path.is_file():
        raise ModelError(f"{place}: location {location!r} is no regular file")
    return path
