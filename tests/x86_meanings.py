"""LLVM's own functions for x86 by their NumPy meanings: bodies of instructions for a CPU that is
not here run with these in place of its machine instructions.

    text = with_meanings(lower.kernel_module(name, function, isa))

A call of `llvm.x86.avx512.vpdpbusd.512` becomes one of a function that stores its operands and
calls back into Python.  Tiles are not among them: tests/amx_emulator.py.
Source: Intel SDM vol. 2, by the instruction's name.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
TYPES = {
    "i8": np.uint8, "i16": np.int16, "bfloat": np.uint16, "i32": np.int32, "float": np.float32
}  # fmt: skip


# --- meanings: operands as LLVM passes them, bytes unsigned
def _sums(total: Array, x: Array, w: Array) -> Array:
    """total[i] + the sum of the lane's products."""
    products = x.astype(np.int64) * w.astype(np.int64)
    return total + products.reshape(len(total), -1).sum(1).astype(np.int32)


def _sums_of_bytes(total: Array, x: Array, w: Array) -> Array:
    return _sums(total, x, w.view(np.int8))


def _sums_of_pairs(x: Array, w: Array) -> Array:
    return _sums(np.zeros(len(x) // 2, np.int32), x, w)


def _halves(x: Array) -> tuple[Array, Array]:
    """The two bfloat16 of each lane as float64, high and low."""
    bits = x.view(np.uint32)
    return tuple(half.view(np.float32).astype(float) for half in (bits & 0xFFFF0000, bits << 16))


def _sums_of_bfloat16(total: Array, x: Array, w: Array) -> Array:
    for p, q in zip(_halves(x), _halves(w), strict=True):
        total = np.float32(total + p * q)
    return total


def _bfloat16_of_both(high: Array, low: Array) -> Array:
    bits = np.concatenate([low, high]).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def _lanes_of_both(first: Array, places: Array, second: Array) -> Array:
    both = np.concatenate([first, second])
    return both[places.astype(int) % len(both)]


def _lanes_of_one(table: Array, places: Array) -> Array:
    return table[places % len(table)]


def _bytes_of_sixteen(table: Array, places: Array) -> Array:
    first = np.arange(len(table)) // 16 * 16
    return np.where(places < 128, table[first + places % 16], 0)


def _saturated(first: Array, second: Array) -> Array:
    """Of either operand in turn, from 128 bits each."""
    eights = np.stack([first.reshape(-1, 8), second.reshape(-1, 8)], 1)
    return np.clip(eights, 0, 255).reshape(-1)


MEANINGS: dict[str, Callable[..., Array]] = {  # by the beginning of the name
    "avx512.vpdpbusd.": _sums_of_bytes,
    "avx512.vpdpwssd.": _sums,
    "avx512.pmaddw.d.": _sums_of_pairs,
    "avx2.pmadd.wd": _sums_of_pairs,
    "sse2.pmadd.wd": _sums_of_pairs,
    "avx512bf16.dpbf16ps.": _sums_of_bfloat16,
    "avx512bf16.cvtne2ps2bf16.": _bfloat16_of_both,
    "avx512.vpermi2var.": _lanes_of_both,
    "avx512.permvar.": _lanes_of_one,
    "avx2.permps": _lanes_of_one,
    "avx2.pshuf.b": _bytes_of_sixteen,
    "ssse3.pshuf.b.": _bytes_of_sixteen,
    "avx512.packuswb.": _saturated,
}

# --- in place of the functions
_VECTOR = re.compile(r"<(\d+) x (\w+)>")
_DECLARED = re.compile(r"declare (<[^>]+>) @llvm\.x86\.([\w.]+)\((.*)\).*\n")
_HELD = re.compile(r'call (<[^>]+>) asm (?:sideeffect )?"", "=v,0"\(<[^>]+> (.*)\).*')
_kept: list[Any] = []  # callbacks live as long as code that calls them


def _array(address: int, vector: str) -> Array:
    lanes, kind = _VECTOR.fullmatch(vector).groups()
    bytes_ = int(lanes) * np.dtype(TYPES[kind]).itemsize
    return np.frombuffer((ctypes.c_char * bytes_).from_address(address), TYPES[kind])


def _address(meaning: Callable[..., Array], result: str, arguments: list[str]) -> int:
    def call(*addresses: int) -> None:
        given = [_array(*each) for each in zip(addresses[1:], arguments, strict=True)]
        _array(addresses[0], result)[:] = meaning(*given)

    _kept.append(ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * (1 + len(arguments)))(call))
    return ctypes.cast(_kept[-1], ctypes.c_void_p).value


def _definition(match: re.Match[str]) -> str:
    result, name, arguments = match[1], match[2], _VECTOR.findall(match[3])
    meanings = [meaning for start, meaning in MEANINGS.items() if name.startswith(start)]
    assert meanings, f"llvm.x86.{name} has no meaning here: give it one"
    types = [f"<{lanes} x {kind}>" for lanes, kind in arguments]
    given = ", ".join(f"{kind} %a{n}" for n, kind in enumerate(types))
    kept = [
        f"%p{n} = alloca {kind}\n store {kind} %a{n}, ptr %p{n}" for n, kind in enumerate(types)
    ]
    places = ", ".join(f"ptr %p{n}" for n in range(len(types)))
    address = _address(meanings[0], result, types)
    return "\n".join(
        [
            f"define internal {result} @meaning.{name}({given}) noinline {{",
            f"%r = alloca {result}",
            *kept,
            f"call void inttoptr (i64 {address} to ptr)(ptr %r, {places})",
            f"%v = load {result}, ptr %r",
            f"ret {result} %v }}\n",
        ]
    )


def with_meanings(text: str) -> str:
    """LLVM IR that asks for no instruction of x86 above SSE2, and holds no register."""
    text = _HELD.sub(lambda match: f"bitcast {match[1]} {match[2]} to {match[1]}", text)
    text = _DECLARED.sub(_definition, text)
    return re.sub(r"@llvm\.x86\.(?!sse2\.pause)", "@meaning.", text)
