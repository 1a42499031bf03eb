"""Constants and inputs of odd shapes in a whole model: ONNX Runtime's numbers, fused or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.formats import onnx_reader
from engine.passes import optimize
from engine.runtime import Session
from tests.passes.sketch import Sketch, normal, save

CHANNELS, WORDS, PLACES, LENGTH = 32, 30, 12, 6
IDS = ("int64", ("batch", "sequence"))


class Odd:
    """An encoder layer whose constants have the shapes given; by default those of every BERT."""

    def __init__(self, inputs: dict[str, Any] | None = None, **shapes: tuple[int, ...]) -> None:
        kinds = {"ids": IDS, "types": IDS, "mask": IDS, **(inputs or {})}
        self.sketch, self.shapes, self.count = Sketch(**kinds), shapes, 0

    def constant(self, name: str, *usual: int) -> str:
        self.count += 1
        values = 0.3 * normal(*self.shapes.get(name, usual), seed=self.count)
        return self.sketch.constant(values + 1 if name.startswith("gamma") else values)

    def norm(self, x: str, place: int) -> str:
        s = self.sketch
        gamma = self.constant(f"gamma{place}", CHANNELS)
        beta = self.constant(f"beta{place}", CHANNELS)
        deviation = s.Sub(x, s.ReduceMean(x, axes=(-1,)))
        variance = s.ReduceMean(s.Mul(deviation, deviation), axes=(-1,))
        epsilon = np.full(self.shapes.get("epsilon", ()), 1e-5, np.float32)
        unit = s.Div(deviation, s.Sqrt(s.Add(variance, epsilon)))
        return str(s.Add(s.Mul(unit, gamma), beta))

    def layer(self, x: str, name: str) -> str:
        s = self.sketch
        product = s.MatMul(x, self.constant(f"weight_{name}", CHANNELS, CHANNELS))
        return str(s.Add(product, self.constant(f"bias_{name}", CHANNELS)))

    def heads(self, x: str, order: tuple[int, ...] = (0, 2, 1, 3)) -> str:
        s = self.sketch
        return str(s.Transpose(s.Reshape(x, np.array([0, 0, 2, CHANNELS // 2])), perm=order))

    def attention(self, x: str) -> str:
        s = self.sketch
        query, key, value = (self.layer(x, name) for name in ("query", "key", "value"))
        scores = s.MatMul(self.heads(query), self.heads(key, (0, 2, 3, 1)))
        scores = s.Mul(scores, np.full(self.shapes.get("scale", ()), 0.25, np.float32))
        kept = s.Cast(s.Unsqueeze("mask", np.array([1, 2])), to="float32")
        low = np.full(self.shapes.get("low", ()), -10000, np.float32)
        masked = s.Add(scores, s.Mul(s.Sub(np.float32(1), kept), low))
        context = s.MatMul(s.Softmax(masked, axis=-1), self.heads(value))
        turned = s.Transpose(context, perm=(0, 2, 1, 3))
        return str(s.Reshape(turned, np.array([0, 0, CHANNELS])))

    def gelu(self, x: str) -> str:
        s = self.sketch
        half = np.full(self.shapes.get("half", ()), 0.5, np.float32)
        return str(s.Mul(s.Mul(x, s.Add(s.Erf(s.Div(x, np.float32(np.sqrt(2)))), 1.0)), half))

    def embedded(self) -> str:
        s = self.sketch
        length = s.Gather(s.Shape("ids"), np.array([1]))
        places = s.Slice(np.arange(PLACES)[None], np.array([0]), length, np.array([1]))
        words = s.Gather(self.constant("words", WORDS, CHANNELS), "ids", axis=0)
        kinds = s.Gather(self.constant("kinds", 2, CHANNELS), "types", axis=0)
        positions = s.Gather(self.constant("positions", PLACES, CHANNELS), places, axis=0)
        return self.norm(s.Add(s.Add(words, kinds), positions), 0)

    def save(self, path: Path) -> Path:
        s, x = self.sketch, self.embedded()
        x = self.norm(s.Add(self.layer(self.attention(x), "out"), x), 1)
        inner = self.layer(self.gelu(self.layer(x, "up")), "down")
        x = self.norm(s.Add(inner, x), 2)
        pooled = s.Tanh(self.layer(s.Gather(x, np.int64(0), axis=1), "pooler"))
        return save(s.graph(x, self.layer(pooled, "head")), path)


def of_shapes(names: str, *shapes: tuple[int, ...]) -> list[dict[str, tuple[int, ...]]]:
    return [{name: shape} for name in names.split() for shape in shapes]


ALONG = [(), (1,), (1, CHANNELS), (1, 1, CHANNELS), (1, 1)]
CASES = [
    {},
    *of_shapes("gamma0 beta0 gamma1 beta2 bias_query bias_up bias_down", *ALONG),
    *of_shapes("gamma1 beta0 bias_key bias_out", (LENGTH, 1), (LENGTH, CHANNELS), (2, 1, 1)),
    *of_shapes("bias_pooler bias_head", (), (1,), (1, CHANNELS), (2, 1), (2, CHANNELS)),
    *of_shapes("positions", (PLACES, 1)),
    *of_shapes("kinds", (2, 1), (1, CHANNELS), (1, 1)),
    *of_shapes("words", (WORDS, 1)),
    {"words": (WORDS, 1), "positions": (PLACES, 1)},
    {"positions": (PLACES, 1), "kinds": (2, 1), "gamma0": (1,), "beta0": ()},
    *of_shapes("epsilon scale low half", (1,), (1, 1), (1, 1, 1)),
    *of_shapes("scale low", (1, 1, 1, 1)),
    *of_shapes("half gamma2 beta2 bias_down", (1, 1, 1, 1), (1, 1, 1, 1, 1)),
]
INPUTS: list[dict[str, tuple[int | str, ...]]] = [
    {"mask": (1, "sequence")},
    {"types": (1, "sequence")},
    {"mask": (1, LENGTH), "types": ("batch", LENGTH), "ids": ("batch", LENGTH)},
    {"types": ("batch", 1)},
    {"ids": (2, LENGTH), "mask": (1, LENGTH), "types": (2, 1)},
    {"ids": (2, "sequence"), "mask": (2, "sequence"), "types": (2, "sequence")},
    {"ids": ("batch", LENGTH), "mask": ("batch", LENGTH), "types": ("batch", LENGTH)},
]


def given(shapes: dict[str, tuple[int | str, ...]], *, one_type: bool) -> dict[str, np.ndarray]:
    """Two sentences, the second padded where the mask has a row for it."""
    random, feeds = np.random.default_rng(0), {}
    for name, most in (("ids", WORDS), ("types", 1 if one_type else 2), ("mask", 2)):
        free = {"batch": 2, "sequence": LENGTH}
        lengths = [free.get(str(n), n) for n in shapes.get(name, IDS[1])]
        feeds[name] = random.integers(0, most, lengths)
    feeds["mask"][:] = np.arange(LENGTH) < (4 if len(feeds["mask"]) == 1 else LENGTH)
    feeds["mask"][1:, 3:] = 0
    return feeds


def assert_like_onnx_runtime(path: Path, feeds: dict[str, np.ndarray]) -> Session:
    """Real tokens' results and their shapes."""
    from tests.passes.exported import runtime

    session = Session(optimize(onnx_reader.read(path)))
    real = np.broadcast_to(feeds["mask"], feeds["ids"].shape) == 1
    for name, wanted in runtime(path, feeds).items():
        got = session.run(feeds)[name]
        assert got.shape == wanted.shape
        if wanted.shape[-3:-1] == real.shape:
            got, wanted = got[..., real, :], wanted[..., real, :]
        np.testing.assert_allclose(got, wanted, atol=2e-5)
    return session


def shown(case: Any) -> str:
    return " ".join(f"{name}{list(shape)}" for name, shape in case.items()) or "usual"


@pytest.mark.parametrize("case", CASES, ids=shown)
def test_constants_of_odd_shapes(case: dict[str, tuple[int, ...]], tmp_path: Path) -> None:
    path = Odd(**case).save(tmp_path / "odd.onnx")
    feeds = given({}, one_type=len(np.zeros(case.get("kinds", (2,)))) == 1)
    session = assert_like_onnx_runtime(path, feeds)
    if all(shape in ALONG and name not in ("scale", "bias_head") for name, shape in case.items()):
        assert session.plan is not None and session.plan.fallback is None, (
            "it was spread, and fused"
        )


@pytest.mark.parametrize("case", INPUTS, ids=shown)
def test_inputs_of_odd_shapes(case: dict[str, tuple[int | str, ...]], tmp_path: Path) -> None:
    path = Odd({name: ("int64", shape) for name, shape in case.items()}).save(tmp_path / "odd.onnx")
    session = assert_like_onnx_runtime(path, given(case, one_type=False))
    alike = len(set(case.values())) == 1 and len(case) == 3
    assert (session.plan is not None and session.plan.fallback is None) == alike
