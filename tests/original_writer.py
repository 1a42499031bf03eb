"""A tiny random BERT as the original engine would write it, dense or transposed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

HEADS, DEPTH, INNER, WORDS, LENGTH, CLASSES = 4, 16, 128, 128, 24, 3
CHANNELS = HEADS * DEPTH
DTYPES = {"float32": "fp32", "int8": "s8", "uint16": "bf16"}
RANGES = {"x": (-6.0, 5.0), "q": (-4.0, 4.5), "scores": (-30.0, 28.0), "p": (0.0, 1.0),
          "o": (-3.0, 3.0), "sum": (-4.0, 3.5), "gelu": (-0.17, 4.0)}  # fmt: skip


def weights(seed: int = 0, zeros: float = 0.9) -> dict[str, np.ndarray]:
    """Weights [outputs, inputs] with blocks of 4 outputs x 1 input set to zero."""
    random = np.random.default_rng(seed)
    made = {
        "words": random.normal(size=(WORDS, CHANNELS)),
        "positions": random.normal(size=(LENGTH, CHANNELS)) * 0.3,
        "types": random.normal(size=(2, CHANNELS)) * 0.3,
    }
    for name, outputs, inputs in (
        ("query", CHANNELS, CHANNELS), ("key", CHANNELS, CHANNELS), ("value", CHANNELS, CHANNELS),
        ("out", CHANNELS, CHANNELS), ("inner", INNER, CHANNELS), ("outer", CHANNELS, INNER),
    ):  # fmt: skip
        keep = np.repeat(random.random((outputs // 4, inputs)) >= zeros, 4, axis=0)
        made[name] = random.normal(size=(outputs, inputs)) * keep / np.sqrt(inputs * (1 - zeros))
        made[f"{name}.bias"] = random.normal(size=outputs) * 0.1
    made["pooler"] = random.normal(size=(CHANNELS, CHANNELS)) / np.sqrt(CHANNELS)
    made["classifier"] = random.normal(size=(CLASSES, CHANNELS)) / np.sqrt(CHANNELS)
    made["pooler.bias"], made["classifier.bias"] = np.zeros(CHANNELS), np.ones(CLASSES) * 0.1
    for name in ("norm0", "norm1", "norm2"):
        made[name] = random.normal(size=CHANNELS) * 0.1 + 1
        made[f"{name}.bias"] = random.normal(size=CHANNELS) * 0.1
    return {name: np.asarray(array, np.float32) for name, array in made.items()}


def quantized(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int8 [N, K] and its scales [N]."""
    scale = np.maximum(np.abs(weight).max(1), 1e-3) / 127
    return np.rint(weight / scale[:, None]).astype(np.int8), scale.astype(np.float32)


class Writer:
    """Operators and tensors in the order in which they are written."""

    def __init__(self, content: dict[str, np.ndarray], precision: str, transposed: bool) -> None:
        self.content, self.precision, self.transposed = content, precision, transposed
        self.tensors: dict[str, Any] = {
            f"{name}:0": {"dtype": "s32", "shape": [-1, -1]}
            for name in ("input_ids", "token_type_ids", "attention_mask")
        }
        self.operators: dict[str, Any] = {}
        self.bin = b""

    @property
    def whole(self) -> bool:
        return self.precision == "int8"

    def tensor(self, name: str, array: np.ndarray) -> str:
        if f"{name}:0" not in self.tensors:
            data = np.ascontiguousarray(array).tobytes()
            self.tensors[f"{name}:0"] = {
                "dtype": DTYPES[str(array.dtype)],
                "shape": list(array.shape),
                "location": [len(self.bin), len(data)],
            }
            self.bin += data
        return f"{name}:0"

    def ranges(self, *names: str) -> list[str]:
        """[x] of activations; a weight's have been written with it."""
        found = []
        for name in names if self.whole else ():
            for suffix, value in zip(("_min", "_max"), RANGES.get(name, (0, 0)), strict=True):
                key = f"{name}{suffix}:0"
                found.append(
                    key if key in self.tensors else self.tensor(key[:-2], np.float32([value]))
                )
        return found

    def op(self, kind: str, out: str, *inputs: str, **attributes: Any) -> str:
        self.operators[f"{out}.op"] = {
            "type": kind,
            "input": {name: {} for name in inputs},
            "output": {f"{out}:0": {}},
            **({"attr": attributes} if attributes else {}),
        }
        return f"{out}:0"

    def constant(self, name: str) -> str:
        return self.tensor(name, self.content[name])

    def linear(
        self, out: str, x: str, name: str, ranged: str, made: str, *, add: str = "", **how: Any
    ) -> str:
        """ranged, made: the ranges of x and of the result."""
        weight, bias = self.content[name], self.content[f"{name}.bias"]
        middle = [add] if add else []
        if not self.whole:
            stored = weight.T
            if self.precision == "bf16":
                stored = (np.ascontiguousarray(stored).view(np.uint32) >> 16).astype(np.uint16)
                how["output_dtype"] = "bf16"
            inputs = [x, self.tensor(name, stored), self.tensor(f"{name}.bias", bias), *middle]
            shape = ["input_ids:0"] if "reshape" in how else []
            return self.op("InnerProduct", out, *inputs, *shape, src1_perm="1,0", **how)
        whole, scale = quantized(weight)
        low, high = RANGES[ranged]
        step = (high - low) / 255
        theirs = scale * (128 / 127)
        folded = bias - np.rint(-low / step) * step * theirs * whole.sum(1)
        w = self.tensor(name, whole if self.transposed else whole.T)
        b = self.tensor(f"{name}.bias", folded.astype(np.float32))
        self.tensor(f"{name}_min", -128 * scale)
        self.tensor(f"{name}_max", 127 * scale)
        pair = [self.ranges(ranged), [f"{name}_min:0", f"{name}_max:0"]]
        both = [x, w]
        if self.transposed:
            pair.reverse()
            both.reverse()
        else:
            how["src1_perm"] = "1,0"
        names = [*both, b, *middle, *pair[0], *pair[1], *self.ranges(made)]
        return self.op(
            "InnerProduct", out, *names, *(["input_ids:0"] if "reshape" in how else []), **how
        )

    def float_linear(self, out: str, x: str, name: str, **how: Any) -> str:
        weight, bias = self.constant(name), self.constant(f"{name}.bias")
        return self.op("InnerProduct", out, x, weight, bias, src1_perm="0,1", **how)

    def quantize(self, x: str) -> str:
        if self.whole:
            return self.op("Quantize", f"{x[:-2]}_quant", x, *self.ranges("x"), output_dtype="u8")
        if self.precision == "bf16":
            return self.op("Quantize", f"{x[:-2]}_short", x, output_dtype="bf16")
        return x

    def norm(self, out: str, x: str, name: str, **how: Any) -> str:
        parts = [self.constant(name), self.constant(f"{name}.bias")]
        return self.op("LayerNorm", out, x, *parts, epsilon=1e-12, **how)

    def write(self, folder: Path) -> Path:
        folder.mkdir()
        ends = {"output_data": {"type": "Output", "input": {"logits:0": {}}}}
        first = {"input_data": {"type": "Input", "output": self.tensors}}
        model = {"model": {"name": "model", "operator": {**first, **self.operators, **ends}}}
        (folder / "conf.yaml").write_text(yaml.safe_dump(model, sort_keys=False))
        (folder / "model.bin").write_bytes(self.bin)
        return folder


def write(folder: Path, precision: str = "fp32", *, transposed: bool = False) -> Path:
    """precision: "fp32", "bf16" or "int8"; returns the folder."""
    at = Writer(weights(), precision, transposed)
    mask = at.op(
        "PaddingSequence", "mask", "attention_mask:0", dst_shape=f"-1,{HEADS},0,-1", dims=1
    )
    dims = {"dst_shape": f"1,-1,{CHANNELS}", "dims": 1}
    places = at.op("Reshape", "places", at.constant("positions"), "input_ids:0", **dims)
    places = at.op("Reshape", "flat_places", places, dst_shape="1,-1")
    words = at.op("Reshape", "flat_ids", "input_ids:0", dst_shape=-1)
    kinds = at.op("Reshape", "flat_types", "token_type_ids:0", dst_shape=-1)
    how = {"axis": 0, "append_op": "binary_add", "reshape_dims": "0,1", "mul": "1,2"}
    kinds = at.op("Gather", "kinds", kinds, at.constant("types"), places, "token_type_ids:0", **how)
    x = at.op("Gather", "sum", words, at.constant("words"), kinds, "token_type_ids:0", **how)
    x = layer(at, at.norm("embedded", x, "norm0"), mask)
    x = at.op("Reshape", "last", x, "input_ids:0", dst_shape=f"-1,-1,{CHANNELS}", dims="0")
    row = {"begin": "0,0,0", "end": "0,1,0", "strides": "1,1,1", "begin_mask": 5, "end_mask": 5}
    x = at.op("StridedSlice", "row", x, **row)
    x = at.op("Reshape", "first", x, dst_shape=f"-1,{CHANNELS}")
    x = at.float_linear("pooled", x, "pooler", append_op="tanh")
    at.float_linear("logits", x, "classifier")
    return at.write(folder)


def layer(at: Writer, x: str, mask: str) -> str:
    turned = at.transposed
    if turned:
        x = at.op("Reorder", "turned", x, src_perm="0,1", dst_perm="1,0")
    heads = f"{HEADS},{DEPTH},-1, -1" if turned else f"-1,-1,{HEADS},{DEPTH}"
    split = {"reshape": heads, "reshape_dims": "0"} | ({"output_dtype": "s8"} if at.whole else {})
    stored = at.quantize(x)
    q, k, v = (
        at.linear(f"{n}_heads", stored, n, "x", "q", **split) for n in ("query", "key", "value")
    )
    orders = ("2,0,3,1", "2,0,1,3") if turned else ("0,2,1,3", "0,2,3,1")
    scaled = {"output_scale": DEPTH**-0.5, "append_op": "binary_add"}
    scaled |= {"src0_perm": orders[0], "src1_perm": orders[1]}
    s = at.op("Matmul", "scores", q, k, mask, *at.ranges("q", "q", "scores"), **scaled)
    p = at.op("Softmax", "chances", s, *at.ranges("p"))
    order = {"src1_perm": orders[0], "dst_perm": "1,3,0,2" if turned else "0,2,1,3"}
    flat = f"{CHANNELS},-1" if turned else f"-1,{CHANNELS}"
    o = at.op(
        "Matmul",
        "context",
        p,
        v,
        *at.ranges("p"),
        *at.ranges("q"),
        *at.ranges("o"),
        **order,
        reshape=flat,
    )
    turning = {"transpose_mode": "1, 0"} if turned else {}
    x = at.norm(
        "norm_a",
        at.linear("sum_a", o, "out", "o", "sum", add=x, append_op="sum"),
        "norm1",
        **turning,
    )
    kept = {"output_dtype": "u8"} if at.whole else {}
    g = at.linear("gelu_out", at.quantize(x), "inner", "x", "gelu", append_op="gelu_tanh", **kept)
    y = at.linear("sum_b", g, "outer", "gelu", "sum", add=x, append_op="sum")
    if turned:
        y = at.op("Reorder", "sum_b_recover", y, src_perm="0,1", dst_perm="1,0")
    return at.norm("norm_b", y, "norm2")


# --- what it should compute ---
def expected(feeds: dict[str, np.ndarray]) -> np.ndarray:
    """The float32 model in plain NumPy: logits [batch, classes]."""
    w = weights()
    ids = feeds["input_ids"]

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt(x.var(-1, keepdims=True) + 1e-12) * w[name] + w[f"{name}.bias"]

    def layer(x: np.ndarray, name: str) -> np.ndarray:
        return x @ w[name].T + w[f"{name}.bias"]

    def heads(x: np.ndarray) -> np.ndarray:
        return x.reshape(*x.shape[:2], HEADS, DEPTH).swapaxes(1, 2)

    x = norm(
        w["words"][ids] + w["types"][feeds["token_type_ids"]] + w["positions"][: ids.shape[1]],
        "norm0",
    )
    q, k, v = (heads(layer(x, name)) for name in ("query", "key", "value"))
    s = q @ k.swapaxes(-1, -2) * DEPTH**-0.5 + (feeds["attention_mask"][:, None, None] - 1.0) * 1e4
    p = np.exp(s - s.max(-1, keepdims=True))
    o = (p / p.sum(-1, keepdims=True) @ v).swapaxes(1, 2).reshape(x.shape)
    x = norm(layer(o, "out") + x, "norm1")
    h = layer(x, "inner")
    h = 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
    x = norm(layer(h, "outer") + x, "norm2")
    return layer(np.tanh(layer(x[:, 0], "pooler")), "classifier")
