"""Every instruction of engine/codegen/simd beside its NumPy meaning, run on every instruction set.

A row is an expression over the inputs below and what it means; all rows of a result type are one
kernel, so that an instruction set costs one compilation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.codegen import isa as instruction_sets
from engine.codegen.compile import compiled
from engine.codegen.isa import Isa
from engine.kernels.context import CONTEXT
from engine.kernels.harness import Harness

from .kernels.fixtures import SPECIALS

Array = NDArray[Any]
L = 64  # lanes
SETS = [isa for isa in instruction_sets.detected() if not isa.name.startswith("amx")]
RANDOM = np.random.default_rng(0)

INPUTS = {  # name -> array; each starts at a cache line
    "rows": RANDOM.integers(0, 256, (4, L)).astype(np.uint8),
    "i": RANDOM.integers(-(2**20), 2**20, L).astype(np.int32),
    "j": RANDOM.integers(-(2**9), 2**9, L).astype(np.int32),
    "words": RANDOM.integers(-300, 600, (4, L)).astype(np.int32),
    "a": RANDOM.normal(size=L).astype(np.float32),
    "b": RANDOM.normal(size=L).astype(np.float32),
    "quads": RANDOM.integers(0, 256, (L, 4)).astype(np.uint8),
    "four": RANDOM.integers(-128, 128, (4, 4)).astype(np.int8),
    "weights": RANDOM.integers(-128, 128, (4, 4, 4)).astype(np.int8),
    "pairs": RANDOM.integers(-(2**15), 2**15, (L, 2)).astype(np.int16),
    "table": RANDOM.permutation(256).astype(np.uint8),
    "floats": RANDOM.normal(size=16).astype(np.float32),
    "places": np.array([3, 1, 0, 2], np.uint16) * L,
    "numbers": np.array([3, 1, 0, 2, 255, 255, 255, 255, *range(4), 2, 0, 1, 3], np.uint8),
    "odd": SPECIALS,
    "halves": (RANDOM.normal(size=(L, 2)).astype(np.float32).view(np.uint32) >> 16).astype(
        np.uint16
    ),
}
INPUTS["a"][:3] = [0, -0.0, 1e-30]
PLACE: dict[str, int] = {}
for _name in INPUTS:
    PLACE[_name] = sum(-(-INPUTS[other].nbytes // 64) * 64 for other in PLACE)
INPUT_BYTES = 8192
I = INPUTS  # noqa: E741
WHOLE, HALF = np.arange(L), L // 2
QUAD = np.array([16 * lane + 4 * v + i for v in range(4) for lane in range(4) for i in range(4)])
MAGIC = np.float32(12582912.0)


def bf16(bits: Array) -> Array:
    """bfloat16 as float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def rounded(x: Array) -> Array:
    """float32 to the bits of the nearest bfloat16."""
    bits = x.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def bytes_of(x: Array) -> Array:
    return np.clip(x, 0, 255).astype(np.uint8)


def above(x: Array, y: Array) -> Array:
    return (x > y) | (np.isnan(x) & ~np.isnan(y))


def wide(x: Array) -> Array:
    return x.astype(np.int32)


LOADS = {
    **{f"r{n}": f"loads('u8', {L})(x + {PLACE['rows'] + L * n})" for n in range(4)},
    **{f"w{n}": f"loads('i32', {L})(x + {PLACE['words'] + 4 * L * n})" for n in range(4)},
    **{name: f"loads('i32', {L})(x + {PLACE[name]})" for name in "ij"},
    **{name: f"loads('f32', {L})(x + {PLACE[name]})" for name in ("a", "b", "odd")},
    "quads_": f"loads('u8', {4 * L})(x + {PLACE['quads']})",
    "pairs_": f"loads('i16', {2 * L})(x + {PLACE['pairs']})",
    "halves_": f"loads('bf16', {2 * L})(x + {PLACE['halves']})",
    "floats_": f"loads('f32', 16)(x + {PLACE['floats']})",
    "weight": f"load_i32(x + {PLACE['four']})",
    "fours": f"load_four(x + {PLACE['four']})",
    "all_fours": f"load_four_fours(x + {PLACE['weights']})",
    "numbers_": f"load_words(x + {PLACE['numbers']})",
    "number": f"load_f32(x + {PLACE['floats']})",
    "table": f"(x + {PLACE['table']})",
}
dots = wide(I["quads"]) @ wide(I["four"][0])
ROWS: list[tuple[str, Callable[[], Array]]] = [
    *((f"loads('u8', {L})(x + load_offsets(x + {PLACE['places']})[{n}])",
       lambda n=n: I["rows"][(3, 1, 0, 2)[n]]) for n in range(4)),
    *((f"loads('u8', {L})(x + {L} * four_places(load_early(x + {PLACE['numbers']}))[{n}])",
       lambda n=n: I["rows"][(3, 1, 0, 2)[n]]) for n in range(4)),
    *((f"loads('u8', {L})(x + bytes_at({first}, {L})(word({half})(numbers_))[{n}])",
       lambda at=8 * half + first + n: I["rows"][I["numbers"][at]])
      for half, first in ((0, 0), (1, 0), (1, 4)) for n in range(4)),
    ("add(i, j)", lambda: I["i"] + I["j"]),
    ("sums_of_quads(w0, w1, w2, w3)",
     lambda: I["words"].reshape(4, -1, 4).sum(2, dtype=np.int32).T),
    ("sub(a, b)", lambda: I["a"] - I["b"]),
    ("mul(a, b)", lambda: I["a"] * I["b"]),
    ("mul(i, j)", lambda: I["i"] * I["j"]),
    ("div(a, b)", lambda: I["a"] / I["b"]),
    ("xor(i, j)", lambda: I["i"] ^ I["j"]),
    ("both(i, j)", lambda: I["i"] & I["j"]),
    ("fma(a, b, a)", lambda: np.float32(I["a"].astype(float) * I["b"] + I["a"])),
    ("minimum(a, b)", lambda: np.minimum(I["a"], I["b"])),
    ("minimum(a, odd)", lambda: np.where(I["a"] < I["odd"], I["a"], I["odd"])),  # NaN of odd
    ("maximum(a, odd)", lambda: np.where(I["a"] > I["odd"], I["a"], I["odd"])),
    ("minimum(odd, a)", lambda: np.where(I["odd"] < I["a"], I["odd"], I["a"])),  # NaN to a
    ("maximum(odd, a)", lambda: np.where(I["odd"] > I["a"], I["odd"], I["a"])),
    ("maximum(i, j)", lambda: np.maximum(I["i"], I["j"])),
    ("unsigned_maximum(i, j)",
     lambda: np.maximum(I["i"].view(np.uint32), I["j"].view(np.uint32)).view(np.int32)),
    ("square_root(absolute(a))", lambda: np.sqrt(np.abs(I["a"]))),
    ("with_sign_of(a, b)", lambda: np.copysign(I["a"], I["b"])),
    ("where_above(a, odd, b, a)", lambda: np.where(above(I["a"], I["odd"]), I["b"], I["a"])),
    ("where_above(odd, a, b, a)", lambda: np.where(above(I["odd"], I["a"]), I["b"], I["a"])),
    ("where_above(odd, odd, b, a)", lambda: I["a"]),
    ("where_zero(a, b)", lambda: np.where(I["a"] == 0, I["b"], I["a"])),
    ("where_zero(odd, a)", lambda: np.where(I["odd"] == 0, I["a"], I["odd"])),
    ("to_float(i)", lambda: I["i"].astype(np.float32)),
    ("bytes_to_float(r0)", lambda: I["rows"][0].astype(np.float32)),
    ("as_int(a)", lambda: I["a"].view(np.int32)),
    ("shifts('left', 3)(i)", lambda: I["i"] << 3),
    ("shifts('right', 4)(i)", lambda: (I["i"].view(np.uint32) >> 4).view(np.int32)),
    (f"splats('f32', {L})(number)", lambda: np.full(L, I["floats"][0])),
    ("literal([1.5, -0.1] * 8)()", lambda: np.float32([1.5, -0.1] * 8)),
    (f"splats('f32', {L})(greatest(b))", lambda: np.full(L, I["b"].max())),
    (f"splats('i32', {L})(total(i))", lambda: np.full(L, I["i"].sum(dtype=np.int32))),
    ("parts(4, 1)(i)", lambda: I["i"][16:32]),
    ("dot4(i, quads_, weight)", lambda: I["i"] + dots),
    (
        f"dot4(i, quads_, spreads(2, {L})(fours))",
        lambda: I["i"] + wide(I["quads"]) @ wide(I["four"][2]),
    ),
    *((f"dot4(i, quads_, spreads(2, {L})(four_of({n})(all_fours)))",
       lambda n=n: I["i"] + wide(I["quads"]) @ wide(I["weights"][n, 2])) for n in range(4)),
    ("dot2_words(i, pairs_, weight)",
     lambda: I["i"] + wide(I["pairs"]) @ wide(I["four"][0].view(np.int16))),
    ("interleave(r0, r1, r2, r3)", lambda: I["rows"].T[QUAD]),
    ("interleave_in_order(r0, r1, r2, r3)", lambda: I["rows"].T),
    ("quads_of_words(w0, w1, w2, w3)", lambda: bytes_of(I["words"]).T),
    ("weigh(r0, r1)", lambda: I["rows"][:2].T[QUAD].astype(np.uint16)),
    ("in_token_order(i)", lambda: I["i"][np.argsort(QUAD)]),
    ("pack_words(w0)", lambda: bytes_of(I["words"][0])[np.argsort(QUAD)]),
    ("saturate_words(w1)", lambda: bytes_of(I["words"][1])),
    ("pack_in_order(add(to_float(w2), splats('f32', 64)(MAGIC)))", lambda: bytes_of(I["words"][2])),
    ("lookup(table, r0)", lambda: I["table"][I["rows"][0]]),
    ("pick(i, floats_)", lambda: I["floats"][I["i"] & 15]),
    ("zip_low(r0, r1)", lambda: np.stack([I["rows"][0, :HALF], I["rows"][1, :HALF]], 1)),
    ("zip_high(r0, r1)", lambda: np.stack([I["rows"][0, HALF:], I["rows"][1, HALF:]], 1)),
    ("bf16_in_order(a)", lambda: rounded(I["a"])),
    ("bf16_pairs(a, b)", lambda: np.stack([rounded(I["a"]), rounded(I["b"])], 1)),
    ("low_half(twice(a))", lambda: I["a"]),
    ("interleave_words(bf16_rows(a), bf16_rows(b))",
     lambda: np.stack([rounded(I["a"]), rounded(I["b"])], 1)),
]  # fmt: skip
CLOSE: list[tuple[str, Callable[[], Array]]] = [  # sums that may be rounded at other places
    ("multiply_add(a, b, a)", lambda: I["a"].astype(float) * I["b"] + I["a"]),
    (
        "dot2_bf16(a, halves_, as_int(halves_))",
        lambda: I["a"] + (bf16(I["halves"]).astype(float) ** 2).sum(1),
    ),
]


def kernel_of(expressions: list[str]) -> Callable[[], Any]:
    """Stores the value of every expression, 512 bytes apart from INPUT_BYTES on."""

    def build() -> Any:
        import numba

        from engine.codegen import simd

        lines = [f"    x = load_i64(context + {CONTEXT.arena})"]
        lines += [f"    {name} = {text}" for name, text in LOADS.items()]
        for number, expression in enumerate(expressions):
            lines.append(f"    store(x + {INPUT_BYTES + 512 * number}, {expression})")
        scope = {name: getattr(simd, name) for name in dir(simd) if not name.startswith("__")}
        text = "\n".join(lines)
        for name in (
            "loads",
            "splats",
            "shifts",
            "spreads",
            "parts",
            "bytes_at",
            "word",
            "four_of",
            "literal",
        ):
            text = _named(text, name, scope)
        scope["MAGIC"] = numba.float32(MAGIC)
        exec("def kernel(params, context, begin, end):\n" + text, scope)
        return scope["kernel"]

    return build


def _named(text: str, name: str, scope: dict[str, Any]) -> str:
    """Functions that are made for lanes: made here and given names, as Numba cannot call makers."""
    while (start := text.find(f"{name}(")) >= 0:
        call = text[start : text.index(")", start) + 1]
        scope[f"made_{len(scope)}"] = eval(call, scope)
        text = text.replace(call, f"made_{len(scope) - 1}")
    return text


def values(
    rows: list[tuple[str, Callable[[], Array]]], isa: Isa, kind: str
) -> list[tuple[str, Array, Array]]:
    harness = Harness(INPUT_BYTES + 512 * len(rows))
    for name, array in INPUTS.items():
        harness.arena[PLACE[name] : PLACE[name] + array.nbytes] = np.ravel(array).view(np.uint8)
    code = compiled(f"test_simd_{kind}", kernel_of([expression for expression, _ in rows]), isa)
    harness.run(code, harness.params(), 0, 1)
    found = []
    for number, (expression, meaning) in enumerate(rows):
        wanted = np.ascontiguousarray(meaning())
        at = INPUT_BYTES + 512 * number
        got = harness.arena[at : at + wanted.nbytes].view(wanted.dtype).reshape(wanted.shape)
        found.append((expression, got.copy(), wanted))
    return found


@pytest.mark.parametrize("isa", SETS, ids=str)
def test_instructions_mean_what_numpy_means(isa: Isa) -> None:
    wrong = [
        expression
        for expression, got, wanted in values(ROWS, isa, "exact")
        if not np.array_equal(got, wanted, equal_nan=True)
    ]
    assert not wrong


@pytest.mark.parametrize("isa", SETS, ids=str)
def test_sums_of_floats(isa: Isa) -> None:
    rows = [
        (expression, lambda meaning=meaning: np.float32(meaning())) for expression, meaning in CLOSE
    ]
    for expression, got, wanted in values(rows, isa, "close"):
        np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6, err_msg=expression)


def test_every_public_vector_function_has_a_row() -> None:
    """A new instruction needs its meaning here."""
    from engine.codegen import simd

    text = " ".join(expression for expression, _ in ROWS + CLOSE) + " ".join(LOADS.values())
    apart = {  # addresses, threads and plain loads and stores; what is made of rows above
        "cycles", "exchange", "fetch_add", "load_i64", "load_int", "load_shared", "load_u16",
        "load_u8", "pause", "prefetch", "scalar_to_int", "store", "store_lanes", "store_u8",
        "store_unaligned", "yield_core", "call_kernel", "pack", "as_float", "as_bytes",
    }  # fmt: skip
    names = [name for name, value in vars(simd).items() if type(value).__name__ == "_Intrinsic"]
    assert len(names) > 40
    assert [name for name in names if name not in apart and f"{name}(" not in text] == []
