"""conf.yaml as text <-> the graph's structure and the list of its tensors.

Every field is checked by hand; a message names the place (operators[3].inputs), what was found and
what was expected.  No aliases, no tags, no types but YAML's plain ones, no key twice, nothing deep
or long: reading costs what the file's size says.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import yaml

from ..errors import FOREIGN, IntegrityError, ModelError, UnsupportedError
from ..graph import BLOCKS, Graph, Node, Quantization, Value
from ..ops import TYPES, find, fits_meaning
from . import blocks

__all__ = ["Field", "Tensor", "dump", "load", "parse"]

FORMAT, VERSION = "sparse engine", 1
LAST = "crc32 of the lines above: "
ALIGNMENT = 64
DEEPEST = 32  # lists and maps in one another; libyaml takes quadratic time for more
LONGEST = 3 << 10  # letters of a word: a number of a million digits takes seconds to make
MOST_AXES, MOST_ELEMENTS = 32, 1 << 48  # of a tensor's shape: NumPy can hold it
FORMS = ("raw", *BLOCKS)


@dataclass(frozen=True)
class Tensor:
    """Where a constant lies in model.bin: place = offset, length in bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    place: tuple[int, int]
    crc32: int
    form: str = "raw"
    bfloat16: bool = False

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def width(self) -> int:
        """Bytes of a value on disk."""
        return 2 if self.bfloat16 else np.dtype(self.dtype).itemsize


# --- text ---
TEXT = "tag:yaml.org,2002:str"


class Dumper(yaml.SafeDumper):  # type: ignore[misc]  # PyYAML has no types
    """Never an alias: equal lists are written out; text that `scalar` would take for a number or a
    word stands in quotation marks, also where YAML 1.1 has a narrower idea of numbers ("0E0").
    """

    def ignore_aliases(self, data: Any) -> bool:
        del data
        return True

    def represent_str(self, data: str) -> Any:
        looks_else = data in WORDS or WHOLE.fullmatch(data) or NUMBER.fullmatch(data)
        return self.represent_scalar(TEXT, data, style="'" if looks_else else None)


Dumper.add_representer(str, Dumper.represent_str)

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
NO_KEY = object()
WORDS = {"": None, "~": None, "null": None, "true": True, "false": False}
WHOLE = re.compile(r"[-+]?[0-9]+")
NUMBER = re.compile(r"[-+]?(\.inf|[0-9]+\.[0-9]*([eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)|\.nan")


def parse(content: bytes, place: str) -> Any:
    """Lists, maps, text, numbers, true, false and null.

    Raises:
        IntegrityError: names the place.
    """
    try:
        tree = Tree()
        for event in yaml.parse(content.decode(), Loader=LOADER):
            tree.take(event)
        (document,) = tree.documents
        return document
    except (yaml.YAMLError, *FOREIGN) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise IntegrityError(f"{place}: not YAML as expected: {reason}") from error


class Tree:
    """Values built from the parser's events as they come: nothing is made twice, no tag obeyed."""

    def __init__(self) -> None:
        self.documents: list[Any] = []
        self.open: list[Any] = [self.documents]  # lists and maps, each in the one before it
        self.keys: list[Any] = [NO_KEY]  # of each of them, where a map waits for a value

    def take(self, event: Any) -> None:
        if isinstance(event, yaml.ScalarEvent):
            self.add(scalar(event))
        elif isinstance(event, yaml.CollectionStartEvent):
            if event.tag is not None or len(self.open) > DEEPEST:
                expected = f"expected none, and at most {DEEPEST} lists and maps in one another"
                raise error_at(event, f"a tag or a list too deep: {expected}")
            self.begin({} if isinstance(event, yaml.MappingStartEvent) else [])
        elif isinstance(event, yaml.CollectionEndEvent):
            self.open.pop()
            self.keys.pop()
        elif isinstance(event, yaml.AliasEvent):
            raise error_at(event, f"alias '{event.anchor}'; expected none")

    def begin(self, collection: Any) -> None:
        self.add(collection)
        self.open.append(collection)
        self.keys.append(NO_KEY)

    def add(self, value: Any) -> None:
        holder, key = self.open[-1], self.keys[-1]
        if isinstance(holder, list):
            holder.append(value)
        elif key is NO_KEY:
            if value in holder:
                raise ValueError(f"key {value!r} is there twice in a map")
            self.keys[-1] = value
        else:
            holder[key], self.keys[-1] = value, NO_KEY


def scalar(event: Any) -> Any:
    """A plain word by its form; one in quotation marks is text."""
    text = event.value
    if event.tag is not None or len(text) > LONGEST:
        raise error_at(event, f"a tag, or a word of {len(text)} letters; expected {LONGEST}")
    if not event.implicit[0]:
        return text
    if text in WORDS:
        return WORDS[text]
    if WHOLE.fullmatch(text):
        return int(text)
    if NUMBER.fullmatch(text):
        return float(text.replace(".inf", "inf").replace(".nan", "nan"))
    return text


def error_at(event: Any, reason: str) -> yaml.YAMLError:
    return yaml.YAMLError(f"{reason}{event.start_mark}")


def dump(graph: Graph, tensors: list[Tensor]) -> str:
    """The text of conf.yaml."""
    end = max((sum(tensor.place) for tensor in tensors), default=ALIGNMENT)
    content = {
        "format": FORMAT,
        "version": VERSION,
        "name": graph.name,
        "opset": graph.opset,
        "model_bin_length": end + -end % ALIGNMENT,
        "inputs": [_plain(value) for value in graph.inputs],
        "outputs": [_plain(value) for value in graph.outputs],
        "operators": [_operator(node) for node in graph.nodes],
        "tensors": [_plain(tensor) for tensor in tensors],
    }
    text = yaml.dump(content, Dumper=Dumper, sort_keys=False, width=100)
    return f"{text}# {LAST}{zlib.crc32(text.encode()):08x}\n"


def load(content: bytes, place: str) -> tuple[Graph, list[Tensor], int]:
    """Graph without constants, tensors, length of model.bin.

    Raises:
        ModelError, IntegrityError: see `store.read`.
    """
    tree = parse(content, place)
    text = content.decode()
    top = Field(tree, place)
    if not isinstance(tree, dict) or tree.get("format") != FORMAT:
        found = tree.get("format") if isinstance(tree, dict) else type(tree).__name__
        raise ModelError(f"{place}: format {found!r}; expected {FORMAT!r}")
    if tree.get("version") != VERSION:
        raise ModelError(f"{place}: version {tree.get('version')!r}; expected {VERSION}")
    _check_last_line(text, place)
    graph = Graph(
        top["name"].text(),
        tuple(_value(item) for item in top["inputs"].items()),
        tuple(_value(item) for item in top["outputs"].items()),
        tuple(_node(item, top["opset"].number()) for item in top["operators"].items()),
        {},
        top["opset"].number(),
    )
    tensors = [_tensor(item) for item in top["tensors"].items()]
    if len({tensor.name for tensor in tensors}) != len(tensors):
        raise IntegrityError(f"{place}: tensors: a name is there twice")
    return graph, tensors, top["model_bin_length"].number()


def _check_last_line(text: str, place: str) -> None:
    body, mark, found = text.rpartition(f"# {LAST}")
    expected = f"{zlib.crc32(body.encode()):08x}\n"
    if not mark or found != expected:
        raise IntegrityError(
            f"{place}: last line gives crc32 {found.strip()[:16]!r}; expected {expected.strip()!r}"
            " (truncated or altered)"
        )


# --- graph -> plain ---
def _plain(item: Value | Tensor) -> dict[str, Any]:
    fields = asdict(item)
    return {key: list(v) if isinstance(v, tuple) else v for key, v in fields.items()}


def _operator(node: Node) -> dict[str, Any]:
    return {
        "name": node.name,
        "op": node.op,
        "domain": node.domain,
        "inputs": list(node.inputs),
        "outputs": list(node.outputs),
        "attributes": {key: _attribute(value, key) for key, value in node.attributes.items()},
    }


def _attribute(value: Any, key: str) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Quantization):
        return {"quantization": asdict(value)}
    if isinstance(value, np.ndarray):
        listed = {"dtype": value.dtype.name, "shape": list(value.shape), "values": value.ravel()}
        return {"array": {**listed, "values": listed["values"].tolist()}}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, tuple | list):
        return [_attribute(item, key) for item in value]
    raise ModelError(f"attribute '{key}': a {type(value).__name__} cannot be stored")


# --- plain -> graph ---
@dataclass(frozen=True)
class Field:
    """A part of the tree and where it stands; every step down is checked."""

    value: Any
    place: str

    def __getitem__(self, key: str) -> Field:
        if not isinstance(self.value, dict) or key not in self.value:
            raise self.error(f"a map with '{key}'")
        return Field(self.value[key], f"{self.place}: {key}")

    def items(self) -> list[Field]:
        if not isinstance(self.value, list):
            raise self.error("a list")
        return [Field(item, f"{self.place}[{i}]") for i, item in enumerate(self.value)]

    def text(self) -> str:
        if not isinstance(self.value, str):
            raise self.error("text")
        return self.value

    def number(self) -> int:
        is_whole = isinstance(self.value, int) and not isinstance(self.value, bool)
        if not is_whole or not 0 <= self.value < 1 << 63:
            raise self.error("a whole number from 0 up")
        return self.value

    def shape(self) -> tuple[int, ...]:
        """Lengths of a tensor's axes."""
        lengths = tuple(item.number() for item in self.items())
        if len(lengths) > MOST_AXES or math.prod(max(n, 1) for n in lengths) > MOST_ELEMENTS:
            raise self.error(f"at most {MOST_AXES} lengths and {MOST_ELEMENTS} elements")
        return lengths

    def one_of(self, allowed: tuple[str, ...]) -> str:
        if not isinstance(self.value, str) or self.value not in allowed:
            raise self.error(f"one of {', '.join(allowed)}")
        return str(self.value)

    def _is_small(self) -> bool:
        return not isinstance(self.value, list | dict) or len(self.value) <= 8

    def error(self, expected: str) -> IntegrityError:
        found = repr(self.value) if self._is_small() else f"a {type(self.value).__name__}"
        shown = found if len(found) <= 60 else f"{found[:57]}..."
        return IntegrityError(f"{self.place}: {shown}; expected {expected}")


def _value(item: Field) -> Value:
    shape = tuple(
        length.text() if isinstance(length.value, str) else length.number()
        for length in item["shape"].items()
    )
    return Value(item["name"].text(), item["dtype"].one_of(TYPES), shape)


def _node(item: Field, opset: int) -> Node:
    attributes = item["attributes"]
    if not isinstance(attributes.value, dict):
        raise attributes.error("a map")
    node = Node(
        item["op"].text(),
        tuple(part.text() for part in item["inputs"].items()),
        tuple(part.text() for part in item["outputs"].items()),
        {str(key): _typed(attributes[key]) for key in attributes.value},
        item["name"].text(),
        item["domain"].text(),
    )
    try:
        operator = find(node.domain, node.op, opset)
    except UnsupportedError as error:
        raise UnsupportedError(f"{item.place}: {error}") from error
    return node if node.domain == "engine" else fits_meaning(node, operator, item.place)


def _typed(field: Field) -> Any:
    value = field.value
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return tuple(_typed(item) for item in field.items())
    if isinstance(value, dict) and len(value) == 1 and next(iter(value)) in TYPED:
        kind = next(iter(value))
        return TYPED[kind](field[kind])
    raise field.error("a number, text, list, quantization or array")


def _quantization(field: Field) -> Quantization:
    scale, zero_point = field["scale"].value, field["zero_point"].value
    if not isinstance(scale, float) or not 0 < scale < math.inf:
        raise field["scale"].error("a number above 0")
    dtype = field["dtype"].one_of(("uint8", "int8"))
    if not isinstance(zero_point, int) or not _in_range(zero_point, dtype):
        raise field["zero_point"].error(f"a whole number that fits {dtype}")
    return Quantization(scale, zero_point, dtype)


def _in_range(number: int, dtype: str) -> bool:
    limits = np.iinfo(dtype)
    return bool(limits.min <= number <= limits.max)


def _stored_array(field: Field) -> np.ndarray[Any, Any]:
    dtype = field["dtype"].one_of(TYPES)
    shape = field["shape"].shape()
    try:
        return np.array(field["values"].items() and field["values"].value, dtype).reshape(shape)
    except FOREIGN as error:
        raise field.error(f"values for {dtype}{list(shape)}") from error


TYPED: Mapping[str, Callable[[Field], Any]] = {
    "quantization": _quantization,
    "array": _stored_array,
}


def _tensor(item: Field) -> Tensor:
    place = tuple(number.number() for number in item["place"].items())
    if len(place) != 2:
        raise item["place"].error("[offset, length]")
    tensor = Tensor(
        item["name"].text(),
        item["dtype"].one_of(TYPES),
        item["shape"].shape(),
        (place[0], place[1]),
        item["crc32"].number(),
        item["form"].one_of(FORMS),
        item["bfloat16"].value is True,
    )
    if tensor.bfloat16 and tensor.dtype != "float32":
        raise item["bfloat16"].error(f"false for {tensor.dtype}")
    if tensor.form != "raw" and not blocks.fits(tensor.shape, tensor.form):
        raise item["shape"].error(f"one that blocks of {tensor.form} divide")
    return tensor
