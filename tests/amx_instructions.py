"""AMX instructions carried out on tiles in memory: what amx_emulator.py does at an illegal one.

Meaning, and what raises #UD and #GP: Intel SDM vol. 2.  A thread's slot of memory: 0 the thread's
key, 64 configuration as ldtilecfg reads it, 128 counts of instructions, 2048 work of tdpbf16ps,
4096 tiles [8][16][64].  Compiled by Numba: runs without the GIL and touches no Python object.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

NAMES = (
    "ldtilecfg", "sttilecfg", "tilerelease", "tilezero", "tileload", "tilestored",
    "tdpbssd", "tdpbsud", "tdpbusd", "tdpbuud", "tdpbf16ps",
)  # fmt: skip
LDTILECFG, STTILECFG, RELEASE, ZERO, LOAD, STORE, SSD, SUD, USD, UUD, BF16 = range(len(NAMES))
SLOT_BYTES, SLOTS = 16384, 64
CONFIG, COUNTS, WORK, TILES, TILE_BYTES = 64, 128, 2048, 4096, 1024
UNDEFINED, PROTECTION = -6, -13  # vectors of #UD and #GP, negated
# ucontext_t: flags 8, link 8, stack 24 bytes, then r8..r15 rdi rsi rbp rbx rdx rax rcx rsp rip.
REGISTERS, RIP = 40, 16
_REGISTER = (13, 14, 12, 11, 15, 10, 9, 8, 0, 1, 2, 3, 4, 5, 6, 7)  # number in code -> place there


# --- memory and floats
@intrinsic
def as_pointer(typing, address):
    def emit(context, builder, signature, args):
        return builder.inttoptr(args[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), emit


@intrinsic
def as_address(typing, pointer):
    def emit(context, builder, signature, args):
        return builder.ptrtoint(args[0], ir.IntType(64))

    return types.int64(types.voidptr), emit


@intrinsic
def _fused(typing, a, b, c):
    return (
        types.float32(types.float32, types.float32, types.float32),
        lambda context, builder, signature, args: builder.fma(*args),
    )


@njit(inline="always")
def _bytes(address, count):
    return carray(as_pointer(address), count, np.uint8)


@njit(inline="always")
def _ints(address, count):
    return carray(as_pointer(address), count, np.int32)


@njit(inline="always")
def _words(address, count):
    return carray(as_pointer(address), count, np.uint32)


@njit(inline="always")
def longs_at(address, count):
    return carray(as_pointer(address), count, np.int64)


@njit(inline="always")
def _floats(address, count):
    return carray(as_pointer(address), count, np.float32)


@njit(inline="always")
def _flush(bits):
    """A denormal becomes zero of its sign: AMX takes and gives none."""
    return bits if bits & np.uint32(0x7F800000) else bits & np.uint32(0x80000000)


@njit(error_model="numpy")
def _clear(address, count):
    longs = longs_at(address, count // 8)
    for i in range(count // 8):
        longs[i] = 0


@njit(error_model="numpy")
def _copy(target, source, count):
    to, of = _bytes(target, count), _bytes(source, count)
    for i in range(count):
        to[i] = of[i]


# --- tiles
@njit(error_model="numpy")
def _rows(slot, tile):
    return np.int64(_bytes(slot + CONFIG + 48, 8)[tile])


@njit(error_model="numpy")
def _row_bytes(slot, tile):
    low_high = _bytes(slot + CONFIG + 16, 16)
    return np.int64(low_high[2 * tile]) | np.int64(low_high[2 * tile + 1]) << 8


@njit(error_model="numpy")
def _is_usable(slot, tile):
    palette = _bytes(slot + CONFIG, 1)[0]
    return palette == 1 and _rows(slot, tile) != 0 and _row_bytes(slot, tile) & 3 == 0


@njit(error_model="numpy")
def _tile(slot, tile):
    return slot + TILES + TILE_BYTES * tile


@njit(error_model="numpy")
def _clear_outside(tile, rows, columns):
    for m in range(16):
        row = _ints(tile + 64 * m, 16)
        for n in range(16):
            if m >= rows or n >= columns:
                row[n] = 0


@njit(inline="always")
def _part(word, shift, signed):
    """Byte of an int32; signed: with its sign."""
    byte = (word >> np.int32(shift)) & np.int32(255)
    return np.int32(byte - ((byte & np.int32(128)) << np.int32(1))) if signed else byte


@njit(error_model="numpy")
def _multiply_bytes(target, a, b, rows, columns, steps, a_signed, b_signed):
    for m in range(rows):
        sums, left = _ints(target + 64 * m, 16), _ints(a + 64 * m, 16)
        for k in range(steps):
            x0, x1 = _part(left[k], 0, a_signed), _part(left[k], 8, a_signed)
            x2, x3 = _part(left[k], 16, a_signed), _part(left[k], 24, a_signed)
            right = _ints(b + 64 * k, 16)
            for n in range(columns):
                y0, y1 = _part(right[n], 0, b_signed), _part(right[n], 8, b_signed)
                y2, y3 = _part(right[n], 16, b_signed), _part(right[n], 24, b_signed)
                sums[n] = np.int32(sums[n] + x0 * y0 + x1 * y1 + x2 * y2 + x3 * y3)


@njit(error_model="numpy")
def _multiply_bf16(work, target, a, b, rows, columns, steps):
    """Two chains of fused multiply-adds, of the even and the odd inputs, from 0; then sums + both.

    Round to nearest even whatever MXCSR says, denormals are zeros.  `work` holds bits and floats in
    one place, to see one as the other.
    """
    bits, values = _words(work, 8), _floats(work, 8)
    for m in range(rows):
        sums, left = _words(target + 64 * m, 16), _words(a + 64 * m, 16)
        for n in range(columns):
            bits[0] = 0
            bits[1] = 0
            for k in range(steps):
                x, y = left[k], _words(b + 64 * k, 16)[n]
                bits[2] = _flush(x << np.uint32(16))
                bits[3] = _flush(x & np.uint32(0xFFFF0000))
                bits[4] = _flush(y << np.uint32(16))
                bits[5] = _flush(y & np.uint32(0xFFFF0000))
                values[0] = _fused(values[2], values[4], values[0])
                bits[0] = _flush(bits[0])
                values[1] = _fused(values[3], values[5], values[1])
                bits[1] = _flush(bits[1])
            values[6] = values[0] + values[1]
            bits[6] = _flush(bits[6])
            bits[7] = _flush(sums[n])
            values[7] = values[7] + values[6]
            sums[n] = _flush(bits[7])


# --- one instruction each: its length, 0 where it is none of ours, or UNDEFINED, PROTECTION
@njit(error_model="numpy")
def _product(slot, opcode, prefix, target, left, right):
    if target in (left, right) or left == right:
        return UNDEFINED
    if not (_is_usable(slot, target) and _is_usable(slot, left) and _is_usable(slot, right)):
        return UNDEFINED
    rows, columns = _rows(slot, target), _row_bytes(slot, target) >> 2
    steps = _row_bytes(slot, left) >> 2
    if _rows(slot, left) != rows or _rows(slot, right) != steps:
        return UNDEFINED
    if _row_bytes(slot, right) >> 2 != columns:
        return UNDEFINED
    to, a, b = _tile(slot, target), _tile(slot, left), _tile(slot, right)
    counts = longs_at(slot + COUNTS, 16)
    if opcode == 0x5E:  # prefix: none unsigned x unsigned, 66 u x s, F3 s x u, F2 s x s
        signed_right = prefix == 3 or prefix == 1
        _multiply_bytes(to, a, b, rows, columns, steps, prefix >= 2, signed_right)
        counts[UUD - prefix] += 1
    else:
        _multiply_bf16(slot + WORK, to, a, b, rows, columns, steps)
        counts[BF16] += 1
    _clear_outside(to, rows, columns)
    _bytes(slot + CONFIG, 2)[1] = 0
    return 5


@njit(error_model="numpy")
def _without_memory(slot, prefix, code, tile, third):
    counts, config = longs_at(slot + COUNTS, 16), _bytes(slot + CONFIG, 64)
    if prefix == 0 and code == 0xC0:
        if third:
            return UNDEFINED
        _clear(slot + CONFIG, 64)
        _clear(slot + TILES, 8 * TILE_BYTES)
        counts[RELEASE] += 1
        return 5
    if prefix == 3 and code & 7 == 0:
        if third or config[0] != 1 or _rows(slot, tile) == 0:
            return UNDEFINED
        _clear(_tile(slot, tile), TILE_BYTES)
        config[1] = 0
        counts[ZERO] += 1
        return 5
    return 0


@njit(error_model="numpy")
def _configuration_is_sound(content):
    for i in range(64):
        if (2 <= i < 16 or 32 <= i < 48 or i >= 56) and content[i] != 0:
            return False
    for tile in range(8):
        row_bytes = np.int64(content[16 + 2 * tile]) | np.int64(content[17 + 2 * tile]) << 8
        rows = content[48 + tile]
        if row_bytes > 64 or rows > 16 or (row_bytes == 0) != (rows == 0):
            return False
    return True


@njit(error_model="numpy")
def _configure(slot, prefix, address):
    counts, content = longs_at(slot + COUNTS, 16), _bytes(address, 64)
    if prefix == 1:
        _copy(address, slot + CONFIG, 64)
        counts[STTILECFG] += 1
        return 1
    if content[0] > 1 or (content[0] == 1 and not _configuration_is_sound(content)):
        return PROTECTION
    if content[0] == 1:
        _copy(slot + CONFIG, address, 64)
    else:
        _clear(slot + CONFIG, 64)
    _clear(slot + TILES, 8 * TILE_BYTES)
    counts[LDTILECFG] += 1
    return 1


@njit(error_model="numpy")
def _move(slot, prefix, tile, address, stride):
    config, counts = _bytes(slot + CONFIG, 64), longs_at(slot + COUNTS, 16)
    if not _is_usable(slot, tile):
        return UNDEFINED
    first, rows, row_bytes = np.int64(config[1]), _rows(slot, tile), _row_bytes(slot, tile)
    if first >= rows:
        return UNDEFINED
    at = _tile(slot, tile)
    for row in range(first, rows):
        if prefix == 2:
            _copy(address + row * stride, at + 64 * row, row_bytes)
        else:
            _copy(at + 64 * row, address + row * stride, row_bytes)
    if prefix != 2:
        _clear_outside(at, rows, row_bytes >> 2)
    counts[STORE if prefix == 2 else LOAD] += 1
    config[1] = 0
    return 1


# --- decoding: C4, inverted RXB and map 0F38, W vvvv L pp, opcode, ModRM, [SIB], [displacement]
@njit(error_model="numpy")
def _displacement(at, mod):
    if mod == 1:
        byte = np.int64(_bytes(at, 1)[0])
        return byte - 256 if byte > 127 else byte
    return np.int64(_ints(at, 1)[0])


@njit(error_model="numpy")
def _with_memory(slot, ip, registers, high_index, high_base, opcode, prefix, third):
    """High bits: 8 or 0, of the index and the base register."""
    code = np.int64(_bytes(ip + 4, 1)[0])
    mod, tile, place = code >> 6, code >> 3 & 7, code & 7
    length, address, index = np.int64(5), np.int64(0), np.int64(0)
    base_less = False
    if place == 4:
        sib = np.int64(_bytes(ip + 5, 1)[0])
        length = 6
        base_less = sib & 7 == 5 and mod == 0
        if not base_less:
            address = registers[_REGISTER[sib & 7 | high_base]]
        if sib >> 3 & 7 | high_index != 4:
            index = registers[_REGISTER[sib >> 3 & 7 | high_index]] << (sib >> 6)
    elif place == 5 and mod == 0:
        base_less = True
        address = ip + 9
    else:
        address = registers[_REGISTER[place | high_base]]
    if mod or base_less:
        address += _displacement(ip + length, mod)
        length += 1 if mod == 1 else 4
    if opcode == 0x49:
        if tile != 0 or prefix > 1:
            return 0
        done = UNDEFINED if third else _configure(slot, prefix, address + index)
    else:
        if prefix == 0:
            return 0
        usable = third == 0 and place == 4  # tiles need the SIB form: its index is the stride
        done = _move(slot, prefix, tile, address, index) if usable else UNDEFINED
    return length if done == 1 else done


@njit(error_model="numpy", cache=True)
def step(slot, ip, registers):
    """Carries out the instruction at ip: its length, 0 (none of ours), UNDEFINED or PROTECTION."""
    code = _bytes(ip, 5)  # none is shorter
    if code[0] != 0xC4 or code[1] & 0x1F != 2 or code[2] & 0x84:
        return 0
    high = np.int64(~code[1] & 0xFF)  # bits 7, 6, 5: of ModRM.reg, index, base
    prefix, third = np.int64(code[2] & 3), np.int64((~code[2] >> 3) & 15)
    opcode, modrm = np.int64(code[3]), np.int64(code[4])
    if opcode == 0x5E or opcode == 0x5C:
        if modrm >> 6 != 3 or (opcode == 0x5C and prefix != 2):
            return 0
        if high & 0xA0 or third > 7:
            return UNDEFINED
        return _product(slot, opcode, prefix, modrm >> 3 & 7, modrm & 7, third)
    if opcode != 0x49 and opcode != 0x4B:
        return 0
    if modrm >> 6 == 3:
        if opcode == 0x4B:
            return 0
        if high & 0x80:
            return UNDEFINED
        return _without_memory(slot, prefix, modrm, modrm >> 3 & 7, third)
    if high & 0x80:
        return UNDEFINED
    return _with_memory(slot, ip, registers, high >> 3 & 8, high >> 2 & 8, opcode, prefix, third)
