"""What is done to a model: a tree of plain values, its tensors, its bytes.

Every choice comes from a `random.Random`, so a seed says all.
"""

from __future__ import annotations

import copy
import json
import math
import pickle
import random
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from engine.formats import blocks, store
from tests.fuzz import bases

__all__ = ["HOSTILE", "CONFIG", "change_tree", "configuration", "damaged", "ir", "original"]

ROOT = Path(__file__).parents[2]
Files = dict[str, bytes]
Tree = Any
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
LAST = "# crc32 of the lines above: "
NUMBERS: tuple[Any, ...] = (
    0, 1, 2, 3, 4, 5, 7, 16, 33, 64, 100, 255, 256, 4096, 65536, 1 << 20, (1 << 31) - 1, 1 << 31,
    1 << 40, (1 << 63) - 1, 1 << 63, 1 << 100, -1, -2, -128, -129, -(1 << 31), -(1 << 63),
    0.0, -0.0, 0.5, 1.0, -1.0, 1e-45, 1e-300, 1e38, 1e39, 1e300, math.inf, -math.inf, math.nan,
)  # fmt: skip
HOSTILE: tuple[Any, ...] = (
    *NUMBERS, True, False, None, "", "x", "\0", "float32", "int8", "4x1", "engine", "a" * 5000,
    [], {}, [1], [[]], [0, 0], [-1], {"a": 1},
    {"quantization": {"scale": 0.1, "zero_point": 3, "dtype": "uint8"}},
    {"quantization": {"scale": 1e-42, "zero_point": -128, "dtype": "int8"}},
    {"array": {"dtype": "int64", "shape": [2], "values": [1, 2]}},
    {"array": {"dtype": "float32", "shape": [0, 1 << 40], "values": []}},
)  # fmt: skip
TYPES = (
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint64",
    "float16",
    "float32",
    "float64",
)
OPERATORS = (
    "Embedding", "Linear", "LayerNorm", "Attention", "Select", "Squeeze", "Reshape", "Tanh", "Relu",
    "Gelu", "Softmax", "Concat", "Expand", "Tile", "ConstantOfShape", "QuantizeLinear", "Flatten",
    "DequantizeLinear", "Add", "MatMul", "Cast", "Nothing",
)  # fmt: skip
ATTRIBUTES = (
    "heads", "scale", "epsilon", "position_offset", "padding_id", "activation", "precision",
    "pattern", "product", "output", "input", "residual", "index", "dynamic", "query", "key",
    "value", "scores", "probabilities", "zero_ratio", "axis", "axes", "to",
)  # fmt: skip
WORDS = (
    None, "tensor", "token", "gelu", "gelu_tanh", "tanh", "relu", "int8", "float32", "bfloat16",
    "dense", "4x1", "1x4",
)  # fmt: skip


# --- trees ---
def places(tree: Tree, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every part."""
    if at:
        yield at
    parts = (
        tree.items()
        if isinstance(tree, dict)
        else enumerate(tree)
        if isinstance(tree, list)
        else ()
    )
    for key, part in parts:
        yield from places(part, (*at, key))


def part(tree: Tree, at: tuple[Any, ...]) -> Tree:
    for key in at:
        tree = tree[key]
    return tree


def change_tree(random: random.Random, tree: Tree) -> None:
    """One part is replaced, left out, doubled, moved or nudged."""
    at = random.choice(list(places(tree)))
    holder, key = part(tree, at[:-1]), at[-1]
    old, how = holder[key], random.random()
    if how < 0.15:
        del holder[key]
    elif how < 0.3 and isinstance(holder, list):
        holder.insert(key, copy.deepcopy(old))
    elif how < 0.45:
        other = part(tree, random.choice(list(places(tree))))
        holder[key] = copy.deepcopy(other) if len(str(other)) < 2000 else None
    elif how < 0.65 and isinstance(old, int | float) and not isinstance(old, bool):
        holder[key] = random.choice(
            [old + 1, old - 1, -old, 2 * old, old + 64, float(old), str(old)]
        )
    else:
        holder[key] = copy.deepcopy(random.choice(HOSTILE))


def damaged(random: random.Random, content: bytes) -> bytes:
    """Cut, with other bytes, or with a piece twice."""
    raw, how = bytearray(content), random.random()
    if how < 0.2 or not raw:
        return bytes(raw[: random.randrange(len(raw) + 1)])
    if how < 0.3:
        begin, end = sorted(random.randrange(len(raw)) for _ in range(2))
        return bytes(raw[:end] + raw[begin:])
    for _ in range(random.choice([1, 1, 2, 8, 64])):
        raw[random.randrange(len(raw))] = random.randrange(256)
    return bytes(raw)


# --- our IR ---
MOST = 1 << 20  # elements of a tensor: files stay small


def sealed(tree: Tree) -> bytes:
    """conf.yaml of a tree, its last line right."""
    return sealed_text(written(tree))


def written(tree: Tree) -> bytes:
    """YAML in JSON's form, which takes a tenth of the time to write."""
    return json.dumps(tree).replace("Infinity", ".inf").replace("NaN", ".nan").encode() + b"\n"


@cache
def pickled(content: bytes) -> bytes:
    return pickle.dumps(yaml.load(content, LOADER))


def parsed(content: bytes) -> Tree:
    return pickle.loads(pickled(content))


def sealed_text(body: bytes) -> bytes:
    return body + f"{LAST}{zlib.crc32(body):08x}\n".encode()


def laid_out(tree: Tree, old: bytes, pieces: dict[int, bytes]) -> bytes:
    """model.bin with other bytes for some tensors; places and checksums of all are made right."""
    out = bytearray(old[: store.ALIGNMENT])
    for number, tensor in enumerate(tree["tensors"]):
        offset, length = tensor["place"]
        piece = pieces.get(number, old[offset : offset + length])
        tensor["place"], tensor["crc32"] = [len(out), len(piece)], zlib.crc32(piece)
        out += piece + bytes(-len(piece) % store.ALIGNMENT)
    tree["model_bin_length"] = len(out)
    return bytes(out)


def ir(random: random.Random) -> tuple[Files, str]:
    """conf.yaml and model.bin, checksums right but where bytes alone are changed."""
    kind = random.choice(bases.IRS)
    files = dict(bases.ir_files(kind))
    if random.random() < 0.08:
        return raw_ir(random, files), kind
    tree, content = parsed(files[store.CONF]), files[store.BIN]
    for _ in range(random.choice([1, 1, 1, 2, 3])):
        how = random.random()
        if how < 0.4:
            content = change_tensor(random, tree, content)
        elif how < 0.8:
            change_operator(random, tree)
        else:
            change_tree(random, tree)
            break  # the tree may be of any form now
    return {store.CONF: sealed(tree), store.BIN: content}, kind


def raw_ir(random: random.Random, files: Files) -> Files:
    name = random.choice(sorted(files))
    content = damaged(random, files[name])
    if name == store.CONF and random.random() < 0.5:  # as one who knows the checksum
        content = sealed_text(content.rpartition(LAST.encode())[0] or content)
    return {**files, name: content}


def change_tensor(random: random.Random, tree: Tree, content: bytes) -> bytes:
    """One tensor with another shape, type or other values; the new model.bin."""
    number = random.randrange(len(tree["tensors"]))
    tensor = tree["tensors"][number]
    offset, length = tensor["place"]
    raw = content[offset : offset + length]
    if tensor["form"] != "raw":
        piece = other_blocks(random, tensor, raw)
    else:
        piece = random.choice([other_shape, other_shape, other_type, other_values])(
            random, tensor, raw
        )
    return laid_out(tree, content, {number: piece})


def width(tensor: Tree) -> int:
    return 2 if tensor["bfloat16"] else np.dtype(tensor["dtype"]).itemsize


def filled(raw: bytes, length: int) -> bytes:
    """As many bytes, those there are over and over."""
    return (raw * (length // max(len(raw), 1) + 1))[:length] if raw else bytes(length)


def other_shape(random: random.Random, tensor: Tree, raw: bytes) -> bytes:
    shape = list(tensor["shape"])
    axis = random.randrange(len(shape)) if shape else 0
    choices: list[list[int]] = [
        [1] * len(shape), [math.prod(shape)], shape[::-1], shape[1:], [1, *shape], [*shape, 1], [],
        [0, 1 << 40],
    ]  # fmt: skip
    lengths = [0, 1, 2, 3, 5, 16, 31, 33, 64, 100, *(2 * n for n in shape[axis : axis + 1])]
    choices += [[*shape[:axis], length, *shape[axis + 1 :]] for length in lengths]
    tensor["shape"] = random.choice([each for each in choices if math.prod(each) < MOST])
    return filled(raw, math.prod(tensor["shape"]) * width(tensor))


def other_type(random: random.Random, tensor: Tree, raw: bytes) -> bytes:
    tensor["dtype"], tensor["bfloat16"] = random.choice(TYPES), False
    return filled(raw, math.prod(tensor["shape"]) * width(tensor))


def other_values(random: random.Random, tensor: Tree, raw: bytes) -> bytes:
    changed = bytearray(raw)
    if tensor["dtype"] == "float32" and not tensor["bfloat16"] and raw:
        values = np.frombuffer(raw, np.float32).copy()
        number = random.choice([math.nan, math.inf, -math.inf, 1e38, -1e38, 0.0, 1e-45, 3.0])
        values[random.randrange(len(values))] = number
        return values.tobytes()
    for _ in range(random.choice([1, 8])):
        if changed:
            changed[random.randrange(len(changed))] = random.randrange(256)
    return bytes(changed)


def other_blocks(random: random.Random, tensor: Tree, raw: bytes) -> bytes:
    """Sparse: starts, columns and values for a shape that blocks divide, or the old ones cut."""
    if random.random() < 0.4:
        return damaged(random, raw)
    shape, axis = list(tensor["shape"]), random.choice([0, 1])
    shape[axis] = random.choice([4, 8, 16, 2 * shape[axis], shape[axis] + 4, shape[axis] + 2])
    tensor["shape"] = shape
    lines, places = blocks.count_lines((shape[0], shape[1]), tensor["form"])
    count = random.randrange(lines * places + 1)
    cuts = sorted(random.randrange(count + 1) for _ in range(max(lines - 1, 0)))
    columns = np.array([random.randrange(max(places, 1)) for _ in range(count)], np.uint16)
    values = filled(raw[-64:], 4 * count * width(tensor))
    parts = [np.array([0, *cuts, count], np.int32).tobytes(), columns.tobytes()]
    return b"".join(each + bytes(-len(each) % store.ALIGNMENT) for each in parts) + values


def change_operator(random: random.Random, tree: Tree) -> None:
    node, how = random.choice(tree["operators"]), random.random()
    attributes, operators = node["attributes"], tree["operators"]
    names = [name for each in operators for name in each["inputs"] + each["outputs"]]
    if how < 0.3 and attributes:
        attributes[random.choice(list(attributes))] = hostile_attribute(random)
    elif how < 0.45:
        attributes[random.choice(ATTRIBUTES)] = hostile_attribute(random)
    elif how < 0.5 and "heads" in attributes:
        attributes["heads"] = random.choice([1, 2, 3, 4, 8, 16, 32, 64])
    elif how < 0.75 and node["inputs"]:
        place = random.randrange(len(node["inputs"]))
        choice = random.choice(["other", "other", "none", "less", "more"])
        if choice == "less":
            del node["inputs"][place]
        elif choice == "more":
            node["inputs"].insert(place, random.choice(names))
        else:
            node["inputs"][place] = "" if choice == "none" else random.choice(names)
    elif how < 0.85:
        node["op"] = random.choice(OPERATORS)
        node["domain"] = random.choice(["engine", "", node["domain"], "com.microsoft"])
    elif how < 0.9:
        a, b = (random.randrange(len(operators)) for _ in range(2))
        operators[a], operators[b] = operators[b], operators[a]
    elif how < 0.95:
        node["outputs"] = random.choice(
            [[random.choice(names)], [], [*node["outputs"], "more"], [""]]
        )
    else:
        value = random.choice(tree["inputs"] + tree["outputs"])
        value["shape"] = random.choice([[], ["n"], ["n", "n"], [3, 10], [2, 5], [1, 1, 1], [0, 4]])


def hostile_attribute(random: random.Random) -> Any:
    return copy.deepcopy(random.choice([random.choice(HOSTILE), random.choice(WORDS)]))


# --- the original's IR ---
def original(random: random.Random) -> tuple[Files, str]:
    precision, transposed = random.choice(bases.ORIGINAL)
    files = dict(bases.original_files(precision, transposed))
    kind = f"{precision}{' transposed' if transposed else ''}"
    if random.random() < 0.15:
        name = random.choice(sorted(files))
        return {**files, name: damaged(random, files[name])}, kind
    tree = parsed(files[store.CONF])
    for _ in range(random.choice([1, 1, 1, 2, 3])):
        if random.random() < 0.5:
            change_original(random, tree["model"]["operator"])
        else:
            change_tree(random, tree)
            break
    return {**files, store.CONF: b"model: " + written(tree.get("model"))}, kind


def change_original(random: random.Random, operators: dict[str, Any]) -> None:
    """Wires, orders of axes and places of tensors, as the translation reads them."""
    node, how = random.choice(list(operators.values())), random.random()
    tensors = operators["input_data"]["output"]
    if how < 0.4 and node.get("attr"):
        key = random.choice(list(node["attr"]))
        node["attr"][key] = random.choice(
            ["", "0", "1,0", "0,1", "-1,-1,4,16", "0,2,1,3", "0,2,3,1", "-1,64", "-1", "1,-1,64",
             "99999999999999999999", "x", "tanh", "u8", "s8", "bf16", "sum", "binary_add", 1e-5]
        )  # fmt: skip
    elif how < 0.7 and node.get("input"):
        names = list(node["input"])
        names[random.randrange(len(names))] = random.choice(
            [*tensors, *(name for each in operators.values() for name in each.get("output", ()))]
        )
        node["input"] = dict.fromkeys(names, {})
    else:
        tensor = random.choice(list(tensors.values()))
        shape = tensor["shape"]
        tensor["shape"] = random.choice(
            [shape[::-1], [math.prod(shape)], [1, *shape], [*shape, 1], []]
        )
        if "location" in tensor and random.random() < 0.3:
            tensor["location"][random.randrange(2)] += random.choice([-4, 4, 1, 64, 1 << 40])


# --- the workflow's configuration ---
CONFIG, CONFIGS = "config.yaml", ("config.yaml", "hub.yaml", "several.yaml")


def configuration(random: random.Random) -> tuple[Files, str]:
    """One of the repository's configurations."""
    path = ROOT / "config" / random.choice(CONFIGS)
    tree = parsed(path.read_bytes())
    for _ in range(random.choice([1, 1, 2, 3])):
        change_tree(random, tree)
        if not tree:
            break
    return {CONFIG: written(tree)}, path.stem
