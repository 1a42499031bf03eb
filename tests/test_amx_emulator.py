"""The emulator's instructions against NumPy, on encodings made here; and what it must refuse."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

if sys.platform != "linux" or platform.machine() != "x86_64":
    pytest.skip("executes x86-64 instructions", allow_module_level=True)

from tests.amx_instructions import (  # noqa: E402
    CONFIG,
    COUNTS,
    NAMES,
    PROTECTION,
    SLOT_BYTES,
    TILES,
    UNDEFINED,
    step,
)

PREFIX = {"tdpbuud": 0, "tdpbusd": 1, "tdpbsud": 2, "tdpbssd": 3, "tdpbf16ps": 2}
RDI, RSI = 8, 9  # places in the saved registers
LDTILECFG_RDI = bytes.fromhex("c4e2784907")


class Tiles:
    """A slot of memory, and registers, to carry instructions out on."""

    def __init__(self) -> None:
        self.slot = np.zeros(SLOT_BYTES, np.uint8)
        self.registers = np.zeros(17, np.int64)

    def run(self, code: bytes) -> int:
        """What step says of an instruction."""
        text = np.frombuffer(code + bytes(16), np.uint8).copy()
        return int(step(self.slot.ctypes.data, text.ctypes.data, self.registers))

    def configure(self, shapes: list[tuple[int, int]], palette: int = 1) -> int:
        """ldtilecfg of (rows, bytes a row)."""
        content = np.zeros(64, np.uint8)
        content[0] = palette
        for tile, (rows, row_bytes) in enumerate(shapes):
            content[16 + 2 * tile], content[48 + tile] = row_bytes, rows
        self.registers[RDI] = content.ctypes.data
        return self.run(LDTILECFG_RDI)

    def tile(self, number: int) -> np.ndarray:
        """uint8 [16, 64]."""
        at = TILES + 1024 * number
        return self.slot[at : at + 1024].reshape(16, 64)


def product(name: str, target: int, left: int, right: int) -> bytes:
    """VEX.128.<prefix>.0F38.W0 5E (5C: bfloat16) /r, the right tile in vvvv."""
    opcode = 0x5C if name == "tdpbf16ps" else 0x5E
    third = (~right & 15) << 3 | PREFIX[name]
    return bytes([0xC4, 0xE2, third, opcode, 0xC0 | target << 3 | left])


def test_bytes_are_multiplied_as_their_signs_say():
    random = np.random.default_rng(0)
    for name in ("tdpbuud", "tdpbusd", "tdpbsud", "tdpbssd"):
        left_type = np.int8 if name[4] == "s" else np.uint8
        right_type = np.int8 if name[5] == "s" else np.uint8
        for rows, columns, steps in random.integers(1, 17, (20, 3)):
            tiles = Tiles()
            assert (
                tiles.configure([(rows, 4 * columns), (rows, 4 * steps), (steps, 4 * columns)]) == 5
            )
            for number in range(3):
                tiles.tile(number)[...] = random.integers(0, 256, (16, 64))
            sums = tiles.tile(0).view(np.int32)[:rows, :columns].copy()
            a = tiles.tile(1)[:rows, : 4 * steps].view(left_type).astype(np.int64)
            b = tiles.tile(2)[:steps].view(right_type).astype(np.int64).reshape(steps, 16, 4)
            b = b.transpose(0, 2, 1).reshape(4 * steps, 16)[:, :columns]
            assert tiles.run(product(name, 0, 1, 2)) == 5
            want = np.zeros((16, 16), np.int32)
            want[:rows, :columns] = (sums + a @ b).astype(np.int32)  # wraps as the sums do
            assert np.array_equal(tiles.tile(0).view(np.int32), want)
            assert tiles.slot[COUNTS:].view(np.int64)[NAMES.index(name)] == 1


def test_bfloat16_is_two_chains_of_fused_multiply_adds():
    random = np.random.default_rng(1)
    tiles = Tiles()
    tiles.configure([(16, 64)] * 3)
    floats = random.standard_normal((2, 16, 32)).astype(np.float32)
    bits = (floats.view(np.uint32) >> 16).astype(np.uint16)
    bits[0, 0, :4] = 1  # denormals are zeros
    tiles.tile(1)[...], tiles.tile(2)[...] = (part.view(np.uint8) for part in bits)
    a, b = ((part.astype(np.uint32) << 16).view(np.float32).astype(np.float64) for part in bits)
    a[0, :4] = 0
    assert tiles.run(product("tdpbf16ps", 0, 1, 2)) == 5
    want = np.zeros((2, 16, 16), np.float32)
    for k in range(16):
        for odd in (0, 1):
            exact = a[:, 2 * k + odd, None] * b[k, odd::2][None] + want[odd].astype(np.float64)
            want[odd] = exact.astype(np.float32)
    assert np.array_equal(tiles.tile(0).view(np.float32), want[0] + want[1])


def test_loads_and_stores_keep_to_the_configured_size():
    tiles = Tiles()
    tiles.configure([(3, 8)])
    tiles.tile(0)[...] = 255
    memory = np.arange(200, dtype=np.uint8)
    tiles.registers[RDI], tiles.registers[RSI] = memory.ctypes.data, 50
    assert tiles.run(bytes.fromhex("c4e27b4b0437")) == 6  # tileloadd (%rdi,%rsi), %tmm0
    want = np.zeros((16, 64), np.uint8)
    want[:3, :8] = memory.reshape(4, 50)[:3, :8]
    assert np.array_equal(tiles.tile(0), want)
    tiles.tile(0)[...] = 7
    assert tiles.run(bytes.fromhex("c4e27a4b0437")) == 6  # tilestored %tmm0, (%rdi,%rsi)
    assert (memory == 7).sum() == 3 * 8
    assert tiles.run(bytes.fromhex("c4e27b49c0")) == 5  # tilezero %tmm0
    assert not tiles.tile(0).any()
    assert tiles.run(bytes.fromhex("c4e27849c0")) == 5  # tilerelease
    assert tiles.slot[CONFIG] == 0


def test_what_the_manual_forbids_is_refused():
    tiles = Tiles()
    assert tiles.run(product("tdpbsud", 0, 1, 2)) == UNDEFINED  # nothing configured
    assert tiles.configure([(16, 64)], palette=2) == PROTECTION
    assert tiles.configure([(17, 64)]) == PROTECTION
    assert tiles.configure([(16, 0)]) == PROTECTION
    tiles.configure([(16, 64), (16, 64), (8, 64)])
    assert tiles.run(product("tdpbsud", 0, 1, 1)) == UNDEFINED  # the same tile twice
    assert tiles.run(product("tdpbsud", 0, 1, 2)) == UNDEFINED  # 64 bytes a row, 8 rows
    assert tiles.run(bytes.fromhex("c4e27b4b07")) == UNDEFINED  # tileloadd without an index
    assert tiles.run(bytes.fromhex("62f1fe486f06")) == 0  # vmovdqu64: none of ours


def test_other_illegal_instructions_still_end_the_process():
    program = (
        "import ctypes, mmap\n"
        "from tests import amx_emulator\n"
        "memory = mmap.mmap(-1, 4096, prot=7)\n"
        "memory.write(bytes.fromhex('0f0b'))\n"  # ud2
        "at = ctypes.addressof(ctypes.c_char.from_buffer(memory))\n"
        "with amx_emulator.enabled():\n"
        "    ctypes.CFUNCTYPE(None)(at)()\n"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True)
    assert done.returncode == -4, done.stderr.decode()
